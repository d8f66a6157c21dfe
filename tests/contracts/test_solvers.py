"""What every solver must do, whatever its method: each conf/solver/*.yaml is found and put through all of it.

A new solver is tested by its yaml alone; settings worth testing besides the yaml's own go in VARIANTS.
"""

from __future__ import annotations

import copy
import importlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

import oracles
from pama_exp.moo.solver import Solver
from pama_exp.rl.advantages import gae, token_rewards
from pama_exp.rl.losses import clipped_surrogate
from samplers import ADVANTAGES, ragged_mask

FOLDER = Path(__file__).parents[2] / "conf" / "solver"
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "pama": [
        {"granularity": "sequence"},
        {"granularity": "batch"},
        {"noon": False},
        {"granularity": "batch", "noon": False},
    ],
    "linear": [{"space": "reward"}],
    "mgda": [{"normalisation": mode} for mode in ("l2", "loss", "loss+")] + [{"noon": True}],
    "mgda-ub": [{"normalisation": "l2", "noon": True}],
}
CLIP, BATCH, TOKENS = 0.2, 6, 5


@dataclass(frozen=True)
class Recipe:
    """A solver's class and settings, to be built for any weights."""

    name: str
    target: str
    settings: dict[str, Any]

    def __call__(self, weights: Sequence[float]) -> Solver:
        module, _, name = self.target.rpartition(".")
        solver = getattr(importlib.import_module(module), name)(weights=list(weights), **self.settings)
        assert isinstance(solver, Solver)
        return solver

    def __str__(self) -> str:
        return self.name


def recipes() -> Iterator[Recipe]:
    for path in sorted(FOLDER.glob("*.yaml")):
        settings: Any = OmegaConf.to_container(OmegaConf.load(path))
        settings = {key: value for key, value in settings.items() if key not in ("name", "weights")}
        target = settings.pop("_target_")
        for changed in [{}, *VARIANTS.get(path.stem, [])]:
            label = " ".join([path.stem, *(f"{k}={v}" for k, v in changed.items())])
            yield Recipe(label, target, settings | changed)


every_solver = pytest.mark.parametrize("make", list(recipes()), ids=str)


@dataclass(frozen=True)
class Batch:
    """What a step sees: (N,B) rewards, (N,B,T) values, (B,T) the rest."""

    rewards: Tensor
    values: Tensor
    old_log_probs: Tensor
    log_probs: Tensor
    mask: Tensor

    def permuted(self, order: Tensor) -> Batch:
        return replace(self, rewards=self.rewards[order], values=self.values[order])


def sample(kind: str, objectives: int, seed: int = 0) -> Batch:
    shape = (objectives, BATCH, TOKENS)
    old = -ADVANTAGES["normal"](shape[1:], seed + 2).abs()
    return Batch(
        rewards=ADVANTAGES[kind](shape[:2], seed),
        values=0.1 * ADVANTAGES[kind](shape, seed + 1),
        old_log_probs=old,
        log_probs=old + 0.3 * ADVANTAGES["normal"](shape[1:], seed + 4),
        mask=ragged_mask(BATCH, TOKENS, seed),
    )


@dataclass(frozen=True)
class Outcome:
    """A step's loss, its gradient with respect to the log-probabilities, and the tensors at each hook."""

    loss: Tensor
    gradient: Tensor
    combined: Tensor
    weights: Tensor


def estimate(rewards: Tensor, batch: Batch) -> Tensor:
    """(K,B,T) GAE advantages; a solver with fewer channels than objectives has no use for per-objective values."""
    values = batch.values if len(rewards) == len(batch.values) else torch.zeros(len(rewards), BATCH, TOKENS)
    token = token_rewards(rewards, torch.full((BATCH, TOKENS), 0.01), batch.mask)
    return gae(token, values, batch.mask, 0.99, 0.95)


def step(solver: Solver, batch: Batch, allow_gramian: bool = True) -> Outcome:
    """One update as the framework makes it: rewards → advantages → surrogates → weighted sum → gradient."""
    rewards = solver.on_rewards(batch.rewards)
    assert rewards.shape == (solver.num_channels, BATCH)
    combined = solver.on_advantages(estimate(rewards, batch), batch.mask)

    log_probs = batch.log_probs.clone().requires_grad_()
    losses = clipped_surrogate(log_probs, batch.old_log_probs, combined, batch.mask, CLIP)

    def gramian(target: str = "parameters") -> Tensor:
        assert allow_gramian, "the Gramian was not needed"
        rows = [torch.autograd.grad(loss, log_probs, retain_graph=True)[0].flatten() for loss in losses]
        return torch.stack(rows) @ torch.stack(rows).T

    weights = solver.on_losses(losses.detach(), gramian)
    loss = weights @ losses
    (gradient,) = torch.autograd.grad(loss, log_probs)
    return Outcome(loss.detach(), gradient, combined, weights)


def assert_finite(solver: Solver, batch: Batch) -> None:
    outcome = step(solver, batch)
    for name, value in vars(outcome).items():
        assert bool(value.isfinite().all()), f"{name} is not finite"
    assert bool(solver.latest_weights.isfinite().all())


