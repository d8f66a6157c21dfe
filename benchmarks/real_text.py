"""The methods on a real pretrained model: examples/real_text by PAMA, linear, MGDA-UB and GDPO, compared.

    chrt -i 0 python benchmarks/real_text.py --model FOLDER --prompts FILE.jsonl --seeds 3 --workers 2 --minutes 120

Every run has as many responses and updates. Called again, it goes on where it stopped: finished runs are skipped, an
interrupted one resumes. What there is by then is compared, in --runs/comparison. Words after `--` are given to every
run, such as training.steps=8.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "real_text"
METHODS = {
    "pama": ["solver=pama"],
    "linear": ["solver=linear"],
    "mgda-ub": ["solver=mgda-ub"],
    # Groups of four responses to a prompt, as many responses.
    "gdpo": ["solver=gdpo", "advantage=group", "advantage.baseline=standardise"],
}


def jobs(given: argparse.Namespace) -> dict[str, list[str]]:
    """{name: overrides}, all methods of a seed before the next seed."""
    shared = ["experiment=real_text", f"model.path={given.model.absolute()}", f"data.path={given.prompts.absolute()}"]
    shared += [f"objectives=[{given.objectives}]", *given.overrides]
    if given.workers > 1:
        shared.append(f"trainer.threads={max(1, (os.cpu_count() or 1) // given.workers)}")
    return {
        f"{name}-s{seed}": [*shared, *method, f"seed={seed}", f"output={given.runs.absolute() / f'{name}-s{seed}'}"]
        for seed in range(given.seeds)
        for name, method in METHODS.items()
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
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--objectives", default="positive,readability")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--workers", type=int, default=1, help="runs at a time, each with its share of the cores")
    parser.add_argument("--runs", type=Path, default=Path("runs/real_text"))
    parser.add_argument("--plan", action="store_true", help="print what would be run")
    parser.add_argument("overrides", nargs="*", help="given to every run")
    given = parser.parse_args()
    deadline = time.monotonic() + 60 * given.minutes
    planned = jobs(given)
    if given.plan:
        print(
            "\n".join(f"{name}: python run.py --config-dir conf {' '.join(words)}" for name, words in planned.items())
        )
        return

    def status(words: list[str]) -> int | None:
        """Of a run that has ended; None where no time was left for it."""
        left = deadline - time.monotonic()
        return run(words, left) if left > 0 else None

    with ThreadPoolExecutor(given.workers) as pool:
        statuses = dict(zip(planned, pool.map(status, planned.values()), strict=True))
    finished = list(given.runs.glob("*-s*/result.json"))
    if len(finished) > 1:
        compared = [f"compare.runs=[{given.runs.absolute()}]", f"output={given.runs.absolute() / 'comparison'}"]
        run(["stage=compare", "compare.baseline=linear", *compared], 600)
    stopped = [name for name, ended in statuses.items() if ended != 0]
    sys.exit(f"Not finished: {', '.join(stopped)}" if stopped else 0)


if __name__ == "__main__":
    main()
