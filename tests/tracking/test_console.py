"""What a person reads: a live bar on a terminal, plain lines elsewhere, errors in two lines."""

import os
import pty
import re
import subprocess
import sys
import time

import pytest

from pama_exp.errors import UserError
from pama_exp.tracking import watching
from pama_exp.tracking.console import phase, print_error, progress, summary

CODE = """
from pama_exp.tracking.console import progress
with progress("Aligning", 20) as bar:
    for step in range(20):
        bar.advance({"helpful": step / 20})
"""


def test_off_a_terminal_it_is_a_plain_line_every_tenth(capsys):
    with progress("Aligning", 20, done=10) as bar:
        for step in range(10):
            bar.advance({"helpful": step / 10})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Aligning: 12/20  helpful 0.1"
    assert lines[-1] == "Aligning: 20/20  helpful 0.9"
    assert len(lines) == 5


def on_a_terminal(code):
    """What a program writes to one."""
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    seen = b""
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:
            break
        if not chunk:
            break
        seen += chunk
    process.wait()
    os.close(master)
    return seen


def test_on_a_terminal_it_is_a_live_bar():
    seen = on_a_terminal(CODE)
    assert b"\x1b[" in seen
    assert b"20/20" in seen
    assert b"helpful 0.95" in seen


def test_the_summary_says_before_after_share_bill_and_place(capsys):
    summary(
        {
            "objectives": {"helpful": {"before": {"gold": 0.4, "proxy": 1.0}, "after": {"gold": 0.6, "proxy": 0.5}}},
            "true_hypervolume_share": {"before": 0.25, "after": 0.5},
            "bill": dict(prompts=1, tokens=2, reward_calls=3, forwards=4, backwards=5, seconds=6.0, peak_memory_bytes=2**30),
            "run_dir": "runs/here",
        }
    )  # fmt: skip
    said = capsys.readouterr().out
    for part in (
        "helpful",
        "0.400",
        "0.600",
        "▲ 0.200",
        "▼ 0.500",
        "25.0% → 50.0%",
        "3 reward calls",
        "1.0 GiB",
        "runs/here",
    ):
        assert part in said


def test_an_error_is_two_lines_on_standard_error(capsys):
    print_error(UserError("What is wrong.", "What would be right."))
    assert capsys.readouterr() == ("", "What is wrong.\nWhat would be right.\n")


@pytest.fixture
def fast_watch(monkeypatch):
    """Patience in hundredths of its seconds."""
    for name in ("_PATIENCE", "_BRIEF", "_TICK"):
        monkeypatch.setattr(watching, name, getattr(watching, name) / 40)


def test_off_a_terminal_work_that_says_nothing_is_named_and_counted_again_and_again(capsys, fast_watch):
    with phase("Loading the model"):
        time.sleep(0.2)
    with phase("Evaluating", 512) as evaluating:
        evaluating.advance(128)
        time.sleep(0.7)
    with phase("Too brief to be named"):
        pass
    time.sleep(0.3)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Loading the model")
    assert [line.partition(",")[0] for line in lines[1:]].count("Evaluating 128/512") >= 3
    assert not [line for line in lines if "brief" in line]


def test_within_a_long_step_the_part_is_named_and_the_time_left_is_said_once_two_steps_are_done(capsys, fast_watch):
    with progress("Aligning", 40) as bar:
        for _ in range(3):
            with phase("generate"):
                time.sleep(0.15)
            with phase("update"):
                time.sleep(0.3)
            bar.advance({"helpful": 0.5})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Aligning: 0/40 done; generate")
    assert [line for line in lines if "0/40 done; update" in line]
    steps = [line for line in lines if "helpful" in line]
    assert len(steps) == 3  # each takes longer than silence may last
    assert "left" not in steps[0]
    assert all(re.search(r"1[4-9] s left$", line) for line in steps[1:])


PHASES = """
import time
from pama_exp.tracking.console import note, phase, progress
with phase("Loading the model"):
    time.sleep(0.6)
    note("A word between.")
    with progress("Training", 2) as bar:
        bar.advance({})
        with phase("update"):
            time.sleep(0.6)
        bar.advance({})
"""


def test_on_a_terminal_phases_have_a_spinner_and_give_way_to_a_bar():
    seen = on_a_terminal(PHASES)
    for part in (b"Loading the model", b"A word between.", b"2/2", b"update"):
        assert part in seen
    assert b"Traceback" not in seen


@pytest.mark.parametrize(
    ("objectives", "headings"),
    [
        ({"helpful": (0.4, 1.0)}, ["gold before", "learned before"]),
        ({"positive": (None, 1.0)}, ["reward before"]),
        ({"helpful": (0.4, 1.0), "loud": (None, 1.0)}, ["gold before", "reward before"]),
    ],
)
def test_rewards_are_called_what_they_are(capsys, monkeypatch, objectives, headings):
    monkeypatch.setenv("COLUMNS", "200")
    means = {name: {"gold": gold, "proxy": proxy} for name, (gold, proxy) in objectives.items()}
    summary({"objectives": {name: {"before": each, "after": each} for name, each in means.items()}})
    said = capsys.readouterr().out
    assert [word for word in ("gold before", "learned before", "reward before") if word in said] == headings
