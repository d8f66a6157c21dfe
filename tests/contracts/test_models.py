"""Every shipped model, with and without LoRA, under every trainer: its size is the published one, built without memory."""

import pytest
import torch
from hydra import compose, initialize_config_dir

from pama_exp.config import resolvers, schema
from pama_exp.config.schema import CONF
from pama_exp.policy.adapters import Adapter
from pama_exp.policy.loading import build_model
from pama_exp.supervised.start_model import lora_targets

TRAINERS = sorted(path.stem for path in CONF.glob("trainer/*.yaml"))
MODELS = sorted(p.stem for p in CONF.glob("model/*.yaml") if "\nparameters: null" not in p.read_text())
PUBLISHED = [name for name in MODELS if name not in ("micro", "mini", "small", "tiny", "tiny-gpt2")]


def typed(*overrides):
    resolvers.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return schema.typed(compose("config", list(overrides)))


def test_there_are_all_that_the_documents_promise():
    assert {"opt-125m", "opt-350m", "opt-1.3b", "opt-2.7b", "opt-6.7b", "gpt2", "gpt2-medium", "gpt2-large"} < {
        *PUBLISHED
    }
    assert len(PUBLISHED) == 28


@pytest.mark.slow("builds every published architecture at its full size, without memory")
@pytest.mark.parametrize("model", PUBLISHED)
def test_its_size_is_the_published_one_and_lora_trains_a_small_share(model):
    for adapter in ("none", "lora"):
        for trainer in TRAINERS:
            config = typed(f"model={model}", f"adapter={adapter}", f"trainer={trainer}")
            assert config.adapter.name == adapter
            assert config.data.domain == "text"
    with torch.device("meta"):
        built = build_model(config.model.architecture, config.model.config)
    count = sum(p.numel() for p in built.parameters())
    assert count == pytest.approx(config.model.parameters, rel=0.01)
    a = config.adapter
    targets = lora_targets(config.model, a)
    names = {n.rpartition(".")[2]: m for n, m in built.named_modules()}
    widths = [sum(names[t].weight.shape) for t in targets]
    Adapter(built, targets, a.rank, a.alpha)
    trained = sum(p.numel() for p in built.parameters() if p.requires_grad)
    # Each target is in every layer, and adds rank × (inputs + outputs); GPT-2 has two layers named c_proj.
    layers = built.config.get_text_config().num_hidden_layers
    assert trained >= layers * a.rank * sum(widths)
    assert trained < 0.1 * count


def test_a_model_implies_its_data_and_data_given_overrides_it():
    assert typed().data.domain == typed("model=tiny-gpt2").data.domain == "factworld"
    assert typed("model=opt-1.3b").data.domain == "text"
    assert typed("model=opt-1.3b", "data=factworld").data.domain == "factworld"


def test_learning_rates_follow_the_model_unless_given():
    assert typed().training.learning_rate == 3e-4
    assert typed("model=gpt2").training.learning_rate == 1e-5
    assert typed("model=gpt2", "training.learning_rate=2e-5").training.learning_rate == 2e-5


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["model=hf", "model.id=owner/some-model"], "some-model"),
        (["model=hf", "model.path=/folder/of/mine"], "mine"),
    ],
)
def test_any_other_model_is_named_after_its_id_or_folder(overrides, name):
    config = typed(*overrides)
    assert config.model.name == name
    assert config.output.startswith(f"runs/{name}-")
