"""A whole step, several epochs of several micro-batches, against the loop that follows the equations."""

from __future__ import annotations

import copy
import math
import warnings
from types import SimpleNamespace

import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader

import step_by_hand as by_hand
import tiny
from pama_exp.cli import execute
from pama_exp.policy.policy import Policy, freeze
from pama_exp.rewards.normalise import Running
from pama_exp.rewards.objective import Objective
from pama_exp.rl.estimators import GAE
from pama_exp.rl.kl import AdaptiveKL
from pama_exp.rollout.engine import Sampling
from pama_exp.solvers.pama import PAMA
from pama_exp.solvers.scalarizers import Linear
from pama_exp.solvers.solver import Solver
from pama_exp.training.alignment import Alignment
from pama_exp.training.optimizer import OptimizerSettings
from pama_exp.training.update import UpdateSettings
from rounding import rounding
from step_by_hand import Settings

TEXTS = ("a b c", "d", "e f g h i", "b a", "c c d", "p o", "n m l k", "a")
RESPONSES = ("a b <eos>", "<eos>", "c d e f", "g <eos>", "h h a", "i <eos>", "b o n e", "k l <eos>")
# Raw scores, the second of something to be kept small.
SCORES = ([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0], [0.2, 0.7, 0.1, 0.8, 0.4, 0.1, 0.9, 0.3])
EPOCHS, MINI_BATCH, HORIZON = 2, 4, 20
KL_SHARE = 0.9  # of the target that adaptive KL observes: within its clip


class Weighed(Solver):
    """Weighs the losses rather than the advantages."""

    def on_losses(self, losses, gramian):
        return self.weights


RULES = {"linear": Linear, "pama": PAMA, "losses": Weighed}
CASES = {
    "KL in the reward": Settings(),
    "KL k3 in the loss, losses weighed": Settings(kl_in_loss=True, kl_estimator="k3", rule="losses"),
    "KL charged once, PAMA at unit deviation": Settings(kl_combined=True, scale_combined=True, rule="pama"),
    "KL charged once, losses weighed": Settings(kl_combined=True, rule="losses"),
    "losses weighed to unit deviation": Settings(scale_combined=True, rule="losses"),
    "KL k2 in the loss, PAMA": Settings(kl_in_loss=True, kl_estimator="k2", rule="pama"),
}


class Watched(Alignment):
    """Keeps what a step passes through: experience, and parameters and gradients ahead of every optimiser update."""

    def _learn(self, experience):
        self.experience, self.updates = experience, []
        super()._learn(experience)

    def on_before_optimizer_step(self, optimizer):
        self.updates.append((self.now(), {name: p.grad.clone() for name, p in self.trained() if p.grad is not None}))

    def trained(self):
        pairs = [("model", self.policy.model), ("heads", self.policy.value_heads)]
        return [(f"{label}.{name}", p) for label, module in pairs for name, p in module.named_parameters()]

    def now(self):
        return {name: p.detach().clone() for name, p in self.trained()}


class Answers:
    """An engine, and a stream of prompts, that know one rollout."""

    def __init__(self, rollout):
        self.rollout = rollout

    def batch(self, step):
        return self.rollout.prompts

    def generate(self, prompts, sampling, seed):
        return self.rollout


class Given:
    """A scorer that has its scores already."""

    def __init__(self, scores):
        self.scores = scores

    def score(self, prompts, responses):
        return torch.tensor(self.scores)


def disturbed(model, size, seed):
    made, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return made


def make(settings, target):
    reference = tiny.language_model("gpt2")
    policy = Policy(disturbed(reference, 0.05, seed=1), num_values=2)
    torch.nn.init.normal_(policy.value_heads.weight, std=0.2, generator=torch.Generator().manual_seed(2))
    solver = RULES[settings.rule](settings.weights)
    solver.seen = []
    solver.observe = solver.seen.append
    answers = Answers(tiny.rollout(RESPONSES, tiny.prompts(TEXTS)))
    sampling = Sampling(8, temperature=settings.temperature)
    return Watched(
        policy=policy,
        reference=freeze(reference),
        objectives=[
            Objective("first", Given(SCORES[0]), normaliser=Running()),
            Objective("second", Given(SCORES[1]), direction="minimize"),
        ],
        solver=solver,
        estimator=GAE(settings.gamma, settings.lam, "center_and_scale"),
        engine=answers,
        sampling=sampling,
        prompts=answers,
        kl=AdaptiveKL(settings.kl_coefficient, target=target, horizon=HORIZON),
        update=UpdateSettings(
            epochs=EPOCHS,
            mini_batch_size=MINI_BATCH,
            micro_batch_tokens=20,  # two responses of 4 tokens to prompts of 5
            clip=settings.clip,
            value_clip=settings.value_clip,
            value_coefficient=settings.value_coefficient,
            entropy_coefficient=settings.entropy_coefficient,
            max_grad_norm=settings.max_grad_norm,
            target_kl=None,
            kl_in_loss=settings.kl_in_loss,
            kl_combined=settings.kl_combined,
            scale_combined=settings.scale_combined,
            kl_estimator=settings.kl_estimator,
            temperature=sampling.temperature,
        ),
        optimizer=OptimizerSettings(
            settings.learning_rate, settings.value_learning_rate, "constant", 0, settings.weight_decay, steps=1
        ),
        diagnostics_every=0,
        seed=0,
    )


