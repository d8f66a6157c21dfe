"""What each torchjd method promises, checked on the gradients themselves rather than on the Gramian."""

import numpy as np
import pytest
import torch
import torchjd._mixins
from torchjd.aggregation import ConFIG

from pama_exp.errors import UserError
from pama_exp.solvers import conflicts, fairness, weighted
from pama_exp.solvers.gradient import MGDA
from samplers import GRADIENTS as SAMPLERS

LOSSES = torch.zeros(3)
CONFLICT = torch.tensor([[2.0, 0.0], [-1.0, 1.5]])


def gradients(seed=0, count=3):
    return SAMPLERS["normal"]((count, 5), seed)


def update(solver, rows):
    weights = solver.on_losses(torch.zeros(len(rows)), lambda target="parameters": rows @ rows.T)
    return weights @ rows


def test_pcgrad_removes_the_conflicting_part_of_each_gradient():
    first, second = CONFLICT
    product = first @ second
    projected = [first - product / (second @ second) * second, second - product / (first @ first) * first]
    torch.testing.assert_close(update(conflicts.pcgrad([1.0, 1.0]), CONFLICT), (projected[0] + projected[1]) / 2)
    agreeing = CONFLICT.abs()
    torch.testing.assert_close(update(conflicts.pcgrad([1.0, 1.0]), agreeing), agreeing.mean(0))


def test_gradvac_turns_gradients_until_their_cosine_is_the_average_seen():
    """The first call is PCGrad, as φ starts at 0; the second has something to aim at."""
    solver = conflicts.gradvac([1.0, 1.0], beta=1.0)
    agreeing = torch.tensor([[1.0, 0.1], [1.0, -0.1]])
    torch.testing.assert_close(update(solver, agreeing), agreeing.mean(0))
    aim = (agreeing[0] @ agreeing[1] / agreeing.norm(dim=1).prod()).item()
    right_angled = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    slope = aim / (1 - aim**2) ** 0.5  # (1, s) has the cosine s / √(1 + s²) to (0, 1)
    expected = torch.tensor([[1.0, slope], [slope, 1.0]]).mean(0)
    torch.testing.assert_close(update(solver, right_angled), expected, atol=1e-3, rtol=1e-3)


def test_cagrad_improves_the_worst_objective_most_within_its_radius():
    rows, c = torch.tensor([[3.0, 0.0], [-1.0, 0.5]]), 0.4
    mean = rows.mean(0)
    angles = torch.linspace(0, 2 * torch.pi, 2000)
    candidates = mean + c * mean.norm() * torch.stack([angles.cos(), angles.sin()], 1)
    best = candidates[(candidates @ rows.T).amin(1).argmax()]
    torch.testing.assert_close(update(conflicts.cagrad([1.0, 1.0], c), rows), best, atol=0.01, rtol=0.01)
    torch.testing.assert_close(update(conflicts.cagrad([1.0, 1.0], 0.0), rows), mean)


@pytest.mark.parametrize("make", [conflicts.upgrad, conflicts.dualproj])
def test_projections_onto_the_dual_cone_harm_no_objective(make):
    for seed in range(10):
        rows = gradients(seed)
        gains = rows @ update(make([0.2, 0.3, 0.5]), rows)
        assert gains.min() > -2e-3 * rows.norm(dim=1).max() ** 2
    agreeing = rows.abs()
    torch.testing.assert_close(
        update(make([0.2, 0.3, 0.5]), agreeing), torch.tensor([0.2, 0.3, 0.5]) @ agreeing, atol=1e-3, rtol=1e-3
    )


def test_upgrad_projects_each_gradient_and_dualproj_their_mean():
    first, second = CONFLICT
    product = first @ second
    each = [first - product / (second @ second) * second, second - product / (first @ first) * first]
    torch.testing.assert_close(
        update(conflicts.upgrad([0.5, 0.5]), CONFLICT), 0.5 * (each[0] + each[1]), atol=1e-3, rtol=1e-3
    )
    mean = 0.1 * first + 0.9 * second  # harms the first
    expected = mean - (mean @ first) / (first @ first) * first
    torch.testing.assert_close(update(conflicts.dualproj([0.1, 0.9]), CONFLICT), expected, atol=1e-3, rtol=1e-3)


def test_aligned_mtl_acts_as_if_gradients_were_orthogonal_and_equally_long():
    rows = gradients()
    left, sizes, right = torch.linalg.svd(rows, full_matrices=False)
    aligned = sizes.min() * left @ right
    expected = torch.tensor([0.2, 0.3, 0.5]) @ aligned
    torch.testing.assert_close(update(fairness.aligned_mtl([0.2, 0.3, 0.5]), rows), expected, atol=1e-3, rtol=1e-3)


