"""Weights in 16 bits, the default on a GPU: every part of a step works with them, and computes what is small in 32."""

import json

import pytest
import torch
from safetensors.torch import load_file

from commands import learning, run_here
from pama_exp.errors import UserError
from pama_exp.tracking.record import RunRecord

BFLOAT16 = ["trainer.precision=bf16-true", "trainer.threads=1"]
SEVERAL = ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=bf16-true"]
KINDS = {
    "solver=mgda": [],
    "advantage=group": [],
    "adapter=lora": [],
    "conditioning=adapter": ["adapter=lora", "adapter.export=adapter", "solver=linear"],
    "rollout=hf": [],
}


def rewards_of(record: RunRecord) -> dict[int, dict[str, float]]:
    return {row["step"]: row for row in record.read_metrics() if "reward/helpful/mean" in row}


@pytest.fixture(scope="module")
def in_bfloat16(tmp_path_factory, shared_cache) -> RunRecord:
    return run_here(*BFLOAT16, "training.steps=4", output=tmp_path_factory.mktemp("half") / "run", cache=shared_cache)


def test_policy_and_reference_begin_alike_and_the_policy_then_moves(in_bfloat16):
    rows = rewards_of(in_bfloat16)
    assert rows[1]["kl/response"] == pytest.approx(0, abs=1e-6)
    assert rows[1]["policy/grad_norm"] > 0
    assert rows[4]["kl/response"] != 0
    policy = load_file(in_bfloat16.folder / "policy" / "model.safetensors")
    assert {value.dtype for value in policy.values()} == {torch.bfloat16}


def test_rewards_and_advantages_are_not_rounded_to_16_bits(in_bfloat16):
    numbers = [row["reward/concise/mean"] for row in rewards_of(in_bfloat16).values()]
    rounded = torch.tensor(numbers, dtype=torch.float64).to(torch.bfloat16).tolist()
    assert numbers != rounded


def test_its_first_step_is_that_of_32_bits_but_for_rounding(in_bfloat16, tmp_path, shared_cache):
    whole = run_here("trainer.threads=1", "training.steps=1", output=tmp_path / "run", cache=shared_cache)
    half, full = rewards_of(in_bfloat16)[1], rewards_of(whole)[1]
    for name in ("reward/helpful/mean", "reward/concise/mean", "policy/entropy", "response/length"):
        assert half[name] == pytest.approx(full[name], rel=0.1, abs=0.05)


@pytest.mark.slow("a whole run of each kind")
@pytest.mark.parametrize("setting", KINDS)
def test_every_part_of_a_step_works(setting, tmp_path, shared_cache):

    record = run_here(
        *BFLOAT16, setting, *KINDS[setting], "training.steps=2", output=tmp_path / "r", cache=shared_cache
    )
    rows = rewards_of(record)
    assert set(rows) == {1, 2}
    assert all(value is not None for row in rows.values() for value in row.values())


@pytest.mark.slow("a run that is stopped and gone on with")
def test_stopped_after_a_checkpoint_it_goes_on_to_the_bit(in_bfloat16, tmp_path, shared_cache, monkeypatch):
    from pama_exp.training import alignment

    whole = alignment.Alignment.training_step

    def stopping(self, *arguments):
        if self.step == 2:
            raise KeyboardInterrupt
        return whole(self, *arguments)

    words = [*BFLOAT16, "training.steps=4", "training.checkpoint_every=1"]
    monkeypatch.setattr(alignment.Alignment, "training_step", stopping)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run_here(*words, output=tmp_path / "r", cache=shared_cache)
    monkeypatch.undo()
    record = run_here(*words, output=tmp_path / "r", cache=shared_cache)
    assert learning(record.read_metrics()) == learning(in_bfloat16.read_metrics())


@pytest.mark.slow("starts two processes")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_work(strategy, tmp_path, shared_cache):
    record = run_here(f"trainer={strategy}", *SEVERAL, "training.steps=2", output=tmp_path / "r", cache=shared_cache)
    assert set(rewards_of(record)) == {1, 2}
    assert json.loads((tmp_path / "r" / "status.json").read_text())["state"] == "complete"


def test_scaled_losses_are_refused(tmp_path, shared_cache):
    with pytest.raises(UserError, match=r"trainer\.precision=16-mixed scales losses"):
        run_here("trainer=gpu", "trainer.precision=16-mixed", output=tmp_path / "r", cache=shared_cache)
