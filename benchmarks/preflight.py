"""What preflight estimates against the most memory that short real runs take, shape by shape, on the processor.

    python benchmarks/preflight.py --prompts FILE.jsonl smollm2=FOLDER gemma3=FOLDER [--only SHAPE] [--again]

Each shape is a process of its own: two steps, so that gradients, moments and diagnostics are all there, an evaluation,
a checkpoint and the exported policy. Measured is the largest resident set of the process, from its start to its end.
What has been measured is kept, and compared with what is estimated now.
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
RUN = ["stage=align", "logger=none", "solver=pama", "training.steps=2", "training.diagnostics_every=1"]
RUN += ["training.epochs=1", "training.batch_size=8", "training.mini_batch_size=8", "training.micro_batch_tokens=256"]
RUN += ["rollout.sampling.max_new_tokens=16", "data.evaluation_prompts=8", "training.calibration_prompts=8"]
RUN += ["training.checkpoint_every=2"]
TEXT = ["data=file", "data.path={prompts}", "data.max_prompt_tokens=48", "objectives=[readability,length]"]
LOCAL = ["model=hf", "model.path={folder}", *TEXT]
SHAPE = ["model=opt-125m", "model.weights=random", "model.tokenizer=bytes", *TEXT]
WORLD = ["model=micro", "reward=gold", "sft.steps=2", "sft.examples=64"]
SHAPES: dict[str, list[str]] = {  # name: overrides; {folder} stands for what NAME=FOLDER gives
    "micro": WORLD,
    "micro, solver=mgda": [*WORLD, "solver=mgda"],
    "tiny-gpt2": ["model=tiny-gpt2", *WORLD[1:]],
    "smollm2": LOCAL,
    "smollm2, adapter=lora": [*LOCAL, "adapter=lora"],
    "smollm2, solver=mgda": [*LOCAL, "solver=mgda"],
    "smollm2, adapter=lora, solver=mgda": [*LOCAL, "adapter=lora", "solver=mgda"],
    "opt-125m": SHAPE,
    "opt-125m, adapter=lora": [*SHAPE, "adapter=lora"],
    "opt-125m, solver=mgda": [*SHAPE, "solver=mgda"],
    "smollm2, bfloat16": [*LOCAL, "model.dtype=bfloat16"],
    "smollm2, full diagnostics": [*LOCAL, "training.diagnostics_target=full"],
    "smollm2, larger batch": [*LOCAL, "training.micro_batch_tokens=2048", "training.batch_size=32"],
    "gemma3": LOCAL,
    "gemma3, adapter=lora": [*LOCAL, "adapter=lora"],
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--only", help="this shape alone")
    parser.add_argument("--again", action="store_true", help="measure what has been measured before as well")
    parser.add_argument("folders", nargs="+", metavar="NAME=FOLDER")
    given = parser.parse_args()
    folders = dict(word.split("=", 1) for word in given.folders)
    path = ROOT / "results" / "preflight.json"
    rows = json.loads(path.read_text()) if path.exists() else {}
    for name, overrides in SHAPES.items():
        folder = folders.get(name.partition(",")[0])
        if (folder is None and overrides[0] == LOCAL[0]) or given.only not in (None, name):
            continue
        shape = [word.format(folder=folder, prompts=given.prompts) for word in overrides]
        settings = dict(word.split("=", 1) for word in [*RUN, *shape])  # a shape's own go before those of every run
        words = [f"{key}={value}" for key, value in settings.items()]
        with tempfile.TemporaryDirectory() as place:
            words.append(f"output={place}/run")
            setup = resolve(pama_exp.configure(*words))
            estimate = preflight.estimate_memory(setup.config, preflight.sizes_of(setup))
            found = {"estimated": estimate.peak, "parts": estimate.parts}
            if name in rows and not given.again:
                rows[name] |= found
                continue
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
        rows[name] = {"measured": usage.ru_maxrss * 1024, **found}
        print(f"{name}: {_said(rows[name])}", flush=True)
        path.write_text(json.dumps(rows, indent=1) + "\n")
    path.write_text(json.dumps(rows, indent=1) + "\n")
    lines = ["| shape | estimated | measured | ratio |", "|---|---|---|---|"]
    lines += [f"| {name} | {_said(row)} |" for name, row in rows.items()]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")


def _said(row: dict[str, float]) -> str:
    estimated, measured = row["estimated"], row["measured"]
    return f"{estimated / 2**30:.2f} GiB | {measured / 2**30:.2f} GiB | {estimated / measured:.2f}"


if __name__ == "__main__":
    main()
