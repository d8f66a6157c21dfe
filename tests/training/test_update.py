"""The update: micro-batches change nothing, the Gramian is that of the objectives' gradients, empty signal is harmless."""

import pytest
import torch

from commands import FAST, composed
from pama_exp.assembly.module import build_alignment
from pama_exp.assembly.setup import resolve
from pama_exp.config import schema
from pama_exp.policy.policy import reference_log_probs
from pama_exp.training.cost import Cost
from pama_exp.training.gramian import MicroBatches, trainable


@pytest.fixture
def build(shared_cache):
    def make(*overrides):
        config = schema.typed(composed(*FAST, "reward=gold", f"cache_dir={shared_cache}", "output=unused", *overrides))
        setup = resolve(config)
        return build_alignment(setup, setup.task.start_policy())

    return make


def gradient_of(module, experience):
    module.policy.zero_grad()
    module.loss.backward(experience, module.kl.coefficient, Cost(), lambda loss: loss.backward())
    return torch.cat([p.grad.flatten() for p in trainable(module.policy) if p.grad is not None])


@pytest.mark.parametrize("solver", ["pama", "linear", "mgda", "mgda-ub"])
def test_micro_batches_give_the_gradient_of_the_whole(build, solver):
    gradients = []
    for budget in (100_000, 300):
        module = build(f"solver={solver}", f"training.micro_batch_tokens={budget}")
        gradients.append(gradient_of(module, module._collect()))
    assert gradients[0].norm() > 0
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-6)


def rows_by_hand(losses, inputs):
    gradients = [torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True) for loss in losses]
    return torch.stack([torch.cat([g.flatten() for g in row if g is not None]) for row in gradients])


@pytest.mark.parametrize("budget", [100_000, 300])
def test_the_gramian_is_that_of_each_objectives_own_gradient(build, budget):
    module = build("solver=mgda", f"training.micro_batch_tokens={budget}", "objectives=[helpful,concise,polite]")
    experience = module._collect()
    terms = module.loss._terms_of(experience, 0.0, Cost())
    found = module.loss.gramian(terms, 3, 0, Cost(), 0)("parameters")
    whole = module.loss._terms(experience, experience.rollout.response_mask.sum(), 0.0, experience.combined)
    rows = rows_by_hand(whole.surrogates, trainable(module.policy.model))
    torch.testing.assert_close(found, rows @ rows.T, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_first_ratio_is_one(build, temperature):
    module = build(f"rollout.sampling.temperature={temperature}")
    experience = module._collect()
    output = module.policy.score_rollout(experience.rollout, module.update.temperature)
    ratio = (output.log_probs - experience.old_log_probs).exp()
    assert (ratio - 1).abs().max() < 1e-4


def test_the_reference_is_the_policy_before_training(build):
    module = build()
    experience = module._collect()
    assert module.metrics["kl/response"] == pytest.approx(0.0, abs=1e-4)
    rollout = experience.rollout
    torch.testing.assert_close(
        reference_log_probs(module._frozen[0], rollout), experience.old_log_probs, atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("solver", ["pama", "linear", "mgda", "mgda-ub"])
def test_a_batch_without_any_advantage_moves_nothing(build, solver):
    from dataclasses import replace

    module = build(f"solver={solver}", "advantage=group")
    experience = module._collect()
    silent = replace(
        experience,
        advantages=experience.advantages * 0,
        combined=experience.combined * 0,
        rewards=experience.rewards * 0,
    )
    assert gradient_of(module, silent).abs().max() == 0
    assert all(value == value for value in module.loss.diagnose(silent).values())


def test_pama_with_one_objective_is_noon_ppo_and_without_noon_ppo(build):
    noon = build("objectives=helpful", "solver.noon=true")._collect()
    plain = build("objectives=helpful", "solver.noon=false")._collect()
    torch.testing.assert_close(noon.combined, noon.advantages.clamp(min=0))
    torch.testing.assert_close(plain.combined, plain.advantages)


def test_responses_of_zero_text_and_without_an_end_are_scored(build):
    module = build("rollout.sampling.max_new_tokens=1")
    experience = module._collect()
    assert experience.rollout.response_mask.sum(-1).eq(1).all()
    assert torch.isfinite(gradient_of(module, experience)).all()


def test_a_single_micro_batch_is_computed_once():
    calls = []
    batches = MicroBatches([torch.arange(2)], lambda part: calls.append(part) or "terms")
    assert [*batches(), *batches()] == ["terms", "terms"]
    assert len(calls) == 1
