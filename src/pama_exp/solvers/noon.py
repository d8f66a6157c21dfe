"""PAMA's relatives for many objectives: the token's least advantage after a shift, or softly.

Legend: N objectives, B responses, T response tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pama_exp.config.ranges import Range
from pama_exp.errors import UserError
from pama_exp.solvers.annealing import Annealed
from pama_exp.solvers.pama import weights_on_least
from pama_exp.solvers.solver import Solver
from pama_exp.solvers.welfare import Welfare


class ShiftedPAMA(Solver):
    """PAMA by token after all advantages are raised by c, so that as many tokens count with five objectives as with 2.

    Rule: A = minᵢ max(Aⁱ + c, 0), over i after division by the preference; c is a moving average of the shift that
        leaves a `share` of the batch's tokens, and never below 0. c = 0 is PAMA with Noon.
    Cost: one backward pass.
    State: c; with `fair` also what the preference is made of.
    Scale: equivariant.
    Weights: simplex.
    Stays: no. A token that is slightly bad for an objective is reinforced where it is better for the others.
    Advantage: any whose channels are whitened or standardised: c is common to all.
    Source: He & Maghsudi 2025, arXiv 2508.07768, for c = 0; the shift is this project's.
    Use: with four or more objectives, where hardly any token is good for all of them and PAMA learns from few. Say
        `fair=true` for a preference that follows how far each objective has come.

    Args:
        weights: the preference p, all positive.
        share: of tokens that count, in (0, 1); a quarter is what two independent objectives leave to PAMA.
        decay: of the moving average of c, in [0, 1).
        fair: multiply p by proportional fairness' weights; see solver=proportional-fairness.
        barrier: of `fair`, in the starting policy's deviations; see solver=proportional-fairness.
        follow: measure c; false: Φ⁻¹(share^(1/N)), which leaves `share` of the tokens of N independent advantages,
            and never below 0. Where objectives conflict the measured c is larger.
        blend: β in (0, 1]: A = β minᵢ max(Aⁱ + c, 0) + (1 − β) Σ pⁱ Aⁱ; below 1 every token has a say.
        centre: take the mean off, which reinforces nothing by itself and only adds variance.

    Raises:
        UserError: for a weight of zero, or a value outside its range.
    """

    noon = True

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
        if not bool((self.weights > 0).all()):
            raise UserError(
                f"solver.weights={list(weights)}: shifted PAMA divides each objective's advantage by its weight.",
                "Give every objective a positive weight; leave out an objective that should not count.",
            )
        if not 0 < share < 1:
            raise UserError(f"solver.share={share} is not in (0, 1).", "0.25 is what two objectives leave to PAMA.")
        if not 0 <= decay < 1:
            raise UserError(f"solver.decay={decay} is not in [0, 1).", "0 forgets at once; 0.9 is usual.")
        if not 0 < blend <= 1:
            raise UserError(f"solver.blend={blend} is not in (0, 1].", "1 is shifted PAMA alone; solver=linear is 0.")
        self.blend = blend
        self.share, self.decay, self.follow, self.centre = share, decay, follow, centre
        self.shift: float | None = None
        self.welfare = Welfare(len(self.weights), 1.0, None, barrier, 0.9) if fair else None
        self.needs_calibration = fair

    def calibrate(self, scores: Float[Tensor, "N B"], rewards: Float[Tensor, "N B"]) -> None:
        """Fix what fairness is measured from."""
        if self.welfare is not None:
            self.welfare.calibrate(scores)

    def observe(self, scores: Float[Tensor, "N B"]) -> None:
        """Move the preference, where it is to be fair."""
        if self.welfare is not None:
            self.welfare.observe(scores)

    def on_advantages(
        self, advantages: Float[Tensor, "N B T"], response_mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "1 B T"]:
        """The combined advantage, and c for the next step."""
        shift = self._follow(advantages[:, response_mask]) if len(advantages) > 1 else 0.0
        kept = torch.where(response_mask, (advantages + shift).clamp(min=0), 0)
        p = self.weights if self.welfare is None else self.welfare.weights(self.weights).clamp(min=1e-6)
        chosen = weights_on_least(kept / (p / p.max()).to(kept)[:, None, None])
        count = response_mask.sum()
        if count > 0:
            self.latest_weights = chosen.flatten(1) @ response_mask.flatten().to(chosen) / count
        combined = (chosen * kept).sum(0)
        if self.blend < 1 and len(advantages) > 1:
            p = p / p.sum()
            summed = torch.where(response_mask, torch.einsum("n,nbt->bt", p.to(advantages), advantages), 0)
            combined = self.blend * combined + (1 - self.blend) * summed
            self.latest_weights = self.blend * self.latest_weights + (1 - self.blend) * p.to(advantages)
        if self.centre and len(advantages) > 1:
            combined = torch.where(response_mask, combined - combined.sum() / count.clamp(min=1), 0)
        return combined[None]

    def _follow(self, tokens: Float[Tensor, "N M"]) -> float:
        """c: the least advantage that the best `share` of the tokens reach, negated."""
        if not self.follow:
            return max(NormalDist().inv_cdf(self.share ** (1 / len(tokens))), 0.0)
        if tokens.shape[1] > 0:
            least = tokens.amin(0).sort(descending=True).values
            # Of M tokens the first ⌈share M⌉ count: c lifts the next one to 0.
            wanted = min(int(-(-self.share * len(least) // 1)), len(least) - 1)
            needed = max(-least[wanted].item(), 0.0)
            self.shift = needed if self.shift is None else self.decay * self.shift + (1 - self.decay) * needed
        return self.shift or 0.0

    def state_dict(self) -> dict[str, Any]:
        """c, and what the preference is made of."""
        return {"shift": self.shift, "welfare": None if self.welfare is None else self.welfare.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.shift = state["shift"]
        if self.welfare is not None:
            self.welfare.load_state_dict(state["welfare"])


class SoftNoon(Solver):
    """A soft minimum of the clipped advantages, about its mean: every token has a signal, those good for all the most.

    Rule: A = −τ log Σ pⁱ exp(−max(Aⁱ, 0)/τ), minus its mean over the batch's tokens; τ → 0 is PAMA by token.
    Cost: one backward pass.
    State: the number of steps, which sets τ where it is annealed.
    Scale: neither. τ is in units of the advantage.
    Weights: simplex.
    Stays: no. Away from τ = 0 a gain in one objective makes up for nothing in another.
    Advantage: any whose channels are whitened or standardised.
    Source: this project's; the curriculum is that of RVPO (arXiv 2605.05750) the other way round.
    Use: between linear weights (large τ, on clipped advantages) and PAMA (small τ).

    Args:
        weights: the preference p, all positive.
        tau: τ at the start.
        tau_end: τ after `anneal_steps`; null: τ stays.
        anneal_steps: steps over which τ moves; the run's own by default.
        centre: take the mean off.

    Raises:
        UserError: for a weight of zero, or a value outside its range.
    """

    noon = True

    def __init__(
        self,
        weights: Sequence[float],
        tau: Annotated[float, Range(above=0)] = 0.5,
        tau_end: Annotated[float, Range(above=0)] | None = None,
        anneal_steps: Annotated[int, Range(least=1)] = 1,
        centre: bool = True,
    ) -> None:
        super().__init__(weights)
        if not bool((self.weights > 0).all()):
            raise UserError(
                f"solver.weights={list(weights)}: a soft minimum over nothing.", "Give every one a positive weight."
            )
        self.tau = Annealed("solver.tau", tau, tau_end, anneal_steps, above=0.0)
        self.centre = centre

    def on_advantages(
        self, advantages: Float[Tensor, "N B T"], response_mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "1 B T"]:
        """The combined advantage."""
        tau = self.tau.advance()
        kept = torch.where(response_mask, advantages.clamp(min=0), 0)
        exponents = self.weights.log().to(kept)[:, None, None] - kept / tau
        combined = -tau * exponents.logsumexp(0)
        if len(advantages) == 1:
            combined = kept[0]
        count = response_mask.sum()
        if count > 0:
            self.latest_weights = exponents.softmax(0).flatten(1) @ response_mask.flatten().to(kept) / count
        if self.centre and len(advantages) > 1:
            combined = combined - torch.where(response_mask, combined, 0).sum() / count.clamp(min=1)
        return torch.where(response_mask, combined, 0)[None]

    def state_dict(self) -> dict[str, Any]:
        """How many steps were made."""
        return {"steps": self.tau.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.tau.steps = state["steps"]
