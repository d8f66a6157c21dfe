"""The newest checkpoint that is what was written is gone on from; whatever is not is named, and never run."""

import json
import os

import numpy as np
import pytest
import torch

from pama_exp.errors import UserError
from pama_exp.tracking import checkpoints
from pama_exp.tracking.record import RunRecord


def save(folder, step, content=None):
    folder.mkdir(exist_ok=True)
    content = {"alignment": {"step": step}, "weights": torch.arange(999.0)} if content is None else content
    torch.save(content, folder / "unfinished.tmp")
    checkpoints.seal(folder / "unfinished.tmp", folder, step)


@pytest.fixture
def record(tmp_path):
    """Checkpoints at steps 2 and 4 of 5 steps."""
    record = RunRecord.open(tmp_path)
    for step in range(6):
        record.log_metrics(step, {"x": float(step)})
        record.log_generations(step, [{"response": "a"}])
        if step in (2, 4):
            save(record.checkpoints, step)
    return record


def path_of(record, step):
    return record.checkpoints / f"step-{step:08d}.ckpt"


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 1
    path.write_bytes(content)


class Code:
    def __reduce__(self):
        return os.mkdir, ("was-run",)


def replace_with_code(record):
    save(record.checkpoints, 4, {"alignment": {"step": 4}, "code": Code()})


DAMAGES = {
    **{f"a bit at {at:.0%}": lambda record, at=at: flip(path_of(record, 4), at) for at in (0.0, 0.1, 0.5, 0.9, 1.0)},
    "cut": lambda record: os.truncate(path_of(record, 4), 1000),
    "empty": lambda record: os.truncate(path_of(record, 4), 0),
    "a folder": lambda record: (path_of(record, 4).unlink(), path_of(record, 4).mkdir()),
    "a pipe": lambda record: (path_of(record, 4).unlink(), os.mkfifo(path_of(record, 4))),
    "what it is known by is garbage": lambda record: path_of(record, 4).with_suffix(".json").write_text("[1"),
    "what it is known by is a list": lambda record: path_of(record, 4).with_suffix(".json").write_text("[1]"),
    "of another step": lambda record: save(record.checkpoints, 4, {"alignment": {"step": 3}}),
    "of something else": lambda record: save(record.checkpoints, 4, {"a": 1}),
    "code": replace_with_code,
    "metrics cut": lambda record: os.truncate(record.folder / "metrics.jsonl", 70),
    "generations changed": lambda record: flip(record.folder / "generations.jsonl", 0.7),
}


@pytest.mark.parametrize("is_told", [True, False], ids=["told", "of an earlier version"])
@pytest.mark.parametrize("kind", DAMAGES)
def test_an_older_one_is_taken_where_the_newest_is_damaged(kind, is_told, record, monkeypatch):
    monkeypatch.chdir(record.folder)
    DAMAGES[kind](record)
    if not is_told:
        if kind.startswith(("what it is", "metrics", "generations", "a bit at 100%")):
            pytest.skip("earlier versions did not say; the last byte holds nothing")
        for step in (2, 4):
            path_of(record, step).with_suffix(".json").unlink()
    found, passed_over = checkpoints.newest(record.checkpoints)
    assert found.step == 2
    assert found.path == path_of(record, 2)
    (reason,) = passed_over
    assert reason.startswith("step-00000004.ckpt")
    assert not (record.folder / "was-run").exists()


@pytest.mark.parametrize("is_told", [True, False])
def test_a_whole_one_is_taken_and_says_what_the_tables_were(is_told, record):
    if not is_told:
        path_of(record, 4).with_suffix(".json").unlink()
    found, passed_over = checkpoints.newest(record.checkpoints)
    assert (found.step, passed_over) == (4, [])
    record.log_generations(4, [{"response": "of the test, before a kill"}])
    record.truncate(found.step, found.tables)
    assert [row["step"] for row in record.read_metrics()] == [0, 1, 2, 3, 4]
    assert len(record.read_generations()) == (5 if is_told else 6)  # an earlier version's says no more than its step


@pytest.mark.parametrize("name", checkpoints.TABLES)
def test_a_table_that_no_checkpoint_goes_with_is_said_in_two_lines(name, record):
    (record.folder / name).unlink()
    with pytest.raises(UserError, match=f"{name} lacks rows") as caught:
        checkpoints.newest(record.checkpoints)
    assert "force=true" in caught.value.hint


def test_without_a_good_one_a_run_begins_again_and_says_why(record):
    for step in (2, 4):
        flip(path_of(record, step), 0.5)
    found, passed_over = checkpoints.newest(record.checkpoints)
    assert found is None
    assert len(passed_over) == 2


def test_random_states_of_an_earlier_version_are_read(record):
    path = path_of(record, 4)
    torch.save({"alignment": {"step": 4}, "numpy": np.random.get_state()}, path)  # noqa: NPY002
    path.with_suffix(".json").unlink()
    assert checkpoints.newest(record.checkpoints)[0].step == 4


def test_other_files_are_no_checkpoints(record):
    for name in ("step-x.ckpt", "step-9.ckpt.tmp", "unfinished.tmp", "step-.ckpt"):
        (record.checkpoints / name).write_text("")
    assert list(checkpoints.found_in(record.checkpoints)) == [2, 4]
    checkpoints.drop(path_of(record, 4))
    assert sorted(path.name for path in record.checkpoints.glob("step-0*")) == [
        "step-00000002.ckpt",
        "step-00000002.json",
    ]
    assert set(json.loads(path_of(record, 2).with_suffix(".json").read_text())) == {"sha256", "tables"}
