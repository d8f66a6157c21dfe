"""What looks at how rewards vary together in a group, group by group in numpy."""

import numpy as np
import pytest
import torch
from scipy import stats

from pama_exp.errors import UserError
from pama_exp.rl.estimators import Group
from pama_exp.solvers.group import GDPO
from pama_exp.solvers.group_weights import DARA, DVAO, GD2PO, RDPO, CorrGRPO, normal_scores

SIZE, WEIGHTS = 4, [0.2, 0.3, 0.5]
MASK = torch.ones(12, 3, dtype=torch.bool)
REWARDS = torch.rand(3, 12, generator=torch.Generator().manual_seed(3))
REWARDS[2, :8] = 0.5  # varies in the last group alone


def combined(solver):
    """(B,) the combination of standardised rewards, after the solver has seen them; and these, (N,B)."""
    solver.group_size = SIZE
    rewards = solver.on_rewards(REWARDS)
    z, _ = Group("standardise", SIZE).estimate(rewards, torch.zeros(12, 3), torch.zeros(3, 12, 3), MASK)
    return solver.on_advantages(z, MASK)[0, :, 0].double().numpy(), z[:, :, 0].double().numpy()


def whitened(values):
    return (values - values.mean()) / values.std(ddof=1)


def groups():
    return [slice(first, first + SIZE) for first in range(0, 12, SIZE)]


def test_dvao_weighs_by_the_spread_in_each_group():
    found, z = combined(DVAO(WEIGHTS))
    for group in groups():
        spread = np.array(WEIGHTS) * REWARDS.double().numpy()[:, group].std(1, ddof=1)
        np.testing.assert_allclose(found[group], (spread / spread.sum()) @ z[:, group], atol=1e-5)
        assert np.abs(found[group]).max() <= np.abs(z[:, group]).max() + 1e-6


@pytest.mark.parametrize(("mode", "tau"), [("hard", 0.2), ("snr", 0.2), ("snr", 0.8)])
def test_gd2po_drops_the_responses_in_conflict(mode, tau):
    found, z = combined(GD2PO(WEIGHTS, mode=mode, tau=tau))
    kept, raw = [], np.zeros(12)
    for b in range(12):
        column, weighed = z[:, b], np.array(WEIGHTS) * z[:, b]
        one_sign = (column >= -1e-9).all() or (column <= 1e-9).all()
        kept.append(one_sign if mode == "hard" else abs(weighed.sum()) >= tau * np.abs(weighed).sum())
    kept = np.array(kept)
    for group in groups():
        raw[group] = kept[group] * kept[group].mean() * (np.array(WEIGHTS) @ z[:, group])
    assert 2 < kept.sum() < 12
    np.testing.assert_allclose(found[kept], whitened(raw[kept]), atol=1e-5)
    assert (found[~kept] == 0).all()


def test_corr_grpo_has_unit_deviation_in_every_group():
    found, z = combined(CorrGRPO(WEIGHTS))
    for group in groups():
        assert found[group].std(ddof=1) == pytest.approx(1.0, abs=1e-5)
        plain = np.array(WEIGHTS) @ z[:, group]
        np.testing.assert_allclose(found[group] * plain.std(ddof=1), plain, atol=1e-5)


@pytest.mark.parametrize("asymmetric", [True, False])
@pytest.mark.parametrize("cap", [1.5, 9.0])
def test_dara_amplifies_the_reward_that_seldom_varies(asymmetric, cap):
    found, z = combined(DARA(WEIGHTS, cap=cap, asymmetric=asymmetric))
    factor = [1.0, 1.0, min(cap, np.sqrt(3.0))]
    raw = np.zeros(12)
    for i in range(3):
        for b in range(12):
            raw[b] += WEIGHTS[i] * z[i, b] * (factor[i] if z[i, b] > 0 or not asymmetric else 1.0)
    np.testing.assert_allclose(found, whitened(raw), atol=1e-5)


def test_dara_without_amplification_is_gdpo():
    np.testing.assert_allclose(combined(DARA(WEIGHTS, cap=1.0))[0], combined(GDPOLike(WEIGHTS))[0], atol=1e-6)


class GDPOLike(GDPO):
    group_size = SIZE


def test_normal_scores_are_scipys_of_tied_ranks():
    values = torch.tensor([[0.1, 5.0, 0.1, 2.0, 100.0], [1.0] * 5], dtype=torch.float64)
    expected = stats.norm.ppf((stats.rankdata(values[0].numpy()) - 0.5) / 5)
    expected = (expected - expected.mean()) / expected.std()
    np.testing.assert_allclose(normal_scores(values)[0].numpy(), expected, rtol=1e-9)
    assert normal_scores(values)[1].abs().sum() == 0


def test_rdpo_counts_copies_once_and_ignores_outliers():
    solver = RDPO([0.5, 0.5], floor=1e-6)
    first = torch.randn(2, 500, generator=torch.Generator().manual_seed(0))
    mask, nothing = torch.ones(500, 1, dtype=torch.bool), torch.zeros(2, 500, 1)
    mixed = torch.stack([first[0], 0.9 * first[0] + 0.1 * first[1]])
    solver.on_rewards(mixed)
    plain = solver.on_advantages(nothing, mask)[0, :, 0]
    assert plain.std(correction=0).item() == pytest.approx(1.0, abs=1e-3)
    ranked = np.stack([(r := stats.norm.ppf((stats.rankdata(row) - 0.5) / 500)) / r.std() for row in mixed.numpy()])
    white = np.linalg.inv(np.real(_root(ranked @ ranked.T / 500))) @ ranked
    np.testing.assert_allclose(plain.numpy(), white.sum(0) / np.sqrt(2), atol=1e-3)
    outlier = mixed.clone()
    outlier[0, mixed[0].argmax()] = 1e6
    solver.on_rewards(outlier)
    torch.testing.assert_close(solver.on_advantages(nothing, mask)[0, :, 0], plain)


def _root(matrix):
    from scipy.linalg import sqrtm

    return sqrtm(matrix)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: GD2PO([1, 1], mode="soft"), "solver.mode=soft"),
        (lambda: GD2PO([1, 1], tau=1.1), "solver.tau=1.1"),
        (lambda: DARA([1, 1], cap=0.5), "solver.cap=0.5"),
        (lambda: RDPO([1, 1], floor=0.0), "solver.floor=0"),
    ],
)
def test_refusals(make, said):
    with pytest.raises(UserError, match=said):
        make()
