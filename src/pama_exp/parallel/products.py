"""Products of float32 matrices on a processor: by oneDNN where that is much faster than torch's BLAS library.

torch multiplies float32 matrices by MKL, which gives processors of other makers than Intel its kernels for AVX2, also
where they have AVX-512. oneDNN, which is part of torch too, uses what there is: twice as fast and more on an AMD EPYC
with AVX-512. Both compute in float32; results differ by rounding.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pama_exp.errors import UserError

_LEAST = 2**21  # multiplications; below, oneDNN's call of some 12 µs costs more than its kernel saves
# So much faster oneDNN has to be. Two kernels for the same instructions differ by less, and twice the width of
# instructions gives more; no timing in between, so that every run on a machine decides alike.
_FASTER = 1.6
_ROWS, _INPUTS, _OUTPUTS = 256, 256, 1024  # of the product that is timed
# oneDNN makes kernels for every shape, and it and torch's wrapper of it each keep the last 1,024: some MiB each where
# matrices are large. Responses differ in length from step to step, so that gigabytes would gather. 64 hold the shapes
# of a pass, forwards and backwards, of three micro-batches; making the kernels of a shape takes a millisecond.
_KEPT = {"DNNL_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"}
_chosen = "blas"


def library() -> str:
    """The library that multiplies now: blas (torch's own) or onednn."""
    return _chosen


@contextmanager
def products(name: str = "auto") -> Iterator[str]:
    """Within the block, all large products of float32 matrices in this process are computed by the named library.

    That goes for `torch.mm` and `torch.addmm`, thus for linear layers and their gradients, and not for `out=`, in-place
    and batched forms. Blocks may be nested; an inner one says again which library.

    The first block also bounds the memory that oneDNN keeps for shapes it has met, products of 16 bits included, unless
    the environment variables `DNNL_PRIMITIVE_CACHE_CAPACITY` and `LRU_CACHE_CAPACITY` say how many shapes it is to
    keep, or oneDNN has multiplied before.

    Args:
        name: blas, onednn, or auto: oneDNN where this torch has it and one product takes it at most 1 ÷ 1.6 of the
            time, which is measured in some 20 ms.

    Yields:
        blas or onednn.

    Raises:
        UserError: for onednn where this torch was built without it.
    """
    global _chosen
    for variable, shapes in _KEPT.items():
        os.environ.setdefault(variable, shapes)  # read at oneDNN's first product
    if name == "onednn" and not _has_onednn():
        raise UserError("trainer.products=onednn: this torch was built without oneDNN.", "Set trainer.products=auto.")
    before, _chosen = _chosen, _faster() if name == "auto" else name
    registered = _register() if _chosen == "onednn" and before != "onednn" else None
    try:
        yield _chosen
    finally:
        if registered is not None:
            registered._destroy()  # type: ignore[no-untyped-call]
        _chosen = before


def _register() -> torch.library.Library:
    """Put oneDNN in the place of torch's kernels; they are back once the library is destroyed."""
    registered = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a kernel is replaced, which is what is wanted
        registered.impl("mm", _mm, "CPU", allow_override=True)  # type: ignore[no-untyped-call]
        registered.impl("addmm", _addmm, "CPU", allow_override=True)  # type: ignore[no-untyped-call]
    return registered


def _mm(left: Tensor, right: Tensor) -> Tensor:
    if _is_worth_it(left, right):
        return _by_onednn(left, right, None)
    return torch.mm(left, right, out=_room(left, right))


def _addmm(bias: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    if beta == 1 and alpha == 1 and bias.shape == right.shape[1:] and _is_worth_it(left, right, bias):
        return _by_onednn(left, right, bias)
    return torch.addmm(bias, left, right, beta=beta, alpha=alpha, out=_room(left, right))


def _is_worth_it(left: Tensor, right: Tensor, *others: Tensor) -> bool:
    if _chosen != "onednn":  # in an inner block
        return False
    if any(each.dtype != torch.float32 for each in (left, right, *others)) or left.shape[1] != right.shape[0]:
        return False  # of other shapes too: torch's own kernel says what is wrong
    return left.numel() * right.shape[1] >= _LEAST


def _room(left: Tensor, right: Tensor) -> Tensor:
    """For the result: the `out=` forms are other kernels, which are not replaced."""
    return left.new_empty(left.shape[0], right.shape[1])


def _by_onednn(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(left, right.t(), bias, "none", [], "")
    return product


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call]


def _faster() -> str:
    """The library for `auto`: the least of several times of each, taken in turns."""
    if not _has_onednn():
        return "blas"
    left, right = torch.ones(_ROWS, _INPUTS), torch.ones(_OUTPUTS, _INPUTS).t()
    room = _room(left, right)
    by_blas, by_onednn = [], []
    for _ in range(12):
        by_blas.append(_seconds(lambda: torch.mm(left, right, out=room)))
        by_onednn.append(_seconds(lambda: _by_onednn(left, right, None)))
    return "onednn" if min(by_blas) >= _FASTER * min(by_onednn) else "blas"


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
