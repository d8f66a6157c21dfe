"""CUDA graphs: a function of tensors that is called many times with the same shapes is captured once and replayed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pama_exp.errors import UserError

Function = Callable[..., Tensor]


class Replayed:
    """A function whose first call is captured and whose later calls replay it.

    On a GPU the first call captures the function as a CUDA graph. Later calls copy their arguments into the first
    call's tensors and launch the graph, without Python. Elsewhere the function is called on the same tensors.

    Args:
        function: from tensors to a tensor. It may depend only on the values of its arguments and on tensors that stay
            at the same address.

    Raises:
        UserError: on the first call, if the function waits for the GPU, as the routing of experts does.
    """

    def __init__(self, function: Function) -> None:
        self._function = function
        self._arguments: tuple[Tensor, ...] = ()
        self._replay: Callable[[], Tensor] | None = None

    def __call__(self, *arguments: Tensor) -> Tensor:
        """Call the function; the next call overwrites the result."""
        if self._replay is None:
            self._arguments = tuple(argument.clone() for argument in arguments)
            self._replay = capture(lambda: self._function(*self._arguments), self._arguments[0].device)
        else:
            for captured, argument in zip(self._arguments, arguments, strict=True):
                captured.copy_(argument)
        return self._replay()


def capture(function: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """A function that repeats the work on the same tensors: on a GPU a captured graph, elsewhere `function`."""
    if device.type != "cuda":
        return function
    # Capturing needs a first pass on another stream: libraries allocate their memory in it.
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
