"""A policy that is told its preference: what the map does to a pass, by every way of computing it, and what is exported."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

import tiny
from pama_exp.errors import UserError
from pama_exp.policy.attention import is_arranged
from pama_exp.policy.export import conditioned as conditioned_model
from pama_exp.policy.export import export, load_preference_map
from pama_exp.policy.packing import pack
from pama_exp.policy.policy import Policy, reference_log_probs, response_states, select
from pama_exp.rollout.engine import Sampling
from pama_exp.rollout.fast import FastEngine
from pama_exp.rollout.hf import HFEngine

# The first and the third prompt are alike and asked to serve differently; the second and the fourth share both.
PROMPTS = ("a b c", "d e", "a b c", "d e")
ASKED = torch.tensor([[0.9, 0.1], [0.3, 0.7], [0.0, 1.0], [0.3, 0.7]])
SAID = ("a b <eos>", "<eos>", "c d e f", "g <eos>")


@pytest.fixture(params=tiny.ARCHITECTURES)
def architecture(request):
    return request.param


def rollout(preferences=ASKED):
    prompts = replace(tiny.prompts(PROMPTS), preferences=preferences)
    return replace(tiny.rollout(SAID), prompts=prompts)


def conditioned(architecture, scale=0.5):
    policy = Policy(tiny.language_model(architecture), 2, conditioned_on=2).eval()
    with torch.no_grad():
        weight = policy.preference_map.weight
        weight.copy_(scale * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    return policy


def embedded_by_hand(policy, rollout, row):
    """(log-probabilities of the response's tokens) from the row alone, its embeddings shifted without any hook."""
    prompt = rollout.prompts.input_ids[row][rollout.prompts.mask[row]]
    response = rollout.response_ids[row][rollout.response_mask[row]]
    ids = torch.cat([prompt, response])[None]
    shift = policy.preference_map.weight @ (rollout.prompts.preferences[row] - 0.5)
    states = policy.model.get_input_embeddings()(ids) + shift
    logits = policy.model(inputs_embeds=states, attention_mask=torch.ones_like(ids)).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, response[:, None])[:, 0]


def test_at_the_start_it_is_the_policy_that_is_told_nothing(architecture):
    plain, told_one = (Policy(tiny.language_model(architecture), 2, conditioned_on=n).eval() for n in (None, 2))
    made = rollout()
    first, second = plain.score_rollout(made), told_one.score_rollout(made)
    torch.testing.assert_close(second.log_probs, first.log_probs, atol=tiny.ROUNDING, rtol=0)
    engines = [FastEngine(policy.model, tiny.tokenizer()) for policy in (plain, told_one)]
    engines[1].shift_of = told_one.shift_of
    one, other = (engine.generate(made.prompts, Sampling(8), seed=3) for engine in engines)
    assert torch.equal(one.response_ids, other.response_ids)


def test_the_even_preference_is_the_policy_without_its_map(architecture):
    policy = conditioned(architecture)
    even = policy.score_rollout(rollout(torch.full((4, 2), 0.5))).log_probs
    torch.testing.assert_close(even, policy.score_rollout(rollout(None)).log_probs, atol=tiny.ROUNDING, rtol=0)
    assert not torch.allclose(even, policy.score_rollout(rollout()).log_probs, atol=1e-2)


@pytest.mark.parametrize("packed", [True, False])
def test_each_row_is_computed_with_its_own_preference(architecture, packed):
    policy, made = conditioned(architecture), rollout()
    if not packed:
        policy.model.set_attn_implementation("sdpa")
    assert is_arranged(policy.model) is packed
    found = policy.score_rollout(made).log_probs
    for row in range(len(made)):
        wanted = embedded_by_hand(policy, made, row)
        torch.testing.assert_close(found[row][made.response_mask[row]], wanted, atol=1e-4, rtol=0)
    some = policy.score_rollout(select(made, torch.tensor([2, 1]))).log_probs
    torch.testing.assert_close(some, found[[2, 1]], atol=1e-4, rtol=0)


def test_a_prompt_is_read_once_for_each_preference():
    made = rollout()
    assert pack(made).prompts.shape[0] == 2
    assert pack(made, by_preference=True).prompts.shape[0] == 3


def test_the_reference_is_told_nothing(architecture):
    model = tiny.language_model(architecture)
    assert torch.equal(reference_log_probs(model, rollout()), reference_log_probs(model, rollout(None)))


