"""What a person reads: a live bar on a terminal, plain lines elsewhere, errors in two lines."""

import os
import pty
import subprocess
import sys

from pama_exp.errors import UserError
from pama_exp.tracking.console import print_error, progress, summary

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


def test_on_a_terminal_it_is_a_live_bar():
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", CODE], stdout=slave, env={**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    )
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
