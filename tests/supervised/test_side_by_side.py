"""Reward models that are trained at the same time: the same models, and nobody is left behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial

import pytest
import torch

from commands import FAST, composed
from pama_exp.assembly.task import build_task
from pama_exp.config.schema import typed
from pama_exp.supervised import testbed
from pama_exp.supervised.side_by_side import beside
from sweeping.toy import alive

SHORT = ["sft.steps=20", "reward_model.examples=256", "reward_model.batch_size=4"]
PROGRAMS = ["helpful", "concise", "polite"]


@contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    assert torch.get_num_threads() == count, "what a block borrows it gives back"
    torch.set_num_threads(before)


def task(cache, *more):
    return build_task(typed(composed(*FAST, *SHORT, *more, f"cache_dir={cache}")))


@pytest.fixture
def trained(monkeypatch):
    """The titles of what this process trains."""
    titles, fit = [], testbed.fit

    def recorded(model, settings, title, *rest):
        titles.append(title)
        return fit(model, settings, title, *rest)

    monkeypatch.setattr(testbed, "fit", recorded)
    return titles


@pytest.mark.slow("processes that import torch")
def test_they_are_the_models_that_one_process_trains_alone(tmp_path, trained, capfd):
    words = ["reward_model.steps=200"]
    with threads(1):
        alone = task(tmp_path / "alone", *words).reward_models(PROGRAMS)
    assert trained == ["SFT policy", *(f"Reward model: {program}" for program in PROGRAMS)]
    trained.clear()
    (sft,) = (tmp_path / "alone").glob("sft-*")
    shutil.copytree(sft, tmp_path / "beside" / sft.name)
    capfd.readouterr()
    with threads(2):
        beside_each_other = task(tmp_path / "beside", *words).reward_models(PROGRAMS)
    assert trained == ["Reward model: helpful", "Reward model: polite"]
    assert [folder.name for folder in beside_each_other] == [folder.name for folder in alone]
    for one, other in zip(alone, beside_each_other, strict=True):
        for name in ("model.safetensors", "accuracy.json"):
            assert (one / name).read_bytes() == (other / name).read_bytes()
    said = capfd.readouterr().out
    for program in PROGRAMS:
        assert said.count(f"Reward model {program}: ") == 1


def test_what_another_process_does_not_make_is_made_here(tmp_path, trained, monkeypatch):
    @contextmanager
    def failing(calls):
        with beside([partial(os._exit, 1) for _ in calls]) as processes:
            yield processes

    monkeypatch.setattr(testbed, "beside", failing)
    monkeypatch.setattr(testbed, "_LONG", 1)
    with threads(2):
        folders = task(tmp_path, "reward_model.steps=2").reward_models(PROGRAMS)
    assert all((folder / "model.safetensors").exists() for folder in folders)
    assert trained[-1] == "Reward model: concise"


def test_a_call_that_fails_is_not_done_and_one_that_succeeds_is(tmp_path):
    made = tmp_path / "made"
    with beside([partial(made.mkdir), partial(made.joinpath("no", "parents").mkdir)]) as processes:
        assert [process.wait(timeout=300) for process in processes] == [0, 1]
    assert made.is_dir()


def test_at_the_end_of_the_block_no_process_is_left():
    with beside([partial(time.sleep, 600)]) as processes:
        pass
    assert processes[0].returncode is not None


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_processes_end_with_the_one_that_started_them_however_it_does():
    program = """
import sys, time
from functools import partial
from pama_exp.supervised.side_by_side import beside

with beside([partial(time.sleep, 600)]) as processes:
    print(processes[0].pid, flush=True)
    time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    deadline = time.monotonic() + 200
    while alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.1)