@pytest.mark.parametrize("packed", [True, False])
def test_the_maps_gradient_is_that_of_plain_passes(architecture, packed):
    policy, made = conditioned(architecture, scale=0.1), rollout()
    if not packed:
        policy.model.set_attn_implementation("sdpa")
    weight, said = policy.preference_map.weight, made.response_mask
    towards = torch.randn(said.shape, generator=torch.Generator().manual_seed(2))
    (found,) = torch.autograd.grad((policy.score_rollout(made).log_probs * towards).sum(), weight)
    by_hand = sum((embedded_by_hand(policy, made, row) * towards[row][said[row]]).sum() for row in range(len(made)))
    (wanted,) = torch.autograd.grad(by_hand, weight)
    assert wanted.abs().max() > 0.1
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("architecture", ["opt", "gpt2"])  # the others' norms compute in float32
def test_the_maps_gradient_is_the_slope_by_finite_differences(architecture):
    policy, made = conditioned(architecture, scale=0.1).double(), rollout()
    weight = policy.preference_map.weight
    generator = torch.Generator().manual_seed(3)
    towards, direction = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((*made.response_mask.shape, policy.value_heads.in_features), weight.shape)
    )

    def value():
        states = response_states(policy.model, made, policy.shift_of(made.prompts.preferences))
        return (states * towards)[made.response_mask].sum()

    (gradient,) = torch.autograd.grad(value(), weight)
    values = []
    with torch.no_grad():
        for step in (1e-5, -2e-5):
            weight += step * direction
            values.append(value().item())
    slope = (values[0] - values[1]) / 2e-5
    assert abs(slope) > 0.1
    assert slope == pytest.approx((gradient * direction).sum().item(), rel=1e-5)


@pytest.mark.parametrize(("engine", "settings"), [(FastEngine, {}), (FastEngine, {"rows_at_once": 1}), (HFEngine, {})])
def test_engines_sample_what_the_update_computes(architecture, engine, settings):
    """The ratio of the first epoch is 1, and both are a plain pass over shifted embeddings."""
    policy = conditioned(architecture)
    made = engine(policy.model, tiny.tokenizer(), **settings)
    made.shift_of = policy.shift_of
    said = made.generate(rollout().prompts, Sampling(12), seed=3)
    assert said.response_mask.sum() > len(said)
    at_update = policy.score_rollout(said)
    for row in range(len(said)):
        mask, wanted = said.response_mask[row], embedded_by_hand(policy, said, row)
        torch.testing.assert_close(at_update.log_probs[row][mask], wanted, atol=1e-4, rtol=0)
        if engine is FastEngine:
            torch.testing.assert_close(said.log_probs[row][mask], wanted, atol=1e-4, rtol=0)
            torch.testing.assert_close(said.states[row][mask], at_update.hidden[row][mask], atol=1e-4, rtol=0)


@pytest.mark.parametrize("engine", [FastEngine, HFEngine])
def test_engines_do_what_they_are_told(engine):
    """With a map strong enough, one preference says one word and the other another, whatever the noise."""
    policy = Policy(tiny.language_model("gpt2"), 2, conditioned_on=2).eval()
    with torch.no_grad():
        policy.preference_map.weight.normal_(0, 200.0, generator=torch.Generator().manual_seed(4))
    made = engine(policy.model, tiny.tokenizer())
    made.shift_of = policy.shift_of
    asked = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(8, 1)
    said = made.generate(replace(tiny.prompts(["a b"] * 16), preferences=asked), Sampling(1, top_k=1), seed=0)
    first, second = said.response_ids[::2, 0], said.response_ids[1::2, 0]
    assert len(set(first.tolist())) == len(set(second.tolist())) == 1
    assert first[0] != second[0]


def test_an_exported_policy_is_told_again(architecture, tmp_path):
    policy = conditioned(architecture)
    export(policy, tiny.tokenizer(), tmp_path, ["x", "y"], merged=True, objectives=["x", "y"])
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    weight, names = load_preference_map(tmp_path)
    assert torch.equal(weight, policy.preference_map.weight)
    assert names == ["x", "y"]
    made = rollout(torch.tensor([[0.75, 0.25]]).expand(4, -1))
    with conditioned_model(model, tmp_path, {"y": 1.0, "x": 3.0}):
        found = tiny.log_probs_by_hand(model, made)
    for row, log_probs in enumerate(found):
        chosen = log_probs.gather(1, made.response_ids[row][made.response_mask[row]][:, None])[:, 0]
        torch.testing.assert_close(chosen, embedded_by_hand(policy, made, row), atol=1e-4, rtol=0)
    # Afterwards it is told nothing, which is the even preference.
    after = tiny.log_probs_by_hand(model, made)
    even = rollout(torch.full((4, 2), 0.5))
    for row, log_probs in enumerate(after):
        chosen = log_probs.gather(1, made.response_ids[row][made.response_mask[row]][:, None])[:, 0]
        torch.testing.assert_close(chosen, embedded_by_hand(policy, even, row), atol=1e-4, rtol=0)


def test_what_cannot_be_told_is_named(tmp_path):
    model = tiny.language_model("gpt2")
    export(Policy(model, 1), tiny.tokenizer(), tmp_path / "plain", ["x"], merged=True)
    with (
        pytest.raises(UserError, match="not told a preference"),
        conditioned_model(model, tmp_path / "plain", {"x": 1.0}),
    ):
        pass
    export(conditioned("gpt2"), tiny.tokenizer(), tmp_path / "told", ["x", "y"], merged=True, objectives=["x", "y"])
    for wrong in ({"x": 1.0}, {"x": 1.0, "z": 1.0}, {"x": 0.0, "y": 0.0}, {"x": 2.0, "y": -1.0}):
        with pytest.raises(UserError, match=r"\['x', 'y'\]"), conditioned_model(model, tmp_path / "told", wrong):
            pass
