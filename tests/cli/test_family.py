"""`pama-exp COMMAND`: one family with help, quick to answer, in the project's own words."""

import re
import shlex
import subprocess
import sys

import pytest

from commands import ROOT, composed, environment, run_command
from pama_exp.cli import completion, execute, family, help_text, solver_help
from pama_exp.config.schema import CONF, typed
from records import write_run


def run_family(monkeypatch, capsys, *words):
    """Exit status, output and errors of `pama-exp WORDS`, in this process."""
    monkeypatch.setattr(sys, "argv", ["pama-exp", *map(str, words)])
    try:
        family.main()
        status = 0
    except SystemExit as end:
        status = end.code
    said = capsys.readouterr()
    return status, said.out, said.err


def test_help_is_given_without_importing_what_runs_need(tmp_path):
    heavy = "{'hydra', 'omegaconf', 'torch', 'numpy', 'wandb', 'rich'}"
    code = (
        "import sys, atexit; sys.argv = ['pama-exp', '--help']\n"
        f"atexit.register(lambda: print('HEAVY', sorted({heavy} & set(sys.modules))))\n"
        "from pama_exp.cli.family import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("Align a language model")
    assert done.stdout.endswith("HEAVY []\n")


def test_help_lists_every_group_and_command_and_nothing_of_hydras(tmp_path):
    said = run_command("--help", cwd=tmp_path).stdout
    for group in ("solver", "stage", "+sweep", "rollout"):
        assert re.search(rf"^{re.escape(group)}( \(.*\))?: ", said, re.M), group
    for path in (CONF / "solver").glob("*.yaml"):
        assert re.search(rf"\b{re.escape(path.stem)}\b", said), path.stem
    assert not re.search(r"^(wandb|hydra)", said, re.M)  # sweeps/wandb is no group
    for name, command in family.COMMANDS.items():
        assert f"python run.py {name} " in said
        assert command.help.split()[0] in said


def test_help_lists_options_of_ones_own(tmp_path):
    (tmp_path / "solver").mkdir()
    (tmp_path / "solver" / "mine.yaml").write_text("# Mine.\n_target_: mine.Mine\n")
    for words in (["--help", "--config-dir", str(tmp_path)], ["--help", f"--config-dir={tmp_path}"]):
        assert re.search(r"\bmine\b", run_command(*words, cwd=tmp_path).stdout)


@pytest.mark.parametrize("width", [60, 110, 200])
def test_help_keeps_to_the_width_of_the_terminal_where_words_allow(width):
    text = help_text.text("pama-exp", [], width)
    longest = max(len(line) for line in text.splitlines() if "objectives=" not in line)
    assert longest <= max(width, 75)


@pytest.mark.parametrize("name", list(family.COMMANDS))
def test_every_command_has_help(name, monkeypatch, capsys):
    status, said, _ = run_family(monkeypatch, capsys, name, "--help")
    assert status == 0
    assert said.startswith(f"usage: pama-exp {name} ")


def test_a_misspelt_command_is_told_the_nearest(monkeypatch, capsys):
    status, _, said = run_family(monkeypatch, capsys, "reprot")
    assert status == 2
    assert said.splitlines() == [
        "Unknown command 'reprot'.",
        "Did you mean 'report'? pama-exp --help lists all.",
    ]


@pytest.mark.parametrize(
    ("command", "group"), [("solvers", "solver"), ("models", "model"), ("objectives", "objectives")]
)
def test_what_there_is_is_listed_with_a_line_each(command, group, monkeypatch, capsys):
    status, said, _ = run_family(monkeypatch, capsys, command)
    assert status == 0
    for path in (CONF / group).glob("*.yaml"):
        (row,) = (line for line in said.splitlines() if re.match(rf"│ {re.escape(path.stem)} ", line))
        assert path.read_text().splitlines()[0].removeprefix("# ") in row


def test_one_solver_is_explained_and_a_misspelt_one_refused(monkeypatch, capsys):
    _, said, _ = run_family(monkeypatch, capsys, "solvers", "pcgrad")
    assert said == solver_help.entry(CONF / "solver" / "pcgrad.yaml").text + "\n"
    status, _, said = run_family(monkeypatch, capsys, "solvers", "pcgrd")
    assert status == 2
    assert "Did you mean 'pcgrad'" in said


def test_one_model_is_shown_as_its_yaml(monkeypatch, capsys):
    assert run_family(monkeypatch, capsys, "models", "tiny")[1] == (CONF / "model" / "tiny.yaml").read_text()


def test_runs_are_listed_shown_and_told_apart(tmp_path, monkeypatch, capsys):
    first, second = tmp_path / "runs" / "a", tmp_path / "runs" / "b"
    write_run(first, "solver=pama", after={"helpful": 0.7, "concise": 0.6})
    write_run(second, "solver=linear", after={"helpful": 0.3, "concise": 0.9})
    monkeypatch.setenv("COLUMNS", "160")
    assert "2 runs" in run_family(monkeypatch, capsys, "runs", tmp_path / "runs")[1]
    assert "complete" in run_family(monkeypatch, capsys, "show", first)[1]
    assert "solver._target_" in run_family(monkeypatch, capsys, "diff", first, second)[1]
    status, _, said = run_family(monkeypatch, capsys, "show", tmp_path / "runs")
    assert (status, "holds 2 runs" in said) == (2, True)


def test_compare_is_the_stage_in_other_words(tmp_path, monkeypatch):
    """Folders with blanks and quotation marks arrive as they are."""
    odd = "runs of 'mine', [1]"
    asked = []
    monkeypatch.setattr(execute, "run", lambda config, given: asked.append(config) or {})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pama-exp", "compare", odd, "more", "--baseline", "pama", "--output", "out put"])
    with pytest.raises(SystemExit) as end:
        family.main()
    assert end.value.code == 0
    (config,) = asked
    assert config.stage["name"] == "compare"
    assert config.compare.runs == [odd, "more"]
    assert config.compare.baseline == "pama"
    assert config.output == "out put"


def test_without_arguments_it_says_what_it_does_and_does_it(tmp_path, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(execute, "run", lambda config, given: ran.append(config) or {})
    monkeypatch.chdir(tmp_path)
    _, said, _ = run_family(monkeypatch, capsys)
    assert [config.stage["name"] for config in ran] == ["align"]
    for word in ("tiny", "helpful and concise", "solver=pama", "60 steps", str(ran[0].output), "pama-exp --help"):
        assert word in said
    _, said, _ = run_family(monkeypatch, capsys, "seed=1")
    assert (len(ran), said) == (2, "")


REFUSED = [
    ("compare a --baseline pama --baseline linear", "--baseline is given twice: pama and linear"),
    ("report a --output b --output=b", "--output is given twice: b and b"),
    ("export --to trl --to verl run folder", "--to is given twice: trl and verl"),
    ("export --to nothing run folder", "'trl', 'verl'"),
    ("export run folder", "required: --to"),
    ("export --to trl run ''", "names no folder"),
    ("import folder ''", "names no folder"),
    ("report a --output ''", "names no folder"),
    ("dashboard a --output ' '", "names no folder"),
    ("dashboard --nothing", "unrecognized arguments: --nothing"),
    ("runs ''", "names no folder"),
    ("runs a b", "unrecognized arguments: b"),
    ("show", "required: RUN"),
    ("sync --nothing", "unrecognized"),
    ("settings a b", "unrecognized"),
    ("completion fish", "'bash', 'zsh'"),
    ("completion bash --config-dir /nowhere/at/all", "--config-dir=/nowhere/at/all is no folder"),
    ("solvers pama --config-dir /nowhere/at/all", "--config-dir=/nowhere/at/all is no folder"),
    ("--help --config-dir /nowhere/at/all", "--config-dir=/nowhere/at/all is no folder"),
    ("--help solver=pama solver=linear", "solver is given twice: solver=pama and solver=linear"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=[each[0] for each in REFUSED])
def test_what_a_command_does_not_take_is_told_in_two_lines_on_a_narrow_terminal(words, said, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    status, out, err = run_family(monkeypatch, capsys, *shlex.split(words))
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 2, err
    assert said in err


MALFORMED = {
    "torn": (b"a: [", "line 1"),
    "twice": (b"_target_: a.b\nx: 1\n_target_: a.c\n", "line 3: '_target_' is there twice"),
    "listed": (b"- a\n", "holds ['a']"),
    "number": (b"3\n", "holds 3"),
    "binary": (b"\xff\xfe\x00", "it is no text"),
    "deep": (b"[" * 20000, "cannot be read"),
}


READERS = [  # the list of solvers reads no more of a file than its first line
    *(("run", group) for group in ("solver", "model", "objectives")),
    *(("show one", group) for group in ("solver", "model", "objectives")),
    ("list", "model"),
    ("list", "objectives"),
    ("help", "solver"),
]


@pytest.mark.parametrize(("command", "group"), READERS)
@pytest.mark.parametrize(("content", "said"), MALFORMED.values(), ids=MALFORMED)
def test_an_option_file_that_is_malformed_is_named_by_every_command(
    content, said, group, command, tmp_path, monkeypatch, capsys
):
    path = tmp_path / group / "mine.yaml"
    path.parent.mkdir()
    path.write_bytes(content)
    own, listing = ("--config-dir", tmp_path), group if group == "objectives" else f"{group}s"
    words = {
        "run": (*own, f"{group}=mine", "output=nowhere"),
        "help": ("--help", *own, f"{group}=mine"),
        "show one": (listing, "mine", *own),
        "list": (listing, *own),
    }[command]
    status, _, err = run_family(monkeypatch, capsys, *words)
    assert status == 2, err
    assert len(err.splitlines()) == 2, err
    assert str(path) in err
    assert said in err


COMPLETED = [
    ("solver=pam", ["pama"]),  # bash has taken solver= for a word of its own
    ("solver=smoo", ["smooth-tchebycheff"]),
    ("+sweep=bas", ["baselines"]),
    ("compl", ["completion"]),
    ("training.kl.pl", ["training.kl.placement="]),
    ("--multi", ["--multirun"]),
]


@pytest.mark.parametrize(("typed_so_far", "offered"), COMPLETED, ids=[typed for typed, _ in COMPLETED])
def test_bash_completes_commands_options_and_keys(typed_so_far, offered, tmp_path, capsys):
    completion.main(["bash"], "pama-exp completion")
    script = tmp_path / "completion.sh"
    script.write_text(capsys.readouterr().out)
    code = f'source {script}; COMP_LINE="pama-exp {typed_so_far}"; COMP_POINT=${{#COMP_LINE}}; _pama_exp; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == (offered, "")


def test_every_key_that_is_completed_is_a_key():
    config = typed(composed("output=nowhere"))
    for key in (word.removesuffix("=") for word in completion.words([]) if word.endswith("=")):
        node = config
        for part in key.split("."):
            node = getattr(node, part)


def test_the_entry_point_is_the_family():
    assert 'pama-exp = "pama_exp.cli.family:main"' in (ROOT / "pyproject.toml").read_text()
