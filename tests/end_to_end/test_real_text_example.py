"""The example on a real model, interrupted and gone on with, ends bit-equal.

PAMA_EXP_REAL_MODEL names a folder that holds `smollm2`, in Hugging Face format, and `prompts.jsonl`; without it nothing
runs here.
"""

import os
import signal
import subprocess

import pytest

from commands import ROOT, command, environment, learning, wait_for_step
from pama_exp.storage.files import sha256
from pama_exp.tracking.record import RunRecord

FOLDER = os.environ.get("PAMA_EXP_REAL_MODEL")
SHORT = ["training.steps=4", "training.checkpoint_every=3", "training.batch_size=4", "training.mini_batch_size=4"]
SHORT += ["rollout.sampling.max_new_tokens=8", "data.evaluation_prompts=4", "training.calibration_prompts=4"]


def start(output):
    words = ["--config-dir", "conf", "experiment=real_text", "logger=none", "trainer.threads=1", f"output={output}"]
    words += [f"model.path={FOLDER}/smollm2", f"data.path={FOLDER}/prompts.jsonl", *SHORT]
    return subprocess.Popen(
        command(*words),
        cwd=ROOT / "examples" / "real_text",
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.timeout(3600)
@pytest.mark.skipif(FOLDER is None, reason="PAMA_EXP_REAL_MODEL names no folder")
def test_interrupted_at_its_second_step_and_gone_on_with_it_ends_bit_equal(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    process = start(whole)
    said, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, said
    process = start(parts)
    wait_for_step(parts, 2, process, seconds=1200)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 143, said
    assert RunRecord.open(parts).read_status()["step"] in (2, 3)
    process = start(parts)
    said, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, said
    assert "Resuming from step" in said
    for name in ("model.safetensors", "value_heads.safetensors"):
        assert sha256(whole / "policy" / name) == sha256(parts / "policy" / name)
    first, second = (RunRecord.open(folder) for folder in (whole, parts))
    assert learning(first.read_metrics()) == learning(second.read_metrics())
    assert first.read_result()["objectives"] == second.read_result()["objectives"]
