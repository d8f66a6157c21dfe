"""A stage's setup builds the solver and the advantage estimator once, and neither for a stage that uses neither."""

import pytest

from commands import FAST, composed
from pama_exp.assembly.setup import resolve
from pama_exp.config import schema
from pama_exp.errors import UserError
from pama_exp.rl.estimators import GAE
from pama_exp.solvers.pama import PAMA


@pytest.fixture
def built(monkeypatch):
    """The names of the classes that were constructed, in order."""
    names = []
    for cls in (PAMA, GAE):

        def counted(self, *arguments, _init=cls.__init__, _name=cls.__name__, **settings):
            names.append(_name)
            _init(self, *arguments, **settings)

        counted.__wrapped__ = cls.__init__
        monkeypatch.setattr(cls, "__init__", counted)
    return names


def setup_of(tmp_path, *overrides):
    return resolve(schema.typed(composed(*FAST, *overrides, f"output={tmp_path / 'run'}", f"cache_dir={tmp_path}")))


@pytest.mark.parametrize("stage", ["align", "evaluate", "sft", "dpo"])
def test_a_stage_that_uses_the_solver_builds_it_once(stage, built, tmp_path):
    setup = setup_of(tmp_path, f"stage={stage}")
    assert isinstance(setup.solver, PAMA)
    assert isinstance(setup.estimator, GAE)
    assert sorted(built) == ["GAE", "PAMA"]


@pytest.mark.parametrize("stage", ["check_reward", "compare", "judge", "mod", "reward_model", "soup"])
def test_a_stage_that_uses_no_solver_builds_none(stage, built, tmp_path):
    setup = setup_of(tmp_path, f"stage={stage}")
    assert built == []
    with pytest.raises(UserError, match=f"stage={stage} uses the solver") as refused:
        _ = setup.solver
    assert "uses_solver" in refused.value.hint


def test_the_flag_is_a_boolean(tmp_path):
    with pytest.raises(UserError, match=r"stage\.uses_solver"):
        setup_of(tmp_path, "+stage.uses_solver=perhaps")
