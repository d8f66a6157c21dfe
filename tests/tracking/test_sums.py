"""A finished run's files are as it left them, or whoever reads it says which is not."""

import json

import pytest

from pama_exp.errors import UserError
from pama_exp.tracking import sums
from pama_exp.tracking.record import RunRecord

RESULT = {"status": "complete", "seconds": 9.0, "true_hypervolume_share": {"before": None, "after": 0.25}}


@pytest.fixture
def record(tmp_path):
    record = RunRecord.open(tmp_path)
    record.write_config({"seed": 0})
    record.write_environment(["run.py"])
    for step in range(3):
        record.log_metrics(step, {"x": 0.125 * step})
        record.log_generations(step, [{"response": "a"}])
    record.write_result(RESULT)
    record.write_status("complete", 2)
    return record


def digit(path):
    """One digit is another, as a flipped bit makes it: still a file of its kind."""
    text = path.read_text()
    shown = text.partition('"sha256"')[0]
    place = max(shown.rfind("0"), shown.rfind("2"))
    path.write_text(f"{text[:place]}3{text[place + 1 :]}")


NAMES = ["result.json", "config.yaml", "environment.json", "metrics.jsonl", "generations.jsonl"]


@pytest.mark.parametrize("name", NAMES)
def test_another_digit_is_noticed_and_its_file_named(name, record):
    assert record.read_result() == RESULT
    (record.folder / "config.yaml").touch()
    digit(record.folder / name)
    with pytest.raises(UserError, match=f"{name} is missing or damaged") as caught:
        record.read_result()
    assert "force=true" in caught.value.hint


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_file_that_is_gone_is_noticed_but_for_the_texts(name, record):
    (record.folder / name).unlink()
    if name == "generations.jsonl":
        assert record.read_result() == RESULT
    else:
        with pytest.raises(UserError, match=name):
            record.read_result()


def test_one_file_can_be_asked_for_where_the_others_do_not_matter(record):
    digit(record.folder / "metrics.jsonl")
    sums.check(record.folder, "config.yaml")
    digit(record.folder / "config.yaml")
    with pytest.raises(UserError, match=r"config\.yaml"):
        sums.check(record.folder, "config.yaml")
    (record.folder / "result.json").unlink()
    sums.check(record.folder, "config.yaml")  # nobody says what it was


@pytest.mark.parametrize("said", [[], 3, {"elsewhere": "0"}, {"result.json": 1}])
def test_sums_that_no_run_wrote_are_refused(said, record):
    path = record.folder / "result.json"
    path.write_text(json.dumps({**RESULT, sums.KEY: said}))
    with pytest.raises(UserError, match="damaged"):
        record.read_result()


def test_a_result_of_an_earlier_version_is_taken_as_it_is(record):
    (record.folder / "result.json").write_text(json.dumps(RESULT))
    digit(record.folder / "metrics.jsonl")
    assert record.read_result() == RESULT
