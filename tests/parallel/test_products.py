"""Products of float32 matrices by oneDNN: the same numbers up to rounding, for as long as they are wanted."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pama_exp.errors import UserError
from pama_exp.parallel import products as module
from pama_exp.parallel.products import library, products

HAS_ONEDNN = torch.backends.mkldnn.is_available()
needs_onednn = pytest.mark.skipif(not HAS_ONEDNN, reason="this torch has no oneDNN")
LAYOUTS = ("rows", "columns", "a slice", "every second row", "one row, repeated")


def matrix(rows: int, columns: int, layout: str, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if layout == "columns":
        return torch.randn(columns, rows, generator=generator).t()
    if layout == "a slice":
        return torch.randn(rows + 3, columns + 5, generator=generator)[2:-1, 1:-4]
    if layout == "every second row":
        return torch.randn(2 * rows, columns, generator=generator)[::2]
    if layout == "one row, repeated":
        return torch.randn(1, columns, generator=generator).expand(rows, columns)
    return torch.randn(rows, columns, generator=generator)


@needs_onednn
@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300), st.integers(1, 300)),
    st.sampled_from(LAYOUTS),
    st.sampled_from(LAYOUTS),
    st.booleans(),
    st.integers(0, 9),
)
def test_a_product_is_that_of_float64_up_to_rounding(sizes, left_layout, right_layout, biased, seed):
    n, inner, m = sizes
    left, right = matrix(n, inner, left_layout, seed), matrix(inner, m, right_layout, seed + 1)
    bias = torch.randn(m, generator=torch.Generator().manual_seed(seed + 2)) if biased else None
    exact = left.double() @ right.double() + (0 if bias is None else bias.double())
    magnitude = left.double().abs() @ right.double().abs() + (0 if bias is None else bias.double().abs())
    with pytest.MonkeyPatch.context() as patch, products("onednn"):
        patch.setattr(module, "_LEAST", 0)  # small products too
        product = left @ right if bias is None else torch.addmm(bias, left, right)
    assert product.shape == exact.shape
    assert product.is_contiguous()
    assert bool(((product - exact).abs() <= (inner + 2) * torch.finfo(torch.float32).eps * magnitude).all())


@needs_onednn
@pytest.mark.parametrize("shape", [(2, 70, 256), (140, 256)])
def test_gradients_of_a_linear_layer_are_those_of_float64(shape):
    layer = torch.nn.Linear(256, 200)
    states = torch.randn(*shape, requires_grad=True)
    exact = torch.nn.functional.linear(states.double(), layer.weight.double(), layer.bias.double()).square().sum()
    wanted = torch.autograd.grad(exact, [states, layer.weight, layer.bias])
    with products("onednn"):
        gradients = torch.autograd.grad(layer(states).square().sum(), [states, layer.weight, layer.bias])
    for one, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@needs_onednn
def test_the_same_product_is_the_same_to_the_bit_and_torchs_own_is_back_afterwards():
    left, right = torch.randn(257, 300), torch.randn(300, 129)
    before = left @ right
    with products("onednn"):
        first, second = left @ right, left @ right
        with products("blas"):
            assert library() == "blas"
            assert torch.equal(left @ right, before)
        assert library() == "onednn"
        assert torch.equal(left @ right, first)
    assert torch.equal(first, second)
    assert torch.equal(left @ right, before)
    assert library() == "blas"


@needs_onednn
def test_it_ends_with_an_exception_too():
    left = torch.randn(200, 200)
    before = left @ left
    with pytest.raises(ValueError, match="of the block"), products("onednn"):
        raise ValueError("of the block")
    assert library() == "blas"
    assert torch.equal(left @ left, before)


@needs_onednn
@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.int64, torch.complex64])
def test_other_types_are_multiplied_as_ever(kind):
    left, right, bias = (torch.randn(*size).mul(4).to(kind) for size in ((200, 200), (200, 200), (200,)))
    wanted = left @ right, torch.addmm(bias, left, right, beta=2, alpha=3)
    with products("onednn"):
        same = left @ right, torch.addmm(bias, left, right, beta=2, alpha=3)
    assert all(torch.equal(one, other) for one, other in zip(same, wanted, strict=True))


@needs_onednn
@pytest.mark.parametrize("shape", [(200, 200), (200, 1), (1,), ()])
def test_every_shape_of_a_bias_is_added(shape):
    left, right, bias = torch.randn(200, 200), torch.randn(200, 200), torch.randn(shape)
    wanted = torch.addmm(bias, left, right, beta=0.5, alpha=-2)
    plain = bias + left @ right
    with products("onednn"):
        assert torch.equal(torch.addmm(bias, left, right, beta=0.5, alpha=-2), wanted)
        torch.testing.assert_close(torch.addmm(bias, left, right), plain, rtol=1e-4, atol=1e-4)


@needs_onednn
def test_a_mistake_is_told_in_torchs_words():
    def words(left, right):
        with pytest.raises(RuntimeError) as caught:
            torch.mm(left, right)
        return str(caught.value)

    pairs = [(torch.randn(300, 200), torch.randn(300, 200)), (torch.randn(300, 200), torch.randn(200, 300).double())]
    wanted = [words(*pair) for pair in pairs]
    with products("onednn"):
        assert [words(*pair) for pair in pairs] == wanted


@pytest.mark.parametrize(
    ("blas", "onednn", "wanted"), [(1.0, 1.0, "blas"), (1.59, 1.0, "blas"), (1.61, 1.0, "onednn"), (0.5, 1.0, "blas")]
)
@needs_onednn
def test_auto_takes_onednn_where_it_is_much_faster(monkeypatch, blas, onednn, wanted):
    times = iter([20 * blas, 10 * onednn] + [blas, onednn] * 11)  # the first of each loads the library
    monkeypatch.setattr(module, "_seconds", lambda work: next(times))
    with products("auto") as chosen:
        assert chosen == library() == wanted


def test_auto_takes_torchs_own_where_there_is_no_onednn(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with products("auto") as chosen:
        assert chosen == "blas"
    with pytest.raises(UserError, match=r"^trainer\.products=onednn"), products("onednn"):
        pass


GROWTH = """
import sys
import torch
from pama_exp.parallel.products import products
from pama_exp.training.cost import peak_memory_bytes

torch.set_num_threads(1)
weight = torch.randn(1024, 512, dtype=getattr(torch, sys.argv[2]))
peaks = []
with products(sys.argv[1]), torch.no_grad():
    for rows in range(700, 1000):
        states = torch.randn(rows, 512, dtype=weight.dtype)
        (states @ weight.t()).t() @ states
        if rows in (749, 999):
            peaks.append(peak_memory_bytes(torch.device("cpu")))
print(peaks[1] - peaks[0])
"""


@needs_onednn
@pytest.mark.slow("processes that import torch")
@pytest.mark.parametrize(("name", "dtype"), [("onednn", "float32"), ("blas", "bfloat16")])
def test_shapes_met_once_do_not_gather_in_memory(name, dtype):
    # As responses of ever other lengths make them. With oneDNN's own limit, 250 more shapes are 300 MiB and more.
    command = [sys.executable, "-c", GROWTH, name, dtype]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert int(done.stdout) < 150 * 2**20
