"""What every solver must do, whatever its method: each conf/solver/*.yaml is found and put through all of it.

A new solver is tested by its yaml alone; `conformance.py` holds the promises.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from conformance import (
    BATCH,
    assert_descends_from_elsewhere,
    assert_each_response_is_weighed_by_its_own_preference,
    assert_finite,
    assert_hooks_keep_their_shapes,
    assert_inputs_are_left_alone,
    assert_permutation_equivariant,
    assert_scale_behaves_as,
    assert_single_objective_is_ppo,
    assert_state_survives,
    assert_stays_at_a_stationary_point,
    assert_weights_are_in_their_domain,
    recipes,
    sample,
    step,
)
from samplers import ADVANTAGES, GRADIENTS

every_solver = pytest.mark.parametrize("make", list(recipes()), ids=str)


@contextmanager
def case(name: object) -> Iterator[None]:
    """One of several inputs of a test, which says which it was that failed."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"input: {name}")
        raise


def test_solvers_were_found():
    shipped = [recipe for recipe in recipes() if recipe.is_shipped]
    assert len(shipped) >= 25
    assert {"pama", "linear", "mgda", "mgda-ub"} <= {recipe.name for recipe in shipped}


@every_solver
def test_shapes(make):
    for objectives in (1, 2, 5):
        batch = sample("normal", objectives)
        solver = make.told([1.0] * objectives, batch)
        with case(f"{objectives} objectives"):
            assert_hooks_keep_their_shapes(solver, batch)
            assert_inputs_are_left_alone(solver, batch)


@every_solver
def test_finite_on_any_input(make):
    for kind in ADVANTAGES:
        for objectives in (1, 2, 4):
            batch = sample(kind, objectives)
            with case(f"{kind}, {objectives} objectives"):
                assert_finite(make.told([1.0] * objectives, batch), batch)


@every_solver
def test_finite_on_any_gradients(make):
    """A solver that asks for gradients is shown those that are hard to combine."""
    for kind, gradients in GRADIENTS.items():
        for objectives in (2, 4):
            rows = gradients((objectives, 4), 0)
            solver = make.told([1.0] * objectives, sample("normal", objectives))
            weights = solver.on_losses(torch.zeros(objectives), lambda target="parameters", rows=rows: rows @ rows.T)
            assert bool(weights.isfinite().all()), kind
            assert bool(solver.latest_weights.isfinite().all()), kind


@every_solver
def test_finite_without_a_single_valid_token(make):
    batch = sample("normal", 3)
    nothing = replace(batch, mask=torch.zeros_like(batch.mask))
    solver = make.told([1.0, 1.0, 1.0], batch)
    outcome = step(solver, nothing)
    assert bool(solver.latest_weights.isfinite().all())
    assert outcome.loss.item() == 0
    assert outcome.gradient.abs().sum().item() == 0


@every_solver
def test_weights_are_in_their_domain(make):
    domain = make.promise("Weights") or "non-negative"
    assert domain in ("simplex", "non-negative", "real")
    for kind in ("normal", "opposite", "mixed scale"):
        for objectives in (2, 4):
            batch = sample(kind, objectives)
            with case(f"{kind}, {objectives} objectives"):
                assert_weights_are_in_their_domain(domain, make.told([1.0] * objectives, batch), batch)


@every_solver
def test_permutation_equivariant(make):
    if make.is_random:
        pytest.skip("equivariant in distribution: the next test")
    for kind in ("normal", "all positive", "opposite", "identical", "constant", "huge", "tiny"):
        with case(kind):
            assert_permutation_equivariant(make, sample(kind, 3), [0.2, 0.3, 0.5], torch.tensor([2, 0, 1]))
            assert_permutation_equivariant(make, sample(kind, 2), [0.4, 0.6], torch.tensor([1, 0]))


