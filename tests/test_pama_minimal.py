"""The method in one file does what the framework's step does, and it learns."""

import warnings
from pathlib import Path

import pytest
import torch
from examples import pama_minimal as minimal
from lightning import Trainer
from torch.utils.data import DataLoader

import tiny
from pama_exp.cli import execute
from pama_exp.policy.policy import Policy, freeze
from pama_exp.rewards.objective import Objective
from pama_exp.rl.estimators import Group
from pama_exp.rl.kl import FixedKL
from pama_exp.rollout.engine import Sampling
from pama_exp.solvers.pama import PAMA
from pama_exp.training.optimizer import OptimizerSettings
from pama_exp.training.update import UpdateSettings
from training.test_whole_step import RESPONSES, TEXTS, Answers, Given, Watched, disturbed

GROUP, CLIP, BETA, TEMPERATURE = 4, 0.1, 0.2, 0.7
# Some answers are better than their group by both objectives, some by one.
SCORES = [[1.0, 0.2, 0.5, 0.1, 0.9, 0.3, 0.7, 0.0], [0.8, 0.1, 0.9, 0.2, 0.6, 0.1, 0.2, 0.4]]


def framework_step(reference, epochs):
    answers = Answers(tiny.rollout(RESPONSES, tiny.prompts(TEXTS)))
    module = Watched(
        policy=Policy(disturbed(reference, 0.05, seed=1), num_values=2),
        reference=freeze(reference),
        objectives=[Objective(name, Given(scores)) for name, scores in zip(("a", "b"), SCORES, strict=True)],
        solver=PAMA([0.5, 0.5]),
        estimator=Group("leave_one_out", GROUP),
        engine=answers,
        sampling=Sampling(8, temperature=TEMPERATURE),
        prompts=answers,
        kl=FixedKL(BETA),
        update=UpdateSettings(
            epochs=epochs, mini_batch_size=8, micro_batch_tokens=1000, clip=CLIP, value_clip=None,
            value_coefficient=0.0, entropy_coefficient=0.0, max_grad_norm=1e9, target_kl=None, kl_in_loss=False,
            kl_estimator="k1", temperature=TEMPERATURE,
        ),
        optimizer=OptimizerSettings(5e-3, 1e-3, "constant", 0, 0.0, steps=1),
        diagnostics_every=0,
        seed=0,
    )  # fmt: skip
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        execute.quieten()
        trainer.fit(module, DataLoader(range(1), batch_size=None))
    return module


def test_its_advantages_losses_and_gradients_are_the_frameworks():
    reference = tiny.language_model("gpt2")
    module = framework_step(reference, epochs=2)
    rollout, found = module.engine.rollout, module.experience
    parts = (rollout.prompts.input_ids, rollout.prompts.mask, rollout.response_ids, rollout.response_mask)
    mask = rollout.response_mask
    model = disturbed(reference, 0.05, seed=1).requires_grad_(True)  # the step froze the reference
    with torch.no_grad():
        old = minimal.log_probs(model, *parts, TEMPERATURE)
        anchor = minimal.log_probs(reference, *parts, TEMPERATURE)
    combined = minimal.combined_advantages(torch.tensor(SCORES), old, anchor, mask, GROUP, BETA)
    assert combined.max() > 0
    torch.testing.assert_close(combined, found.combined[0], atol=1e-6, rtol=0)
    losses = []
    for before, gradients in module.updates:  # the second is taken where ratios are not 1
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(before[f"model.{name}"])
        model.zero_grad()
        loss = minimal.surrogate(minimal.log_probs(model, *parts, TEMPERATURE), old, combined, mask, CLIP)
        loss.backward()
        losses.append(loss.item())
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, gradients[f"model.{name}"], atol=1e-6, rtol=0)
    assert module.metrics["policy/loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-6)


def test_it_learns_both_rewards():
    means = torch.tensor(minimal.main())
    assert (means[-5:].mean(0) > means[:5].mean(0) + 0.1).all()


def test_it_is_short():
    assert len(Path(minimal.__file__).read_text().splitlines()) <= 150
