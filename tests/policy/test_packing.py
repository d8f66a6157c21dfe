"""A packed pass is the padded one without its padding: the same states, the same gradients, fewer tokens."""

import pytest
import torch

import tiny
from pama_exp.policy.attention import arrange, is_arranged
from pama_exp.policy.packing import pack
from pama_exp.policy.policy import response_states

EQUAL = ("a b <eos>", "c d e", "f g h", "p o n")  # to prompts of unequal length
RAGGED = ("a b <eos>", "<eos>", "c d e f", "g <eos>")
ONE_EACH = ("<eos>", "a", "b", "<eos>")


def rollout(responses, prompts=("a b c", "d", "a b c", "d")):
    made = tiny.rollout(responses)
    return (
        made
        if prompts is None
        else type(made)(tiny.prompts(prompts), made.response_ids, made.response_mask, made.finished, made.texts)
    )


@pytest.fixture(params=tiny.ARCHITECTURES)
def models(request):
    """The same weights, packed and not."""
    packed, padded = (tiny.language_model(request.param) for _ in range(2))
    arrange(packed)
    assert is_arranged(packed)
    assert not is_arranged(padded)
    return packed, padded


@pytest.mark.parametrize("prompts", [None, ("a b c", "d", "a b c", "d"), ("a b",) * 4])
@pytest.mark.parametrize("responses", [EQUAL, RAGGED, ONE_EACH])
def test_states_and_gradients_are_those_of_the_padded_pass(models, responses, prompts):
    made = rollout(responses, prompts)
    said, gradients = made.response_mask, []
    states = [response_states(model, made)[said] for model in models]
    torch.testing.assert_close(states[0], states[1], atol=1e-4, rtol=0)
    towards = torch.randn(states[0].shape, generator=torch.Generator().manual_seed(0))
    for model, state in zip(models, states, strict=True):
        (state * towards).sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-3, rtol=1e-3)


def test_every_distinct_prompt_is_read_once_and_no_padding_is():
    layout = pack(rollout(RAGGED))
    fed = 2 + 0 + 3 + 1  # nothing follows a response's last token, so it is not fed
    assert layout.ids.shape == (1, 3 + 1 + fed)
    assert layout.prompt_of.tolist() in ([0, 1, 0, 1], [1, 0, 1, 0])


def test_a_model_used_without_a_layout_is_unchanged(models):
    prompts = tiny.prompts()
    given = {"input_ids": prompts.input_ids, "attention_mask": prompts.mask.long()}
    packed, padded = (model(**given).logits[:, -1] for model in models)
    torch.testing.assert_close(packed, padded)
