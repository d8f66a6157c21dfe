"""How well bounded diagnostics agree with those of all gradients, and what they cost, on a real model.

    python benchmarks/diagnostics.py --model FOLDER --prompts FILE.jsonl --batches 4

Each batch is generated and scored as a step does it; three objectives give three cosines. Written to
benchmarks/results/diagnostics.json: the cosines by target, their correlation with the full ones, and seconds.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import pama_exp
from pama_exp.assembly.module import build_alignment
from pama_exp.assembly.setup import resolve
from pama_exp.training.gramian import GramianSettings

ROOT = Path(__file__).parent
COMMAND = ["model=hf", "data=file", "solver=linear", "data.max_prompt_tokens=48", "rollout.sampling.max_new_tokens=32"]
COMMAND += ["training.batch_size=32", "training.mini_batch_size=32", "training.micro_batch_tokens=2048", "logger=none"]
COMMAND += ["objectives=[readability,length,concise]", "training.calibration_prompts=32", "output=unused"]
LOOKS = {  # name: (training.diagnostics_target, responses)
    "full": ("full", 32),
    "full, 16 responses": ("full", 16),
    "last-layer": ("last-layer", 32),
    "auto": ("auto", 32),
    "hidden, 16 responses": ("hidden", 16),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--batches", type=int, default=4)
    given = parser.parse_args()
    config = pama_exp.configure(*COMMAND, f"model.path={given.model}", f"data.path={given.prompts}")
    setup = resolve(config)
    module = build_alignment(setup, setup.task.start_policy())
    module.policy.eval()
    cosines: dict[str, list[float]] = {name: [] for name in LOOKS}
    seconds: dict[str, list[float]] = {name: [] for name in LOOKS}
    for step in range(given.batches):
        module.step = step
        experience = module._collect()
        for name, (target, rows) in LOOKS.items():
            wanted = None if target == "auto" else GramianSettings(target)
            module.loss.settings = replace(module.loss.settings, diagnostics=wanted)
            started = time.perf_counter()
            found = module.loss.diagnose(experience.rows(torch.arange(rows)))
            seconds[name].append(time.perf_counter() - started)
            cosines[name] += [value for key, value in found.items() if "/cosine/" in key]
        print(step, {name: f"{seconds[name][-1]:.1f} s" for name in LOOKS}, flush=True)
    full = cosines["full"]
    result = {
        name: {
            "correlation_with_full": float(np.corrcoef(full, cosines[name])[0, 1]),
            "mean_absolute_difference": float(np.abs(np.subtract(full, cosines[name])).mean()),
            "seconds": float(np.median(seconds[name])),
            "cosines": cosines[name],
        }
        for name in LOOKS
    }
    (ROOT / "results" / "diagnostics.json").write_text(json.dumps(result, indent=1) + "\n")
    for name, row in result.items():
        correlation, difference = row["correlation_with_full"], row["mean_absolute_difference"]
        print(f"{name}: r = {correlation:.3f}, |Δ| {difference:.3f}, {row['seconds']:.1f} s")


if __name__ == "__main__":
    main()
