from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical

import tiny
from pama_exp.errors import UserError
from pama_exp.policy.policy import Policy, freeze, micro_batches, reference_log_probs, select, trim


@pytest.fixture(params=tiny.ARCHITECTURES)
def policy(request):
    policy = Policy(tiny.language_model(request.param), num_values=3)
    torch.nn.init.normal_(policy.value_heads.weight, generator=torch.Generator().manual_seed(1))
    return policy


def pad_more(rollout, left, right):
    """The same rollout with more padding on both sides, the padding filled with a word."""

    def pad(tensor, value, before, after):
        return torch.nn.functional.pad(tensor, (before, after), value=value)

    prompts = replace(
        rollout.prompts,
        input_ids=pad(rollout.prompts.input_ids, 9, left, 0),
        mask=pad(rollout.prompts.mask, False, left, 0),
    )
    return replace(
        rollout,
        prompts=prompts,
        response_ids=pad(rollout.response_ids, 9, 0, right),
        response_mask=pad(rollout.response_mask, False, 0, right),
    )


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_and_entropy_are_those_of_each_row_alone(policy, temperature):
    rollout = tiny.rollout()
    output = policy.score_rollout(rollout, temperature)
    for row, log_probs in enumerate(tiny.log_probs_by_hand(policy.model, rollout, temperature)):
        said = rollout.response_mask[row]
        chosen = log_probs.gather(1, rollout.response_ids[row][said][:, None]).squeeze(1)
        torch.testing.assert_close(output.log_probs[row][said], chosen, atol=tiny.ROUNDING, rtol=0)
        torch.testing.assert_close(
            output.entropy[row][said], Categorical(logits=log_probs).entropy(), atol=tiny.ROUNDING, rtol=0
        )


