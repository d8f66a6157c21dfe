"""Sums of standardised rewards, weighted by how the rewards vary together within the responses to one prompt.

Legend: N objectives, B responses, G groups of S responses to one prompt, T response tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pama_exp.config.ranges import OneOf, Range, checked
from pama_exp.solvers.group import STANDARDISED, whiten_responses
from pama_exp.solvers.solver import Solver

_ROUNDING = 1e-6  # a spread below this share of the values is a rounding error


class _Remembering(Solver):
    """A solver that stores the step's rewards for the combination of advantages.

    `group_size` is given by the run; with 1 the whole batch is one group.
    """

    def __init__(self, weights: Sequence[float], group_size: Annotated[int, Range(least=1)] = 1) -> None:
        super().__init__(weights)
        self.group_size = group_size
        self._rewards: Float[Tensor, "N B"] | None = None

    def on_rewards(self, rewards: Float[Tensor, "N B"]) -> Float[Tensor, "N B"]:
        """Return the rewards unchanged, and store them."""
        self._rewards = rewards
        return rewards

    def groups(self) -> Float[Tensor, "N G S"]:
        """The step's rewards, grouped by prompt."""
        assert self._rewards is not None, "on_rewards comes first"
        size = self.group_size if self.group_size > 1 else self._rewards.shape[1]
        return self._rewards.double().reshape(len(self._rewards), -1, size)

    def spreads(self) -> tuple[Float[Tensor, "N G S"], Float[Tensor, "N G"]]:
        """Rewards minus their group's mean, and each group's sample deviation, exactly 0 where rewards do not vary."""
        grouped = self.groups()
        centred = grouped - grouped.mean(-1, keepdim=True)
        deviation = (centred.square().sum(-1) / max(grouped.shape[-1] - 1, 1)).sqrt()
        return centred, torch.where(deviation > _ROUNDING * grouped.abs().amax(-1), deviation, 0)

    def per_response(self, by_group: Float[Tensor, "*lead G"]) -> Float[Tensor, "*lead B"]:
        """Repeat each group's value for all its responses."""
        assert self._rewards is not None
        return by_group.repeat_interleave(self._rewards.shape[1] // by_group.shape[-1], -1)


class DVAO(_Remembering):
    """Weights by each reward's spread within the responses to a prompt; a reward that does not vary does not count.

    Rule: A = Σ w̃ⁱ Zⁱ, w̃ⁱ = wⁱ σᵢ / Σ wʲ σⱼ in every group, σᵢ the deviation of rⁱ in it.
    Cost: one backward pass.
    State: none.
    Scale: neither. A reward in larger units has a larger spread, which is the method's point.
    Weights: simplex.
    Stays: own.
    Advantage: any that standardises. advantage=group advantage.baseline=standardise is the paper's; with a critic the
        batch is one group. In groups of 4 and fewer the spreads are noisy.
    Source: arXiv 2605.25604, the variance-adaptive weights, from a summary; shown there for two objectives.
    Use: where rewards have one unit, and the noise of a reward that hardly varies should not be amplified.

    Args:
        weights: w, one per objective.
        group_size: responses per prompt; given by the run.
    """

    def on_advantages(
        self, advantages: Float[Tensor, "N B T"], response_mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "1 B T"]:
        """The combined advantage."""
        spread = self.weights.double()[:, None] * self.spreads()[1].cpu()
        total = spread.sum(0)
        shares = torch.where(total > 0, spread / torch.where(total > 0, total, 1), self.weights.double()[:, None])
        self.latest_weights = shares.mean(1).float()
        weights = self.per_response(shares).to(advantages)
        return (weights[:, :, None] * advantages).sum(0)[None]


class GD2PO(_Remembering):
    """Standardised rewards added, leaving out responses on which the rewards disagree.

    Rule: A = whiten(mᵇ k Σ wⁱ Zⁱ) over responses with mᵇ = 1, k their share of the group; mᵇ = 1 where all Zⁱ have one
        sign (`hard`), or where |Σ wⁱ Zⁱ| ≥ τ Σ wⁱ |Zⁱ| (`snr`), 0 elsewhere.
    Cost: one backward pass; no critic.
    State: none.
    Scale: invariant.
    Weights: simplex.
    Stays: own.
    Advantage: advantage=group advantage.baseline=standardise, which computes Zⁱ.
    Source: arXiv 2606.16771 and its code, the conflict filter; τ = 0.2 in the code, 0.8 in its script.
    Use: where noise makes rewards contradict one another. Under `hard`, as with PAMA, fewer responses remain the more
        objectives there are.

    Args:
        weights: w, one per objective.
        mode: hard or snr.
        tau: τ in [0, 1], of `snr`; 0 keeps all.
        whiten: centre and scale over the remaining responses.
        group_size: responses per prompt; given by the run.

    Raises:
        UserError: for an unknown mode, or a τ outside [0, 1].
    """

    estimators = STANDARDISED

    @checked("solver")
    def __init__(
        self,
        weights: Sequence[float],
        mode: Annotated[str, OneOf("hard", "snr")] = "snr",
        tau: Annotated[float, Range(least=0, most=1)] = 0.2,
        whiten: bool = True,
        group_size: Annotated[int, Range(least=1)] = 1,
    ) -> None:
        super().__init__(weights, group_size)
        self.mode, self.tau, self.whiten = mode, tau, whiten

    def on_advantages(
        self, advantages: Float[Tensor, "N B T"], response_mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "1 B T"]:
        """The combined advantage."""
        z = torch.where(response_mask, advantages, 0).sum(2) / response_mask.sum(1).clamp(min=1)
        w = self.weights.to(z)[:, None]
        if self.mode == "hard":
            conflict = (z > 0).any(0) & (z < 0).any(0)
        else:
            conflict = (w * z).sum(0).abs() < self.tau * (w * z.abs()).sum(0)
        keep = ~conflict
        size = self.group_size if self.group_size > 1 else len(keep)
        share = self.per_response(keep.reshape(-1, size).to(z).mean(1))
        combined = (w[:, :, None] * advantages).sum(0) * (share * keep)[:, None]
        mask = response_mask & keep[:, None]
        return (whiten_responses(combined, mask) if self.whiten else torch.where(mask, combined, 0))[None]


class CorrGRPO(_Remembering):
    """The sum of standardised rewards, brought to unit deviation by their correlations in the group.

    Rule: A = Σ wⁱ Zⁱ / √(Σᵢⱼ wⁱ wʲ ρᵢⱼ), ρ the correlations of the rewards in the group; a reward that does not vary
        has a row of zeros.
    Cost: one backward pass; no critic.
    State: none.
    Scale: invariant.
    Weights: simplex.
    Stays: own.
    Advantage: advantage=group advantage.baseline=standardise, which computes Zⁱ.
    Source: arXiv 2609.36820, the correlation-aware denominator, from a summary that writes centred rewards over it;
        they are read as standardised ones, since only then is the result's deviation 1.
    Use: where some rewards are near copies of one another; conflicting ones are amplified.

    Args:
        weights: w, one per objective.
        group_size: responses per prompt; given by the run.
    """

    estimators = STANDARDISED

    def on_advantages(
        self, advantages: Float[Tensor, "N B T"], response_mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "1 B T"]:
        """The combined advantage."""
        if len(advantages) == 1:
            return advantages
        centred, deviation = self.spreads()
        unit = centred / torch.where(deviation > 0, deviation, 1)[..., None]
        correlation = torch.einsum("igs,jgs->gij", unit, unit) / max(unit.shape[-1] - 1, 1)
        w = self.weights.to(correlation)
        variance = torch.einsum("i,gij,j->g", w, correlation, w)
        # Opposite rewards cancel: their sum is rounding, and stays 0.
        factor = torch.where(variance > _ROUNDING, variance.clamp(min=_ROUNDING).rsqrt(), 0)
        scale = self.per_response(factor).to(advantages)
        return (torch.einsum("n,nbt->bt", self.weights.to(advantages), advantages) * scale[:, None])[None]


class DARA(_Remembering):
    """Rewards that vary in few groups are amplified, since they act in few groups.

    Rule: A = whiten(Σ wⁱ aᵢ Zⁱ), aᵢ = min(cap, √(π_max/πᵢ)), πᵢ the share of groups in which rⁱ varies; with
        `asymmetric` only positive Zⁱ are amplified.
    Cost: one backward pass; no critic.
    State: none.
    Scale: invariant.
    Weights: simplex.
    Stays: own.
    Advantage: advantage=group advantage.baseline=standardise, which computes Zⁱ.
    Source: arXiv 2610.00574, the density-aware weights on GDPO's sum, from a summary; the reference density
        is taken to be the largest of the batch, and the cap's default is this project's.
    Use: where one reward is rare, such as a joke in one answer of ten.

    Args:
        weights: w, one per objective.
        cap: the largest amplification, at least 1.
        asymmetric: amplify positive advantages alone.
        whiten: centre and scale the sum over the batch's responses.
        group_size: responses per prompt; given by the run.

    Raises:
        UserError: for a cap below 1.
    """

    estimators = STANDARDISED

    @checked("solver")
    def __init__(
        self,
        weights: Sequence[float],
        cap: Annotated[float, Range(least=1)] = 3.0,
        asymmetric: bool = True,
        whiten: bool = True,
        group_size: Annotated[int, Range(least=1)] = 1,
    ) -> None:
        super().__init__(weights, group_size)
        self.cap, self.asymmetric, self.whiten = cap, asymmetric, whiten

    def on_advantages(
        self, advantages: Float[Tensor, "N B T"], response_mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "1 B T"]:
        """The combined advantage."""
        density = (self.spreads()[1] > 0).double().mean(1)
        factor = (density.max() / density.clamp(min=1e-12)).sqrt().clamp(max=self.cap)
        factor = torch.where(density.max() > 0, factor, 1).to(advantages)
        weighed = self.weights.to(advantages) * factor
        self.latest_weights = weighed / weighed.sum()
        amplified = factor[:, None, None] * advantages
        if self.asymmetric:
            amplified = torch.where(advantages > 0, amplified, advantages)
        combined = torch.einsum("n,nbt->bt", self.weights.to(advantages), amplified)
        return (whiten_responses(combined, response_mask) if self.whiten else combined)[None]


class RDPO(_Remembering):
    """Rewards turned into normal scores by rank, decorrelated and added: outliers and copies do not count twice.

    Rule: A = Σ yⁱ/√M over the M rewards that vary, y = C^(−½) q, qⁱ = Φ⁻¹((rank − ½)/B) of rⁱ in the batch, ties
        sharing their ranks, each brought to unit deviation, C the correlations of q over the batch.
    Cost: one backward pass.
    State: none.
    Scale: invariant.
    Weights: simplex. Those of the user multiply y.
    Stays: no. Ranks keep their spread however near the optimum.
    Advantage: any; the method computes its own from the rewards, one per response. A critic and the KL in the return
        have no effect on it. training.kl.placement=combined charges the KL.
    Source: arXiv 2605.13641, quantile normalisation and Mahalanobis whitening, from a summary of it; how its quantiles
        keep magnitudes is not said there, and normal scores do not.
    Use: where rewards have outliers, or are near copies of one another.

    Args:
        weights: w, one per objective.
        floor: eigenvalues of C below this are raised to it, which keeps copies of a reward small.
        group_size: responses per prompt; given by the run.

    Raises:
        UserError: for a floor outside (0, 1].
    """

    @checked("solver")
    def __init__(
        self,
        weights: Sequence[float],
        floor: Annotated[float, Range(above=0, most=1)] = 0.05,
        group_size: Annotated[int, Range(least=1)] = 1,
    ) -> None:
        super().__init__(weights, group_size)
        self.floor = floor

    def on_advantages(
        self, advantages: Float[Tensor, "N B T"], response_mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "1 B T"]:
        """The combined advantage."""
        if len(advantages) == 1:
            return advantages
        assert self._rewards is not None, "on_rewards comes first"
        scores = normal_scores(self._rewards.double())
        varies = scores.square().sum(1) > 0
        self.latest_weights = self.weights.clone()
        if not bool(varies.any()):
            return torch.zeros_like(advantages[:1])
        active = scores[varies]
        values, vectors = torch.linalg.eigh(active @ active.T / active.shape[1])
        white = vectors * values.clamp(min=self.floor).rsqrt() @ vectors.T @ active
        w = self.weights.to(white)[varies]
        combined = (w / w.square().sum().sqrt() if bool((w > 0).any()) else w) @ white
        return torch.where(response_mask, combined.to(advantages)[:, None], 0)[None]


def normal_scores(values: Float[Tensor, "N B"]) -> Float[Tensor, "N B"]:
    """Normal scores of each row, Φ⁻¹((rank − ½)/B) in unit deviation; ties get their mean rank, constant rows zeros."""
    below = (values[:, None, :] < values[:, :, None]).sum(-1)
    same = (values[:, None, :] == values[:, :, None]).sum(-1)
    scores = torch.special.ndtri((below.double() + same / 2) / values.shape[1])
    scores = scores - scores.mean(1, keepdim=True)
    deviation = scores.std(1, correction=0, keepdim=True)
    return torch.where(deviation > _ROUNDING, scores / torch.where(deviation > _ROUNDING, deviation, 1), 0)
