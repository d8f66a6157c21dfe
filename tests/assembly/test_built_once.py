"""A stage's setup builds the solver and the advantage estimator once, which checks their settings."""

import pytest

from commands import FAST, composed
from pama_exp.assembly.setup import resolve
from pama_exp.config import schema
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


@pytest.mark.parametrize(
    "stage", ["align", "evaluate", "sft", "dpo", "soup", "mod", "judge", "compare", "reward_model", "check_reward"]
)
def test_a_stage_builds_each_once(stage, built, tmp_path):
    setup = setup_of(tmp_path, f"stage={stage}")
    assert isinstance(setup.solver, PAMA)
    assert isinstance(setup.estimator, GAE)
    assert sorted(built) == ["GAE", "PAMA"]
