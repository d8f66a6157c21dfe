"""The part of the vLLM engine that needs no GPU: what is refused, and the weights that it is given."""

from importlib.util import find_spec

import pytest
import torch
from torch import nn

import tiny
from pama_exp.errors import UserError
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


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own
def test_lora_is_merged_for_as_long_as_the_weights_are_read():
    peft = pytest.importorskip("peft")
    plain = tiny.language_model("llama")
    before = {name: weight.clone() for name, weight in plain.state_dict().items()}
    adapted = peft.get_peft_model(plain, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    layer = adapted.base_model.model.model.layers[0].self_attn.q_proj
    delta = layer.get_delta_weight("default").detach()
    with plain_weights(adapted) as weights:
        given = {name: weight.clone() for name, weight in weights}
    assert given.keys() == before.keys()
    name = "model.layers.0.self_attn.q_proj.weight"
    assert delta.abs().max() > 0.1
    torch.testing.assert_close(given[name], before[name] + delta)
    torch.testing.assert_close(layer.base_layer.weight, before[name], atol=1e-5, rtol=0)
    torch.testing.assert_close(given["model.norm.weight"], before["model.norm.weight"])
