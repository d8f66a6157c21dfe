"""Ragged groups and missing scores: compared with each group taken by itself."""

import pytest
import torch

from pama_exp.integrations.group_baselines import centre, group_means, leave_one_out, scale_by_batch, standardise
from pama_exp.rl import advantages

NAN = float("nan")


def ragged(seed):
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(2, 6, (4,), generator=generator)
    groups = torch.arange(4).repeat_interleave(sizes)
    return torch.randn(3, len(groups), generator=generator), groups[torch.randperm(len(groups), generator=generator)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("ours", "of_one_group"),
    [(leave_one_out, advantages.leave_one_out), (standardise, advantages.group_standardise)],
)
def test_every_group_is_as_if_it_were_alone(seed, ours, of_one_group):
    scores, groups = ragged(seed)
    found = ours(scores, groups)
    for group in range(4):
        alone = of_one_group(scores[:, groups == group], int((groups == group).sum()))
        torch.testing.assert_close(found[:, groups == group], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("baseline", [centre, leave_one_out, standardise])
def test_a_missing_score_is_as_one_response_less(baseline):
    scores = torch.tensor([[1.0, 2.0, 4.0, 9.0]])
    found = baseline(torch.tensor([[1.0, 2.0, NAN, 4.0, 9.0]]), torch.tensor([0, 0, 0, 0, 0]))[0]
    assert torch.isnan(found[2])
    torch.testing.assert_close(found[[0, 1, 3, 4]], baseline(scores, torch.zeros(4, dtype=torch.long))[0])


@pytest.mark.parametrize("baseline", [centre, leave_one_out, standardise])
def test_a_score_without_another_to_compare_it_with_says_nothing(baseline):
    found = baseline(torch.tensor([[1.0, NAN, 3.0, 5.0]]), torch.tensor([0, 0, 1, 1]))
    assert torch.isnan(found[0, :2]).all()
    assert torch.isfinite(found[0, 2:]).all()


def test_scores_that_do_not_vary_give_nothing_whatever_their_size():
    scores = torch.full((1, 6), 1e5 / 3)
    assert standardise(scores, torch.tensor([0, 0, 0, 1, 1, 1])).abs().max() == 0


def test_the_batch_scale_is_the_deviation_of_all_scores():
    scores, groups = torch.tensor([[0.0, 2.0, 10.0, 14.0]]), torch.tensor([0, 0, 1, 1])
    found = scale_by_batch(scores, groups, epsilon=1.0)
    torch.testing.assert_close(found, torch.tensor([[-1.0, 1.0, -2.0, 2.0]]) / (scores.std() + 1.0))


def test_a_group_without_scores_takes_the_mean_of_the_batch():
    scores = torch.tensor([[1.0, NAN, NAN, NAN, 5.0], [NAN] * 5])
    found = group_means(scores, torch.tensor([0, 0, 1, 1, 2]))
    torch.testing.assert_close(found, torch.tensor([[1.0, 1.0, 3.0, 3.0, 5.0], [0.0] * 5]))
