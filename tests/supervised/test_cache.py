"""The cache of trained results: made once, however many runs ask for it together."""

import subprocess
import sys
import time

MAKER = """
import sys, time
from pathlib import Path
from pama_exp.supervised.artifacts import cached

root, log = map(Path, sys.argv[1:])

def make(folder):
    with log.open("a") as file:
        file.write("made\\n")
    time.sleep(float(sys.stdin.readline() or 0))
    (folder / "weights").write_text("1")

print(cached(root, "sft-tiny", {"seed": 0}, make), flush=True)
"""


def start(tmp_path, seconds):
    process = subprocess.Popen(
        [sys.executable, "-c", MAKER, str(tmp_path / "cache"), str(tmp_path / "log")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    process.stdin.write(f"{seconds}\n")
    process.stdin.flush()
    return process


def wait_for_start(tmp_path):
    deadline = time.monotonic() + 60
    while not (tmp_path / "log").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_runs_that_start_together_train_once(tmp_path):
    runs = [start(tmp_path, 1), start(tmp_path, 1)]
    outputs = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    folder = outputs[0].splitlines()[-1]
    assert folder == outputs[1].splitlines()[-1]
    assert (tmp_path / "log").read_text() == "made\n"


def test_a_killed_maker_leaves_its_turn_to_the_next(tmp_path):
    killed = start(tmp_path, 600)
    wait_for_start(tmp_path)
    killed.kill()
    killed.communicate()
    run = start(tmp_path, 0)
    run.communicate()
    assert run.returncode == 0
    assert (tmp_path / "log").read_text() == "made\nmade\n"
