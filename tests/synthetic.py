"""Run folders of any number with whole metrics and generations, written as a run writes them."""

import json
import random
from pathlib import Path

from records import write_run

PROMPTS = ["question alba : color ?", "question boro : color trap ?", "question cina : origin ?"]


def write_runs(root: Path, count: int, *overrides: str, solvers=("pama", "linear", "mgda"), steps=60, every=10):
    """`count` finished runs over the solvers, as many seeds of each as that takes; returns the folders."""
    folders = []
    for index in range(count):
        solver, seed = solvers[index % len(solvers)], index // len(solvers)
        folder = root / f"{solver}-s{seed}"
        write_whole(folder, f"solver={solver}", f"seed={seed}", *overrides, steps=steps, every=every)
        folders.append(folder)
    return folders


def write_whole(folder: Path, *overrides: str, state="complete", reach=1.0, steps=60, every=10):
    """One run; with a `state` other than complete, up to `reach` of its steps and without a result."""
    source = random.Random(str(folder.name))
    names = next(
        (o.split("=")[1].strip("[]").split(",") for o in overrides if o.startswith("objectives=")),
        ["helpful", "concise"],
    )
    end = {name: source.uniform(0.5, 0.8) for name in names}
    share = {"before": 0.2, "after": source.uniform(0.4, 0.7)}
    after = end if state == "complete" else None
    record = write_run(folder, *overrides, after=after, state=state, true_hypervolume_share=share)
    last = round(reach * steps)
    rows = []
    for step in range(last + 1):
        at = {name: 0.4 + (end[name] - 0.4) * step / steps + source.gauss(0, 0.02) for name in names}
        if step:
            row = {f"reward/{n}/mean": v for n, v in at.items()} | {"kl/response": 0.05 * step, "response/length": 20.0}
            row |= {f"solver/weight/{n}": 1 / len(names) for n in names}
            row |= {f"solver/binding_share/{n}": 1 / len(names) for n in names}
            rows.append({"step": step, **row})
        if step % every == 0:
            rows.append({"step": step} | {f"eval/{k}/{n}/mean": v for k in ("gold", "proxy") for n, v in at.items()})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores = {f"{kind}/{n}": end[n] for kind in ("gold", "proxy") for n in names}
    record.log_generations(
        last,
        [
            {"split": "test", "prompt": p, "response": f"{folder.name} says {i}", **scores}
            for i, p in enumerate(PROMPTS)
        ],
    )
    record.write_environment(["run.py", *overrides])
    return record