def assert_permutation_equivariant(make: Recipe, batch: Batch, weights: Sequence[float], order: Tensor) -> None:
    """The objectives' order is of no consequence to the update, and the logged weights follow it."""
    plain, permuted = make(weights), make([weights[i] for i in order])
    first, second = step(plain, batch), step(permuted, batch.permuted(order))
    scale = first.gradient.abs().max().item() + 1e-30
    torch.testing.assert_close(second.gradient / scale, first.gradient / scale, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(permuted.latest_weights, plain.latest_weights[order], atol=1e-3, rtol=1e-3)


def assert_single_objective_is_ppo(make: Recipe, batch: Batch) -> None:
    """With one objective, loss and gradient are PPO's (Noon PPO's if the solver clips), whatever the weight given."""
    solver = make([0.7])
    outcome = step(solver, batch, allow_gramian=False)
    advantages = estimate(batch.rewards, batch)[0]
    used = advantages.clamp(min=0) if getattr(solver, "noon", False) else advantages
    log_probs = batch.log_probs.clone().requires_grad_()
    expected = oracles.ppo_loss(log_probs, batch.old_log_probs, used, batch.mask, CLIP)
    (gradient,) = torch.autograd.grad(expected, log_probs)
    torch.testing.assert_close(outcome.loss, expected.detach(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(outcome.gradient, gradient, atol=1e-6, rtol=1e-5)
    assert gradient.abs().max() > 1e-3
    assert solver.latest_weights.tolist() == [1.0]


def assert_state_survives(make: Recipe, batches: Sequence[Batch]) -> None:
    """A solver restored from its state, through a file, goes on exactly as the one that was never interrupted."""
    *before, after = batches
    weights = [0.2, 0.3, 0.5]
    running, restored = make(weights), make(weights)
    for batch in before:
        step(running, batch)
    file = io.BytesIO()
    torch.save(running.state_dict(), file)
    file.seek(0)
    restored.load_state_dict(torch.load(file, weights_only=True))
    first, second = step(running, after), step(restored, after)
    for name in vars(first):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert torch.equal(running.latest_weights, restored.latest_weights)


def assert_hooks_keep_their_shapes(solver: Solver, batch: Batch) -> None:
    objectives = len(batch.rewards)
    assert 1 <= solver.num_channels <= objectives
    outcome = step(solver, batch)
    assert outcome.combined.shape[1:] == (BATCH, TOKENS)
    assert outcome.weights.shape == outcome.combined.shape[:1]
    assert bool((outcome.weights >= 0).all())
    assert outcome.combined.dtype == outcome.weights.dtype == torch.float32
    assert solver.latest_weights.shape == solver.weights.shape == (objectives,)
    assert not outcome.combined.requires_grad
    assert not outcome.weights.requires_grad


def assert_inputs_are_left_alone(solver: Solver, batch: Batch) -> None:
    before = copy.deepcopy(batch)
    advantages = estimate(solver.on_rewards(batch.rewards), batch)
    kept = advantages.clone()
    solver.on_advantages(advantages, batch.mask)
    assert torch.equal(advantages, kept)
    for name, value in vars(before).items():
        assert torch.equal(getattr(batch, name), value), name


def test_solvers_were_found():
    assert {"pama", "linear", "mgda", "mgda-ub"} <= {recipe.name for recipe in recipes()}


@every_solver
@pytest.mark.parametrize("objectives", [1, 2, 5])
def test_shapes(make, objectives):
    solver = make([1.0] * objectives)
    assert_hooks_keep_their_shapes(solver, sample("normal", objectives))
    assert_inputs_are_left_alone(solver, sample("normal", objectives))


@every_solver
@pytest.mark.parametrize("kind", ADVANTAGES)
def test_finite_on_any_input(make, kind):
    for objectives in (1, 2, 4):
        assert_finite(make([1.0] * objectives), sample(kind, objectives))


@every_solver
def test_finite_without_a_single_valid_token(make):
    batch = sample("normal", 3)
    nothing = replace(batch, mask=torch.zeros_like(batch.mask))
    solver = make([1.0, 1.0, 1.0])
    outcome = step(solver, nothing)
    assert bool(solver.latest_weights.isfinite().all())
    assert outcome.loss.item() == 0
    assert outcome.gradient.abs().sum().item() == 0


@every_solver
@pytest.mark.parametrize("kind", ["normal", "all positive", "opposite", "identical", "constant", "huge", "tiny"])
def test_permutation_equivariant(make, kind):
    assert_permutation_equivariant(make, sample(kind, 3), [0.2, 0.3, 0.5], torch.tensor([2, 0, 1]))
    assert_permutation_equivariant(make, sample(kind, 2), [0.4, 0.6], torch.tensor([1, 0]))


@every_solver
@pytest.mark.parametrize("seed", range(3))
def test_single_objective_is_ppo(make, seed):
    assert_single_objective_is_ppo(make, sample("normal", 1, seed))


@every_solver
def test_state_survives(make):
    assert_state_survives(make, [sample("normal", 3, seed) for seed in range(4)])
