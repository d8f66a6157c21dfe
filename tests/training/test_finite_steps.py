"""A step that meets with a number that is none ends the run: it is named, and nothing of the step is kept."""

import pytest
import torch
from torch.utils.data import DataLoader

from commands import FAST, composed
from pama_exp.assembly.module import build_alignment
from pama_exp.assembly.setup import resolve
from pama_exp.cli import execute
from pama_exp.config import schema
from pama_exp.errors import UserError
from pama_exp.policy.loading import load_model
from pama_exp.tracking import checkpoints
from pama_exp.training.callbacks import Checkpoints
from pama_exp.training.fitting import make_trainer

NAN, INF = float("nan"), float("inf")


@pytest.fixture(autouse=True)
def quiet():
    execute.quieten()  # as the command does: Lightning warns of what no user can act on


def built(cache, *overrides):
    config = schema.typed(composed(*FAST, "reward=gold", f"cache_dir={cache}", "output=unused", *overrides))
    setup = resolve(config)
    return config, build_alignment(setup, setup.task.start_policy())


def fill(parameters, value):
    with torch.no_grad():
        for parameter in parameters:
            parameter.fill_(value)


def returning(owner, name, change):
    """Have the owner's method return what `change` makes of it."""
    method = getattr(owner, name)
    setattr(owner, name, lambda *args, **kwargs: change(method(*args, **kwargs)))


def times(factor):
    return lambda values: tuple(v * factor for v in values) if isinstance(values, tuple) else values * factor


def break_scores(module, value):
    returning(module.objectives[1].scorer, "score", lambda scores: torch.full_like(scores, value))


def break_gradient(module, value):
    module.policy.actor_parameters()[0].register_hook(lambda gradient: torch.full_like(gradient, value))


BREAK = {
    "weights": (lambda m: fill(m.policy.model.parameters(), NAN), "the model that generates is nan"),
    "weights too large": (lambda m: fill(m.policy.model.parameters(), 1e30), "the model that generates is nan"),
    "value heads": (lambda m: fill(m.policy.value_heads.parameters(), INF), "A value of 'helpful' is"),
    "reference": (lambda m: fill(m._frozen[0].parameters(), NAN), "the reference is nan"),
    "reward NaN": (lambda m: break_scores(m, NAN), "'concise' returned nan"),
    "reward 1e38": (lambda m: break_scores(m, 1e38), "'concise' returned 1e[+]38"),
    "reward -1e20": (lambda m: break_scores(m, -1e20), "'concise' returned -1e[+]20"),
    "normalised": (lambda m: returning(m.objectives[1].normaliser, "update_and_apply", times(INF)), "reward of 'concise'"),
    "channels": (lambda m: returning(m.solver, "on_rewards", times(NAN)), "A reward of the solver is nan"),
    "advantages": (lambda m: returning(m.estimator, "estimate", times(NAN)), "advantage of 'helpful' is nan"),
    "combination": (lambda m: returning(m.solver, "on_advantages", times(NAN)), "advantage of the solver is nan"),
    "gradient NaN": (lambda m: break_gradient(m, NAN), "norm of the policy's gradient is nan"),
    "gradient 1e38": (lambda m: break_gradient(m, 1e38), "norm of the policy's gradient is inf"),
}  # fmt: skip


@pytest.mark.parametrize("what", BREAK)
def test_what_is_not_finite_is_named_and_the_steps_before_it_are_kept(what, tmp_path, shared_cache):
    change, said = BREAK[what]
    config, module = built(shared_cache, "training.steps=3", "training.diagnostics_every=0")
    collect = module._collect

    def breaking():
        if module.step == 1:
            change(module)
        return collect()

    module._collect = breaking
    trainer = make_trainer(config.trainer, [Checkpoints(tmp_path, 1, 3)], [])
    with pytest.raises(UserError, match=f"^Step 2: .*{said}"):
        trainer.fit(module, DataLoader(range(3), batch_size=None))
    newest, _ = checkpoints.newest(tmp_path)
    path, step = newest.path, newest.step
    assert step == 1
    state = torch.load(path, weights_only=False)["state_dict"]
    assert all(values.isfinite().all() for values in state.values())


@pytest.mark.parametrize("epochs", [1, 2])
def test_an_update_too_large_is_found_in_its_own_step(epochs, tmp_path, shared_cache):
    config, module = built(shared_cache, "training.learning_rate=1e6", f"training.epochs={epochs}")
    trainer = make_trainer(config.trainer, [Checkpoints(tmp_path, 1, 3)], [])
    with pytest.raises(UserError, match=r"(?s)^Step 1: .*training\.learning_rate=1e\+06"):
        trainer.fit(module, DataLoader(range(3), batch_size=None))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("on_losses", NAN, "solver's weight of 'helpful'"), ("gramian", INF, "Gramian's row of")],
)
def test_a_solver_that_weighs_losses_is_held_to_numbers(name, value, said, shared_cache, monkeypatch):
    _, module = built(shared_cache, "solver=mgda")
    if name == "gramian":
        monkeypatch.setattr("pama_exp.training.update.parameter_gramian", lambda *args: torch.full((2, 2), value))
    else:
        returning(module.solver, name, times(value))
    from pama_exp.training.cost import Cost

    with pytest.raises(UserError, match=said):
        module.loss.backward(module._collect(), 0.0, Cost(), lambda loss: loss.backward())


def test_a_checkpoint_is_never_of_a_state_that_is_not_finite(shared_cache):
    for change, said in (
        (lambda m: fill(m.policy.value_heads.parameters(), NAN), "weights is nan"),
        (lambda m: setattr(m.kl, "coefficient", INF), "state of the kl"),
    ):
        _, module = built(shared_cache, "training.kl.target=0.5")
        change(module)
        with pytest.raises(UserError, match=said):
            module.on_save_checkpoint({"state_dict": {}})


def test_a_policy_without_a_trained_parameter_is_refused(shared_cache, monkeypatch):
    frozen = lambda *args: load_model(*args).requires_grad_(False)  # noqa: E731
    monkeypatch.setattr("pama_exp.supervised.start_model.load_model", frozen)
    with pytest.raises(UserError, match="no trained parameter"):
        built(shared_cache)


def test_a_policy_none_of_whose_parameters_gets_a_gradient_is_refused(tmp_path, shared_cache):
    config, module = built(shared_cache)
    for parameter in module.policy.model.parameters():
        parameter.requires_grad_(False)
    module.policy.model.unused = torch.nn.Parameter(torch.ones(2))
    trainer = make_trainer(config.trainer, [Checkpoints(tmp_path, 1, 3)], [])
    with pytest.raises(UserError, match="no trained parameter a gradient"):
        trainer.fit(module, DataLoader(range(3), batch_size=None))
