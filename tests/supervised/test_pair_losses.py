"""Losses of preference pairs against a loop over single tokens, in parts and at once; and TRL's where it is there."""

import copy
import math

import pytest
import torch

import tiny
from pama_exp.data.pairs import Pair
from pama_exp.policy.policy import Policy, freeze
from pama_exp.supervised.encoded_pairs import encode_pairs, rollout_of
from pama_exp.supervised.pair_learning import PairLearner
from pama_exp.supervised.preference_losses import margins, pair_loss, preference_logits

WORDS = tiny.tokenizer()
PAIRS = [
    Pair("a b c ", "a b c", "d e f", "g"),
    Pair("d ", "d", "a", "b c d e f"),
    Pair("e f g h i ", "e f g h i", "", "p a b"),
    Pair("a b c ", "a b c", "h h h h", "g a"),
]
BETA, SMOOTHING = 0.7, 0.1
CHOSEN = [[0.3, -1.0, 2.0, 0.5], [1.0, 0.0, 0.25, -0.5]]  # two other objectives' rewards of each pair's responses
REJECTED = [[-0.2, 1.0, 0.1, 0.4], [0.5, 0.75, -1.0, 0.0]]
WEIGHTS = [0.5, 0.3, 0.2]  # of the pairs' own objective, then of the others


def learner(architecture="gpt2", smoothing=0.0, weight=1.0, budget=10_000):
    policy = Policy(tiny.language_model(architecture, seed=1), 1)
    reference = freeze(tiny.language_model(architecture, seed=2))
    return PairLearner(policy, reference, BETA, smoothing, weight, budget)


def batch():
    kept, wrong = encode_pairs(PAIRS, WORDS, 40, skip=False, may_be_empty=True)
    assert wrong == {}
    return rollout_of(kept, WORDS, torch.device("cpu"))


def log_prob(model, prompt, response):
    """Σ log π(token | all before), the end token's included: one token at a time, nothing beside the row."""
    ids = WORDS(prompt)["input_ids"]
    total = 0.0
    for token in [*WORDS(response)["input_ids"], WORDS.eos_token_id]:
        total += model(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)[token].item()
        ids = [*ids, token]
    return total


def by_hand(policy, reference, smoothing=0.0, weights=(1.0,)):
    """The formula of the papers, a pair and a token at a time."""
    total = 0.0
    with torch.no_grad():
        for i, pair in enumerate(PAIRS):
            up = log_prob(policy, pair.prompt, pair.chosen) - log_prob(reference, pair.prompt, pair.chosen)
            down = log_prob(policy, pair.prompt, pair.rejected) - log_prob(reference, pair.prompt, pair.rejected)
            z = BETA * (up - down)
            for w, chosen, rejected in zip(weights[1:], CHOSEN, REJECTED, strict=False):
                z -= w * (chosen[i] - rejected[i])
            z /= weights[0]
            right = 1 / (1 + math.exp(-z))
            total -= (1 - smoothing) * math.log(right) + smoothing * math.log(1 - right)
    return total / len(PAIRS)


@pytest.mark.parametrize("smoothing", [0.0, SMOOTHING])
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_dpo_is_the_papers_formula(architecture, smoothing):
    made = learner(architecture, smoothing)
    wanted = by_hand(made.policy.model, made.reference, smoothing)
    with torch.no_grad():
        found = sum(made.losses(batch(), torch.zeros(4))).item()
    assert found == pytest.approx(wanted, abs=10 * tiny.ROUNDING)
    assert abs(wanted - math.log(2)) > 0.05  # or the sign of the ratio would not matter


def test_modpo_subtracts_the_others_rewards_and_divides_by_its_own_weight():
    made = learner(weight=WEIGHTS[0])
    margin = margins(torch.tensor(CHOSEN), torch.tensor(REJECTED), WEIGHTS[1:])
    with torch.no_grad():
        found = sum(made.losses(batch(), margin)).item()
    assert found == pytest.approx(by_hand(made.policy.model, made.reference, weights=WEIGHTS), abs=20 * tiny.ROUNDING)
    assert abs(found - by_hand(made.policy.model, made.reference)) > 0.01


def test_modpo_of_one_objective_is_dpo():
    chosen, rejected = torch.tensor([0.4, -1.0, 3.0]), torch.tensor([0.1, 2.0, -0.5])
    none = margins(torch.zeros(0, 3), torch.zeros(0, 3), [])
    modpo = pair_loss(preference_logits(chosen, rejected, none, 1.0), SMOOTHING)
    z = chosen - rejected
    dpo = -(1 - SMOOTHING) * torch.log(torch.sigmoid(z)) - SMOOTHING * torch.log(torch.sigmoid(-z))
    torch.testing.assert_close(modpo, dpo, atol=1e-6, rtol=0)


def test_parts_within_a_token_budget_have_the_whole_batchs_loss_and_gradient():
    rollout, margin = batch(), margins(torch.tensor(CHOSEN), torch.tensor(REJECTED), WEIGHTS[1:])
    results = []
    for budget in (10_000, 40, 1):
        made, row = learner(budget=budget, weight=0.5), {}
        parts = []
        for part in made.losses(rollout, margin, row):
            part.backward()
            parts.append(part.item())
        gradient = torch.cat([p.grad.flatten() for p in made.policy.model.parameters() if p.grad is not None])
        results.append((len(parts), sum(parts), gradient, row))
    assert [count for count, *_ in results] == sorted({count for count, *_ in results})
    for _, loss, gradient, row in results[1:]:
        assert loss == pytest.approx(results[0][1], abs=1e-5)
        torch.testing.assert_close(gradient, results[0][2], atol=1e-5, rtol=1e-4)
        assert row == pytest.approx(results[0][3], abs=1e-5)


def test_the_reference_of_an_adapter_is_its_base():
    pytest.importorskip("peft")
    from pama_exp.policy.adapters import Adapter

    model = tiny.language_model("gpt2", seed=1)
    base = freeze(copy.deepcopy(model))
    policy = Policy(model, 1, adapter=Adapter(model, None, 2, 4.0))
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
        adapted = sum(PairLearner(policy, None, BETA, 0.0, 1.0, 10_000).losses(batch(), torch.zeros(4)))
        copied = sum(PairLearner(policy, base, BETA, 0.0, 1.0, 10_000).losses(batch(), torch.zeros(4)))
    torch.testing.assert_close(adapted, copied)
    assert abs(adapted.item() - math.log(2)) > 1e-3


def test_ranking_is_measured_without_gradients():
    made = learner()
    measured = made.measure([batch()])
    assert measured["pairs"] == 4
    assert measured["loss"] == pytest.approx(by_hand(made.policy.model, made.reference), abs=10 * tiny.ROUNDING)
    ranked = 0
    with torch.no_grad():
        for pair in PAIRS:
            gains = [
                log_prob(made.policy.model, pair.prompt, text) - log_prob(made.reference, pair.prompt, text)
                for text in (pair.chosen, pair.rejected)
            ]
            ranked += gains[0] > gains[1]
    assert measured["accuracy"] == ranked / 4
    assert all(parameter.grad is None for parameter in made.policy.parameters())
