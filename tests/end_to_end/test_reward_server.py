"""A run whose reward comes from a server: it outlives a short failure, and stops cleanly at a lasting one."""

import pytest

from commands import learning, run_here
from pama_exp.errors import UserError
from reward_server import Server, lengths


def settings(server):
    where = "objectives.http.scorers.any"
    return ["objectives=[helpful,http]", "reward=gold", f"{where}.url={server.url}", f"{where}.backoff=0.01"]


# A run of 3 steps asks once to calibrate, then for test and validation prompts, then steps and evaluations in turn.
def test_a_server_that_dies_costs_no_finished_step(tmp_path, shared_cache):
    every = ["training.checkpoint_every=0", "training.evaluate_every=0"]
    with Server(lambda _, request: lengths(request)).running() as server:
        whole = run_here(*settings(server), *every, output=tmp_path / "whole", cache=shared_cache)
    asked = len(server.requests)
    alive = {"until": asked - 3}  # the last three requests are step 3, validation, test

    def behave(number, request):
        return lengths(request) if number <= alive["until"] else (503, b"out of memory")

    with Server(behave).running() as server:
        with pytest.raises(UserError, match="failed 5 times"):
            run_here(*settings(server), *every, output=tmp_path / "run", cache=shared_cache)
        assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("*.ckpt")] == ["step-00000002.ckpt"]
        alive["until"] = 10_000
        record = run_here(*settings(server), *every, output=tmp_path / "run", cache=shared_cache)
    volatile = {"objectives"}
    assert learning(record.read_metrics()) == learning(whole.read_metrics())
    assert {k: v for k, v in record.read_result().items() if k in volatile} == {
        k: v for k, v in whole.read_result().items() if k in volatile
    }


def test_a_short_failure_goes_unnoticed(tmp_path, shared_cache):
    def behave(number, request):
        return (503, b"busy") if number in (3, 4) else lengths(request)

    with Server(behave).running() as server:
        record = run_here(*settings(server), output=tmp_path / "run", cache=shared_cache)
    assert record.is_complete
