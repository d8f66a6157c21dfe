"""The default run in two checkouts, seed by seed in turn: how long its steps take, and how good the result is.

    python benchmarks/default.py BEFORE [AFTER] [seeds]

BEFORE and AFTER are folders of the repository at two commits (AFTER: this one). SFT policy and reward models are
trained once and shared. Writes benchmarks/results/default.json and prints the table.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(tree: Path, seed: int, folder: Path, cache: Path) -> dict[str, float]:
    environment = {**os.environ, "PYTHONPATH": str(tree / "src")}
    command = [sys.executable, "run.py", f"seed={seed}", f"output={folder}", f"cache_dir={cache}", "logger=none"]
    subprocess.run(command, cwd=tree, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    result = json.loads((folder / "result.json").read_text())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "time/step" in row]
    phases = {
        phase: statistics.median(row[f"time/{phase}"] for row in steps)
        for phase in ("step", "generate", "score", "evaluate", "update")
    }
    gold = {name: means["after"]["gold"] for name, means in result["objectives"].items()}
    return {"front_share": result["true_hypervolume_share"]["after"], **gold, "seconds": result["seconds"], **phases}


def main(before: str, after: str = str(ROOT), seeds: int = 5) -> None:
    trees = {"before": Path(before).resolve(), "after": Path(after).resolve()}
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch) / "cache"
        run(trees["after"], 0, Path(scratch) / "warm-up", cache)  # trains SFT policy and reward models
        for seed in range(int(seeds)):
            for name, tree in trees.items():
                rows[name].append(run(tree, seed, Path(scratch) / f"{name}-{seed}", cache))
                print(
                    f"seed {seed}  {name:6s} " + "  ".join(f"{k} {v:.3f}" for k, v in rows[name][-1].items()),
                    flush=True,
                )
    ratios = [a["step"] / b["step"] for a, b in zip(rows["before"], rows["after"], strict=True)]
    shares = {name: [row["front_share"] for row in runs] for name, runs in rows.items()}
    summary = {
        "times_faster": statistics.median(ratios),
        "front_share": {name: [statistics.mean(s), statistics.stdev(s)] for name, s in shares.items()},
    }
    print(json.dumps(summary))
    results = ROOT / "benchmarks" / "results"
    results.mkdir(exist_ok=True)
    (results / "default.json").write_text(
        json.dumps({"command": "python benchmarks/default.py BEFORE", **summary, "rows": rows}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
