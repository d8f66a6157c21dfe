"""PAMA's relatives for many objectives, token by token in numpy, and PAMA where they become it."""

import numpy as np
import pytest
import torch

from pama_exp.errors import UserError
from pama_exp.solvers.annealing import Annealed
from pama_exp.solvers.noon import ShiftedPAMA, SoftNoon
from pama_exp.solvers.pama import combine
from pama_exp.solvers.welfare import ProportionalFairness
from samplers import ragged_mask

MASK = ragged_mask(64, 16, seed=1)


def drawn(objectives, seed=0):
    return torch.randn(objectives, 64, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("objectives", [2, 5, 8])
@pytest.mark.parametrize("share", [0.25, 0.5])
def test_the_shift_leaves_the_share_of_tokens_that_was_asked_for(objectives, share):
    combined = ShiftedPAMA([1.0] * objectives, share=share).on_advantages(drawn(objectives), MASK)[0]
    count = int(MASK.sum())
    left = int((combined[MASK] > 0).sum())
    if objectives == 2 and share == 0.25:
        assert left / count == pytest.approx(0.25, abs=0.03)  # PAMA's own
    else:
        assert left == -(-share * count // 1)
    assert combined[~MASK].abs().sum() == 0


def test_it_is_the_least_shifted_advantage_over_its_preference():
    advantages, weights = drawn(3), [0.2, 0.3, 0.5]
    solver = ShiftedPAMA(weights, share=0.4)
    combined = solver.on_advantages(advantages, MASK)[0]
    for b, t in MASK.nonzero().tolist()[::7]:
        raised = [max(a + solver.shift, 0.0) for a in advantages[:, b, t].tolist()]
        least = min(range(3), key=lambda i: raised[i] / weights[i])
        assert combined[b, t].item() == pytest.approx(raised[least], abs=1e-5)


def test_the_shift_is_a_moving_average_and_never_lowers():
    solver, shifts = ShiftedPAMA([1.0] * 5, decay=0.5), []
    for seed in range(3):
        solver.on_advantages(drawn(5, seed), MASK)
        least = np.sort(drawn(5, seed).numpy().min(0)[MASK.numpy()])[::-1]
        needed = max(-least[-(-len(least) // 4)], 0.0)
        shifts.append(needed if not shifts else 0.5 * shifts[-1] + 0.5 * needed)
        assert solver.shift == pytest.approx(shifts[-1], abs=1e-5)
    alike = drawn(1).expand(5, -1, -1)  # half of the tokens are good for all: PAMA needs no help
    solver = ShiftedPAMA([1.0] * 5)
    torch.testing.assert_close(solver.on_advantages(alike, MASK)[0], combine(alike, MASK)[0])
    assert solver.shift == 0.0


def test_a_fair_preference_is_that_of_proportional_fairness():
    scores = torch.rand(3, 64, generator=torch.Generator().manual_seed(5)) * torch.tensor([[1.0], [0.5], [0.1]])
    fair, weights = (
        ShiftedPAMA([0.2, 0.3, 0.5], fair=True, barrier=2.0),
        ProportionalFairness([0.2, 0.3, 0.5], barrier=2.0),
    )
    for solver in (fair, weights):
        solver.calibrate(scores, scores)
        solver.observe(scores + 0.1)
    found = fair.on_advantages(drawn(3), MASK)
    same = ShiftedPAMA(weights.latest_weights.tolist()).on_advantages(drawn(3), MASK)
    torch.testing.assert_close(found, same)


def test_centred_has_no_mean_and_the_same_differences():
    plain = ShiftedPAMA([1.0] * 5).on_advantages(drawn(5), MASK)[0][MASK]
    centred = ShiftedPAMA([1.0] * 5, centre=True).on_advantages(drawn(5), MASK)[0][MASK]
    torch.testing.assert_close(centred, plain - plain.mean(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("tau", [0.1, 0.5, 2.0])
def test_soft_noon_is_the_centred_soft_minimum(tau):
    advantages, weights = drawn(3), np.array([0.2, 0.3, 0.5])
    combined = SoftNoon(weights.tolist(), tau=tau).on_advantages(advantages, MASK)[0]
    kept = np.maximum(advantages.double().numpy()[:, MASK.numpy()], 0)
    soft = np.array(
        [-tau * np.log(sum(w * np.exp(-a / tau) for w, a in zip(weights, token, strict=True))) for token in kept.T]
    )
    np.testing.assert_allclose(combined[MASK].numpy(), soft - soft.mean(), atol=1e-5)


def test_soft_noon_becomes_pama():
    hard = combine(drawn(3), MASK)[0]
    soft = SoftNoon([1.0] * 3, tau=1e-4, centre=False).on_advantages(drawn(3), MASK)[0]
    torch.testing.assert_close(soft, hard, atol=1e-3, rtol=0)


def test_a_setting_moves_in_a_straight_line_and_stays():
    moving = Annealed(1.0, 0.25, 4)
    assert [moving.advance() for _ in range(6)] == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.25, 0.25])
    assert [Annealed(0.5, None, 9).advance() for _ in range(2)] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ShiftedPAMA([1, 0]), "divides"),
        (lambda: ShiftedPAMA([1, 1], share=0.0), "solver.share=0"),
        (lambda: ShiftedPAMA([1, 1], decay=-0.1), "solver.decay=-0.1"),
        (lambda: SoftNoon([1, 0]), "soft minimum"),
        (lambda: SoftNoon([1, 1], tau=0.0), "solver.tau=0"),
        (lambda: SoftNoon([1, 1], tau_end=float("nan")), "solver.tau_end=nan"),
        (lambda: SoftNoon([1, 1], tau_end=1.0, anneal_steps=0), "anneal_steps=0"),
    ],
)
def test_refusals(make, said):
    with pytest.raises(UserError, match=said):
        make()


@pytest.mark.parametrize("objectives", [2, 3, 5])
def test_a_shift_that_is_not_measured_leaves_the_share_of_independent_advantages(objectives):
    advantages = torch.randn(objectives, 200, 100, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(200, 100, dtype=torch.bool)
    combined = ShiftedPAMA([1.0] * objectives, follow=False).on_advantages(advantages, mask)[0]
    assert (combined > 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    alike = ShiftedPAMA([1.0] * objectives, follow=False).on_advantages(advantages[:1].expand(objectives, -1, -1), mask)
    assert (alike > 0).float().mean().item() == pytest.approx(0.25 ** (1 / objectives), abs=0.01)


def test_a_blend_is_that_much_of_the_minimum_and_the_rest_of_the_sum():
    weights = [0.2, 0.3, 0.5]
    least = ShiftedPAMA(weights).on_advantages(drawn(3), MASK)[0]
    both = ShiftedPAMA(weights, blend=0.25).on_advantages(drawn(3), MASK)[0]
    total = np.einsum("n,nbt->bt", weights, drawn(3).numpy())
    np.testing.assert_allclose(both[MASK].numpy(), (0.25 * least.numpy() + 0.75 * total)[MASK.numpy()], atol=1e-5)
    assert both[~MASK].abs().sum() == 0