@pytest.mark.parametrize("make", [recipe for recipe in recipes() if recipe.is_random], ids=str)
def test_random_solvers_are_permutation_equivariant_on_average(make):
    """Over many seeds; a seed by itself gives the same weights every time."""
    gradients, order = GRADIENTS["normal"]((3, 4), 5), torch.tensor([2, 0, 1])

    def weights(rows: Tensor, seed: int) -> Tensor:
        return make([1.0] * 3, seed=seed).on_losses(torch.zeros(3), lambda target="parameters": rows @ rows.T)

    seen = torch.stack([weights(gradients, seed) for seed in range(200)])
    moved = torch.stack([weights(gradients[order], seed) for seed in range(200)])
    error = (seen.var(0)[order] + moved.var(0)).sqrt() / 200**0.5
    assert bool(((moved.mean(0) - seen.mean(0)[order]).abs() <= 4 * error + 1e-6).all())
    assert torch.equal(weights(gradients, 7), seen[7])


@every_solver
def test_scale_behaves_as_documented(make):
    promise = make.promise("Scale") or "neither"
    assert promise in ("invariant", "direction", "equivariant", "neither")
    if promise == "neither" or not make.is_shipped:
        pytest.skip("nothing is promised")
    for objectives in (2, 3):
        assert_scale_behaves_as(promise, make, sample("normal", objectives, seed=3))


@every_solver
def test_stays_at_stationary_points_as_documented(make):
    promise = make.promise("Stays") or "no"
    assert promise in ("every", "own", "no")
    if promise != "every" or not make.is_shipped:
        pytest.skip("nothing is promised")
    assert_stays_at_a_stationary_point(make)


@pytest.mark.parametrize("make", [recipe for recipe in recipes() if recipe.is_shipped], ids=str)
def test_descends_from_elsewhere(make):
    assert_descends_from_elsewhere(make)


@every_solver
def test_single_objective_is_ppo(make):
    for seed in range(3):
        with case(f"seed {seed}"):
            assert_single_objective_is_ppo(make, sample("normal", 1, seed))


@every_solver
def test_state_survives(make):
    assert_state_survives(make, [sample("normal", 3, seed) for seed in range(4)])


@every_solver
def test_state_is_the_same_wherever_the_steps_were_made(make):
    """Two processes that are shown the same numbers, as reduction makes sure, hold the same state ever after."""
    batches = [sample("normal", 3, seed) for seed in range(3)]
    solvers = [make.told([0.2, 0.3, 0.5], batches[0]) for _ in range(2)]
    for batch in batches:
        torch.manual_seed(0)
        first = step(solvers[0], batch)
        torch.manual_seed(1)  # the global stream belongs to the process, and must not matter
        second = step(solvers[1], batch)
        assert torch.equal(first.gradient, second.gradient)


TOLD = [recipe for recipe in recipes() if recipe([1.0, 1.0]).takes_preferences]


@pytest.mark.parametrize("make", TOLD, ids=str)
def test_each_response_is_weighed_by_its_own_preference(make):
    if "whiten" in make.settings:  # over the batch, which mixes the responses after they have been weighed
        make = replace(make, settings=make.settings | {"whiten": False})
    for objectives in (2, 3):
        drawn = torch.rand(objectives, BATCH, generator=torch.Generator().manual_seed(1)) ** 4 + 0.01
        for kind in ("normal", "all positive"):
            batch = sample(kind, objectives)
            assert_each_response_is_weighed_by_its_own_preference(make, batch, drawn / drawn.sum(0))


@pytest.mark.parametrize("make", TOLD, ids=str)
def test_a_preference_of_nothing_but_one_objective_is_finite(make):
    only = torch.nn.functional.one_hot(torch.arange(BATCH) % 2, 2).T.float()
    for kind in ("normal", "opposite", "tiny", "one zero"):
        batch = sample(kind, 2)
        solver = make.told([1.0, 1.0], batch)
        solver.prefer(only)
        assert_finite(solver, batch)


def test_those_that_weigh_losses_take_no_preference_per_response():
    assert {recipe.name for recipe in TOLD if recipe.is_shipped} == {
        "pama", "linear", "tchebycheff", "augmented-tchebycheff", "smooth-tchebycheff", "gdpo", "mo-grpo", "rvpo"
    }  # fmt: skip
    assert not any("granularity=batch" in recipe.name for recipe in TOLD)


@every_solver
def test_the_docstring_says_what_the_documents_need(make):
    for field in ("Rule", "Cost", "State", "Scale", "Weights", "Stays", "Advantage", "Source", "Use"):
        text = inspect.getdoc(inspect.unwrap(make.factory)) or ""
        assert re.search(rf"^{field}: \S", text, re.MULTILINE), field
