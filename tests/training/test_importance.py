"""Where engine and trainer disagree on probabilities, tokens are weighed by what is sure of their ratio."""

import pytest
import torch

from pama_exp.training.importance import correction

MASK = torch.tensor([[True, True, True, False]])
TRAINER = torch.tensor([[0.5, 0.2, 0.9, 0.0]]).log().masked_fill(~MASK, 0)
ENGINE = torch.tensor([[0.5, 0.4, 0.1, 0.0]]).log().masked_fill(~MASK, -7.0)


def test_weights_are_ratios_up_to_the_cap_and_one_on_padding():
    weights, metrics = correction(TRAINER, ENGINE, MASK, cap=2.0)
    torch.testing.assert_close(weights, torch.tensor([[1.0, 0.5, 2.0, 1.0]]))
    assert metrics["rollout/importance_truncated"] == pytest.approx(1 / 3)


def test_without_a_cap_the_difference_is_measured_alone():
    weights, metrics = correction(TRAINER, ENGINE, MASK, cap=None)
    assert torch.equal(weights, torch.ones(1, 4))
    ratios = torch.tensor([1.0, 0.5, 9.0])
    assert metrics["rollout/mismatch_kl"] == pytest.approx((ratios - 1 - ratios.log()).mean().item(), rel=1e-5)
    assert metrics["rollout/mismatch_max"] == pytest.approx(torch.tensor(9.0).log().item(), rel=1e-5)


def test_truncated_weights_undo_the_engines_bias():
    """E over μ of w f is E over π of f where no ratio reaches the cap."""
    generator = torch.Generator().manual_seed(0)
    trainer, engine = (torch.randn(8, generator=generator).mul(0.3).log_softmax(-1) for _ in range(2))
    values = torch.randn(8, generator=generator)
    drawn = torch.multinomial(engine.exp(), 200_000, replacement=True, generator=generator)[None]
    weights, _ = correction(trainer[drawn], engine[drawn], torch.ones_like(drawn, dtype=torch.bool), cap=10.0)
    wanted = (trainer.exp() * values).sum().item()
    assert (weights * values[drawn]).mean().item() == pytest.approx(wanted, abs=0.01)
    assert values[drawn].mean().item() != pytest.approx(wanted, abs=0.03)
