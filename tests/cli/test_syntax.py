"""A command line that cannot be read: where, and how it would be written."""

import shlex
import sys
from importlib.metadata import version

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from pama_exp.cli import syntax
from pama_exp.cli.command_line import check_package
from pama_exp.errors import UserError

WRONG = [
    ("solver=[a", "character 8", "Write 'solver=[a]'."),
    ("objectives=[helpful,concise", "character 12", "Write 'objectives=[helpful,concise]'."),
    ("solver={a:[1,2}", "not closed", "Write"),
    ("training.steps=3,", "at its end", "Write training.steps=3."),
    ("solver=linear}", "character 14", "Write solver=linear."),
    ("a=[1,2]]", "character 8", "Write 'a=[1,2]'."),
    ("a=b=c", "character 4", "Write \"a='b=c'\"."),
    ("x=it's", "character 5", "Write \"x='it\\'s'\"."),
    ("x='abc", "character 3", "Write \"x='abc'\"."),
    ("a=$(x)", "character 4", "Write 'a='\"'\"'$(x)'\"'\"''."),
    ("a=100%;", "character 7", "Write \"a='100%;'\"."),
    ("seed", "it has no =", "Write seed=VALUE."),
    ("a.b.=3", "character 4", "Overrides read key=value"),
    ("a=" + "[" * 500, "not closed", "Write"),
    ("a=\ud800", "character 3", "Overrides"),
]


@pytest.mark.parametrize(("override", "where", "cure"), WRONG, ids=[ascii(wrong[0][:30]) for wrong in WRONG])
def test_an_override_that_cannot_be_read_is_quoted_with_its_cure(override, where, cure):
    with pytest.raises(UserError) as caught:
        syntax.parse(["seed=1", override])
    said = caught.value
    assert where in said.message
    assert cure in said.hint
    for word in ("ANTLR", "Exception", "EOF", "NoViable", "mismatched", "ID,"):
        assert word not in str(said)
    assert max(map(len, str(said).splitlines())) <= 300
    assert len(str(said).splitlines()) == 2
    if said.hint.startswith("Write") and "…" not in said.hint:
        [word] = shlex.split(said.hint.removeprefix("Write ").removesuffix("."))
        OverridesParser.create().parse_override(word)


@pytest.mark.parametrize(
    "words",
    [
        ["solver=linear", "--multirun", "seed=3"],
        ["seed=1", "--cfg", "job", "seed=3"],
        ["seed=1", "--config-dir=here", "seed=2"],
    ],
)
def test_flags_between_overrides_are_told_to_come_first(words, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run.py", *words])
    with pytest.raises(UserError, match=r"^Flags come first: --") as caught:
        syntax.arguments()
    assert "\n" not in caught.value.message
    assert words[1] in caught.value.message


FLAGS = [
    (["--config-dir", "a", "--config-dir=b", "seed=1"], "--config-dir is given 2 times"),
    (["--cfg", "job", "-c", "all"], "--cfg is given 2 times"),
    (["--run", "--multirun", "seed=1"], "--run and --multirun"),
    (["--cfg", "job", "--info"], "--cfg and --info"),
    (["--package", "seed=1"], "--package belongs to --cfg"),
    (["--resolve", "seed=1"], "--resolve belongs to --cfg"),
    (["--shell-completion", "seed=1"], "pama-exp completion"),
    (["--experimental-rerun", "config.pickle"], "would load a pickle"),
]


@pytest.mark.parametrize(("words", "said"), FLAGS, ids=[" ".join(each[0]) for each in FLAGS])
def test_flags_that_mean_nothing_together_or_are_hydras_alone_are_refused(words, said, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run.py", *words])
    with pytest.raises(UserError, match=said):
        syntax.arguments()


@pytest.mark.parametrize("words", [["--cfg", "job", "--package", "solver", "--resolve"], ["--multirun", "seed=1,2"]])
def test_flags_that_belong_together_are_read(words, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run.py", *words])
    assert syntax.arguments().config_dir is None


def test_a_part_of_the_configuration_that_is_none_is_named():
    with pytest.raises(UserError, match="--package=solvr") as caught:
        check_package("solvr", ["seed=1"], None)
    assert "Did you mean 'solver'?" in caught.value.hint
    check_package("training.kl", ["seed=1"], None)


def test_an_unknown_flag_is_refused_in_two_lines(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run.py", "--multirn"])
    with pytest.raises(UserError, match="--multirn"):
        syntax.arguments()


def test_the_version_is_the_packages_own(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py", "--version"])
    with pytest.raises(SystemExit) as left:
        syntax.arguments()
    assert left.value.code == 0
    assert capsys.readouterr().out.strip() == f"pama-exp {version('pama-exp')}"
