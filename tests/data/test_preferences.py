import math

import pytest
import torch

import tiny
from pama_exp.data.preferences import DrawnPreferences, FixedPreference, Writer, shares
from pama_exp.data.prompts import PromptStream
from pama_exp.errors import UserError


def stream(**settings):
    return PromptStream([f"{a} {b}" for a in "abcdef" for b in "gh"], tiny.tokenizer(), 4, seed=3, **settings)


def test_a_preference_is_drawn_for_every_prompt_and_step_and_comes_again():
    drawn = DrawnPreferences(3, 1.0, seed=5)
    first = drawn(7, 1000)
    assert first.shape == (1000, 3)
    assert (first >= 0).all()
    torch.testing.assert_close(first.sum(1), torch.ones(1000))
    assert len(torch.unique(first, dim=0)) == 1000
    assert torch.equal(first, DrawnPreferences(3, 1.0, seed=5)(7, 1000))
    assert not torch.equal(first, drawn(8, 1000))
    assert not torch.equal(first, DrawnPreferences(3, 1.0, seed=6)(7, 1000))


@pytest.mark.parametrize("concentration", [0.3, 1.0, 8.0])
def test_draws_have_the_moments_of_a_dirichlet_distribution(concentration):
    """Mean 1/N, variance (N − 1) / (N² (N α + 1))."""
    drawn, count = DrawnPreferences(4, concentration, seed=0)(0, 20_000).double(), 4
    variance = (count - 1) / (count**2 * (count * concentration + 1))
    assert (drawn.mean(0) - 0.25).abs().max() < 5 * math.sqrt(variance / 20_000)
    torch.testing.assert_close(drawn.var(0), torch.full((4,), variance).double(), rtol=0.06, atol=0)


def test_the_answers_of_a_group_share_their_preference():
    batch = stream(group_size=3, preferences=DrawnPreferences(2, 1.0, seed=3)).batch(2)
    grouped = batch.preferences.reshape(4, 3, 2)
    assert (grouped == grouped[:, :1]).all()
    assert len(torch.unique(grouped[:, 0], dim=0)) == 4
    assert torch.equal(batch.input_ids, stream(group_size=3).batch(2).input_ids)


def test_evaluation_asks_every_prompt_for_the_same():
    asking = stream(preferences=DrawnPreferences(2, 1.0, seed=3)).with_preference([0.25, 0.75])
    batches = list(asking.slices(5))
    assert torch.cat([b.preferences for b in batches]).tolist() == [[0.25, 0.75]] * 12
    assert stream().batch(0).preferences is None
    assert FixedPreference([0.2, 0.8])(1, 2).shape == (2, 2)


def test_a_written_preference_is_read_by_the_policy_and_not_by_the_scorers():
    writer = Writer(["a", "b"], item="{name} {share}", separator=" ", end=" | ", levels=4)
    made = stream(preferences=FixedPreference([0.3, 0.7]), writer=writer).batch(0)
    plain = stream().batch(0)
    assert list(made.texts) == list(plain.texts)
    assert made.preferences.tolist() == [[0.25, 0.75]] * 4  # as written
    words = tiny.tokenizer()
    for row, text in enumerate(made.texts):
        assert made.input_ids[row][made.mask[row]].tolist() == words(f"a 0.25 b 0.75 | {text}")["input_ids"]


def test_preferences_are_rounded_to_the_nearest_that_can_be_written():
    writer = Writer(["a", "b", "c"], levels=10)
    assert writer.write("hello", [0.7, 0.3, 0.0]) == "a: 0.7, b: 0.3, c: 0\nhello"
    drawn = DrawnPreferences(3, 1.0, seed=0)(0, 500)
    rounded = writer.rounded(drawn)
    torch.testing.assert_close(rounded.sum(1), torch.ones(500))
    assert (rounded >= 0).all()
    assert (rounded - drawn).abs().max() < 0.1
    torch.testing.assert_close(rounded * 10, (rounded * 10).round(), atol=1e-5, rtol=0)
    grid = torch.tensor(list(shares(3, 10)))
    assert torch.equal(writer.rounded(grid), grid)
    nearest = torch.cdist(drawn.double(), grid.double()).amin(1)
    torch.testing.assert_close((rounded - drawn).double().norm(dim=1), nearest, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"item": "{name}"}, "conditioning.item"),
        ({"item": "{nom}: {share}"}, "conditioning.item"),
        ({"item": "{name}: {share} {}"}, "conditioning.item"),
        ({"item": "{name}: {share:>99999999999}"}, "conditioning.item"),
        ({"item": "{name!r}: {share}"}, "conditioning.item"),
        ({"levels": 0}, "conditioning.levels=0"),
    ],
)
def test_a_format_that_says_too_little_is_named(settings, said):
    with pytest.raises(UserError, match=said):
        Writer(["a", "b"], **settings)
