"""Gradient methods of torchjd that need no more than the Gramian, each as a solver.

Legend: N losses, one per objective.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
import torchjd
from jaxtyping import Float
from torch import Tensor
from torchjd import aggregation

from pama_exp.errors import UserError
from pama_exp.moo.gradient import min_norm_weights
from pama_exp.moo.solver import Gramian, Solver

# Squared distances below this share of the squared norms are rounding where the Gramian is float32.
TWIN_TOLERANCE = 1e-6


class Weighted(Solver):
    """Weights that a function finds from the Gramian of the losses' gradients.

    The Gramian is handed over divided by its mean diagonal entry, because torchjd compares it with absolute thresholds
    while policy gradients come in any size; and in its own precision, by which torchjd judges its rank. Where all
    gradients vanish the user's weights are applied; objectives with the same gradient share their weights equally.

    Args:
        weights: one per objective.
        weighting: (N,N) Gramian → (N,) weights.
        scaled: what the weights are divided by: `as is`, nothing; `mean`, N, where the method adds gradients up, so
            that the update has the size of one gradient; `sum`, Σ|w|.
        seed: where the weighting draws random numbers: they are a function of the seed and the number of earlier calls.
    """

    def __init__(
        self,
        weights: Sequence[float],
        weighting: Callable[[Tensor], Tensor],
        scaled: Literal["as is", "mean", "sum"] = "as is",
        seed: int | None = None,
    ) -> None:
        super().__init__(weights)
        self.weighting, self.scaled, self.seed = weighting, scaled, seed
        self.calls = 0

    def on_losses(self, losses: Float[Tensor, " N"], gramian: Gramian) -> Float[Tensor, " N"]:
        """The weighting's answer for this update's gradients."""
        if len(losses) == 1:
            return torch.ones_like(losses)
        exact = gramian().detach().cpu()
        size = exact.double().diagonal().mean()
        relative = (exact.double() / size).to(exact.dtype)
        weights = shared_among_twins(relative, self._draw(relative)) if bool(size > 0) else self.weights
        total = weights.abs().sum()
        self.latest_weights = (weights / total if bool(total > 0) else self.weights).to(losses)
        if self.scaled == "sum":
            return self.latest_weights
        return (weights / (len(losses) if self.scaled == "mean" else 1)).to(losses)

    def state_dict(self) -> dict[str, Any]:
        """How often it was called, and the weighting itself where it remembers earlier calls."""
        remembers = isinstance(self.weighting, torchjd.Stateful)
        return {"calls": self.calls, "weighting": as_bytes(self.weighting) if remembers else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.calls = state["calls"]
        if state["weighting"] is not None:
            self.weighting = from_bytes(state["weighting"])

    def _draw(self, gramian: Float[Tensor, "N N"]) -> Float[Tensor, " N"]:
        self.calls += 1
        if self.seed is None:
            return self.weighting(gramian)
        with torch.random.fork_rng(devices=[]):  # torchjd draws from the global stream; it is left as it was
            torch.default_generator.manual_seed(1_000_003 * self.seed + self.calls)
            return self.weighting(gramian)


def shared_among_twins(gramian: Float[Tensor, "N N"], weights: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """The same combination of gradients, with the mean weight for those with ‖gⁱ − gʲ‖² within rounding of 0.

    A solver's choice among them would be rounding, and would depend on the objectives' order.
    """
    squares = gramian.diagonal()
    apart = squares[:, None] + squares[None, :] - 2 * gramian
    twins = (apart <= TWIN_TOLERANCE * torch.minimum(squares[:, None], squares[None, :])).to(weights)
    return twins @ weights / twins.sum(1)


def pcgrad(weights: Sequence[float], seed: int = 0) -> Weighted:
    """Each gradient is projected onto the normal plane of those it conflicts with, in random order; then the mean.

    Rule: gⁱ ← gⁱ − (⟨gⁱ, gʲ⟩ / ‖gʲ‖²) gʲ for every j with ⟨gⁱ, gʲ⟩ < 0; the update is their mean.
    Cost: one backward pass per objective and one for the update.
    State: the number of calls, which with the seed determines the order of projections.
    Scale: equivariant.
    Weights: non-negative.
    Stays: every, with two objectives; with more, not where conflicts are not pairwise.
    Advantage: any.
    Source: Yu et al. 2020, arXiv 2001.06782, algorithm 1 (there the sum); torchjd PCGradWeighting.
    Use: as the usual baseline of gradient surgery. With more than two objectives their order matters by chance alone.

    Args:
        weights: only their number is used.
        seed: of the order of projections.
    """
    return Weighted(weights, aggregation.PCGradWeighting(), "mean", seed)


def gradvac(weights: Sequence[float], beta: float = 0.5, seed: int = 0) -> Weighted:
    """PCGrad towards a cosine that is learned for every pair, rather than towards 0.

    Rule: where cos(gⁱ, gʲ) < φᵢⱼ, gⁱ ← gⁱ + a gʲ with a such that the cosine becomes φᵢⱼ; φ is a moving average of the
        cosines met; the update is the mean.
    Cost: one backward pass per objective and one for the update.
    State: φ and the number of calls.
    Scale: equivariant.
    Weights: non-negative.
    Stays: no. The learned cosines go on moving.
    Advantage: any.
    Source: Wang et al. 2021, arXiv 2010.05874, equations 3 and 4 (there the sum); torchjd GradVacWeighting.
    Use: where gradients are mostly aligned and PCGrad would not act.

    Args:
        weights: only their number is used.
        beta: how much the latest cosine counts in the moving average, in [0, 1].
        seed: of the order of corrections.

    Raises:
        UserError: for a beta outside [0, 1].
    """
    if not 0 <= beta <= 1:
        raise UserError(f"solver.beta={beta} is not in [0, 1].", "0 keeps φ at 0, which is PCGrad; 0.5 is usual.")
    return Weighted(weights, aggregation.GradVacWeighting(beta), "mean", seed)


def cagrad(weights: Sequence[float], c: float = 0.4) -> Weighted:
    """The direction near the mean gradient that improves the worst objective most.

    Rule: max_d minᵢ ⟨gⁱ, d⟩ subject to ‖d − ḡ‖ ≤ c ‖ḡ‖, ḡ the mean gradient; c = 0 is the mean, c → ∞ MGDA's direction.
    Cost: one backward pass per objective, one for the update, and a small cone programme.
    State: none.
    Scale: equivariant.
    Weights: non-negative.
    Stays: own, for c < 1: it converges to a minimum of the mean loss.
    Advantage: any.
    Source: Liu et al. 2021, arXiv 2110.14048, algorithm 1; torchjd CAGradWeighting.
    Use: as a middle way between equal weights and MGDA.

    Args:
        weights: only their number is used.
        c: the radius, not negative.

    Raises:
        UserError: for a negative c, or without the packages of the extra `solvers`.
    """
    if not c >= 0:
        raise UserError(f"solver.c={c} is negative.", "0 is the mean gradient; 0.4 is usual.")
    return Weighted(weights, _with_extra("cagrad", lambda: aggregation.CAGradWeighting(c=c)))


def upgrad(weights: Sequence[float]) -> Weighted:
    """Each gradient is projected onto the cone of directions that harm no objective; then the weighted mean.

    Rule: Σ pⁱ π(gⁱ), π the projection onto {d: ⟨d, gʲ⟩ ≥ 0 for every j}.
    Cost: one backward pass per objective, one for the update, and N small quadratic programmes.
    State: none.
    Scale: equivariant.
    Weights: non-negative.
    Stays: every.
    Advantage: any.
    Source: Quinton & Rey 2024, arXiv 2406.16232, equation 5; torchjd UPGradWeighting.
    Use: where no objective may get worse, to first order, and MGDA is too slow.

    Args:
        weights: the preference p over the projected gradients.

    Raises:
        UserError: without the packages of the extra `solvers`.
    """
    preference = Solver(weights).weights
    return Weighted(weights, _with_extra("upgrad", lambda: aggregation.UPGradWeighting(preference)))


def dualproj(weights: Sequence[float]) -> Weighted:
    """The weighted mean gradient, projected onto the cone of directions that harm no objective.

    Rule: π(Σ pⁱ gⁱ), π the projection onto {d: ⟨d, gʲ⟩ ≥ 0 for every j}.
    Cost: one backward pass per objective, one for the update, and a small quadratic programme.
    State: none.
    Scale: equivariant.
    Weights: non-negative.
    Stays: every.
    Advantage: any.
    Source: Lopez-Paz & Ranzato 2017, arXiv 1706.08840, equation 11; torchjd DualProjWeighting.
    Use: linear weights with a guarantee, to first order, that no objective gets worse.

    Args:
        weights: the preference p.

    Raises:
        UserError: without the packages of the extra `solvers`.
    """
    preference = Solver(weights).weights
    return Weighted(weights, _with_extra("dualproj", lambda: aggregation.DualProjWeighting(preference)))


def aligned_mtl(weights: Sequence[float], scale_mode: str = "min") -> Weighted:
    """The gradients are replaced by the nearest orthogonal ones of equal length; then the weighted mean.

    Rule: w = σ V Λ^(−1/2) Vᵀ p, G = V Λ Vᵀ, σ² the smallest (or median, or mean) eigenvalue that is not 0.
    Cost: one backward pass per objective and one for the update.
    State: none.
    Scale: equivariant.
    Weights: real. A weight may be negative.
    Stays: own. The direction of a combination that vanishes is left out, and the rest is not 0.
    Advantage: any.
    Source: Senushkin et al. 2023, algorithm 1; torchjd AlignedMTLWeighting.
    Use: where one objective dominates or gradients are nearly dependent.

    Args:
        weights: the preference p.
        scale_mode: which eigenvalue sets the length.

    Raises:
        UserError: for an unknown scale_mode.
    """
    if scale_mode not in ("min", "median", "rmse"):
        raise UserError(f"solver.scale_mode={scale_mode} is not one of its values.", "Valid: min, median, rmse.")
    return Weighted(weights, aggregation.AlignedMTLWeighting(Solver(weights).weights, scale_mode))


def imtl_g(weights: Sequence[float]) -> Weighted:
    """The combination that has the same projection onto every unit gradient.

    Rule: ⟨Σ wʲ gʲ, gⁱ / ‖gⁱ‖⟩ is the same for every i, Σ w = 1.
    Cost: one backward pass per objective and one for the update.
    State: none.
    Scale: direction.
    Weights: real. Weights may be negative, and large where gradients nearly oppose one another.
    Stays: no. Equal projections onto opposite gradients are 0 only if it vanishes, which its normalisation forbids.
    Advantage: any.
    Source: Liu et al. 2021, "Towards Impartial Multi-task Learning", equation 4; torchjd IMTLGWeighting.
    Use: to compare; it needs the gradient clip.

    Args:
        weights: only their number is used.
    """
    return Weighted(weights, aggregation.IMTLGWeighting())


def config(weights: Sequence[float]) -> Weighted:
    """A direction with a chosen positive cosine to every gradient: conflict-free by construction.

    Rule: d = Uᵀ (U Uᵀ)⁺ p, U the unit gradients; the update is (mean ⟨gⁱ, d̂⟩) d̂, d̂ = d / ‖d‖.
    Cost: one backward pass per objective and one for the update.
    State: none.
    Scale: direction.
    Weights: real. A weight may be negative.
    Stays: no. Where unit gradients are dependent the pseudo-inverse gives a direction all the same.
    Advantage: any.
    Source: Liu et al. 2024, arXiv 2408.11104, equation 2 (there the sum for the mean). torchjd's needs the gradients
        themselves; here the same from their Gramian.
    Use: where gradients differ in size and conflict mildly.

    Args:
        weights: the cosines' proportions p.
    """
    preference = Solver(weights).weights
    return Weighted(weights, lambda gramian: conflict_free_weights(gramian, preference))


def conflict_free_weights(gramian: Float[Tensor, "N N"], preference: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """w with Σ wⁱ gⁱ = (mean ⟨gⁱ, d̂⟩) d̂,  d = Σ xⁱ uⁱ,  x = C⁺ p, C the cosines; a vanishing gradient has no part."""
    norms = gramian.diagonal().clamp(min=0).sqrt()
    inverse = torch.where(norms > 0, 1 / norms, 0)
    cosines = gramian * inverse[:, None] * inverse[None, :]
    coordinates = torch.linalg.pinv(cosines, hermitian=True, rtol=_rank_tolerance(cosines)) @ preference.to(gramian)
    length = (coordinates @ cosines @ coordinates).clamp(min=0).sqrt()
    if not bool(length > 0):
        return torch.zeros_like(preference)
    mean = (norms * (cosines @ coordinates)).mean() / length
    return mean / length * coordinates * inverse


def nash_mtl(weights: Sequence[float]) -> Weighted:
    """The bargaining solution: the update whose gains, as products, no other direction of its length exceeds.

    Rule: G w = 1 / w, w > 0, scaled to sum to 1.
    Cost: one backward pass per objective, one for the update, and a small least-squares problem.
    State: none.
    Scale: direction.
    Weights: simplex.
    Stays: every.
    Advantage: any.
    Source: Navon et al. 2022, arXiv 2202.01017, equation 3. Solved as FairGrad with α = 1, which is the same equation:
        torchjd's own NashMTL needs two more packages and keeps the solution of the step before.
    Use: where objectives differ in scale and none should be sacrificed.

    Args:
        weights: only their number is used.
    """
    return Weighted(weights, aggregation.FairGradWeighting(alpha=1.0), "sum")


def fairgrad(weights: Sequence[float], alpha: float = 2.0) -> Weighted:
    """Every objective's gain is set by α-fairness, from equal weights (0) by Nash (1) to the worst one's (∞).

    Rule: G w = w^(−1/α), w > 0, scaled to sum to 1; α = 0 is the mean.
    Cost: one backward pass per objective, one for the update, and a small least-squares problem.
    State: none.
    Scale: equivariant.
    Weights: simplex.
    Stays: every, for α > 0.
    Advantage: any.
    Source: Ban & Ji 2024, arXiv 2402.15638, equation 4; torchjd FairGradWeighting.
    Use: to choose how much fairness costs.

    Args:
        weights: only their number is used.
        alpha: α, not negative.

    Raises:
        UserError: for a negative alpha.
    """
    if not alpha >= 0:
        raise UserError(f"solver.alpha={alpha} is negative.", "0 is the mean, 1 Nash-MTL, 2 usual.")
    return Weighted(weights, aggregation.FairGradWeighting(alpha=alpha), "sum")


def cr_mogm(weights: Sequence[float], alpha: float = 0.9) -> Weighted:
    """MGDA whose weights are smoothed from update to update.

    Rule: wₖ = α wₖ₋₁ + (1 − α) ŵₖ, ŵₖ the min-norm weights of the update's gradients, w₀ = ŵ₁.
    Cost: one backward pass per objective and one for the update.
    State: w.
    Scale: equivariant.
    Weights: simplex.
    Stays: every.
    Advantage: any.
    Source: Zhou et al. 2022, "On the Convergence of Stochastic Multi-Objective Gradient Manipulation and Beyond",
        equation 7; torchjd CRMOGMWeighting around this project's exact min-norm.
    Use: in place of MGDA where mini-batches are small: smoothing undoes the bias of weights found on the same batch.

    Args:
        weights: only their number is used.
        alpha: α in [0, 1]; 0 is MGDA.

    Raises:
        UserError: for an alpha outside [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise UserError(f"solver.alpha={alpha} is not in [0, 1].", "0 is MGDA, 0.9 is usual.")
    return Weighted(weights, aggregation.CRMOGMWeighting(min_norm_weights, alpha))


def rgw(weights: Sequence[float], seed: int = 0) -> Weighted:
    """New random weights at every update: what any method has to beat.

    Rule: w = softmax(ξ), ξ standard normal.
    Cost: one backward pass per objective and one for the update. The products are not needed, but the seam is the same.
    State: the number of calls, which with the seed determines the weights.
    Scale: equivariant.
    Weights: simplex.
    Stays: no.
    Advantage: any.
    Source: Lin et al. 2022, arXiv 2111.10603, algorithm 2; torchjd RandomWeighting.
    Use: as the litmus test of a comparison. In expectation it is linear with equal weights.

    Args:
        weights: only their number is used.
        seed: of the weights.
    """
    return Weighted(weights, aggregation.RandomWeighting(), seed=seed)


def as_bytes(module: Any) -> Tensor:
    """A pickle of `module` as a (size,) uint8 tensor: torchjd keeps what it remembers partly outside state_dict."""
    file = io.BytesIO()
    torch.save(module, file)
    return torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)


def from_bytes(data: Tensor) -> Any:
    """The inverse of `as_bytes`."""
    return torch.load(io.BytesIO(data.numpy().tobytes()), weights_only=False)


def _with_extra(name: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except ImportError as error:
        missing = str(error).splitlines()[0].partition(" requires ")[2].partition(" to be installed")[0]
        raise UserError(
            f"solver={name} needs packages that are not installed: {missing}.", "Run pip install 'pama-exp[solvers]'."
        ) from None


def _rank_tolerance(matrix: Float[Tensor, "N N"]) -> float:
    return 10 * len(matrix) * torch.finfo(matrix.dtype).eps
