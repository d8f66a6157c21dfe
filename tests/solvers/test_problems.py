"""Where each method ends on problems whose Pareto sets are known: what theory says, and what it does not reach.

docs/solvers.md reports what is found here.
"""

import math

import pytest
import torch

from pama_exp.solvers.adaptive import Lagrangian
from pama_exp.solvers.conflicts import cagrad, dualproj, pcgrad, upgrad
from pama_exp.solvers.fairness import fairgrad, nash_mtl
from pama_exp.solvers.gapo import GAPO, PGAPO
from pama_exp.solvers.gradient import MGDA
from pama_exp.solvers.pama import PAMA
from pama_exp.solvers.scalarizers import Linear
from pama_exp.solvers.tchebycheff import SmoothTchebycheff, Tchebycheff
from problems import CENTRES, FONSECA_FLEMING, INWARD, QUADRATICS, optimise

SWEEP = (0.3, 0.5, 0.7)
BENDS = [
    pytest.param(FONSECA_FLEMING, torch.tensor([0.3, -0.6]), id="Fonseca-Fleming"),
    pytest.param(INWARD, torch.tensor([0.55, 0.6]), id="inward"),
]
both_bends = pytest.mark.parametrize(("problem", "start"), BENDS)
NEVER_HARMFUL = [MGDA, GAPO, nash_mtl, fairgrad, upgrad, dualproj, pcgrad, PAMA]


def values(problem, at):
    return problem.objectives(at[None])[:, 0]


def ends(make, problem, start, steps=150):
    """(3,2) where a sweep of the first objective's weight ends."""
    return torch.stack([optimise(make([w, 1 - w]), problem, start, steps)[-1] for w in SWEEP])


def reached_inside(problem, points):
    """How many points lie on the Pareto set, away from both of its ends, where linear weights have no optimum."""
    return sum(problem.distance(p) < 0.05 and values(problem, p).min().item() > 0.06 for p in points)


@pytest.mark.parametrize("weight", SWEEP)
def test_linear_ends_at_the_weighted_mean_of_the_optima(weight):
    end = optimise(Linear([weight, 1 - weight]), QUADRATICS, torch.tensor([0.3, 1.0]))[-1]
    torch.testing.assert_close(end, weight * CENTRES[0] + (1 - weight) * CENTRES[1], atol=1e-3, rtol=0)


@pytest.mark.parametrize("weight", SWEEP)
def test_tchebycheff_ends_where_weighted_distances_are_equal(weight):
    """√w ‖x − a‖ = √(1 − w) ‖x − b‖ on the segment; the policy's width blurs the kink there."""
    ideal = {"ideal": [0.0, 0.0]}
    share = 1 / (1 + math.sqrt(weight / (1 - weight)))
    for solver in (Tchebycheff([weight, 1 - weight], **ideal), SmoothTchebycheff([weight, 1 - weight], 0.01, **ideal)):
        end = optimise(solver, QUADRATICS, torch.tensor([0.3, 1.0]))[-1]
        torch.testing.assert_close(end, torch.tensor([2 * share - 1, 0.0]), atol=0.06, rtol=0)


def test_lagrangian_ends_at_the_best_point_that_meets_the_target():
    solver = Lagrangian([1.0, 1.0], targets=[None, -1.0], step_size=0.05)
    end = optimise(solver, QUADRATICS, torch.tensor([0.3, 1.0]), steps=400)[-1]
    torch.testing.assert_close(end, torch.tensor([0.0, 0.0]), atol=0.05, rtol=0)  # −‖x − b‖² = −1 on the segment


def test_cagrad_ends_at_the_minimum_of_the_mean_loss():
    end = optimise(cagrad([1.0, 1.0]), QUADRATICS, torch.tensor([0.6, 1.0]))[-1]
    torch.testing.assert_close(end, torch.zeros(2), atol=1e-3, rtol=0)


def test_p_gapo_ends_at_the_optimum_of_the_preferred_objective():
    """Between the optima unit gradients are opposite, so that the larger preference always wins."""
    end = optimise(PGAPO([0.6, 0.4]), QUADRATICS, torch.tensor([0.3, 1.0]), steps=200)[-1]
    torch.testing.assert_close(end, CENTRES[0], atol=0.06, rtol=0)


@pytest.mark.parametrize("make", NEVER_HARMFUL, ids=lambda make: make.__name__)
def test_common_descent_makes_no_objective_worse_on_its_whole_way(make):
    """To first order: a step along which an objective's slope is 0 may still cost it the square of its length."""
    path = optimise(make([0.5, 0.5]), QUADRATICS, torch.tensor([0.7, 1.2]), steps=60)
    for at, step in zip(path, path.diff(dim=0), strict=False):
        assert (QUADRATICS.gradients(at) @ step).min().item() > -1e-3
    assert QUADRATICS.distance(path[-1]) < 0.3


@both_bends
def test_linear_misses_what_bends_inwards(problem, start):
    assert reached_inside(problem, ends(Linear, problem, start)) == 0


@both_bends
def test_tchebycheff_reaches_what_bends_inwards_in_the_order_of_the_weights(problem, start):
    points = ends(Tchebycheff, problem, start)
    assert reached_inside(problem, points) >= 1
    first = problem.objectives(points)[0]
    assert bool((first.diff() > 0.02).all())
    middle = values(problem, points[1])
    assert middle[0].item() == pytest.approx(middle[1].item(), abs=0.03)


@both_bends
def test_smooth_tchebycheff_reaches_it_where_it_is_sharp_enough(problem, start):
    points = ends(lambda weights: SmoothTchebycheff(weights, mu=0.01), problem, start)
    assert reached_inside(problem, points) >= 1


@both_bends
def test_pama_by_batch_reaches_it_too_and_follows_the_preference(problem, start):
    points = ends(lambda weights: PAMA(weights, granularity="batch"), problem, start)
    assert reached_inside(problem, points) >= 2
    assert bool((problem.objectives(points)[0].diff() > 0.05).all())


@both_bends
def test_pama_by_token_improves_both_objectives_but_slows_down_before_the_front(problem, start):
    """Near the front hardly any response is better in every objective, and only those are reinforced."""
    points = ends(PAMA, problem, start)
    begun = values(problem, start)
    assert bool((problem.objectives(points) > begun[:, None]).all())
    assert bool((problem.objectives(points)[0].diff() > -1e-3).all())
    distances = [problem.distance(p) for p in points]
    assert max(distances) < 0.7 * problem.distance(start)
    assert min(distances) > 0.03


@both_bends
def test_min_norm_stops_at_the_first_pareto_point_it_meets(problem, start):
    points = ends(MGDA, problem, start)
    assert reached_inside(problem, points) == len(SWEEP)
    torch.testing.assert_close(points, points[:1].expand(len(SWEEP), 2))  # it has no preference
