import pytest
import torch

from pama_exp.rl import masks
from samplers import ADVANTAGES, ragged_mask


def test_statistics_are_those_of_the_valid_tokens():
    mask, values = ragged_mask(6, 5), ADVANTAGES["normal"]((2, 6, 5), 0)
    dirty = torch.where(mask, values, float("nan"))
    for i in range(2):
        valid = values[i][mask]
        torch.testing.assert_close(masks.masked_mean(dirty, mask, (-2, -1))[i], valid.mean())
        torch.testing.assert_close(masks.masked_variance(dirty, mask, (-2, -1))[i], valid.var(correction=0))
    torch.testing.assert_close(masks.masked_mean(dirty, mask), values[:, mask].mean())
    torch.testing.assert_close(masks.masked_variance(dirty, mask), values[:, mask].var(correction=0))


def test_statistics_per_response():
    mask, values = ragged_mask(6, 5), ADVANTAGES["normal"]((6, 5), 0)
    for b in range(5):
        torch.testing.assert_close(masks.masked_mean(values, mask, 1)[b], values[b][mask[b]].mean())
        torch.testing.assert_close(masks.masked_variance(values, mask, 1)[b], values[b][mask[b]].var(correction=0))
    assert masks.masked_mean(values, mask, 1)[5] == 0
    assert masks.masked_variance(values, mask, 1)[5] == 0


def test_a_mean_of_nothing_is_zero_and_still_has_a_gradient():
    values = torch.randn(2, 3, requires_grad=True)
    mean = masks.masked_mean(values, torch.zeros(2, 3, dtype=torch.bool))
    mean.backward()
    assert mean.item() == 0
    assert values.grad is not None
    assert values.grad.abs().sum().item() == 0


@pytest.mark.parametrize("seed", range(3))
def test_last_token_is_the_last_valid_index(seed):
    mask = ragged_mask(6, 5, seed)
    expected = [max([t for t in range(5) if mask[b, t]], default=0) for b in range(6)]
    assert masks.last_token(mask).tolist() == expected