def test_imtl_g_projects_equally_onto_every_unit_gradient():
    rows = gradients()
    projections = (rows / rows.norm(dim=1, keepdim=True)) @ update(fairness.imtl_g([1.0] * 3), rows)
    torch.testing.assert_close(projections, projections.mean().expand(3), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["normal", "opposite", "one zero", "mixed scale", "identical"])
def test_config_from_the_gramian_is_torchjds_from_the_gradients(kind):
    rows = SAMPLERS[kind]((3, 6), 1)
    expected = ConFIG()(rows.double()).float() / 3
    found = update(conflicts.config([1.0] * 3), rows)
    torch.testing.assert_close(found, expected, atol=1e-4 * rows.abs().max().item(), rtol=1e-3)


@pytest.mark.parametrize("alpha", [1.0, 2.0, 5.0])
def test_fair_weights_solve_their_equation(alpha):
    for seed in range(5):
        rows = gradients(seed, 4)
        solver = fairness.fairgrad([1.0] * 4, alpha) if alpha != 1.0 else fairness.nash_mtl([1.0] * 4)
        weights = solver.on_losses(torch.zeros(4), lambda target="", rows=rows: rows @ rows.T)
        gains = (rows @ rows.T) @ weights
        constant = gains * weights ** (1 / alpha)  # G w = w^(−1/α) up to a common factor
        torch.testing.assert_close(constant, constant.mean().expand(4), rtol=0.01, atol=0)
        assert weights.sum().item() == pytest.approx(1, abs=1e-5)


def test_cr_mogm_is_the_moving_average_of_mgdas_weights():
    solver = fairness.cr_mogm([1.0] * 3, alpha=0.75)
    expected = None
    for seed in range(4):
        rows = gradients(seed)

        def gramian(target="parameters", rows=rows):
            return rows @ rows.T

        exact = MGDA([1.0] * 3).on_losses(LOSSES, gramian)
        expected = exact if expected is None else 0.75 * expected + 0.25 * exact
        torch.testing.assert_close(solver.on_losses(LOSSES, gramian), expected, atol=1e-5, rtol=1e-5)


def test_random_weights_leave_the_global_stream_alone_and_follow_seed_and_call():
    rows = gradients()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, two, other = (fairness.rgw([1.0] * 3, seed) for seed in (0, 0, 1))
    drawn = [update(one, rows) for _ in range(3)]
    assert torch.equal(torch.get_rng_state(), before)
    assert [torch.equal(update(two, rows), d) for d in drawn] == [True] * 3
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(update(other, rows), drawn[0])


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1e5])
def test_thresholds_inside_torchjd_do_not_see_the_gradients_size(scale):
    for make in (conflicts.upgrad, conflicts.cagrad, fairness.nash_mtl, fairness.aligned_mtl):
        small = update(make([1.0, 1.0]), scale * CONFLICT) / scale
        torch.testing.assert_close(small, update(make([1.0, 1.0]), CONFLICT), atol=1e-3, rtol=1e-3)


def test_objectives_with_the_same_gradient_share_their_weight():
    gramian = torch.tensor([[1.0, 1.0, 0.2], [1.0, 1.0, 0.2], [0.2, 0.2, 1.0]])
    shared = weighted.shared_among_twins(gramian, torch.tensor([0.7, 0.1, 0.2]))
    torch.testing.assert_close(shared, torch.tensor([0.4, 0.4, 0.2]))


def test_a_missing_extra_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setattr(torchjd._mixins, "find_spec", lambda name: None)
    for make in (conflicts.cagrad, conflicts.upgrad, conflicts.dualproj):
        with pytest.raises(UserError, match=r"qpsolvers|cvxpy") as caught:
            make([1.0, 1.0])
        assert "pama-exp[solvers]" in caught.value.hint


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (lambda: conflicts.cagrad([1.0], c=-1.0), "-1.0"),
        (lambda: conflicts.gradvac([1.0], beta=2.0), "2.0"),
        (lambda: fairness.aligned_mtl([1.0], scale_mode="max"), "max"),
        (lambda: fairness.fairgrad([1.0], alpha=-1.0), "-1.0"),
        (lambda: fairness.cr_mogm([1.0], alpha=1.5), "1.5"),
    ],
)
def test_settings_out_of_range_are_shown(make, shown):
    with pytest.raises(UserError) as caught:
        make()
    assert shown in caught.value.message


def test_state_of_a_weighting_that_remembers_travels():
    solver, restored = (conflicts.gradvac([1.0] * 3, seed=4) for _ in range(2))
    for seed in range(3):
        update(solver, gradients(seed))
    restored.load_state_dict(solver.state_dict())
    np.testing.assert_array_equal(update(solver, gradients(9)).numpy(), update(restored, gradients(9)).numpy())
