"""The part of the vLLM engine that needs no GPU: what is refused, and the weights that it is given."""

import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

import tiny
from pama_exp.assembly.checks import check_engine
from pama_exp.errors import UserError
from pama_exp.policy.adapters import Adapter
from pama_exp.policy.policy import Policy
from pama_exp.rollout.engine import Sampling
from pama_exp.rollout.vllm import VLLMEngine, plain_weights


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vllm is installed")
def test_without_vllm_the_error_says_what_to_install():
    with pytest.raises(UserError) as error:
        VLLMEngine(tiny.language_model(), tiny.tokenizer())
    assert "pama-exp[vllm]" in error.value.hint


def test_a_share_of_memory_is_a_share():
    with pytest.raises(UserError, match=r"memory_share=1\.5"):
        VLLMEngine(tiny.language_model(), tiny.tokenizer(), memory_share=1.5)


def test_weights_go_by_the_models_own_names():
    model = tiny.language_model("llama")
    with plain_weights(model) as weights:
        given = dict(weights)
    assert given.keys() == model.state_dict().keys()


class FakeEngine:
    """What of vllm.LLM the engine uses, on transformers: weights are handed over, tokens drawn from them."""

    def __init__(self, model, load_format, dtype, **_):
        self.model = (
            AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model)).to(getattr(torch, dtype)).eval()
        )
        place = SimpleNamespace(model_runner=SimpleNamespace(model=self))
        self.llm_engine = SimpleNamespace(model_executor=SimpleNamespace(driver_worker=place))

    def load_weights(self, weights):
        self.given = {name: weight.clone() for name, weight in weights}
        self.model.load_state_dict(self.given)

    def sleep(self, level):
        pass

    def wake_up(self, tags):
        pass

    def reset_prefix_cache(self):
        pass

    def generate(self, prompts, settings, use_tqdm):
        return [self._answer(prompt["prompt_token_ids"], each) for prompt, each in zip(prompts, settings, strict=True)]

    def _answer(self, prompt, settings):
        generator, said, places = torch.Generator().manual_seed(settings.seed), [], []
        while len(said) < settings.max_tokens and said[-1:] != settings.stop_token_ids:
            logits = self.model(torch.tensor([[*prompt, *said]])).logits[0, -1].float() / settings.temperature
            said.append(int(torch.multinomial(logits.softmax(-1), 1, generator=generator)))
            places.append({said[-1]: SimpleNamespace(logprob=logits.log_softmax(-1)[said[-1]].item())})
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=said, logprobs=places)])


@pytest.fixture
def fake_vllm(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=FakeEngine, SamplingParams=SimpleNamespace))


def adapted(model):
    """The model with additions that are not zero, as a run has it: its class stays what it is."""
    pytest.importorskip("peft")
    adapter = Adapter(model, ["q_proj", "v_proj"], rank=2, alpha=4.0)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.3, generator=generator)
    return adapter


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own
def test_lora_is_added_to_copies_and_the_base_stays_as_it_is_to_the_bit(dtype):
    model = tiny.language_model("llama").to(dtype)
    names, before = list(model.state_dict()), {n: w.clone() for n, w in model.state_dict().items()}
    adapted(model)
    base = {name: weight.clone() for name, weight in model.state_dict().items()}
    layer = model.model.layers[0].self_attn.q_proj
    delta = layer.get_delta_weight("default").detach().float()
    for _ in range(20):
        with plain_weights(model) as weights:
            given = dict(weights)
    assert list(given) == names
    assert all(torch.equal(weight, base[name]) for name, weight in model.state_dict().items())
    name = "model.layers.0.self_attn.q_proj.weight"
    assert delta.abs().max() > 0.1
    assert torch.equal(given[name], (before[name].float() + delta).to(dtype))
    assert torch.equal(given["model.norm.weight"], before["model.norm.weight"])


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own
def test_vllm_answers_as_the_adapted_policy_and_says_how_probable_it_was(fake_vllm):
    model = tiny.language_model("llama")
    adapter = adapted(model)
    policy = Policy(model, num_values=1, adapter=adapter)
    engine = VLLMEngine(model, tiny.tokenizer())
    rollout = engine.generate(tiny.prompts(), Sampling(max_new_tokens=6, temperature=0.7), seed=0)
    expected = policy.score_rollout(rollout, temperature=0.7).log_probs
    torch.testing.assert_close(rollout.log_probs, expected.detach(), atol=1e-4, rtol=0)
    assert rollout.states is None  # so that the update computes its own
    with adapter.off():
        base = policy.score_rollout(rollout, temperature=0.7).log_probs
    assert (base - expected).abs().max() > 0.05


def test_a_quantised_base_is_refused(fake_vllm):
    model = tiny.language_model("llama")
    model.is_quantized = True
    with pytest.raises(UserError, match="quantised"):
        VLLMEngine(model, tiny.tokenizer())
    with pytest.raises(UserError, match="quantised"):
        check_engine({"_target_": "pama_exp.rollout.vllm.VLLMEngine"}, bits=4)
