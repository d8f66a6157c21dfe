"""The seam to torchjd: a function of the Gramian as a solver, and what it remembers as a tensor.

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

from pama_exp.errors import UserError
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


def as_bytes(module: Any) -> Tensor:
    """A pickle of `module` as a (size,) uint8 tensor: torchjd keeps what it remembers partly outside state_dict."""
    file = io.BytesIO()
    torch.save(module, file)
    return torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)


def from_bytes(data: Tensor) -> Any:
    """The inverse of `as_bytes`."""
    return torch.load(io.BytesIO(data.numpy().tobytes()), weights_only=False)


def with_extra(name: str, make: Callable[[], Any]) -> Any:
    """What `make` returns.

    Raises:
        UserError: if torchjd misses packages for it.
    """
    try:
        return make()
    except ImportError as error:
        missing = str(error).splitlines()[0].partition(" requires ")[2].partition(" to be installed")[0]
        raise UserError(
            f"solver={name} needs packages that are not installed: {missing}.", "Run pip install 'pama-exp[solvers]'."
        ) from None
