"""From hidden states to logits: the model's own function, whatever the size of the states."""

import pytest
import torch

import families
import tiny
from pama_exp.errors import UserError
from pama_exp.policy.loading import build_model
from pama_exp.policy.logits import head_of


@pytest.mark.parametrize(
    ("family", "config", "own"),
    [
        ("gemma2", {"final_logit_softcapping": 30.0}, lambda z: 30 * torch.tanh(z / 30)),
        ("gemma2", {"final_logit_softcapping": 3000.0}, lambda z: 3000 * torch.tanh(z / 3000)),
        ("gemma3_text", {"final_logit_softcapping": 30.0}, lambda z: 30 * torch.tanh(z / 30)),
        ("granite", {"logits_scaling": 8.0}, lambda z: z / 8),
        ("cohere", {"logit_scale": 0.0625}, lambda z: z * 0.0625),
        ("granitemoe", {"logits_scaling": 8.0}, lambda z: z / 8),
    ],
)
@pytest.mark.parametrize("weights", ["as they start", "decided"])
def test_caps_and_scales_are_applied_though_small_logits_do_not_show_them(family, config, own, weights):
    model = build_model(family, {**families.FAMILIES[family], **config}, tiny.tokenizer()).eval()
    if weights == "decided":
        tiny.sharpen(model)
    states = torch.randn(5, 3, 16, generator=torch.Generator().manual_seed(1))
    for size in (1e-3, 1.0, 1e3):
        plain = model.get_output_embeddings()(states * size)
        torch.testing.assert_close(head_of(model)(states * size), own(plain), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["opt", "gpt2", "llama", "gptj"])
def test_plain_logits_are_the_output_layers(family):
    model = families.model(family)
    assert head_of(model) is model.get_output_embeddings()
    assert not model.training


def test_gradients_reach_the_states_and_the_models_own_layer():
    model = families.model("gemma2")
    states = torch.randn(4, 16, requires_grad=True)
    head_of(model)(states).square().sum().backward()
    assert states.grad.abs().sum() > 0
    assert model.get_output_embeddings().weight.grad.abs().sum() > 0


def test_logits_that_depend_on_more_than_the_states_are_refused():
    model = families.model("gpt2")

    class Counting(type(model)):
        """Favours the word it has just read."""

        def forward(self, input_ids=None, **rest):
            output = super().forward(input_ids, **rest)
            if input_ids is not None:
                output.logits = output.logits + torch.nn.functional.one_hot(input_ids, output.logits.shape[-1])
            return output

    model.__class__ = Counting
    with pytest.raises(UserError, match="gpt2"):
        head_of(model)


def test_finding_the_head_leaves_the_models_mode_alone():
    model = tiny.language_model(dropout=0.5).train()
    assert head_of(model) is model.get_output_embeddings()  # dropout is no changed head
    assert model.training
