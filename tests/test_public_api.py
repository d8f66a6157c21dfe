"""What can be imported from `pama_exp` works as the README and the docstrings say, and a run builds each object once."""

import contextlib
import doctest
import importlib
import re

import pytest
import torch

import pama_exp
from commands import FAST, ROOT, composed, run_config
from pama_exp import solvers
from pama_exp.rl.estimators import GAE
from pama_exp.solvers.pama import PAMA
from pama_exp.supervised import start_model


@pytest.mark.parametrize("module", ["pama_exp", "pama_exp.solvers"])
def test_every_public_name_is_there_and_others_are_not(module):
    home = importlib.import_module(module)
    for name in home.__all__:
        assert getattr(home, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        home.nothing  # noqa: B018


@pytest.mark.parametrize("module", [pama_exp, solvers], ids=lambda module: module.__name__)
def test_examples_in_docstrings_run(module):
    outcome = doctest.testmod(module)
    assert outcome.failed == 0
    assert outcome.attempted > 0


def test_the_python_example_of_the_readme_runs(tmp_path, monkeypatch, shared_cache, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PAMA_EXP_CACHE", str(shared_cache))
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(example.strip().splitlines()) <= 10
    exec(example, {})
    assert "helpful 0" in capsys.readouterr().out
    assert (tmp_path / "runs" / "from-python" / "result.json").is_file()


def test_each_object_of_a_run_is_built_once(tmp_path, monkeypatch, shared_cache):
    built = []

    def counted(owner, name, label):
        make = getattr(owner, name)

        def wrapper(*args, **kwargs):
            with contextlib.suppress(RuntimeError):
                built.append(label(*args))
            return make(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapper)

    counted(PAMA, "__init__", lambda *_: "solver")
    counted(GAE, "__init__", lambda *_: "estimator")
    counted(
        start_model,
        "build_model",
        lambda *_: "skeleton" if torch.get_default_device().type == "meta" else "model",
    )
    run_config(composed(*FAST, "reward=gold", f"output={tmp_path / 'run'}", f"cache_dir={shared_cache}"))
    assert [built.count(each) for each in ("solver", "estimator", "skeleton")] == [1, 1, 1]
