"""What the solvers' contract is made of: every shipped solver with its variants, a batch to try it on, the promises.

Settings worth testing besides the yaml's own go in VARIANTS. What a solver promises of its scale, its weights and its
stationary points is read from its docstring, where the documents have it from.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

import oracles
from pama_exp.rl.advantages import gae, token_rewards
from pama_exp.rl.estimators import Group
from pama_exp.rl.losses import clipped_surrogate
from pama_exp.solvers.solver import Solver
from problems import QUADRATICS, calibrated, direction, optimise
from rounding import rounding
from samplers import ADVANTAGES, ragged_mask

FOLDER = Path(__file__).parents[1] / "conf" / "solver"
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
    "tchebycheff": [{"ideal_per_objective": 1.5}],
    "gdpo": [{"whiten": False}],
    "rvpo": [{"k": 0.0, "k_end": None, "whiten": False}, {"k": 50.0, "k_end": None}],
    "shifted-pama": [{"share": 0.6, "centre": True}],
    "soft-noon": [{"tau": 0.05}],
    "proportional-fairness": [{"alpha": 0.0}, {"alpha": 3.0, "barrier": 2.0}],
    "gd2po": [{"mode": "hard"}, {"tau": 0.0, "whiten": False}],
    "dara": [{"asymmetric": False}],
    "lagrangian": [{"initial": 0.5}, {"targets_per_objective": 0.1}],
    "ctwa": [{"target": 0.5}],
    "dynamic-gradient": [{"relative": False}],
    "gapo": [{"power": 2}],
    "fairgrad": [{"alpha": 0.0}],
    "cagrad": [{"c": 0.0}],
    "aligned-mtl": [{"scale_mode": mode} for mode in ("median", "rmse")],
}
# With one objective these have PPO's advantage centred and scaled over the batch once more.
WHITENED = {"gdpo", "rvpo", "rvpo k=50.0 k_end=None", "sa-mrpo", "gd2po", "dara"}
WHITENED |= {"gd2po mode=hard", "dara asymmetric=False"}
CLIP, BATCH, TOKENS, GROUP = 0.2, 6, 5, 3


@dataclass(frozen=True)
class Batch:
    """What a step sees: (N,B) rewards, (N,B,T) values, (B,T) the rest."""

    rewards: Tensor
    values: Tensor
    old_log_probs: Tensor
    log_probs: Tensor
    mask: Tensor
    penalty: float = 0.01

    def permuted(self, order: Tensor) -> Batch:
        return replace(self, rewards=self.rewards[order], values=self.values[order])

    def scaled(self, factors: Tensor) -> Batch:
        return replace(
            self, rewards=factors[:, None] * self.rewards, values=factors[:, None, None] * self.values, penalty=0.0
        )


@dataclass(frozen=True)
class Recipe:
    """A solver's class and settings, to be built for any weights."""

    name: str
    target: str
    settings: dict[str, Any]

    @property
    def factory(self) -> Any:
        module, _, name = self.target.rpartition(".")
        return getattr(importlib.import_module(module), name)

    def __call__(self, weights: Sequence[float], **changed: Any) -> Solver:
        """`x_per_objective: v` among the settings stands for x = [v, v, …]."""
        settings = self.settings | changed
        for key in [key for key in settings if key.endswith("_per_objective")]:
            settings[key.removesuffix("_per_objective")] = [settings.pop(key)] * len(weights)
        solver = self.factory(weights=list(weights), **settings)
        assert isinstance(solver, Solver)
        solver.group_size = GROUP if solver.estimators else 1
        return solver

    def told(self, weights: Sequence[float], batch: Batch, **changed: Any) -> Solver:
        """The solver, calibrated on this batch where it wants to be."""
        solver = self(weights, **changed)
        if solver.needs_calibration:
            solver.calibrate(batch.rewards, batch.rewards)
        return solver

    @property
    def is_shipped(self) -> bool:
        return " " not in self.name

    @property
    def is_random(self) -> bool:
        return "seed" in self.settings

    def promise(self, field: str) -> str:
        """The first word of a field of the docstring; empty where the docstring has no such field."""
        found = re.search(rf"^ *{field}: ([a-z-]+)", inspect.getdoc(inspect.unwrap(self.factory)) or "", re.MULTILINE)
        return found[1] if found else ""

    def __str__(self) -> str:
        return self.name


