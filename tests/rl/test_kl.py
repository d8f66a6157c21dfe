"""KL estimators against the exact expectation, and the proportional controller against its published rule."""

import numpy as np
import pytest
import torch

import oracles
from pama_exp.errors import UserError
from pama_exp.rl import kl
from pama_exp.rl.kl import check_placement, kl_estimate
from rounding import rounding


def expectation(estimator: str, spread: float) -> tuple[float, float]:
    """(E_p of the estimate, exact KL) over every outcome of a categorical p."""
    generator = np.random.default_rng(0)
    p = generator.dirichlet(np.ones(7))
    q = p * np.exp(spread * generator.standard_normal(7))
    q /= q.sum()
    estimates = kl.kl_estimate(torch.tensor(np.log(p))[None], torch.tensor(np.log(q))[None], estimator)[0]
    return float(torch.tensor(p) @ estimates), oracles.categorical_kl(p, q)


def test_k1_and_k3_are_unbiased():
    for estimator in ("k1", "k3"):
        found, exact = expectation(estimator, 1.0)
        assert exact > 0.1
        assert found == pytest.approx(exact, abs=1e-12)


def test_k2_is_close_where_the_policies_are():
    found, exact = expectation("k2", 0.01)
    assert found == pytest.approx(exact, rel=0.02)


def test_k2_and_k3_are_never_negative_and_k1_can_be():
    log_probs, reference = torch.randn(2, 50, 20, generator=torch.Generator().manual_seed(0))
    assert bool((kl.kl_estimate(log_probs, reference, "k1") < 0).any())
    for estimator in ("k2", "k3"):
        # k3 is the difference of two numbers that are nearly alike where the policies are.
        off = rounding(torch.float32, 1) * (log_probs - reference).abs()
        assert bool((kl.kl_estimate(log_probs, reference, estimator) >= -off).all())


def test_k3_keeps_its_digits_where_the_policies_nearly_agree():
    log_probs = torch.zeros(1, 1)
    assert kl.kl_estimate(log_probs, log_probs - 1e-3, "k3").item() == pytest.approx(0.5e-6, rel=0.05)


def test_k1_as_a_loss_term_is_positive_where_the_policy_is_surer_than_its_reference():
    assert kl.kl_estimate(torch.tensor([[-1.0]]), torch.tensor([[-3.0]]), "k1").item() == 2.0


def test_an_unknown_estimator_is_refused():
    with pytest.raises(UserError, match="k4"):
        kl.kl_estimate(torch.zeros(1, 1), torch.zeros(1, 1), "k4")


def test_adaptive_coefficient_follows_zieglers_rule():
    # error 5/4 − 1 = 0.25 is clipped to 0.2; 4.4/4 − 1 = 0.1 is not; both directions alike
    for observed, error in ((5.0, 0.2), (4.4, 0.1), (3.6, -0.1), (0.0, -0.2)):
        controller = kl.AdaptiveKL(0.5, target=4.0, horizon=1000)
        controller.update(observed, 100)
        assert controller.coefficient == pytest.approx(0.5 * (1 + error * 100 / 1000))


def test_adaptive_coefficient_stays_positive_when_a_batch_exceeds_the_horizon():
    controller = kl.AdaptiveKL(0.5, target=4.0, horizon=10)
    controller.update(0.0, 1000)
    assert controller.coefficient == pytest.approx(0.4)


def test_fixed_coefficient_stays():
    controller = kl.FixedKL(0.1)
    controller.update(100.0, 64)
    assert controller.coefficient == 0.1


@pytest.mark.parametrize("make", [lambda: kl.FixedKL(0.1), lambda: kl.AdaptiveKL(0.1, 4.0, 1000)])
def test_a_restored_coefficient_goes_on_as_before(make):
    first, second = make(), make()
    first.update(9.0, 64)
    second.load_state_dict(first.state_dict())
    first.update(1.0, 64)
    second.update(1.0, 64)
    assert first.coefficient == second.coefficient


@pytest.mark.parametrize(
    "make",
    [
        lambda: kl.FixedKL(-0.1),
        lambda: kl.FixedKL(float("nan")),
        lambda: kl.AdaptiveKL(0.1, target=0.0, horizon=100),
        lambda: kl.AdaptiveKL(0.1, target=1.0, horizon=0),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(UserError):
        make()


def test_gradients_of_a_term_of_the_loss_are_those_of_the_divergences():
    """Exactly, over a vocabulary of five: Σ_a p_a ∂k(a)/∂θ is 0 for k1, ∇KL(π‖ref) for k2, ∇KL(ref‖π) for k3."""
    generator = torch.Generator().manual_seed(3)
    theta, reference = torch.randn(2, 5, dtype=torch.double, generator=generator)
    theta.requires_grad_()

    def expected(estimator):
        log_p, log_q = theta.log_softmax(0), reference.log_softmax(0)
        weighed = log_p.exp().detach() * kl_estimate(log_p[None], log_q[None], estimator)[0]
        return torch.autograd.grad(weighed.sum(), theta)[0]

    def forwards(log_p, log_q):
        return (log_p.exp() * (log_p - log_q)).sum()

    log_p, log_q = theta.log_softmax(0), reference.log_softmax(0)
    towards = torch.autograd.grad(forwards(log_p, log_q), theta, retain_graph=True)[0]
    back = torch.autograd.grad(forwards(log_q, log_p), theta)[0]
    torch.testing.assert_close(expected("k1"), torch.zeros(5, dtype=torch.double), atol=1e-12, rtol=0)
    torch.testing.assert_close(expected("k2"), towards)
    torch.testing.assert_close(expected("k3"), back)
    assert not torch.allclose(towards, back, atol=1e-2)


@pytest.mark.parametrize(
    ("estimator", "placement"), [("k1", "reward"), ("k2", "loss"), ("k3", "loss"), ("k3", "reward")]
)
def test_estimators_that_constrain_are_taken(estimator, placement):
    check_placement(estimator, placement)


def test_k1_as_a_term_of_the_loss_is_refused_with_what_works():
    with pytest.raises(UserError, match="gradient is zero") as caught:
        check_placement("k1", "loss")
    assert "k2" in caught.value.hint


def test_what_is_to_come_is_the_sum_from_each_token_less_its_mean_at_that_place():
    charges = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 99.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    # From each token on: 6, 5, 3 and 9, 5; at each place the mean is 7.5, 5 and 3.
    assert kl.kl_to_come(charges, mask).tolist() == [[-1.5, 0.0, 0.0], [1.5, 0.0, 0.0]]
