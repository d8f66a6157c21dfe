"""What preflight estimates against the most memory that short real runs take, shape by shape, on the processor.

    python benchmarks/preflight.py --prompts FILE.jsonl smollm2=FOLDER gemma3=FOLDER

Each shape is a process of its own on the model of a FOLDER: two steps, so that gradients,
moments and diagnostics are all there, an evaluation, a checkpoint and the exported policy. Measured is the largest
resident set of the process, from its start to its end.
Writes benchmarks/results/preflight.json and .md. Shapes that would not fit what is free are left out, with a line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pama_exp
from pama_exp.assembly import preflight
from pama_exp.assembly.setup import resolve

ROOT = Path(__file__).parent
RUN = ["stage=align", "data=file", "objectives=[readability,length]", "logger=none", "rollout=hf", "solver=pama"]
RUN += ["training.steps=2", "training.epochs=1", "training.batch_size=16", "training.mini_batch_size=16"]
RUN += ["training.micro_batch_tokens=512", "rollout.sampling.max_new_tokens=24", "data.max_prompt_tokens=48"]
RUN += ["data.evaluation_prompts=16", "training.calibration_prompts=16", "training.checkpoint_every=2"]
SHAPES: dict[str, list[str]] = {  # name: overrides; {folder} stands for what NAME=FOLDER gives
    "smollm2": ["model=hf", "model.path={folder}", "rollout=fast"],
    "smollm2, solver=mgda": ["model=hf", "model.path={folder}", "rollout=fast", "solver=mgda"],
    "smollm2, adapter=lora": ["model=hf", "model.path={folder}", "rollout=fast", "adapter=lora"],
    "smollm2, bfloat16": ["model=hf", "model.path={folder}", "rollout=fast", "model.dtype=bfloat16"],
    "smollm2, full diagnostics": ["model=hf", "model.path={folder}", "training.diagnostics_target=full"],
    "smollm2, larger batch": ["model=hf", "model.path={folder}", "training.micro_batch_tokens=2048"],
    "gemma3": ["model=hf", "model.path={folder}", "training.micro_batch_tokens=256"],
    "gemma3, adapter=lora": ["model=hf", "model.path={folder}", "adapter=lora"],
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--only", help="shapes whose name holds this")
    parser.add_argument("folders", nargs="+", metavar="NAME=FOLDER")
    given = parser.parse_args()
    folders = dict(word.split("=", 1) for word in given.folders)
    path = ROOT / "results" / "preflight.json"
    rows = json.loads(path.read_text()) if path.exists() else {}
    for name, overrides in SHAPES.items():
        folder = folders.get(name.partition(",")[0])
        if folder is None or (given.only is not None and given.only not in name):
            continue
        words = [*RUN, *(word.format(folder=folder) for word in overrides), f"data.path={given.prompts}"]
        with tempfile.TemporaryDirectory() as place:
            words.append(f"output={place}/run")
            setup = resolve(pama_exp.configure(*words))
            estimate = preflight.estimate_memory(setup.config, preflight.sizes_of(setup))
            free, _ = preflight.free_bytes(setup.config)
            if free is not None and estimate.peak > 0.9 * free:
                print(f"{name}: left out, {estimate.peak / 2**30:.1f} GiB do not fit", flush=True)
                continue
            del setup
            command = [sys.executable, str(ROOT.parent / "run.py"), *words]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            if status != 0:
                sys.exit(f"{name}: the run failed")
        rows[name] = {"estimated": estimate.peak, "measured": usage.ru_maxrss * 1024, "parts": estimate.parts}
        print(f"{name}: {_said(rows[name])}", flush=True)
        path.write_text(json.dumps(rows, indent=1) + "\n")
    lines = ["| shape | estimated | measured | ratio |", "|---|---|---|---|"]
    lines += [f"| {name} | {_said(row)} |" for name, row in rows.items()]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")


def _said(row: dict[str, float]) -> str:
    estimated, measured = row["estimated"], row["measured"]
    return f"{estimated / 2**30:.2f} GiB | {measured / 2**30:.2f} GiB | {estimated / measured:.2f}"


if __name__ == "__main__":
    main()
