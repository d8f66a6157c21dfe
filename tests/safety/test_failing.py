"""What nobody foresaw ends in a line, a full disk in two; nothing in the current folder stands in a package's place."""

import errno
import os
import resource
import stat
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from commands import ROOT, environment
from pama_exp.errors import UserError, located
from pama_exp.safety import failing, import_path
from pama_exp.supervised.artifacts import cached
from pama_exp.tracking.record import RunRecord

STAGE = """
def run(config, record):
    record.log_metrics(1, {"reward/helpful/mean": 0.5})
    raise RuntimeError("made to fail\\nin two lines")

def fill(config, record):
    for step in range(1, 2000):
        record.log_metrics(step, {"reward/helpful/mean": 0.5})
    return {"status": "complete", "objectives": {}}
"""
TOY = ["stage.name=toy", "model=micro", "debug=fast", "reward=gold"]
COMMANDS = {
    "run.py": [sys.executable, str(ROOT / "run.py")],
    "-m pama_exp": [sys.executable, "-m", "pama_exp"],
    "pama-exp": [str(Path(sysconfig.get_path("scripts")) / "pama-exp")],
}


def toy(folder, name="run", command="run.py", limit=None, **extra):
    (folder / "my_stage.py").write_text(STAGE)

    def before():
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    words = [*COMMANDS[command], *TOY, f"stage._target_=my_stage.{name}", "output=out", f"cache_dir={folder / 'cache'}"]
    return subprocess.run(
        words, cwd=folder, env=environment(**extra), capture_output=True, text=True, preexec_fn=before, timeout=200
    )


@pytest.mark.slow("starts processes")
@pytest.mark.parametrize("debug", ["0", "1"])
def test_a_bug_is_one_line_that_names_the_stage_and_where_its_traceback_is(debug, tmp_path):
    done = toy(tmp_path, PAMA_EXP_DEBUG=debug)
    assert done.returncode == 1
    *shown, line = done.stderr.strip().splitlines()
    assert line.startswith("stage=toy failed unexpectedly: RuntimeError: made to fail. The traceback is in ")
    assert str(tmp_path / "out" / "traceback.txt") in line
    assert "in two lines" in (tmp_path / "out" / "traceback.txt").read_text()
    assert ("Traceback (most recent call last):" in shown) == (debug == "1")
    assert bool(shown) == (debug == "1")
    status = RunRecord(tmp_path / "out").read_status()
    assert (status["state"], status["detail"]) == ("failed", "made to fail")


def test_without_a_run_the_traceback_is_kept_for_its_owner_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    try:
        raise ValueError("x" * 1000)
    except ValueError as error:
        line = failing.last_line(error, "The command", thesis)
    assert not list(thesis.iterdir()), "a folder that holds no run is not written to"
    [kept] = tmp_path.glob("pama-exp-*")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert str(kept) in line
    assert "\n" not in line
    assert len(line) <= 300 + len(str(kept))


def test_a_bug_while_composing_is_told_alike(monkeypatch, capsys):
    from pama_exp.cli import app

    monkeypatch.setattr(app, "check_command_line", lambda *_: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["run.py", "solver=linear"])
    with pytest.raises(SystemExit) as left:
        app.main()
    assert left.value.code == 1
    assert capsys.readouterr().err.startswith("The command failed unexpectedly: ZeroDivisionError")


@pytest.mark.slow("starts a process for each size")
@pytest.mark.parametrize("limit", [0, 600, 4096, 30_000])  # nothing at all, in environment.json, …, in metrics.jsonl
def test_a_full_disk_is_two_lines_and_the_run_is_marked_as_failed(limit, tmp_path):
    (tmp_path / "my_stage.py").write_text(STAGE)
    done = toy(tmp_path, "fill", limit=limit)
    assert done.returncode == 2, done.stderr
    first, second = done.stderr.strip().splitlines()
    assert "cannot be written" in first
    assert "File too large" in first or "No space left" in first
    assert "same command" in second or "output=" in second
    assert not (tmp_path / "out" / "result.json").exists()
    if (tmp_path / "out" / "status.json").exists():
        status = RunRecord(tmp_path / "out").read_status()
        assert status["state"] == "failed"
        assert "cannot be written" in status["detail"]


