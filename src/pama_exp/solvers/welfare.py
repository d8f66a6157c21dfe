"""Weights that follow how far each objective has come: fair to those that lag, through the mean rewards alone.

Legend: N objectives, B responses, T response tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pama_exp.config.ranges import Range
from pama_exp.errors import UserError
from pama_exp.solvers.group import whiten_responses
from pama_exp.solvers.solver import Solver

# A gain below this share of the starting deviation counts as this, so that one objective cannot take all weight.
_LEAST_GAIN = 0.05


class Welfare:
    """Weights of α-fairness: the gradient of Σ pⁱ uᵢ^(1−α)/(1−α), or Σ pⁱ log uᵢ where α = 1, uᵢ = (r̄ᵢ − dᵢ)/σ₀ᵢ.

    vⁱ = pⁱ (σᵢ/σ₀ᵢ) uᵢ^(−α), divided by their sum

    σᵢ, the deviation of the step's scores, turns a gradient of the whitened advantage into one of the reward; σ₀ is the
    starting policy's. r̄ is a moving average of the steps' means.

    Args:
        count: N.
        alpha: α ≥ 0; 0 adds rewards in starting deviations, 1 is proportional fairness, ∞ the worst alone.
        disagreement: d, one number or one per objective; None: 0 where the starting policy's scores are never
            negative, and two deviations below their mean otherwise.
        barrier: d is this many deviations below the starting mean, in place of `disagreement`.
        decay: of the moving average, in [0, 1).

    Raises:
        UserError: for a value outside its range.
    """

    def __init__(
        self,
        count: int,
        alpha: float,
        disagreement: float | Sequence[float] | None,
        barrier: float | None,
        decay: float,
    ) -> None:
        if not 0 <= alpha < float("inf"):
            raise UserError(f"solver.alpha={alpha}.", "0 is the sum, 1 proportional fairness, more favours the worst.")
        if disagreement is not None and barrier is not None:
            raise UserError("solver.disagreement and solver.barrier are both given.", "Set one of them to null.")
        if barrier is not None and not 0 < barrier < float("inf"):
            raise UserError(f"solver.barrier={barrier}.", "It is in deviations below the start: above 0; 2 is usual.")
        if not 0 <= decay < 1:
            raise UserError(f"solver.decay={decay} is not in [0, 1).", "0 forgets at once; 0.9 is usual.")
        given = [disagreement] * count if isinstance(disagreement, int | float) else disagreement
        if given is not None and len(given) != count:
            raise UserError(f"solver.disagreement has {len(given)} values for {count} objectives.", "Give one each.")
        self.alpha, self.barrier, self.decay = alpha, barrier, decay
        self.given = None if given is None else torch.tensor([float(d) for d in given], dtype=torch.float64)
        self.point = torch.zeros(count, dtype=torch.float64)
        self.start = torch.ones(count, dtype=torch.float64)  # σ₀
        self.mean: Float[Tensor, " N"] | None = None
        self.deviation = torch.zeros(count, dtype=torch.float64)

    def calibrate(self, scores: Float[Tensor, "N B"]) -> None:
        """Fix d and σ₀."""
        exact = scores.detach().double().cpu()
        mean, deviation = exact.mean(1), exact.std(1, correction=0)
        self.start = torch.where(deviation > 0, deviation, 1)
        below = mean - (2.0 if self.barrier is None else self.barrier) * self.start
        automatic = below if self.barrier is not None else torch.where(exact.amin(1) >= 0, 0, below)
        self.point = automatic if self.given is None else self.given

    def observe(self, scores: Float[Tensor, "N B"]) -> None:
        """Take a step's scores."""
        exact = scores.detach().double().cpu()
        seen, self.deviation = exact.mean(1), exact.std(1, correction=0)
        self.mean = seen if self.mean is None else self.decay * self.mean + (1 - self.decay) * seen

    def weights(self, preference: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        """v on the simplex; the preference itself where no objective's scores vary."""
        assert self.mean is not None, "observe comes first"
        gain = ((self.mean - self.point) / self.start).clamp(min=_LEAST_GAIN)
        # In logarithms, and relative to the least gain: a power of a large one would vanish.
        relative = (gain.min() / gain) ** self.alpha
        v = preference.double() * self.deviation / self.start * relative
        total = v.sum()
        return (v / total if bool(total > 0) else preference.double()).float()

    def state_dict(self) -> dict[str, Any]:
        """d, σ₀, r̄ and σ."""
        return {"point": self.point, "start": self.start, "mean": self.mean, "deviation": self.deviation}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.point, self.start = state["point"], state["start"]
        self.mean, self.deviation = state["mean"], state["deviation"]


class ProportionalFairness(Solver):
    """Ascent on the product of the gains over a disagreement point: an objective that is lagging counts more.

    Rule: A = Σ wⁱ Aⁱ, wⁱ ∝ pⁱ σᵢ (r̄ᵢ − dᵢ)^(−α) in units of the starting deviation; α = 1 is the gradient of
        Σ pⁱ log(r̄ᵢ − dᵢ).
    Cost: one backward pass.
    State: d, the starting deviations, the moving average of the means.
    Scale: equivariant.
    Weights: simplex.
    Stays: own.
    Advantage: any whose channels are whitened or standardised, which σᵢ undoes; with others spread counts twice.
    Source: Kelly, Maulloo & Tan 1998 (proportional fairness), Mo & Walrand 2000 (α-fairness), Nash 1950 (the
        disagreement point); on running means of rewards it is this project's.
    Use: with many objectives, or where the product of all is what counts; it gives up ground in an objective that is
        far above d for one that is near it. `barrier` keeps every objective from falling to its d.

    Args:
        weights: the preference p.
        alpha: α; 0 adds up, 1 is proportional fairness, more favours the worst.
        disagreement: d, one number or one per objective; null: 0 for scores that are never negative at the start,
            otherwise two deviations below the start.
        barrier: d is this many deviations below the starting policy's means; in place of `disagreement`.
        decay: of the moving average of the means.
    """

    needs_calibration = True

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
        """Fix the disagreement point and the units."""
        self.welfare.calibrate(scores)

    def observe(self, scores: Float[Tensor, "N B"]) -> None:
        """Move the weights."""
        self.welfare.observe(scores)
        self.latest_weights = self.welfare.weights(self.weights)

    def on_advantages(
        self, advantages: Float[Tensor, "N B T"], response_mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "1 B T"]:
        """The combined advantage."""
        return torch.einsum("n,nbt->bt", self.latest_weights.to(advantages), advantages)[None]

    def state_dict(self) -> dict[str, Any]:
        """What the weights are made of."""
        return self.welfare.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.welfare.load_state_dict(state)


class Saturation(Solver):
    """An objective counts by what is left of it: one at its bound has nothing to gain and no say (SA-MRPO).

    Rule: A = whiten(Σ wⁱ (1 − sᵢ)^γ Aⁱ), sᵢ = (r̄ᵢ − lowᵢ) / (highᵢ − lowᵢ), clipped to [0, 1], r̄ the step's mean.
    Cost: one backward pass.
    State: the bounds.
    Scale: neither. Invariant where the advantages are standardised: the sum is then whitened.
    Weights: simplex.
    Stays: own.
    Advantage: any that standardises; with advantage=group advantage.baseline=standardise it is the paper's.
    Source: arXiv 2608.16072, the saturation-aware weights, γ = 0.5. There the bounds are known; where none are given
        here, they are the least and the best score of the starting policy's responses.
    Use: where some objectives are reached early, such as harmlessness, and would go on as noise.

    Args:
        weights: w, one per objective.
        gamma: γ, not negative; 0 is GDPO's sum.
        low: the lower bound, one number or one per objective; null: from the starting policy.
        high: the upper bound, likewise.
        whiten: centre and scale the sum over the batch's responses, as the paper does.

    Raises:
        UserError: for a negative γ, or a lower bound that is not below the upper.
    """

    def __init__(
        self,
        weights: Sequence[float],
        gamma: Annotated[float, Range(least=0)] = 0.5,
        low: Annotated[float, Range()] | Sequence[float] | None = None,
        high: Annotated[float, Range()] | Sequence[float] | None = None,
        whiten: bool = True,
    ) -> None:
        super().__init__(weights)
        if not 0 <= gamma < float("inf"):
            raise UserError(f"solver.gamma={gamma}.", "0 is the sum; the more, the less a nearly reached one counts.")
        self.gamma, self.whiten = gamma, whiten
        self.needs_calibration = low is None or high is None
        self._given = tuple(self._bound("low", low)), tuple(self._bound("high", high))
        if any(b >= a for b, a in zip(*self._given, strict=True) if b is not None and a is not None):
            raise UserError(f"solver.low={low} is not below solver.high={high}.", "Give the range of each score.")
        lows, highs = self._given
        self.low = torch.tensor([0.0 if b is None else b for b in lows])
        self.high = torch.tensor([1.0 if b is None else b for b in highs])
        self.factors = self.weights.clone()

    def _bound(self, name: str, given: float | Sequence[float] | None) -> list[float | None]:
        count = len(self.weights)
        values: list[float | None] = [given] * count if given is None or isinstance(given, int | float) else list(given)
        if len(values) != count:
            raise UserError(f"solver.{name} has {len(values)} values for {count} objectives.", "Give one each.")
        return values

    def calibrate(self, scores: Float[Tensor, "N B"], rewards: Float[Tensor, "N B"]) -> None:
        """The starting policy's least and best scores, where no bounds were given."""
        pairs = zip(self._given[0], scores.amin(1).tolist(), strict=True)
        self.low = torch.tensor([seen if bound is None else bound for bound, seen in pairs])
        pairs = zip(self._given[1], scores.amax(1).tolist(), strict=True)
        self.high = torch.tensor([seen if bound is None else bound for bound, seen in pairs])

    def observe(self, scores: Float[Tensor, "N B"]) -> None:
        """Move the weights."""
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

    def state_dict(self) -> dict[str, Any]:
        """The bounds."""
        return {"low": self.low, "high": self.high}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.low, self.high = state["low"], state["high"]


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
        the paper. An objective of greater weight starts with it.
    Use: where rewards have one unit and the least mean is what counts.

    Args:
        weights: w at the start, all positive.
        step_size: λ.

    Raises:
        UserError: for a weight of zero, or a step that is not positive.
    """

    def __init__(self, weights: Sequence[float], step_size: Annotated[float, Range(above=0)] = 0.1) -> None:
        super().__init__(weights)
        if not bool((self.weights > 0).all()):
            raise UserError(
                "solver=fastrl multiplies weights, and 0 would stay 0.", "Give every one a positive weight."
            )
        if not 0 < step_size < float("inf"):
            raise UserError(f"solver.step_size={step_size}.", "It is above 0; 0.1 is usual.")
        self.step_size = step_size
        self.log_weights = self.weights.double().log()

    @property
    def num_channels(self) -> int:
        """One: rewards are added before an advantage is estimated."""
        return 1

    def on_rewards(self, rewards: Float[Tensor, "N B"]) -> Float[Tensor, "1 B"]:
        """The weighted sum under weights moved by this step's means."""
        means = rewards.double().mean(1).cpu()
        self.log_weights = (self.log_weights - self.step_size * means).log_softmax(0)
        self.latest_weights = self.log_weights.exp().to(rewards)
        return (self.latest_weights[:, None] * rewards).sum(0, keepdim=True)

    def state_dict(self) -> dict[str, Any]:
        """log w."""
        return {"log_weights": self.log_weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.log_weights = state["log_weights"]