def recipes() -> Iterator[Recipe]:
    for path in sorted(FOLDER.glob("*.yaml")):
        node = OmegaConf.create({"seed": 0, "training": {"steps": 60}, "solver": OmegaConf.load(path)})
        settings: Any = OmegaConf.to_container(node, resolve=True)["solver"]
        settings = {key: value for key, value in settings.items() if key not in ("name", "weights")}
        target = settings.pop("_target_")
        for changed in [{}, *VARIANTS.get(path.stem, [])]:
            label = " ".join([path.stem, *(f"{k}={v}" for k, v in changed.items())])
            yield Recipe(label, target, settings | changed)


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


def estimate(solver: Solver, rewards: Tensor, batch: Batch) -> Tensor:
    """(K,B,T) advantages by GAE, or by the group estimator that the solver names first.

    A solver with fewer channels than objectives has no use for per-objective values.
    """
    values = batch.values if len(rewards) == len(batch.values) else torch.zeros(len(rewards), BATCH, TOKENS)
    penalty = torch.full((BATCH, TOKENS), batch.penalty)
    if solver.estimators:
        return Group(solver.estimators[0].split("/")[1], GROUP).estimate(rewards, penalty, values, batch.mask)[0]
    return gae(token_rewards(rewards, penalty, batch.mask), values, batch.mask, 0.99, 0.95)


def step(solver: Solver, batch: Batch, allow_gramian: bool = True) -> Outcome:
    """One update as the framework makes it: rewards → advantages → surrogates → weighted sum → gradient."""
    solver.observe(batch.rewards)
    rewards = solver.on_rewards(batch.rewards)
    assert rewards.shape == (solver.num_channels, BATCH)
    combined = solver.on_advantages(estimate(solver, rewards, batch), batch.mask)

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
    """At the first step and at the next, with validations between."""
    for _ in range(2):
        solver.on_validation(batch.rewards.mean(1))
        outcome = step(solver, batch)
        for name, value in vars(outcome).items():
            assert bool(value.isfinite().all()), f"{name} is not finite"
        assert bool(solver.latest_weights.isfinite().all())


def assert_weights_are_in_their_domain(domain: str, solver: Solver, batch: Batch) -> None:
    """What is logged has magnitudes that sum to 1; what weighs the losses is where the docstring says."""
    outcome = step(solver, batch)
    logged = solver.latest_weights
    assert logged.abs().sum().item() == pytest.approx(1, abs=1e-4)
    if domain == "real":
        return
    assert bool((logged >= 0).all())
    assert bool((outcome.weights >= 0).all())
    if domain == "simplex" and len(outcome.weights) > 1:
        assert outcome.weights.sum().item() == pytest.approx(1, abs=1e-4)


