"""Variants of PAMA for many objectives: the minimum of the advantages after a shift, or a soft minimum.

Legend: N objectives, B responses, T response tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pama_exp.config.ranges import Range, checked
from pama_exp.solvers.annealing import Annealed
from pama_exp.solvers.pama import weights_on_least
from pama_exp.solvers.solver import Solver, require_positive
from pama_exp.solvers.welfare import Welfare


class ShiftedPAMA(Solver):
    """PAMA by token with all advantages raised by c: as many tokens count with five objectives as with two.

    Rule: A = minᵢ max(Aⁱ + c, 0), over i after division by the preference; c ≥ 0 is a moving average of the shift
        at which a `share` of the batch's tokens count. c = 0 is PAMA with Noon.
    Cost: one backward pass.
    State: c; with `fair` also the statistics behind the preference.
    Scale: equivariant.
    Weights: simplex.
    Stays: no. A token that is slightly bad for an objective is reinforced where it is better for the others.
    Advantage: any with whitened or standardised channels, since c is common to all.
    Source: He & Maghsudi 2025, arXiv 2508.07768, for c = 0; the shift is this project's.
    Use: with four or more objectives, where hardly any token is good for all of them and PAMA learns from few. Set
        `fair=true` for a preference that follows each objective's progress; `follow=false blend=0.5` with it does
        best of these in the league, and `barrier=1.25` keeps objectives from falling at the cost of the others' gain.

    Args:
        weights: the preference p, all positive.
        share: share of the tokens that count, in (0, 1); PAMA with two independent objectives has a quarter.
        decay: of the moving average of c, in [0, 1).
        fair: multiply p by the weights of proportional fairness; see solver=proportional-fairness.
        barrier: with `fair`, in the starting policy's deviations; see solver=proportional-fairness.
        follow: measure c. False: c = max(Φ⁻¹(share^(1/N)), 0), which is right for N independent advantages; where
            objectives conflict the measured c is larger.
        blend: β in (0, 1]: A = β minᵢ max(Aⁱ + c, 0) + (1 − β) Σ pⁱ Aⁱ; below 1 every token counts.
        centre: subtract the mean over tokens, which only adds variance.

    Raises:
        UserError: for a weight of zero, or a value outside its range.
    """

    noon = True
    checkpointed = ("shift", "welfare")

    @checked("solver")
    def __init__(
        self,
        weights: Sequence[float],
        share: Annotated[float, Range(above=0, below=1)] = 0.25,
        decay: Annotated[float, Range(least=0, below=1)] = 0.9,
        fair: bool = False,
        barrier: Annotated[float, Range(above=0)] | None = None,
        follow: bool = True,
        blend: Annotated[float, Range(above=0, most=1)] = 1.0,
        centre: bool = False,
    ) -> None:
        super().__init__(weights)
        require_positive(weights, "shifted PAMA divides each objective's advantage by its weight")
        self.blend = blend
        self.share, self.decay, self.follow, self.centre = share, decay, follow, centre
        self.shift: float | None = None
        self.welfare = Welfare(len(self.weights), 1.0, None, barrier, 0.9) if fair else None
        self.needs_calibration = fair

    def calibrate(self, scores: Float[Tensor, "N B"], rewards: Float[Tensor, "N B"]) -> None:
        """Set the disagreement point and units of fairness, if `fair`."""
        if self.welfare is not None:
            self.welfare.calibrate(scores)

    def observe(self, scores: Float[Tensor, "N B"]) -> None:
        """Update the preference by the step's scores, if `fair`."""
        if self.welfare is not None:
            self.welfare.observe(scores)

    def on_advantages(
        self, advantages: Float[Tensor, "N B T"], response_mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "1 B T"]:
        """The combined advantage; c is updated first."""
        shift = self._updated_shift(advantages[:, response_mask]) if len(advantages) > 1 else 0.0
        raised = torch.where(response_mask, (advantages + shift).clamp(min=0), 0)
        p = self.weights if self.welfare is None else self.welfare.weights(self.weights).clamp(min=1e-6)
        chosen = weights_on_least(raised / (p / p.max()).to(raised)[:, None, None])
        count = response_mask.sum()
        if count > 0:
            self.latest_weights = chosen.flatten(1) @ response_mask.flatten().to(chosen) / count
        combined = (chosen * raised).sum(0)
        if self.blend < 1 and len(advantages) > 1:
            p = p / p.sum()
            summed = torch.where(response_mask, torch.einsum("n,nbt->bt", p.to(advantages), advantages), 0)
            combined = self.blend * combined + (1 - self.blend) * summed
            self.latest_weights = self.blend * self.latest_weights + (1 - self.blend) * p.to(advantages)
        if self.centre and len(advantages) > 1:
            combined = torch.where(response_mask, combined - combined.sum() / count.clamp(min=1), 0)
        return combined[None]

    def _updated_shift(self, tokens: Float[Tensor, "N M"]) -> float:
        """c after this batch, of M valid tokens: the shift at which a `share` of them counts, averaged over steps."""
        if not self.follow:
            return max(NormalDist().inv_cdf(self.share ** (1 / len(tokens))), 0.0)
        if tokens.shape[1] > 0:
            least = tokens.amin(0).sort(descending=True).values
            # Of M tokens the first ⌈share M⌉ count: c lifts the next one to 0.
            count = min(int(-(-self.share * len(least) // 1)), len(least) - 1)
            latest = max(-least[count].item(), 0.0)
            self.shift = latest if self.shift is None else self.decay * self.shift + (1 - self.decay) * latest
        return self.shift or 0.0


class SoftNoon(Solver):
    """A soft minimum of the clipped advantages, minus its mean: every token has a signal, most where all are good.

    Rule: A = −τ log Σ pⁱ exp(−max(Aⁱ, 0)/τ), minus its mean over the batch's tokens; τ → 0 is PAMA by token.
    Cost: one backward pass.
    State: the number of steps, which sets τ where it is annealed.
    Scale: neither. τ is in units of the advantage.
    Weights: simplex.
    Stays: no. For τ > 0 a gain in one objective can make up for no gain in another.
    Advantage: any with whitened or standardised channels.
    Source: this project's; the annealing is that of RVPO (arXiv 2605.05750), reversed.
    Use: between linear weights (large τ, on clipped advantages) and PAMA (small τ).

    Args:
        weights: the preference p, all positive.
        tau: τ at the start.
        tau_end: τ after `anneal_steps`; null: τ is constant.
        anneal_steps: steps over which τ changes; by default all steps of the run.
        centre: subtract the mean over tokens.

    Raises:
        UserError: for a weight of zero, or a value outside its range.
    """

    noon = True

    @checked("solver")
    def __init__(
        self,
        weights: Sequence[float],
        tau: Annotated[float, Range(above=0)] = 0.5,
        tau_end: Annotated[float, Range(above=0)] | None = None,
        anneal_steps: Annotated[int, Range(least=1)] = 1,
        centre: bool = True,
    ) -> None:
        super().__init__(weights)
        require_positive(weights, "the soft minimum takes the logarithm of each weight")
        self.tau = Annealed(tau, tau_end, anneal_steps)
        self.centre = centre

    def on_advantages(
        self, advantages: Float[Tensor, "N B T"], response_mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "1 B T"]:
        """The combined advantage."""
        tau = self.tau.advance()
        positive = torch.where(response_mask, advantages.clamp(min=0), 0)
        exponents = self.weights.log().to(positive)[:, None, None] - positive / tau
        combined = -tau * exponents.logsumexp(0)
        if len(advantages) == 1:
            combined = positive[0]
        count = response_mask.sum()
        if count > 0:
            self.latest_weights = exponents.softmax(0).flatten(1) @ response_mask.flatten().to(positive) / count
        if self.centre and len(advantages) > 1:
            combined = combined - torch.where(response_mask, combined, 0).sum() / count.clamp(min=1)
        return torch.where(response_mask, combined, 0)[None]

    def state_dict(self) -> dict[str, Any]:
        """The state to save: the number of steps."""
        return {"steps": self.tau.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        self.tau.steps = state["steps"]
