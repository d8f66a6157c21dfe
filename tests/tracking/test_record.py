"""The run's folder survives whatever happens to the process that writes it."""

import csv
import subprocess
import sys

import pytest

from pama_exp.errors import UserError
from pama_exp.tracking.record import RunRecord


@pytest.fixture
def record(tmp_path):
    return RunRecord.open(tmp_path / "a" / "run")


def test_rows_come_back_in_order_and_what_is_not_finite_as_null(record):
    record.log_metrics(1, {"x": 0.1, "y": float("nan")})
    record.log_metrics(2, {"x": float("inf")})
    assert record.read_metrics() == [{"step": 1, "x": 0.1, "y": None}, {"step": 2, "x": None}]


def test_a_half_written_line_is_dropped_and_writing_goes_on(record):
    code = (
        "import os, signal, sys; from pathlib import Path; from pama_exp.tracking.record import RunRecord\n"
        "r = RunRecord.open(Path(sys.argv[1])); r.log_metrics(1, {'x': 1.0}); r.log_metrics(2, {'x': 2.0})\n"
        "f = (r.folder / 'metrics.jsonl').open('a'); f.write('{\"step\": 3, \"x\"'); f.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(record.folder)], check=False)
    assert done.returncode == -9
    assert [row["step"] for row in record.read_metrics()] == [1, 2]
    record.truncate(1)
    record.log_metrics(2, {"x": 5.0})
    assert record.read_metrics() == [{"step": 1, "x": 1.0}, {"step": 2, "x": 5.0}]


def test_truncating_to_nothing_keeps_nothing(record):
    record.log_metrics(0, {"x": 1.0})
    record.log_generations(0, [{"response": "a"}])
    record.truncate(0)
    assert record.read_metrics() == record.read_generations() == []


def test_the_table_has_the_union_of_columns(record, tmp_path):
    record.log_metrics(1, {"x": 1.0})
    record.log_metrics(2, {"y": 2.0})
    record.metrics_table(tmp_path / "m.csv")
    rows = list(csv.DictReader((tmp_path / "m.csv").read_text().splitlines()))
    assert rows == [{"step": "1", "x": "1.0", "y": ""}, {"step": "2", "x": "", "y": "2.0"}]


def test_a_folder_of_another_configuration_is_refused_naming_the_key(record):
    record.write_config({"training": {"steps": 3}, "logger": {"mode": "auto"}})
    record.write_config({"training": {"steps": 3}, "logger": {"mode": "disabled"}})
    with pytest.raises(UserError, match=r"training\.steps"):
        record.write_config({"training": {"steps": 4}, "logger": {"mode": "auto"}})


def test_a_result_means_complete_and_a_damaged_one_is_named(record):
    assert not record.is_complete
    record.write_result({"status": "complete"})
    assert record.is_complete
    assert record.read_result() == {"status": "complete"}
    (record.folder / "result.json").write_text('{"status": ')
    with pytest.raises(UserError, match=r"result\.json"):
        record.read_result()


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/run"):
        RunRecord.open(tmp_path / "file" / "run")


def test_the_lock_keeps_a_second_process_out_until_the_first_dies(record):
    code = (
        "import sys, time; from pathlib import Path; from pama_exp.tracking.record import RunRecord\n"
        "with RunRecord.open(Path(sys.argv[1])).lock(): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(record.folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UserError, match="Another process"), record.lock():
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    with record.lock():
        pass


def test_the_environment_names_versions_and_no_person_or_host(record):
    import json
    import platform

    record.write_environment(["run.py", "seed=1"])
    found = json.loads((record.folder / "environment.json").read_text())
    assert found["packages"]["torch"]
    assert found["command"] == ["run.py", "seed=1"]
    assert "user" not in found
    assert platform.node() not in json.dumps(list(found.values())).split('"')


@pytest.mark.parametrize(
    ("left", "is_lost"),
    [
        ({}, True),
        ({"metrics.jsonl": '{"step": 0, "eval/proxy/helpful/mean": 1.0}\n', "status.json": "{}"}, True),
        ({"metrics.jsonl": '{"step": 0}\n{"step": 1}\n'}, False),
        ({"metrics.jsonl": "no row\n"}, False),
        ({"checkpoints/step-10.ckpt": ""}, False),
        ({"policy/config.json": "{}"}, False),
        ({"result.json": "{}"}, False),
    ],
)
def test_a_run_that_ended_before_its_first_step_gives_way_to_the_corrected_command(record, left, is_lost):
    record.write_config({"rollout": "fast"})
    for name, content in left.items():
        (record.folder / name).parent.mkdir(exist_ok=True)
        (record.folder / name).write_text(content)
    record.take_over({"rollout": "fast"})
    assert (record.folder / "config.yaml").exists()  # the same command goes on as ever
    record.take_over({"rollout": "hf"})
    assert [path.name for path in record.folder.iterdir()] == [] or not is_lost
    assert (record.folder / "config.yaml").exists() != is_lost
    assert all((record.folder / name).exists() for name in left) or is_lost
