"""Each logger leaves what its own reader finds; several at once leave all of it."""

import csv
import json
import sqlite3

import pytest

from commands import FAST, composed, run_command, run_config, run_here
from pama_exp.config import schema
from pama_exp.errors import UserError


def test_csv_and_tensorboard_at_once(tmp_path, shared_cache):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    overrides = ["reward=gold", "logger=several", "logger.kinds=[csv,tensorboard]"]
    record = run_here(*overrides, output=tmp_path / "run", cache=shared_cache)
    own = [row["kl/response"] for row in record.read_metrics() if "kl/response" in row]
    with (record.folder / "csv" / "version_0" / "metrics.csv").open() as file:
        kept = [float(row["kl/response"]) for row in csv.DictReader(file) if row["kl/response"]]
    assert kept == pytest.approx(own)
    events = EventAccumulator(str(record.folder / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("kl/response")] == pytest.approx(own, abs=1e-5)
    assert not (record.folder / "wandb").exists()


@pytest.mark.slow("imports a logger's own libraries")
def test_trackio_holds_the_run(tmp_path, shared_cache):
    # In a process of its own: trackio reads its folder once, when anything first imports it.
    words = ["reward=gold", "logger=trackio", f"output={tmp_path / 'run'}", f"cache_dir={shared_cache}"]
    done = run_command(*FAST, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (database,) = (tmp_path / "run" / "trackio").glob("*.db")  # beside the run, not in the home folder
    with sqlite3.connect(database) as connection:
        rows = [json.loads(row) for (row,) in connection.execute("SELECT metrics FROM metrics WHERE run_name = 'run'")]
    assert len([row for row in rows if "kl/response" in row]) == 3


@pytest.mark.parametrize("option", ["wandb", "csv", "tensorboard", "trackio", "none", "several"])
def test_each_option_names_its_loggers(option):
    kinds = schema.typed(composed(f"logger={option}")).logger.kinds
    assert kinds == {"none": [], "several": ["wandb", "csv"]}.get(option, [option])


def test_an_unknown_logger_is_named_before_any_work(tmp_path):
    config = composed(
        "debug=fast", "model=micro", "logger.kinds=[wanbd]", f"output={tmp_path}", f"cache_dir={tmp_path}"
    )
    with pytest.raises(UserError, match="wanbd") as caught:
        run_config(config)
    assert "wandb" in caught.value.hint