def raised(error, cause=None):
    try:
        raise error from cause
    except Exception as caught:
        return caught


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("error", "is_known"),
    [
        (FULL, True),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "/tmp/some/file"), True),
        (OSError(errno.EIO, os.strerror(errno.EIO)), True),
        (raised(RuntimeError("while saving"), FULL), True),
        (RuntimeError("[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed writing file"), True),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 332416 vs 332308"), True),
        (RuntimeError("basic_ios::clear: iostream error"), True),
        (RuntimeError("unexpected pos 3 vs 4"), False),
        (RuntimeError('I/O error: Os { code: 28, kind: StorageFull, message: "No space left on device" }'), True),
        (OSError(errno.ENOENT, os.strerror(errno.ENOENT)), False),
        (RuntimeError("shapes do not match"), False),
    ],
)
def test_a_full_disk_is_known_wherever_it_stands(error, is_known, tmp_path):
    found = failing.unwritable(error, tmp_path)
    assert isinstance(found, UserError) == is_known
    if found is not None:
        assert "GiB free" in found.message


def test_a_failure_is_noted_over_the_old_status_where_there_is_no_room(tmp_path, monkeypatch):
    record = RunRecord.open(tmp_path / "run")
    record.write_status("running", 3)

    def full(*_):
        raise FULL

    monkeypatch.setattr(RunRecord, "write_status", full)
    record.note_failure("failed", "no room")
    assert (record.read_status()["state"], record.read_status()["detail"]) == ("failed", "no room")
    (tmp_path / "run" / "status.json").unlink()
    record.note_failure("failed", "no room, and no old status either")


@pytest.mark.slow("starts a process for each way")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_here_stands_in_no_packages_place(command, tmp_path):
    for name in ("torch", "yaml", "hydra", "omegaconf", "numpy", "transformers", "rich", "antlr4"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a file of the current folder ran')")
    done = toy(tmp_path, command=command)  # and the user's own stage is found
    assert "RuntimeError: made to fail" in done.stderr, done.stderr
    assert "a file of the current folder ran" not in done.stderr


@pytest.mark.slow("starts processes")
@pytest.mark.parametrize("reader", ["pama_exp.runs", "pama_exp.sync", "pama_exp.report"])
def test_nor_under_commands_that_read_runs(reader, tmp_path):
    (tmp_path / "yaml.py").write_text("raise SystemExit('a file of the current folder ran')")
    words = [sys.executable, "-m", reader, "nowhere"]
    done = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=100)
    assert "a file of the current folder ran" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_module_of_the_user_that_an_installed_one_hides_is_told_with_both(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "yaml.py").write_text("def shout(prompts, completions): ...")
    with pytest.raises(UserError) as caught:
        import_path.import_module("yaml")
    import yaml

    assert str(tmp_path / "yaml.py") in caught.value.message
    assert yaml.__file__ in caught.value.message
    (tmp_path / "only_here.py").write_text("value = 3")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert import_path.import_module("only_here").value == 3


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_that_is_not_utf_8_costs_no_run(encoding, tmp_path):
    code = (
        "from pama_exp.safety.failing import prepare_streams; prepare_streams()\n"
        "from pama_exp.tracking.console import note, print_error, summary, table\n"
        "from pama_exp.errors import UserError\n"
        "note('0.4 → 0.5 名'); print_error(UserError('→', '…')); table('▲', ['–'], [['✓']])\n"
        "m = {'before': {'gold': 0.1}, 'after': {'gold': 0.2}}\n"
        "summary({'objectives': {'名': m}, 'true_hypervolume_share': {'before': 0.1, 'after': 0.2}})"
    )
    extra = {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], env=environment(**extra), capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert (b"\xe2\x86\x92" in done.stdout) == (encoding == "utf-8")


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_cache_folders_are_their_owners_alone(umask, tmp_path):
    before = os.umask(umask)
    try:
        entry = cached(tmp_path / "deep" / "cache", "kind", {"a": 1}, lambda folder: None)
    finally:
        os.umask(before)
    for folder in (entry, entry.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "text",
    ["a" * 500, f"one {'/p' * 60} two {'/q' * 80} three {'/r' * 100}", "word " * 400, f"{'/long' * 50} ends so."],
)
def test_no_line_of_an_error_is_longer_than_300_characters(text):
    with pytest.raises(UserError) as caught, located("model.path"):
        raise UserError(text, text)
    assert len(caught.value.message) <= 300
    assert len(caught.value.hint) <= 300
    assert caught.value.message.startswith(f"model.path: {text[:40]}")


def test_a_short_line_stays_as_it_is():
    assert str(UserError("/a/b is no file.", "Give one.")) == "/a/b is no file.\nGive one."
