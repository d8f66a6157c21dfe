"""What is not a number any more is found wherever it stands, and named."""

import pytest
import torch

from pama_exp.errors import UserError
from pama_exp.parallel import finite

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_first_that_is_not_finite_is_named_with_its_value(value, dtype):
    good, bad = torch.full((2, 3), 3e38), torch.zeros(2, 3, dtype=dtype)
    bad[1, 2] = value
    with pytest.raises(UserError, match=f"^The second is {value}\\.\nDo this\\.$"):
        finite.require_finite({"The first": good, "The second": bad, "The third": bad}, "Do this.")
    finite.require_finite({"The first": good, "none": torch.zeros(0), "one": torch.tensor(1.0)}, "")
    finite.require_finite({}, "")


def test_rows_are_named_by_objective_where_there_is_one_for_each():
    rows = torch.tensor([[1.0, 2.0], [3.0, NAN]])
    with pytest.raises(UserError, match="A reward of 'b' is nan"):
        finite.require_finite(finite.named("A reward", ["a", "b"], rows), "")
    with pytest.raises(UserError, match="A reward is nan"):
        finite.require_finite(finite.named("A reward", ["a", "b", "c"], rows), "")


@pytest.mark.parametrize(
    ("state", "is_finite"),
    [
        ({}, True),
        ({"a": 1, "b": None, "c": "nan", "d": [1.0, (2.0, torch.ones(2))], "e": b"nan"}, True),
        ({"a": {"b": [NAN]}}, False),
        ({"a": torch.tensor([0.0, INF])}, False),
        (-INF, False),
    ],
)
def test_states_are_searched_through(state, is_finite):
    assert finite.is_finite(state) == is_finite


def test_a_norm_tells_of_every_parameter():
    parameters = [torch.nn.Parameter(torch.full((3,), 2.0)), torch.nn.Parameter(torch.full((1,), 2.0))]
    assert finite.norm(parameters).item() == pytest.approx(4.0)
    with torch.no_grad():
        parameters[0][1] = NAN
    assert not finite.norm(parameters).isfinite()
