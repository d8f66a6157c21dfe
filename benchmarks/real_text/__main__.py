"""The methods on a real pretrained model: examples/real_text by PAMA, linear, MGDA-UB and GDPO, compared.

    python -m benchmarks.real_text --model FOLDER --prompts FILE.jsonl --workers 2 --minutes 120
    python -m benchmarks.real_text --model FOLDER --prompts FILE.jsonl --objectives positive,clean,readability

Every run has as many responses and updates. Rows are added to benchmarks/results/real_text/runs.csv, and docs/study.md
is made from them. Called again, on any machine, it goes on where it stopped: a run that has its rows is not run again,
an interrupted one resumes. Words after `--` are given to every run, such as training.steps=8; such runs leave no rows.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .table import load, publish, rows_of, save

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "real_text" / "runs.csv"
DOCUMENT = ROOT / "docs" / "study.md"
EXAMPLE = ROOT / "examples" / "real_text"
METHODS = {
    "pama": ["solver=pama"],
    "linear": ["solver=linear"],
    "mgda-ub": ["solver=mgda-ub"],
    # Groups of four responses to a prompt, as many responses.
    "gdpo": ["solver=gdpo", "advantage=group", "advantage.baseline=standardise"],
}


def folder(given: argparse.Namespace, name: str) -> Path:
    """Of a run's record."""
    return Path(given.runs.absolute(), given.objectives.replace(",", "+"), name)


def jobs(given: argparse.Namespace) -> dict[str, list[str]]:
    """{name: overrides} of the runs that have no rows yet, all methods of a seed before the next seed."""
    kept = {(row.method, row.seed) for row in load(RESULTS) if row.objectives == given.objectives.replace(",", "+")}
    shared = ["experiment=real_text", f"model.path={given.model.absolute()}", f"data.path={given.prompts.absolute()}"]
    shared += [f"objectives=[{given.objectives}]", *given.overrides]
    if given.workers > 1:
        shared.append(f"trainer.threads={max(1, (os.cpu_count() or 1) // given.workers)}")
    return {
        f"{name}-s{seed}": [*shared, *method, f"seed={seed}", f"output={folder(given, f'{name}-s{seed}')}"]
        for seed in range(given.seeds)
        for name, method in METHODS.items()
        if given.overrides or (name, seed) not in kept
    }


def run(overrides: list[str], seconds: float) -> int:
    """Status of one run, which is asked to stop when the time is over; it keeps its steps."""
    command = [sys.executable, str(ROOT / "run.py"), "--config-dir", "conf", *overrides]
    process = subprocess.Popen(command, cwd=EXAMPLE)
    try:
        return process.wait(max(seconds, 0.0))
    except subprocess.TimeoutExpired:
        process.terminate()
        return process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--objectives", default="positive,readability")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--workers", type=int, default=1, help="runs at a time, each with its share of the cores")
    parser.add_argument("--runs", type=Path, default=Path("runs/real_text"))
    parser.add_argument("--plan", action="store_true", help="print what would be run")
    parser.add_argument("--publish-only", action="store_true", help="the tables from the rows that there are")
    parser.add_argument("overrides", nargs="*", help="given to every run")
    given = parser.parse_args()
    if given.publish_only:
        publish(DOCUMENT, load(RESULTS))
        return
    if given.model is None or given.prompts is None:
        parser.error("--model and --prompts are needed, as docs/real-models.md describes them.")
    deadline = time.monotonic() + 60 * given.minutes
    planned = jobs(given)
    if given.plan:
        print(
            "\n".join(f"{name}: python run.py --config-dir conf {' '.join(words)}" for name, words in planned.items())
        )
        return
    writing = threading.Lock()

    def status(name: str) -> int | None:
        """Of a run that has ended, whose rows are kept; None where no time was left for it."""
        left = deadline - time.monotonic()
        ended = run(planned[name], left) if left > 0 else None
        if ended == 0 and not given.overrides:
            method, _, seed = name.rpartition("-s")
            with writing:
                save(RESULTS, [*load(RESULTS), *rows_of(folder(given, name), method, int(seed))])
                publish(DOCUMENT, load(RESULTS))
        return ended

    with ThreadPoolExecutor(given.workers) as pool:
        statuses = dict(zip(planned, pool.map(status, planned), strict=True))
    stopped = [name for name, ended in statuses.items() if ended != 0]
    sys.exit(f"Not finished: {', '.join(stopped)}" if stopped else 0)


if __name__ == "__main__":
    main()
