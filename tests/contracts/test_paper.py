"""The paper's three experiments as configurations: every setting that it states."""

import pytest
import yaml
from hydra import compose, initialize_config_dir

from pama_exp.config import resolvers, schema
from pama_exp.config.schema import CONF

SWEEPS = CONF.parent / "sweeps" / "sweep"


def typed(name):
    resolvers.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return schema.typed(compose("config", [f"experiment={name}"], return_hydra_config=False))


def chosen(name):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [f"experiment={name}"], return_hydra_config=True)
    return dict(config.hydra.runtime.choices)


def is_the_papers_pama(solver):
    return solver["_target_"] == "pama_exp.solvers.pama.PAMA" and solver["noon"] is True and solver["weights"] is None


def assert_length(config, low, high):
    """The paper's clip(l/140, low/140, high/140)."""
    node = config.objectives["length"].scorers["any"]
    assert (node["scale"], node["low"], node["high"]) == (140, low, high)
    assert config.objectives["length"].range == [low / 140, high / 140]


def assert_lengths_can_be_had(config, characters):
    """Responses of that many characters, at about four to a token, after the longest prompts."""
    answer, prompt = config.rollout.sampling.max_new_tokens, config.data.max_prompt_tokens
    positions = config.model.config.get("n_positions") or config.model.config["max_position_embeddings"]
    assert characters / 4 < answer <= positions - prompt


def assert_one_epoch(config, prompts):
    """The training split of the Hub's training file alone, of which the other splits are taken too."""
    assert all("/train" in pattern for pattern in config.data.files)
    assert config.training.steps == pytest.approx(config.data.splits["train"] * prompts / 128, abs=1)


def scorer_ids(config):
    return {name: o.scorers["text"]["id"] for name, o in config.objectives.items() if "text" in o.scorers}


def test_gpt2_on_imdb():
    config = typed("paper-gpt2-imdb")
    assert config.model.id == "openai-community/gpt2"
    assert chosen("paper-gpt2-imdb")["data"] == "imdb"
    assert list(config.objectives) == ["sentiment", "length"]
    assert scorer_ids(config) == {"sentiment": "lvwerra/distilbert-imdb"}
    assert_length(config, 70, 210)
    assert config.training.batch_size == 128
    assert_one_epoch(config, 25_000)
    assert_lengths_can_be_had(config, 210)
    assert config.adapter.name == "none"
    assert is_the_papers_pama(config.solver)


def test_gpt2_xl_for_humor():
    config = typed("paper-gpt2-xl-humor")
    assert config.model.id == "openai-community/gpt2-xl"
    assert chosen("paper-gpt2-xl-humor")["data"] == "hh-rlhf"
    assert list(config.objectives) == ["humor", "length"]
    assert scorer_ids(config) == {"humor": "mohameddhiab/humor-no-humor"}
    assert config.data.subsets == ["helpful-base"]
    assert_length(config, 0, 4096)
    assert_one_epoch(config, 43_500)
    assert_lengths_can_be_had(config, 9.0842 * 140)
    assert config.training.evaluate_every == 50
    assert is_the_papers_pama(config.solver)


def test_llama_2_for_harmlessness():
    config = typed("paper-llama2-7b-harmless")
    assert config.model.id == "meta-llama/Llama-2-7b-hf"
    assert chosen("paper-llama2-7b-harmless")["data"] == "hh-rlhf"
    assert list(config.objectives) == ["harmless", "length"]
    assert scorer_ids(config) == {"harmless": "Ray2333/gpt2-large-harmless-reward_model"}
    assert config.data.subsets == ["helpful-base"]
    assert_length(config, 0, 4096)
    assert_one_epoch(config, 43_500)
    assert_lengths_can_be_had(config, 9.0842 * 140)
    a, t = config.adapter, config.training
    assert (a.bits, a.rank, a.alpha, a.dropout) == (8, 64, 128.0, 0.05)
    assert (t.learning_rate, t.weight_decay, t.clip) == (1e-5, 0.0, 0.2)
    assert (t.kl.coefficient, t.kl.target) == (0.2, 3.0)
    assert is_the_papers_pama(config.solver)


@pytest.mark.parametrize(
    ("name", "seeds"), [("paper-gpt2-imdb", 8), ("paper-gpt2-xl-humor", 1), ("paper-llama2-7b-harmless", 1)]
)
def test_the_sweep_is_over_the_papers_methods_and_seeds(name, seeds):
    params = yaml.safe_load((SWEEPS / f"{name}.yaml").read_text())["hydra"]["sweeper"]["params"]
    assert params["experiment"] == name
    assert params["solver"].split(",") == ["pama", "linear", "mgda-ub"]
    assert len(set(params["seed"].split(","))) == seeds