def normalised():
    """[i][b]: the first objective in the deviations of its own scores, the second turned to be maximised."""
    mean = sum(SCORES[0]) / len(SCORES[0])
    deviation = math.sqrt(sum((score - mean) ** 2 for score in SCORES[0]) / len(SCORES[0]))
    return [[(score - mean) / deviation for score in SCORES[0]], [-score for score in SCORES[1]]]


def take(settings):
    """The module after a step, and before it: the loop's view of what is collected, and the rows of each mini-batch."""
    module = make(settings, target=1.0)
    rollout = module.engine.rollout
    responses = [
        (rollout.prompts.input_ids[b][rollout.prompts.mask[b]], rollout.response_ids[b][rollout.response_mask[b]])
        for b in range(len(rollout))
    ]
    model, heads = in_double(module, module.now())
    reference = copy.deepcopy(module._frozen[0]).double()
    with torch.no_grad():
        said, others = (by_hand.read(m, heads, responses, settings.temperature) for m in (model, reference))
    hand = by_hand.collect(said, others, normalised(), settings)
    response_kl = sum(map(sum, hand.kl)) / len(hand.kl)
    module.kl.target = response_kl / KL_SHARE
    batches = [rows.tolist() for rows in module._mini_batches(len(rollout))]
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        execute.quieten()
        trainer.fit(module, DataLoader(range(1), batch_size=None))
    return SimpleNamespace(
        module=module, hand=hand, responses=responses, batches=batches, response_kl=response_kl, settings=settings
    )


def in_double(module, parameters):
    parts = {"model": module.policy.model, "heads": module.policy.value_heads}
    return [by_hand.at(part, parameters, label) for label, part in parts.items()]


def assert_rows(found, expected):
    """(B,T) against [b][t]; zeros where the loop has nothing."""
    for row, wanted in zip(found, expected, strict=True):
        padded = torch.tensor([*wanted, *[0.0] * (len(row) - len(wanted))])
        torch.testing.assert_close(row, padded, atol=tiny.ROUNDING, rtol=0)


def assert_collected(step):
    found, hand, module = step.module.experience, step.hand, step.module
    assert_rows(found.old_log_probs, hand.log_probs)
    assert_rows(found.reference_log_probs, hand.reference)
    torch.testing.assert_close(found.rewards, torch.tensor(normalised()))
    for name in ("advantages", "returns", "combined"):
        for rows, expected in zip(getattr(found, name), getattr(hand, name), strict=True):
            assert_rows(rows, expected)
    (seen,) = module.solver.seen
    assert seen.tolist() == torch.tensor([SCORES[0], [-score for score in SCORES[1]]]).tolist()  # as they are scored


def assert_updates(step):
    """Every gradient at the parameters that it was taken at, and what AdamW makes of it; returns the loop's metrics."""
    module, settings, adam = step.module, step.settings, by_hand.AdamW(step.settings)
    ahead = [*(parameters for parameters, _ in module.updates), module.now()]
    metrics = []
    for rows, (before, found), after in zip(step.batches, module.updates, ahead[1:], strict=True):
        model, heads = in_double(module, before)
        said = by_hand.read(model, heads, step.responses, settings.temperature)
        loss, logs = by_hand.mini_batch_loss(said, rows, step.hand, settings)
        gradients, norms = by_hand.gradients(model, heads, loss, settings)
        metrics.append(logs | {"policy/grad_norm": norms["model"]})
        for name, expected in gradients.items():
            torch.testing.assert_close(found[name].double(), expected, atol=tiny.ROUNDING, rtol=0)
        expected = adam.step(as_double(before), as_double(found))
        for name, parameter in after.items():
            off = rounding(torch.float32, 8, parameter.abs().max().item())  # what is added, multiplied and divided
            torch.testing.assert_close(parameter.double(), expected[name], atol=off, rtol=0)
    return {name: sum(row[name] for row in metrics) / len(metrics) for name in metrics[0]}


def as_double(tensors):
    return {name: tensor.double() for name, tensor in tensors.items()}


@pytest.mark.parametrize("case", CASES)
def test_a_step_is_that_of_the_equations(case):
    step = take(CASES[case])
    module, count = step.module, len(step.responses)
    assert [sorted(a + b) for a, b in (step.batches[:2], step.batches[2:])] == [list(range(count))] * EPOCHS
    assert_collected(step)
    expected = assert_updates(step)
    tokens = sum(len(row) for row in step.hand.kl)
    expected |= {"kl/response": step.response_kl, "kl/token": step.response_kl * count / tokens}
    for name, value in expected.items():
        assert module.metrics[name] == pytest.approx(value, abs=tiny.ROUNDING, rel=tiny.ROUNDING), name
    moved = step.settings.kl_coefficient * (1 + (KL_SHARE - 1) * count / HORIZON)
    assert module.kl.coefficient == pytest.approx(moved, rel=tiny.ROUNDING)
    # Both clips have cut something off, or the test would not see them.
    assert min(module.metrics[f"policy/clip_fraction/{name}"] for name in module.names) > 0
    model, heads = in_double(module, module.now())
    with torch.no_grad():
        values = by_hand.read(model, heads, step.responses, step.settings.temperature).values[0][0]
    assert (values - torch.tensor(step.hand.values[0][0])).abs().max() > step.settings.value_clip
