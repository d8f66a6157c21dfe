"""docs/solvers.md is what the docstrings say, and the command line prints the same."""

import inspect
import signal
import subprocess

import pytest

from commands import ROOT, command, environment, run_command
from pama_exp.cli import solver_help
from pama_exp.cli.app import explain_solver
from pama_exp.config.schema import CONF
from pama_exp.errors import UserError
from pama_exp.solvers.tchebycheff import SmoothTchebycheff


def test_the_page_is_up_to_date():
    """If not: python -m pama_exp.cli.solver_help conf/solver > docs/solvers.md"""
    assert (ROOT / "docs" / "solvers.md").read_text() == solver_help.page(CONF / "solver")


def test_an_entry_has_the_docstrings_fields_and_the_yamls_settings():
    entry = solver_help.entry(CONF / "solver" / "smooth-tchebycheff.yaml")
    assert entry.fields["Cost"] == "one backward pass; one value head."
    assert entry.settings == {"weights": None, "mu": 0.1, "ideal": None}
    assert entry.arguments["mu"] == "μ > 0, in the units of wⁱ (zⁱ − rⁱ)."
    assert entry.summary in " ".join((inspect.getdoc(SmoothTchebycheff) or "").split())
    assert "  - `mu` (0.1): μ > 0" in entry.text


@pytest.mark.parametrize("path", sorted((CONF / "solver").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_setting_of_a_yaml_is_explained(path):
    entry = solver_help.entry(path)
    assert set(entry.settings) == set(entry.arguments)
    assert set(entry.fields) == set(solver_help.FIELDS)


def test_help_with_a_solver_explains_it(tmp_path, capsys):
    done = run_command("--help", "solver=pcgrad", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout == solver_help.entry(CONF / "solver" / "pcgrad.yaml").text + "\n"
    with pytest.raises(UserError, match="Did you mean 'pcgrad'"):
        explain_solver(["solver=pcgrd"])


def test_where_nobody_reads_on_no_traceback_is_left(tmp_path):
    reads = subprocess.Popen(
        command("--help"), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    reads.stdout.close()
    said = reads.communicate()[1]
    assert (said, reads.returncode) == (b"", 128 + signal.SIGPIPE)


def test_one_whose_docstring_says_little_is_explained_as_far_as_it_goes(tmp_path, monkeypatch, capsys):
    (tmp_path / "solver").mkdir()
    (tmp_path / "solver" / "terse.yaml").write_text("# Terse.\n_target_: terse_explained.Terse\nsharpness: 2.0\n")
    (tmp_path / "terse_explained.py").write_text('class Terse:\n    """All of it."""\n')
    monkeypatch.syspath_prepend(tmp_path)
    explain_solver(["solver=terse"], str(tmp_path))
    assert "`sharpness` (2.0)" in capsys.readouterr().out


def test_a_users_own_solver_is_explained_too(tmp_path, capsys, monkeypatch):
    (tmp_path / "solver").mkdir()
    (tmp_path / "solver" / "mine.yaml").write_text("# Mine.\n_target_: mine_explained.Mine\nsharpness: 2.0\n")
    (tmp_path / "mine_explained.py").write_text('class Mine:\n    """All of it.\n\n    Rule: a = b.\n    """\n')
    monkeypatch.syspath_prepend(tmp_path)
    explain_solver(["solver=mine"], str(tmp_path))
    assert "a = b." in capsys.readouterr().out
