"""ORPG against its rule on explicit gradients, RACO against a cone programme."""

import numpy as np
import pytest
import torch

from pama_exp.errors import UserError
from pama_exp.solvers.conflicts import pcgrad
from pama_exp.solvers.steered import conflict_averse, orpg, raco


def rows(count, seed, shift=0.0):
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)).double() + shift


def weights_of(solver, gradients):
    return solver.on_losses(torch.zeros(len(gradients)), lambda target="parameters": gradients @ gradients.T).double()


@pytest.mark.parametrize("seed", range(5))
def test_orpg_turns_the_sum_of_agreeing_gradients(seed):
    g = rows(2, seed, shift=1.0).numpy() * np.array([[1.0], [3.0]])
    norms = np.linalg.norm(g, axis=1)
    cosine = g[0] @ g[1] / norms.prod()
    assert cosine > 0
    total = g.sum(0)
    size = np.linalg.norm(total)
    v = sum(norms[i] ** 0.5 * g[i] / norms[i] for i in range(2))
    z = (1 - 0.25 * cosine) * total + 0.25 * cosine * size * v / np.linalg.norm(v)
    found = weights_of(orpg([1, 1]), torch.tensor(g)).numpy() @ g
    np.testing.assert_allclose(found, size * z / np.linalg.norm(z) / 2, rtol=1e-4)


def test_orpg_is_pcgrad_where_gradients_conflict_and_the_mean_without_a_blend():
    g = torch.tensor([[1.0, 0.2], [-0.7, 0.9]], dtype=torch.float64)
    torch.testing.assert_close(weights_of(orpg([1, 1]), g), weights_of(pcgrad([1, 1]), g))
    agreeing = rows(4, 0, shift=2.0)
    torch.testing.assert_close(weights_of(orpg([1] * 4, blend=0.0), agreeing), torch.full((4,), 0.25).double())


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("radius", [0.2, 1.0])
def test_the_conflict_averse_combination_is_that_of_a_grid(count, radius):
    """No point of a fine random grid on the simplex has a lower value."""
    g = rows(count, 7 * count).numpy()
    toward = np.arange(1, count + 1) / sum(range(1, count + 1))
    gramian = torch.tensor(g @ g.T)
    found = conflict_averse(gramian, torch.tensor(toward), radius).numpy()

    def value(p):
        return (p @ g) @ (toward @ g) + radius * np.linalg.norm(p @ g, axis=-1)

    drawn = np.random.default_rng(0).dirichlet(np.full(count, 0.5), 100_000)
    near = 0.98 * found + 0.02 * drawn
    assert found.sum() == pytest.approx(1.0)
    assert value(found) <= min(value(drawn).min(), value(near).min(), value(np.eye(count)).min()) + 1e-7


def test_raco_moves_by_the_clipped_correction():
    g, w = rows(3, 1), torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    found = weights_of(raco(w.tolist(), c=0.5), g)
    g0 = w @ g
    p = conflict_averse(g @ g.T, w, 0.5 * float(g0.norm()))
    clipped = torch.minimum(p, w) @ g
    expected = g0 + 0.5 * g0.norm() * clipped / clipped.norm()
    direction = found @ g
    torch.testing.assert_close(direction / direction.norm(), expected / expected.norm(), atol=1e-4, rtol=0)
    torch.testing.assert_close(weights_of(raco(w.tolist(), c=0.0), g), w, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: orpg([1, 1], q=-1.0), "solver.q=-1"),
        (lambda: orpg([1, 1], blend=2.0), "solver.blend=2"),
        (lambda: raco([1, 1], c=-0.1), "solver.c=-0.1"),
    ],
)
def test_refusals(make, said):
    with pytest.raises(UserError, match=said):
        make()
