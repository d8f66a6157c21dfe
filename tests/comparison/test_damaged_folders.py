"""One damaged run among others: every reader names it, leaves it out, shows the others, and waits for nothing."""

import json
import os
import shutil
import signal

import pytest

from damage import DAMAGED, HARMLESS, ODD_NAMES
from pama_exp import runs
from pama_exp.comparison import compare, load_runs, split_by_objectives
from pama_exp.comparison.write import write
from pama_exp.errors import UserError
from pama_exp.report.gather import gather
from pama_exp.report.page import render
from pama_exp.sweeping.jobs import Job, State, final_means
from pama_exp.sweeping.table import Watch
from synthetic import write_whole


@pytest.fixture(autouse=True)
def no_waiting():
    """A reader that hangs is ended, which is a failure."""

    def end(*_):
        raise TimeoutError("it waits")

    previous = signal.signal(signal.SIGALRM, end)
    signal.alarm(40)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Three whole runs, to be copied."""
    root = tmp_path_factory.mktemp("written") / "runs"
    for seed, name in enumerate(("first", "second", "third")):
        write_whole(root / name, f"seed={seed}", steps=4, every=2)
    return root


@pytest.fixture
def three(written, tmp_path):
    """Two whole runs, and one that something happens to."""
    return shutil.copytree(written, tmp_path / "runs")


def read_by_all(root, capsys):
    """What the readers show of a folder: the runs, the report's page, the listing."""
    found = load_runs([root])
    (part,) = split_by_objectives(found)
    made = compare(part)
    write(made, root.parent)
    page, _ = gather([root])
    capsys.readouterr()
    assert runs.main([str(root)]) == 0
    listed = capsys.readouterr().out
    jobs = [Job(0, "it", [], [], run.folder, root / "no.log", steps=4, state=State.FINISHED) for run in found]
    with Watch("sweep", jobs) as watch:
        watch.refresh()
    for job in jobs:
        final_means(job.result() or {})
        job.progress()
        job.state = State.RUNNING
        job.progress()
    for run in found:
        assert runs.main(["show", str(run.folder)]) == 0
    return found, json.loads(render(page).split('type="application/json">')[1].split("</script>")[0]), listed


def check_left_out(name, found, page, listed):
    """The damaged run of this name is named by every reader, and shown by none."""
    (broken,) = [run for run in found if run.name == name]
    assert broken.status == "damaged"
    assert broken.result is None
    assert "\n" not in broken.detail
    assert 0 < len(broken.detail) < 400
    (note,) = [note for note in page["notes"] if f"{name} " in note]
    assert broken.detail in note
    assert broken.detail in listed.replace("\n", " ")


def check_shown(found, page):
    assert [run.name for run in found if run.status == "complete"] == ["first", "third"]
    assert [run["name"] for section in page["sections"] for run in section["runs"]] == ["first", "third"]


def test_damaged_runs_of_every_kind_are_named_and_left_out(three, capsys, monkeypatch):
    monkeypatch.chdir(three)
    names = {kind: f"second-{number:03d}" for number, kind in enumerate(DAMAGED)}
    for kind, name in names.items():
        DAMAGED[kind](shutil.copytree(three / "second", three / name))
    shutil.rmtree(three / "second")
    found, page, listed = read_by_all(three, capsys)
    for kind, name in names.items():
        try:
            check_left_out(name, found, page, listed)
        except (AssertionError, ValueError) as error:
            raise AssertionError(f"{kind}: {error}") from error
    check_shown(found, page)
    assert not (three / "was-run").exists()


@pytest.mark.slow("each kind alone, which the fast tier tries at once")
@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_run_is_named_and_left_out(kind, three, capsys, monkeypatch):
    monkeypatch.chdir(three)
    DAMAGED[kind](three / "second")
    found, page, listed = read_by_all(three, capsys)
    check_left_out("second", found, page, listed)
    check_shown(found, page)
    assert "damaged" in listed
    assert not (three / "was-run").exists()


@pytest.mark.parametrize("kind", HARMLESS)
def test_what_is_only_odd_is_shown(kind, three, capsys, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    HARMLESS[kind](three / "second")
    found, page, listed = read_by_all(three, capsys)
    assert [run.status for run in found] == ["complete"] * 3
    assert len(page["sections"][0]["runs"]) == 3
    assert "hunter2" not in json.dumps(page) + listed


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_of_all_characters(name, three, capsys):
    os.rename(three / "second", three / name)
    found, page, listed = read_by_all(three, capsys)
    assert [run.status for run in found] == ["complete"] * 3
    assert len(page["sections"][0]["runs"]) == 3
    assert "\x1b[31mred" not in listed
    listed.encode()


def test_a_damaged_run_alone_is_said_in_two_lines(three, capsys):
    DAMAGED["config is malformed"](three / "second")
    with pytest.raises(UserError, match=r"second is left out.*config\.yaml is damaged"):
        gather([three / "second"])
    assert runs.main(["diff", str(three / "first"), str(three / "second")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 2


def test_folders_that_hold_each_other_end(tmp_path, three):
    for number in range(3):
        (three / f"loop{number}").symlink_to(three, target_is_directory=True)
        (tmp_path / f"deeper{number}").symlink_to(tmp_path, target_is_directory=True)
    assert [run.name for run in load_runs([tmp_path])] == ["first", "second", "third"]