def assert_permutation_equivariant(make: Recipe, batch: Batch, weights: Sequence[float], order: Tensor) -> None:
    """The objectives' order is of no consequence to the update, and the logged weights follow it."""
    moved = {"primary": order.tolist().index(make.settings["primary"])} if "primary" in make.settings else {}
    plain = make.told(weights, batch)
    permuted = make.told([weights[i] for i in order], batch.permuted(order), **moved)
    first, second = step(plain, batch), step(permuted, batch.permuted(order))
    scale = first.gradient.abs().max().item() + 1e-30
    torch.testing.assert_close(second.gradient / scale, first.gradient / scale, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(permuted.latest_weights, plain.latest_weights[order], atol=1e-3, rtol=1e-3)


def assert_single_objective_is_ppo(make: Recipe, batch: Batch) -> None:
    """With one objective, loss and gradient are PPO's (Noon PPO's if the solver clips), whatever the weight given."""
    solver = make.told([0.7], batch)
    outcome = step(solver, batch, allow_gramian=False)
    advantages = estimate(solver, batch.rewards, batch)[0]
    if make.name in WHITENED:
        advantages = oracles.whitened_responses(advantages, batch.mask)
    used = advantages.clamp(min=0) if getattr(solver, "noon", False) else advantages
    log_probs = batch.log_probs.clone().requires_grad_()
    expected = oracles.ppo_loss(log_probs, batch.old_log_probs, used, batch.mask, CLIP)
    (gradient,) = torch.autograd.grad(expected, log_probs)
    # A mean over tokens, of advantages that may have been whitened by theirs: a mean and a deviation.
    off = rounding(torch.float32, 3 * BATCH * TOKENS, used.abs().max().item())
    torch.testing.assert_close(outcome.loss, expected.detach(), atol=off, rtol=0)
    torch.testing.assert_close(outcome.gradient, gradient, atol=off / int(batch.mask.sum()), rtol=0)
    assert gradient.abs().max() > 1e-3
    assert solver.latest_weights.tolist() == [1.0]


def assert_state_survives(make: Recipe, batches: Sequence[Batch]) -> None:
    """A solver restored from its state, through a file, goes on exactly as the one that was never interrupted."""
    *before, after = batches
    weights = [0.2, 0.3, 0.5]
    running, restored = make.told(weights, before[0]), make(weights)
    for batch in before:
        running.on_validation(batch.rewards.mean(1))
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
    assert outcome.combined.dtype == outcome.weights.dtype == torch.float32
    assert solver.latest_weights.shape == solver.weights.shape == (objectives,)
    assert not outcome.combined.requires_grad
    assert not outcome.weights.requires_grad


def assert_inputs_are_left_alone(solver: Solver, batch: Batch) -> None:
    before = copy.deepcopy(batch)
    tensors = [field.name for field in fields(batch) if field.name != "penalty"]
    solver.observe(batch.rewards)
    advantages = estimate(solver, solver.on_rewards(batch.rewards), batch)
    kept = advantages.clone()
    solver.on_advantages(advantages, batch.mask)
    assert torch.equal(advantages, kept)
    for name in tensors:
        assert torch.equal(getattr(batch, name), getattr(before, name)), name


def assert_scale_behaves_as(promise: str, make: Recipe, batch: Batch) -> None:
    """What a change of the rewards' units does to the update: one objective's (invariant, direction) or all (equivariant)."""
    count = len(batch.rewards)
    factors = torch.full((count,), 8.0)
    if promise in ("invariant", "direction"):
        factors = torch.tensor([8.0, 0.5, 2.0, 1.0])[:count]
    weights = [1.0 + i for i in range(count)]
    plain = batch.scaled(torch.ones(count))
    scaled = batch.scaled(factors)
    before = step(make.told(weights, plain), plain).gradient
    after = step(make.told(weights, scaled), scaled).gradient
    if promise == "direction":
        before, after = before / before.norm(), after / after.norm()
    elif promise == "equivariant":
        after = after / 8.0
    torch.testing.assert_close(after, before, atol=2e-3 * before.abs().max().item(), rtol=0)


def assert_stays_at_a_stationary_point(make: Recipe) -> None:
    """Between the optima of two quadratics every point is Pareto stationary, and no direction is taken there."""
    for share in (0.3, 0.7):
        at = torch.tensor([2 * share - 1, 0.0])
        solver = calibrated(make([0.5, 0.5]), QUADRATICS)
        length = direction(solver, QUADRATICS, at).norm().item()
        assert length < 0.01 * QUADRATICS.gradients(at).norm(dim=1).min().item()


def assert_descends_from_elsewhere(make: Recipe) -> None:
    """Where the gradients agree no objective gets worse, and a few steps lead near to the Pareto set."""
    far = torch.tensor([0.0, 2.0])
    gains = QUADRATICS.gradients(far) @ direction(calibrated(make([0.5, 0.5]), QUADRATICS), QUADRATICS, far)
    assert bool((gains > 0.1).all())
    path = optimise(make([0.6, 0.4]), QUADRATICS, torch.tensor([0.2, 1.5]), steps=120)
    assert QUADRATICS.distance(path[-1]) < 0.2


def assert_each_response_is_weighed_by_its_own_preference(make: Recipe, batch: Batch, preferences: Tensor) -> None:
    """What becomes of a response is what the solver with its preference as weights makes of it."""
    told = make.told([1.0] * len(preferences), batch)
    told.prefer(preferences)
    found = step(told, batch, allow_gramian=False)
    torch.testing.assert_close(told.latest_weights.sum().item(), 1.0, atol=1e-4, rtol=0)
    for row in range(BATCH):
        alone = step(make.told(preferences[:, row].tolist(), batch), batch, allow_gramian=False)
        torch.testing.assert_close(found.combined[:, row], alone.combined[:, row], atol=1e-5, rtol=1e-4)
    if bool((batch.rewards > 0).all()):  # with Noon a response that is bad in one objective counts for nothing
        alike = step(make.told([1.0] * len(preferences), batch), batch, allow_gramian=False)
        assert not torch.allclose(found.combined, alike.combined, atol=1e-3)
