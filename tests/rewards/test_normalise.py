import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pama_exp.rewards.normalise import Frozen, Identity, Running

numbers = st.floats(-1e3, 1e3, width=32)
batches = st.lists(st.lists(numbers, min_size=1, max_size=8), min_size=1, max_size=6)


def standardised(rewards, sample):
    """numpy's answer; only centred where the sample does not vary."""
    spread = np.std(sample)
    return (np.array(rewards) - np.mean(sample)) / (spread if spread > 1e-8 else 1.0)


@settings(max_examples=200, deadline=None)
@given(batches)
def test_running_normalises_by_all_that_was_seen_up_to_now(parts):
    normaliser, seen = Running(), []
    for part in parts:
        seen += part
        found = normaliser.update_and_apply(torch.tensor(part))
        assert normaliser.mean == pytest.approx(np.mean(seen), abs=1e-9, rel=1e-9)
        assert normaliser.count == len(seen)
        assert (normaliser.squares / normaliser.count) ** 0.5 == pytest.approx(np.std(seen), abs=1e-6, rel=1e-6)
        # A spread below rounding makes the quotient meaningless; the spread itself is checked above.
        if np.std(seen) > 1e-3:
            np.testing.assert_allclose(found.numpy(), standardised(part, seen), atol=1e-2, rtol=1e-3)


@settings(max_examples=100, deadline=None)
@given(value=st.floats(-1e6, 1e6, width=32), sizes=st.lists(st.integers(1, 70), min_size=1, max_size=5))
def test_rewards_that_never_vary_become_zero(value, sizes):
    running, frozen = Running(), Frozen()
    frozen.calibrate(torch.full((sizes[0],), value))
    for size in sizes:
        for normaliser in (running, frozen):
            assert normaliser.update_and_apply(torch.full((size,), value)).abs().max() <= 1e-6 * max(1.0, abs(value))


def test_frozen_keeps_its_calibration_whatever_it_sees():
    sample, later = torch.tensor([1.0, 2.0, 3.0, 10.0]), torch.tensor([100.0, -5.0])
    normaliser = Frozen()
    normaliser.calibrate(sample)
    for _ in range(3):
        found = normaliser.update_and_apply(later)
        np.testing.assert_allclose(found.numpy(), standardised(later.tolist(), sample.tolist()), rtol=1e-6)


def test_identity_changes_nothing():
    rewards = torch.tensor([3.0, -1.0])
    assert torch.equal(Identity().update_and_apply(rewards), rewards)


@pytest.mark.parametrize("kind", [Identity, Running, Frozen])
def test_a_normaliser_goes_on_from_its_saved_state(kind):
    first, second = torch.tensor([1.0, 5.0, 2.0]), torch.tensor([7.0, -3.0])
    original, restored = kind(), kind()
    if isinstance(original, Frozen):
        original.calibrate(first)
    original.update_and_apply(first)
    restored.load_state_dict(original.state_dict())
    assert torch.equal(restored.update_and_apply(second), original.update_and_apply(second))
    assert restored.state_dict() == original.state_dict()
