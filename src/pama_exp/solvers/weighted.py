"""The adapter for torchjd: a function of the Gramian as a solver, and its state in plain values.

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

# Squared distances below this share of the squared norms are rounding errors of a float32 Gramian.
TWIN_TOLERANCE = 1e-6
_MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))  # torch's own, not the state of a torchjd module


class Weighted(Solver):
    """Weights computed by a function of the Gramian of the losses' gradients.

    The Gramian is divided by its mean diagonal entry first, since torchjd uses absolute thresholds; it keeps its
    precision, by which torchjd judges its rank. If all gradients are 0 the user's weights apply. Objectives with equal
    gradients share their weights equally.

    Args:
        weights: one per objective.
        weighting: (N,N) Gramian → (N,) weights.
        scaled: what the weights are divided by. `as is`: nothing. `mean`: N, for methods that add gradients; the update
            then has the size of one gradient. `sum`: Σ|w|.
        seed: of a weighting that draws random numbers; they depend on the seed and the number of earlier calls.
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
        """The weighting's weights for this update's Gramian, scaled."""
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
        """The state to save: the number of calls, and the weighting's own state if it has one."""
        state = None
        if isinstance(self.weighting, nn.Module) and isinstance(self.weighting, torchjd.Stateful):
            state = module_state(self.weighting)
        return {"calls": self.calls, "weighting": state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        self.calls = state["calls"]
        if state["weighting"] is not None and isinstance(self.weighting, nn.Module):
            load_module_state(self.weighting, state["weighting"])

    def _draw(self, gramian: Float[Tensor, "N N"]) -> Float[Tensor, " N"]:
        self.calls += 1
        if self.seed is None:
            return self.weighting(gramian)
        with torch.random.fork_rng(devices=[]):  # torchjd draws from the global stream; it is left as it was
            torch.default_generator.manual_seed(1_000_003 * self.seed + self.calls)
            return self.weighting(gramian)


def shared_among_twins(gramian: Float[Tensor, "N N"], weights: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Weights of the same combination of gradients, with equal weights for equal gradients (up to rounding).

    Otherwise rounding and the objectives' order would decide between them.
    """
    squares = gramian.diagonal()
    apart = squares[:, None] + squares[None, :] - 2 * gramian
    twins = (apart <= TWIN_TOLERANCE * torch.minimum(squares[:, None], squares[None, :])).to(weights)
    return twins @ weights / twins.sum(1)


def module_state(module: nn.Module) -> dict[str, Any]:
    """The state of a torchjd module in plain values and tensors; a part of it is not in its state_dict."""
    attributes = {**module._parameters, **module._buffers, **module._modules}
    attributes |= {name: value for name, value in vars(module).items() if name not in _MODULE_ATTRIBUTES}
    state: dict[str, Any] = {}
    for name, value in attributes.items():
        if isinstance(value, nn.Module):
            state[name] = module_state(value)
        elif isinstance(value, Optimizer):
            state[name] = value.state_dict()
        elif isinstance(value, Tensor):
            state[name] = value.detach().clone()
        elif _is_plain(value):
            state[name] = value
    return state


def load_module_state(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Restore what `module_state` returned, in a module with the same settings.

    Raises:
        UserError: for a state that an earlier version pickled.
    """
    if isinstance(state, Tensor):
        raise UserError(
            "This checkpoint is of a version that kept the solver's state as a pickle, which is no longer read.",
            "force=true runs again from the start.",
        )
    for name in module_state(module):
        current, value = getattr(module, name), state[name]
        if isinstance(current, nn.Module):
            load_module_state(current, value)
        elif isinstance(current, nn.Parameter):
            with torch.no_grad():
                current.copy_(value)
        elif isinstance(value, Mapping):  # torchjd's modules learn by Adam, which they create at first use
            optimizer = Adam(module.parameters()) if current is None else current
            optimizer.load_state_dict(dict(value))
            setattr(module, name, optimizer)
        else:
            setattr(module, name, value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str | Tensor | torch.dtype | torch.device)


def with_extra(name: str, make: Callable[[], Any]) -> Any:
    """The result of `make`, which needs torchjd's optional packages.

    Raises:
        UserError: if they are not installed; `name` is the solver's.
    """
    try:
        return make()
    except ImportError as error:
        missing = str(error).splitlines()[0].partition(" requires ")[2].partition(" to be installed")[0]
        raise UserError(
            f"solver={name} needs packages that are not installed: {missing}.", "Run pip install 'pama-exp[solvers]'."
        ) from None