def test_log_probs_are_the_log_softmax_of_the_models_own_logits(policy):
    rollout = tiny.rollout()
    ids = torch.cat([rollout.prompts.input_ids, rollout.response_ids], 1)
    mask = torch.cat([rollout.prompts.mask, rollout.response_mask], 1).long()
    positions = {} if policy.model.config.model_type == "opt" else {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    logits = policy.model(input_ids=ids, attention_mask=mask, **positions).logits
    first = rollout.prompts.input_ids.shape[1] - 1
    wanted = logits.log_softmax(-1)[:, first:-1].gather(2, rollout.response_ids[..., None]).squeeze(2)
    found = policy.score_rollout(rollout).log_probs
    torch.testing.assert_close(found[rollout.response_mask], wanted[rollout.response_mask], atol=tiny.ROUNDING, rtol=0)


def test_padding_changes_nothing_and_is_zero(policy):
    rollout = tiny.rollout()
    padded = pad_more(rollout, left=7, right=2)
    plain, more = policy.score_rollout(rollout), policy.score_rollout(padded)
    length = rollout.response_ids.shape[1]
    for name in ("log_probs", "entropy", "values"):
        torch.testing.assert_close(getattr(more, name)[..., :length], getattr(plain, name), atol=tiny.ROUNDING, rtol=0)
        assert (getattr(more, name)[..., ~padded.response_mask] == 0).all()
        assert (getattr(more, name)[..., padded.response_mask] != 0).all()


def test_values_are_linear_in_the_state_that_predicts_the_token(policy):
    rollout = tiny.rollout()
    output = policy.score_rollout(rollout)
    assert output.values.shape == (3, *rollout.response_ids.shape)
    for row in range(len(rollout)):
        prompt = rollout.prompts.input_ids[row][rollout.prompts.mask[row]]
        said = rollout.response_mask[row]
        ids = torch.cat([prompt, rollout.response_ids[row][said]])[None]
        states = policy.model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        states = states[0, len(prompt) - 1 : -1]
        wanted = states @ policy.value_heads.weight.T + policy.value_heads.bias
        torch.testing.assert_close(output.values[:, row, said].T, wanted, atol=tiny.ROUNDING, rtol=0)
        torch.testing.assert_close(output.hidden[row, said], states, atol=tiny.ROUNDING, rtol=0)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_values_start_at_zero_and_can_learn(architecture):
    policy = Policy(tiny.language_model(architecture), num_values=2)
    values = policy.score_rollout(tiny.rollout()).values
    assert (values == 0).all()
    values.sum().backward()
    assert policy.value_heads.weight.grad.abs().sum() > 0


def test_everything_depends_on_the_trunk_through_hidden_alone(policy):
    """∂loss/∂θ = (∂loss/∂hidden)ᵀ ∂hidden/∂θ for the trunk's parameters: the gradient MGDA-UB takes is the whole one."""
    output = policy.score_rollout(tiny.rollout())
    head = policy.model.get_output_embeddings().weight
    trunk = [p for p in policy.model.parameters() if p is not head]  # a tied head is reached directly as well
    loss = output.log_probs.sum() + output.values.square().sum() + output.entropy.sum()
    whole = torch.autograd.grad(loss, trunk, retain_graph=True)
    (upper,) = torch.autograd.grad(loss, output.hidden, retain_graph=True)
    chained = torch.autograd.grad(output.hidden, trunk, upper)
    assert upper.abs().sum() > 0
    for one, other in zip(whole, chained, strict=True):
        torch.testing.assert_close(one, other)


def test_a_values_gradient_reaches_hidden_as_its_heads_weights(policy):
    rollout = tiny.rollout()
    output = policy.score_rollout(rollout)
    for head, values in enumerate(output.values):
        (gradient,) = torch.autograd.grad(values.sum(), output.hidden, retain_graph=True)
        wanted = rollout.response_mask[..., None] * policy.value_heads.weight[head].detach()
        torch.testing.assert_close(gradient, wanted)


def test_only_response_tokens_go_through_the_head(policy):
    seen = []
    policy.model.get_output_embeddings().register_forward_hook(
        lambda head, inputs, output: seen.append(inputs[0].shape)
    )
    rollout = tiny.rollout()
    policy.score_rollout(rollout)
    assert [shape[:-1].numel() for shape in seen] == [rollout.response_mask.sum()]


def test_reference_is_the_same_numbers_without_a_graph(policy):
    rollout = tiny.rollout()
    found = reference_log_probs(freeze(policy.model), rollout, 0.7)
    assert not found.requires_grad
    torch.testing.assert_close(found, policy.score_rollout(rollout, 0.7).log_probs)


def test_freezing_stops_gradients_and_dropout():
    model = freeze(tiny.language_model().train())
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named_as_such(value):
    model = tiny.language_model("opt")
    name, weight = list(model.named_parameters())[3]
    weight.data.view(-1)[0] = value
    with pytest.raises(UserError, match="NaN or infinity") as caught:
        Policy(model, num_values=2)
    assert name in caught.value.message
    assert "opt, gpt2" not in caught.value.hint


def test_making_a_policy_leaves_the_models_mode_alone():
    model = tiny.language_model(dropout=0.5).train()  # dropout must not look like a changed head either
    assert Policy(model, 1).model.training


def test_select_takes_rows_of_everything():
    rollout = tiny.rollout()
    part = select(rollout, torch.tensor([2, 0]))
    assert list(part.texts) == ["c d e f", "a b"]
    assert list(part.prompts.texts) == ["e f g h i", "a b c"]
    assert part.prompts.columns == {"row": [2, 0]}
    assert part.finished.tolist() == [False, True]
    for name in ("response_ids", "response_mask"):
        assert torch.equal(getattr(part, name), getattr(rollout, name)[[2, 0]])
    for name in ("input_ids", "mask"):
        assert torch.equal(getattr(part.prompts, name), getattr(rollout.prompts, name)[[2, 0]])


def test_trim_drops_columns_that_nobody_uses():
    rollout = tiny.rollout()
    assert trim(rollout).response_ids.shape == (4, 4)
    assert trim(select(rollout, torch.tensor([0, 1]))).response_ids.shape == (2, 3)
    assert trim(select(rollout, torch.tensor([1]))).response_mask.tolist() == [[True]]


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=20), prompt=st.integers(1, 20), budget=st.integers(1, 300)
)
def test_micro_batches_hold_every_row_once_within_the_budget(lengths, prompt, budget):
    parts = micro_batches(torch.tensor(lengths), prompt, budget)
    order = torch.cat(parts).tolist()
    assert order == sorted(range(len(lengths)), key=lambda row: lengths[row])  # sorted() is stable
    for part in parts:
        cost = len(part) * (prompt + max(lengths[row] for row in part.tolist()))
        assert len(part) == 1 or cost <= budget


def test_micro_batches_are_as_few_as_the_budget_allows():
    assert [len(part) for part in micro_batches(torch.tensor([4, 4, 4, 4]), 6, 20)] == [2, 2]
    assert [len(part) for part in micro_batches(torch.tensor([4, 4, 4, 4]), 6, 40)] == [4]


def test_scores_do_not_depend_on_how_rows_are_batched(policy):
    rollout = tiny.rollout()
    whole = policy.score_rollout(rollout)
    for rows in micro_batches(rollout.response_mask.sum(1), rollout.prompts.input_ids.shape[1], token_budget=14):
        part = trim(select(rollout, rows))
        output, length = policy.score_rollout(part), part.response_ids.shape[1]
        torch.testing.assert_close(output.log_probs, whole.log_probs[rows, :length], atol=tiny.ROUNDING, rtol=0)
        torch.testing.assert_close(output.values, whole.values[:, rows, :length], atol=tiny.ROUNDING, rtol=0)
