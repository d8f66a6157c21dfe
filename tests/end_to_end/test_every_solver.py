"""Every option of `solver=` trains for three steps, resumes bit for bit, and refuses what it is not defined for."""

import functools

import pytest
import torch
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from commands import FAST, composed
from pama_exp.assembly.module import build_alignment
from pama_exp.assembly.setup import resolve
from pama_exp.cli import execute
from pama_exp.config import schema
from pama_exp.config.naming import solver_label
from pama_exp.config.schema import CONF
from pama_exp.errors import UserError
from pama_exp.training.callbacks import Checkpoints, RandomStates
from pama_exp.training.fitting import make_trainer

SOLVERS = sorted(path.stem for path in CONF.glob("solver/*.yaml"))
GROUPED = {
    "ctwa": ["advantage=group"],
} | {
    solver: ["advantage=group", "advantage.baseline=standardise"]
    for solver in ("corr-grpo", "dara", "gd2po", "gdpo", "mo-grpo", "rvpo")
}
QUICK = [*FAST, "reward=gold", "training.diagnostics_every=0", "logger=none", "objectives=[harmless,concise]"]


@pytest.fixture(autouse=True)
def quiet():
    """As a run does: nobody can act on what Lightning says of its own dependencies."""
    execute.quieten()


def configured(solver, *overrides, cache="unused"):
    groups = GROUPED.get(solver, []) if not any(o.startswith("advantage") for o in overrides) else []
    chosen = [*QUICK, f"solver={solver}", *groups, *overrides]
    return schema.typed(composed(*chosen, f"cache_dir={cache}"))


@functools.cache
def start(cache):
    """The SFT policy that all runs of this module start from."""
    return resolve(configured("linear", cache=cache)).task.start_policy()


def trained(module, config, steps, callbacks=(), **options):
    make_trainer(config.trainer, callbacks, []).fit(module, DataLoader(range(steps), batch_size=None), **options)


def parameters(module):
    return torch.cat([p.detach().flatten() for p in module.policy.parameters()])


def test_there_are_at_least_25():
    assert len(SOLVERS) >= 25


@pytest.mark.slow("a run of each solver")
@pytest.mark.parametrize("solver", SOLVERS)
def test_trains_for_three_steps(solver, shared_cache):
    config = configured(solver, cache=shared_cache)
    module = build_alignment(resolve(config), start(shared_cache))
    before = parameters(module)
    module.solver.on_validation(torch.tensor([0.5, 0.5]))
    trained(module, config, 3)
    assert module.step == 3
    weights = torch.tensor([module.metrics[f"solver/weight/{name}"] for name in module.names])
    assert weights.abs().sum().item() == pytest.approx(1, abs=1e-4)
    moved = (parameters(module) - before).abs().max().item()
    assert 0 < moved < 1


@pytest.mark.slow("three runs of each solver")
@pytest.mark.parametrize("solver", ["gradvac", "famo", "ctwa", "gradnorm", "fair-shifted-pama", "soft-noon"])
def test_what_a_solver_remembers_travels_with_the_checkpoint(solver, shared_cache, tmp_path):
    """A fresh module that goes on from the checkpoint of step 2 ends with the same policy and weights as one run."""
    config = configured(solver, "objectives=[harmless,concise,polite]", cache=shared_cache)
    whole, resumed = (build_alignment(resolve(config), start(shared_cache)) for _ in range(2))
    trained(whole, config, 3, [RandomStates(), Checkpoints(tmp_path, every=2, steps=3)])
    trained(resumed, config, 3, [RandomStates()], ckpt_path=tmp_path / "step-00000002.ckpt", weights_only=False)
    assert resumed.step == 3
    assert torch.equal(parameters(whole), parameters(resumed))
    assert torch.equal(whole.solver.latest_weights, resumed.solver.latest_weights)


REFUSED = [
    ("gdpo", ["advantage=gae"], ["gdpo", "gae", "advantage.baseline=standardise"]),
    ("rvpo", ["advantage=group", "advantage.baseline=leave_one_out"], ["rvpo", "leave_one_out", "standardise"]),
    ("gd2po", ["advantage=reinforce-plus-plus"], ["gd2po", "reinforce-plus-plus", "advantage=group"]),
    (
        "proportional-fairness",
        ["objectives.concise.normaliser=running"],
        ["proportional-fairness", "running", "frozen"],
    ),
    ("shifted-pama", ["solver.share=1.5"], ["solver.share=1.5"]),
    ("ctwa", ["advantage=gae"], ["ctwa", "gae", "advantage=group"]),
    ("tchebycheff", ["objectives.concise.normaliser=running"], ["tchebycheff", "concise", "running", "frozen"]),
    ("dynamic-hv", ["training.evaluate_every=0"], ["dynamic-hv", "training.evaluate_every=0"]),
    ("lagrangian", ["solver.targets=[0.1,0.2,0.3]"], ["targets", "2 objectives"]),
    ("cagrad", ["solver.c=-1.5"], ["solver.c=-1.5"]),
    ("fairgrad", ["solver.alphaa=1"], ["alphaa", "alpha"]),
]


@pytest.mark.parametrize(("solver", "overrides", "said"), REFUSED, ids=[f"{r[0]} {' '.join(r[1])}" for r in REFUSED])
def test_a_combination_that_is_not_defined_is_refused_in_two_lines(solver, overrides, said):
    with pytest.raises(UserError) as caught:
        resolve(configured(solver, *overrides))
    assert "\n" not in caught.value.message + caught.value.hint
    for word in said:
        assert word in str(caught.value)


def test_solvers_have_labels_of_their_own():
    labels = [solver_label(OmegaConf.load(CONF / "solver" / f"{solver}.yaml")) for solver in SOLVERS]
    assert len(set(labels)) == len(labels)
