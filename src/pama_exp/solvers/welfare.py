"""Weights that follow the mean rewards: objectives that lag behind get more weight.

Legend: N objectives, B responses, T response tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pama_exp.config.ranges import Range, checked
from pama_exp.errors import UserError
from pama_exp.solvers.group import whiten_responses
from pama_exp.solvers.solver import Solver, require_positive

# Smaller gains, in starting deviations, count as this: one objective cannot take all weight.
_LEAST_GAIN = 0.05


class Welfare:
    """Weights of α-fairness: ascent on Σ pⁱ uᵢ^(1−α)/(1−α), or on Σ pⁱ log uᵢ for α = 1, with uᵢ = (r̄ᵢ − dᵢ)/σ₀ᵢ.

    vⁱ = pⁱ (σᵢ/σ₀ᵢ) uᵢ^(−α), divided by their sum

    r̄ is a moving average of the steps' mean scores, σ the deviation of the step's scores, and σ₀ that of the starting
    policy's. The factor σᵢ turns gradients of whitened advantages into gradients of rewards.

    Args:
        count: N.
        alpha: α ≥ 0; 0 adds rewards in units of σ₀, 1 is proportional fairness, ∞ only counts the worst.
        disagreement: d, one number or one per objective; None: 0 where the starting policy's scores are never
            negative, else two deviations below their mean.
        barrier: sets d to this many deviations below the starting mean, in place of `disagreement`.
        decay: of the moving average, in [0, 1).

    Raises:
        UserError: if both `disagreement` and `barrier` are given, or the former has another length than N.
    """

    def __init__(
        self,
        count: int,
        alpha: float,
        disagreement: float | Sequence[float] | None,
        barrier: float | None,
        decay: float,
    ) -> None:
        if disagreement is not None and barrier is not None:
            raise UserError("solver.disagreement and solver.barrier are both given.", "Set one of them to null.")
        point = [disagreement] * count if isinstance(disagreement, int | float) else disagreement
        if point is not None and len(point) != count:
            raise UserError(f"solver.disagreement has {len(point)} values for {count} objectives.", "Give one each.")
        self.alpha, self.barrier, self.decay = alpha, barrier, decay
        self.fixed_point = None if point is None else torch.tensor([float(d) for d in point], dtype=torch.float64)
        self.point = torch.zeros(count, dtype=torch.float64)
        self.start = torch.ones(count, dtype=torch.float64)  # σ₀
        self.mean: Float[Tensor, " N"] | None = None
        self.deviation = torch.zeros(count, dtype=torch.float64)

    def calibrate(self, scores: Float[Tensor, "N B"]) -> None:
        """Set the disagreement point d and the units σ₀ from the starting policy's scores."""
        exact = scores.detach().double().cpu()
        mean, deviation = exact.mean(1), exact.std(1, correction=0)
        self.start = torch.where(deviation > 0, deviation, 1)
        below = mean - (2.0 if self.barrier is None else self.barrier) * self.start
        automatic = below if self.barrier is not None else torch.where(exact.amin(1) >= 0, 0, below)
        self.point = automatic if self.fixed_point is None else self.fixed_point

    def observe(self, scores: Float[Tensor, "N B"]) -> None:
        """Update r̄ and σ by a step's scores."""
        exact = scores.detach().double().cpu()
        latest, self.deviation = exact.mean(1), exact.std(1, correction=0)
        self.mean = latest if self.mean is None else self.decay * self.mean + (1 - self.decay) * latest

    def weights(self, preference: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        """The weights v for the preference p, summing to 1; p itself if no objective's scores vary."""
        assert self.mean is not None, "observe comes first"
        gain = ((self.mean - self.point) / self.start).clamp(min=_LEAST_GAIN)
        # Relative to the smallest gain: the power of a large gain would underflow.
        relative = (gain.min() / gain) ** self.alpha
        v = preference.double() * self.deviation / self.start * relative
        total = v.sum()
        return (v / total if bool(total > 0) else preference.double()).float()

    def state_dict(self) -> dict[str, Any]:
        """The state to save: d, σ₀, r̄ and σ."""
        return {"point": self.point, "start": self.start, "mean": self.mean, "deviation": self.deviation}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        self.point, self.start = state["point"], state["start"]
        self.mean, self.deviation = state["mean"], state["deviation"]


class ProportionalFairness(Solver):
    """Ascent on the product of the gains over a disagreement point: a lagging objective counts more.

    Rule: A = Σ wⁱ Aⁱ, wⁱ ∝ pⁱ σᵢ (r̄ᵢ − dᵢ)^(−α) in units of the starting deviation; α = 1 is the gradient of
        Σ pⁱ log(r̄ᵢ − dᵢ).
    Cost: one backward pass.
    State: d, the starting deviations, the moving average of the means.
    Scale: equivariant.
    Weights: simplex.
    Stays: own.
    Advantage: any with whitened or standardised channels, which σᵢ undoes; with others the spread counts twice.
    Source: Kelly, Maulloo & Tan 1998 (proportional fairness), Mo & Walrand 2000 (α-fairness), Nash 1950 (the
        disagreement point); their use with running means of rewards is this project's.
    Use: with many objectives, or to maximise the product of all. It gives up some of an objective that is far above d
        for one that is near it. `barrier` keeps every objective from falling to its d.

    Args:
        weights: the preference p.
        alpha: α; 0 adds up, 1 is proportional fairness, more favours the worst.
        disagreement: d, one number or one per objective; null: 0 for scores that are never negative at the start,
            otherwise two deviations below the start.
        barrier: d is this many deviations below the starting policy's means; in place of `disagreement`.
        decay: of the moving average of the means.
    """

    needs_calibration = True

    @checked("solver")
    def __init__(
        self,
        weights: Sequence[float],
        alpha: Annotated[float, Range(least=0)] = 1.0,
        disagreement: Annotated[float, Range()] | Sequence[float] | None = None,
        barrier: Annotated[float, Range(above=0)] | None = None,
        decay: Annotated[float, Range(least=0, below=1)] = 0.9,
    ) -> None:
        super().__init__(weights)
        self.welfare = Welfare(len(self.weights), alpha, disagreement, barrier, decay)

    def calibrate(self, scores: Float[Tensor, "N B"], rewards: Float[Tensor, "N B"]) -> None:
        """Set the disagreement point and the units from the starting policy's scores."""
        self.welfare.calibrate(scores)

    def observe(self, scores: Float[Tensor, "N B"]) -> None:
        """Update the weights by the step's scores."""
        self.welfare.observe(scores)
        self.latest_weights = self.welfare.weights(self.weights)

    def on_advantages(
        self, advantages: Float[Tensor, "N B T"], response_mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "1 B T"]:
        """The combined advantage."""
        return torch.einsum("n,nbt->bt", self.latest_weights.to(advantages), advantages)[None]

    def state_dict(self) -> dict[str, Any]:
        """The state to save: the statistics behind the weights."""
        return self.welfare.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        self.welfare.load_state_dict(state)


class Saturation(Solver):
    """Weights that fall as an objective nears its upper bound: a saturated objective does not count (SA-MRPO).

    Rule: A = whiten(Σ wⁱ (1 − sᵢ)^γ Aⁱ), sᵢ = (r̄ᵢ − lowᵢ) / (highᵢ − lowᵢ), clipped to [0, 1], r̄ the step's mean.
    Cost: one backward pass.
    State: the bounds.
    Scale: neither. Invariant where the advantages are standardised: the sum is then whitened.
    Weights: simplex.
    Stays: own.
    Advantage: any that standardises; with advantage=group advantage.baseline=standardise it is the paper's.
    Source: arXiv 2608.16072, the saturation-aware weights, γ = 0.5. There the bounds are known; by default
        they are here the lowest and highest score of the starting policy's responses.
    Use: where some objectives saturate early, such as harmlessness, and would then only add noise.

    Args:
        weights: w, one per objective.
        gamma: γ, not negative; 0 is GDPO's sum.
        low: the lower bound, one number or one per objective; null: from the starting policy.
        high: the upper bound, one number or one per objective; null: from the starting policy.
        whiten: centre and scale the sum over the batch's responses, as the paper does.

    Raises:
        UserError: for a negative γ, or a lower bound that is not below the upper.
    """

    checkpointed = ("low", "high")

    @checked("solver")
    def __init__(
        self,
        weights: Sequence[float],
        gamma: Annotated[float, Range(least=0)] = 0.5,
        low: Annotated[float, Range()] | Sequence[float] | None = None,
        high: Annotated[float, Range()] | Sequence[float] | None = None,
        whiten: bool = True,
    ) -> None:
        super().__init__(weights)
        self.gamma, self.whiten = gamma, whiten
        self.needs_calibration = low is None or high is None
        lows, highs = self._bounds = self._per_objective("low", low), self._per_objective("high", high)
        if any(b >= a for b, a in zip(lows, highs, strict=True) if b is not None and a is not None):
            raise UserError(f"solver.low={low} is not below solver.high={high}.", "Give the range of each score.")
        self.low = torch.tensor([0.0 if b is None else b for b in lows])
        self.high = torch.tensor([1.0 if b is None else b for b in highs])
        self.factors = self.weights.clone()

    def _per_objective(self, name: str, bound: float | Sequence[float] | None) -> list[float | None]:
        count = len(self.weights)
        values: list[float | None] = [bound] * count if bound is None or isinstance(bound, int | float) else list(bound)
        if len(values) != count:
            raise UserError(f"solver.{name} has {len(values)} values for {count} objectives.", "Give one each.")
        return values

    def calibrate(self, scores: Float[Tensor, "N B"], rewards: Float[Tensor, "N B"]) -> None:
        """Set bounds that are not settings to the lowest and highest of the starting policy's scores."""
        pairs = zip(self._bounds[0], scores.amin(1).tolist(), strict=True)
        self.low = torch.tensor([score if bound is None else bound for bound, score in pairs])
        pairs = zip(self._bounds[1], scores.amax(1).tolist(), strict=True)
        self.high = torch.tensor([score if bound is None else bound for bound, score in pairs])

    def observe(self, scores: Float[Tensor, "N B"]) -> None:
        """Update the weights by the step's scores."""
        span = self.high - self.low
        reached = torch.where(span > 0, (scores.mean(1).float().cpu() - self.low) / torch.where(span > 0, span, 1), 0)
        self.factors = self.weights * (1 - reached.clamp(0, 1)) ** self.gamma
        total = self.factors.sum()
        self.latest_weights = self.factors / total if bool(total > 0) else self.weights.clone()

    def on_advantages(
        self, advantages: Float[Tensor, "N B T"], response_mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "1 B T"]:
        """The combined advantage."""
        combined = torch.einsum("n,nbt->bt", self.latest_weights.to(advantages), advantages)
        return (whiten_responses(combined, response_mask) if self.whiten else combined)[None]


class FastRL(Solver):
    """Weights move against the mean rewards, once a step: mirror descent on the least of them.

    Rule: r = Σ wⁱ rⁱ, wⁱ ← wⁱ exp(−λ r̄ⁱ) / Z.
    Cost: one backward pass and one value head.
    State: log w.
    Scale: neither. λ is in units of 1 / reward, and rewards in different units are not comparable.
    Weights: simplex.
    Stays: no. The weights go on moving until the means are equal.
    Advantage: any.
    Source: the fair and stable reward composition of EMNLP 2024, from a summary of it; the rule was not compared with
        the paper. The weights are the starting point.
    Use: where rewards have one unit and the lowest mean matters.

    Args:
        weights: w at the start, all positive.
        step_size: λ.

    Raises:
        UserError: for a weight of zero, or a step that is not positive.
    """

    checkpointed = ("log_weights",)

    @checked("solver")
    def __init__(self, weights: Sequence[float], step_size: Annotated[float, Range(above=0)] = 0.1) -> None:
        super().__init__(weights)
        require_positive(weights, "the method multiplies weights, and 0 would stay 0")
        self.step_size = step_size
        self.log_weights = self.weights.double().log()

    @property
    def num_channels(self) -> int:
        """1: rewards are added before advantages are estimated."""
        return 1

    def on_rewards(self, rewards: Float[Tensor, "N B"]) -> Float[Tensor, "1 B"]:
        """The weighted sum of the rewards; the weights are first updated by this step's mean rewards."""
        means = rewards.double().mean(1).cpu()
        self.log_weights = (self.log_weights - self.step_size * means).log_softmax(0)
        self.latest_weights = self.log_weights.exp().to(rewards)
        return (self.latest_weights[:, None] * rewards).sum(0, keepdim=True)
