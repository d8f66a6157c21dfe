"""The seam to torchjd: a function of the Gramian as a solver, and what it remembers in plain values.

Legend: N losses, one per objective.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
import torchjd
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from pama_exp.errors import UserError
from pama_exp.solvers.solver import Gramian, Solver

# Squared distances below this share of the squared norms are rounding where the Gramian is float32.
TWIN_TOLERANCE = 1e-6
_EVERY_MODULE = frozenset(vars(nn.Module()))  # torch's own, not what a module of torchjd remembers


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
        held = None
        if isinstance(self.weighting, nn.Module) and isinstance(self.weighting, torchjd.Stateful):
            held = remembered(self.weighting)
        return {"calls": self.calls, "weighting": held}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.calls = state["calls"]
        if state["weighting"] is not None and isinstance(self.weighting, nn.Module):
            remember(self.weighting, state["weighting"])

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


def remembered(module: nn.Module) -> dict[str, Any]:
    """What `module` holds, in plain values and tensors: torchjd keeps a part of it outside of state_dict."""
    own = {**module._parameters, **module._buffers, **module._modules}
    own |= {name: value for name, value in vars(module).items() if name not in _EVERY_MODULE}
    held: dict[str, Any] = {}
    for name, value in own.items():
        if isinstance(value, nn.Module):
            held[name] = remembered(value)
        elif isinstance(value, Optimizer):
            held[name] = value.state_dict()
        elif isinstance(value, Tensor):
            held[name] = value.detach().clone()
        elif _is_plain(value):
            held[name] = value
    return held


def remember(module: nn.Module, held: Mapping[str, Any]) -> None:
    """The inverse of `remembered`, on a module that was made with the same settings.

    Raises:
        UserError: for what an earlier version wrote, which is a pickle.
    """
    if isinstance(held, Tensor):
        raise UserError(
            "This checkpoint is of a version that kept the solver's state as a pickle, which is no longer read.",
            "force=true runs again from the start.",
        )
    for name in remembered(module):
        kept, value = getattr(module, name), held[name]
        if isinstance(kept, nn.Module):
            remember(kept, value)
        elif isinstance(kept, nn.Parameter):
            with torch.no_grad():
                kept.copy_(value)
        elif isinstance(value, Mapping):  # Adam is what torchjd's modules learn by; they make it when first used
            optimizer = Adam(module.parameters()) if kept is None else kept
            optimizer.load_state_dict(dict(value))
            setattr(module, name, optimizer)
        else:
            setattr(module, name, value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str | Tensor | torch.dtype | torch.device)


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
