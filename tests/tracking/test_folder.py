"""A run writes to a folder of its own, and deletes nothing but its own files, wherever it is killed."""

import os
from contextlib import suppress
from pathlib import Path

import pytest

from pama_exp.errors import UserError
from pama_exp.tracking import folder as folders
from pama_exp.tracking.folder import (
    CONFIG,
    HEADER,
    RUN_FILES,
    has_checkpoint,
    is_run,
    run_files,
    run_folder,
    set_aside,
    settle,
)

OLD_CONFIG = "stage: {name: align}\nobjectives: {helpful: {}}\nsolver: {}\nseed: 0\n"


def thesis(folder):
    """Somebody's work, with files that a run would have too."""
    files = {"thesis.tex": "ten years", "config.yaml": "a: 1", "front.png": "a drawing", "policy/x": "of the library"}
    for name, text in {**files, ".git/HEAD": "ref: refs/heads/main"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def finished(folder, mark="old"):
    """A run's folder."""
    for name in (
        CONFIG,
        "environment.json",
        "metrics.jsonl",
        "result.json",
        "policy/w",
        "checkpoints/step-00000003.ckpt",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(HEADER + mark if name == CONFIG else mark)
    (folder / ".lock").touch()
    return folder


def contents(folder):
    """Everything below, links as such."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_file():
            found[name] = path.read_bytes()
        else:
            found[name] = "other"
    return found


def with_file(folder, name, text=""):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder


def link(path, target):
    path.symlink_to(target)
    return path


def new_folder(path):
    path.mkdir()
    return path


# What stands behind output=, made in a folder of its own, which is the current one and holds the home folder.
REFUSED = {
    "nothing": lambda here: "",
    "blanks": lambda here: "  ",
    "the current folder": lambda here: ".",
    "the current folder with a slash": lambda here: "./",
    "the current folder, absolute": lambda here: str(here),
    "the one above": lambda here: "..",
    "the root": lambda here: "/",
    "home": lambda here: str(here / "home"),
    "a tilde": lambda here: "~",
    "below a tilde": lambda here: "~/runs/one",
    "somebody's tilde": lambda here: "~nobody/run",
    "a thesis": lambda here: str(thesis(here / "thesis")),
    "a thesis, relative": lambda here: thesis(here / "thesis").name,
    "a thesis, with a slash": lambda here: f"{thesis(here / 'thesis')}/",
    "a thesis, by a detour": lambda here: f"{thesis(here / 'thesis')}/../thesis/.",
    "a link to a thesis": lambda here: str(link(here / "l", thesis(here / "thesis"))),
    "a link to a link": lambda here: str(link(here / "m", link(here / "l", thesis(here / "thesis")))),
    "a link to an empty folder": lambda here: str(link(here / "l", new_folder(here / "e"))),
    "a link to a run": lambda here: str(link(here / "l", finished(here / "run"))),
    "a link to nothing": lambda here: str(link(here / "l", here / "nowhere")),
    "a link to itself": lambda here: str(link(here / "l", here / "l")),
    "a file": lambda here: str(with_file(here / "d", "f") / "f"),
    "a pipe": lambda here: os.mkfifo(here / "p") or "p",
    "a device": lambda here: "/dev/null",
    "a folder of runs": lambda here: str(finished(here / "runs" / "one").parent),
    "a run's own policy": lambda here: str(finished(here / "run") / "policy"),
    "one hidden file": lambda here: str(with_file(here / "d", ".env", "SECRET=1")),
    "Hydra's configuration": lambda here: str(with_file(here / "d", CONFIG, OLD_CONFIG)),
    "a link as configuration": lambda here: str(link(here / "home" / CONFIG, finished(here / "run") / CONFIG).parent),
    "an environment alone": lambda here: str(with_file(here / "d", "environment.json", "{}")),
    "a thesis with a link to a run": lambda here: str(
        link(thesis(here / "t") / ".replaced", finished(here / "r")).parent
    ),
    "a name too long": lambda here: "x" * 5000,
    "a zero byte": lambda here: "a\0b",
    "a line's end": lambda here: str(thesis(here / "two\nlines")),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    folder = tmp_path / "here"
    (folder / "home").mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder / "home"))
    return folder


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_a_folder_that_is_not_a_runs_is_refused_in_two_lines(make, here):
    output = make(here)
    before = contents(here)
    with pytest.raises(UserError) as caught:
        run_folder(output)
    for line in (caught.value.message, caught.value.hint):
        assert "\n" not in line
        assert len(line) < 400
    assert contents(here) == before


ALLOWED = {
    "a new folder": lambda here: "runs/new",
    "an empty folder": lambda here: str(finished(here / "runs" / "one").parent / "new"),
    "a run": lambda here: str(finished(here / "run")),
    "a run, relative with a slash": lambda here: f"{finished(here / 'run').name}/",
    "a run with a stranger's file": lambda here: str(with_file(finished(here / "run"), "notes.txt", "mine")),
    "a run below a linked folder": lambda here: f"{link(here / 'l', finished(here / 'r' / 'run').parent)}/run",
    "a run from before the header": lambda here: str(
        with_file(with_file(here / "run", CONFIG, OLD_CONFIG), "environment.json", '{"command": []}')
    ),
    "one killed before it wrote anything": lambda here: str(
        with_file(with_file(here / "run", ".lock"), ".config.yaml.4711", "half a conf")
    ),
    "one killed while it was set aside": lambda here: str(finished(here / "run" / ".replacing").parent),
    "one killed after it was set aside": lambda here: str(finished(here / "run" / ".replaced").parent),
}


@pytest.mark.parametrize("make", ALLOWED.values(), ids=ALLOWED)
def test_a_new_an_empty_and_a_runs_folder_are_allowed(make, here):
    output = make(here)
    before = contents(here)
    assert run_folder(output) == Path(os.path.abspath(output))
    assert contents(here) == before, "looking makes nothing"


def test_only_a_runs_own_files_are_ever_deleted(tmp_path):
    kept = thesis(tmp_path / "thesis")
    run = finished(tmp_path / "run")
    with_file(run, "notes.txt", "mine")
    with_file(run / "data", "table.csv", "1,2")
    link(run / "wandb", kept)
    link(run / "front.png", kept / "front.png")
    link(run / "policy" / "link", kept)
    link(run / "elsewhere", kept)
    (run / "csv").mkdir()
    link(run / "csv" / "link", kept / ".git")
    before = contents(kept)
    set_aside(run)
    finished(run, "new")
    settle(run)
    new = {CONFIG: HEADER + "new", **dict.fromkeys(("environment.json", "metrics.jsonl", "result.json"), "new")}
    assert {name: (run / name).read_text() for name in new} == new
    assert (run / "notes.txt").read_text() == "mine"
    assert (run / "data" / "table.csv").read_text() == "1,2"
    assert (run / "elsewhere").is_symlink()
    assert not os.path.lexists(run / "wandb")
    assert not os.path.lexists(run / "front.png")
    assert not os.path.lexists(run / "csv")
    assert contents(kept) == before


class Killed(BaseException):
    """Nothing after it happens."""


def killed_after(count, monkeypatch):
    """Every change to a folder counts; the one after `count` changes never comes."""
    left = [count]

    def counted(change):
        def changed(*arguments, **options):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return change(*arguments, **options)

        return changed

    for name in ("rename", "mkdir", "rmdir", "unlink"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))
    monkeypatch.setattr(folders.shutil, "rmtree", counted(folders.shutil.rmtree))


def replace(run, ends):
    """A run that replaces another, as the application does it."""
    set_aside(run)
    (run / CONFIG).write_text(HEADER + "new")
    (run / "policy").mkdir()
    (run / "policy" / "w").write_text("new")
    if ends:
        (run / "result.json").write_text("new")
    settle(run)


@pytest.mark.parametrize("ends", [True, False], ids=["ends", "fails"])
def test_a_kill_at_any_change_leaves_the_old_run_or_the_new_one_whole(ends, tmp_path, monkeypatch):
    new = {CONFIG, "policy", "policy/w", "result.json", ".lock"}
    seen = set()
    for count in range(100):
        run = with_file(finished(tmp_path / str(count)), "notes.txt", "mine")
        old = contents(run)
        with monkeypatch.context() as patched:
            killed_after(count, patched)
            try:
                replace(run, ends)
                was_killed = False
            except Killed:
                was_killed = True
        assert is_run(run), "it is still known for a run's"
        run_folder(str(run))
        with monkeypatch.context() as patched:  # killed again, wherever it is mended
            killed_after(count % 3, patched)
            with suppress(Killed):
                settle(run)
        settle(run)
        is_old = contents(run) == old
        assert is_old or (ends and set(contents(run)) == new | {"notes.txt"}), count
        seen.add(is_old)
        if not was_killed:
            break
    assert not was_killed
    assert is_old is not ends
    assert seen == ({True, False} if ends else {True})


def test_a_run_with_a_checkpoint_has_begun_and_is_not_undone(tmp_path):
    run = finished(tmp_path / "run")
    set_aside(run)
    assert run_files(run) == []
    (run / "checkpoints").mkdir()
    assert not has_checkpoint(run)
    (run / "checkpoints" / "step-00000001.ckpt").write_text("new")
    assert settle(run) is False
    assert set(contents(run)) == {".lock", "checkpoints", "checkpoints/step-00000001.ckpt"}


def test_what_killed_processes_left_is_cleaned_up_and_nothing_like_it(tmp_path):
    run = finished(tmp_path / "run")
    stale = [f".{name}.4711" for name in RUN_FILES if "." in name] + [
        ".probe-12",
        "checkpoints/unfinished.tmp",
        "checkpoints/unfinished.json",
    ]
    kept = [".result.json.bak", ".probe-x", ".other.4711", "unfinished.tmp", "policy/.result.json.1"]
    for name in [*stale, *kept]:
        (run / name).write_text("half")
    settle(run)
    assert not any((run / name).exists() for name in stale)
    assert all((run / name).exists() for name in kept)
    other = with_file(tmp_path / "other", "unfinished.tmp")
    linked = with_file(tmp_path / "linked", CONFIG, HEADER)
    link(linked / "checkpoints", other)
    settle(linked)
    assert (other / "unfinished.tmp").exists(), "links are not followed"


@pytest.mark.parametrize("name", ["metrics.jsonl", "front.png", "policy", "policy/model.safetensors", "checkpoints/x"])
def test_a_run_writes_through_no_link(name, tmp_path):
    kept, run = thesis(tmp_path / "thesis"), finished(tmp_path / "run")
    for folder in ("checkpoints", "wandb"):
        (run / folder).mkdir(exist_ok=True)
    link(run / "wandb" / "latest-run", run)  # W&B's own
    link(run / "notes", kept)  # which no run writes
    folders.refuse_links(run)
    if (run / name).is_dir():
        folders.shutil.rmtree(run / name)
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).unlink(missing_ok=True)
    link(run / name, kept / "thesis.tex")
    with pytest.raises(UserError, match=f"{name} is a link, to {kept}"):
        folders.refuse_links(run)


FILES = ["config.yaml", "environment.json", "inputs.json", "status.json", "result.json", "metrics.jsonl", "metrics.csv"]
FILES += ["generations.jsonl", "front.png", "checkpoints/step-00000001.ckpt", "checkpoints/step-00000001.json"]


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_a_files_place_is_refused(name, tmp_path):
    run = finished(tmp_path / "run")
    (run / "checkpoints").mkdir(exist_ok=True)
    folders.refuse_folders(run)
    (run / name).unlink(missing_ok=True)
    (run / name).mkdir()
    with pytest.raises(UserError, match=f"{name} is a folder, where this run keeps a file"):
        folders.refuse_folders(run)
