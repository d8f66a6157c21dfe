"""A function of tensors, called many times with the same shapes: replayed as a CUDA graph where there is a GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pama_exp.errors import UserError

Function = Callable[..., Tensor]


class Replayed:
    """Calls of one function as replays of its first.

    On a GPU the first call runs the function once and captures it; later ones copy their arguments to where the first
    ones lay and launch everything at once, without Python. Elsewhere, the function is called as it is, with arguments
    in the same places.

    Args:
        function: from tensors to a tensor. What it does must depend on nothing but its arguments' numbers and on
            tensors that stay where they are.

    Raises:
        UserError: on the first call, if the function waits for the GPU, as choosing experts by their scores does.
    """

    def __init__(self, function: Function) -> None:
        self._function = function
        self._arguments: tuple[Tensor, ...] = ()
        self._replay: Callable[[], Tensor] | None = None

    def __call__(self, *arguments: Tensor) -> Tensor:
        """The function's result, which the next call overwrites."""
        if self._replay is None:
            self._arguments = tuple(argument.clone() for argument in arguments)
            self._replay = capture(lambda: self._function(*self._arguments), self._arguments[0].device)
        else:
            for held, given in zip(self._arguments, arguments, strict=True):
                held.copy_(given)
        return self._replay()


def capture(function: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """What repeats the function's work on the same tensors: itself, but for a GPU."""
    if device.type != "cuda":
        return function
    # A pass beforehand, on another stream, as capturing wants it: libraries allocate what they need in their first.
    aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        function()
    torch.cuda.current_stream(device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = function()
    except RuntimeError as error:
        raise UserError(
            f"rollout.engine.graphs=true: the model's pass cannot be captured: {str(error).splitlines()[0]}.",
            "Set rollout.engine.graphs=false.",
        ) from error

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay
