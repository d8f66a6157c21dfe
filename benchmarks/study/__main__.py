"""The study behind docs/study.md, from nothing to the page.

    python -m benchmarks.study                 # everything; finished runs are skipped when called again
    python -m benchmarks.study --thin          # two solvers, two seeds, two objectives: does it run, what does it cost
    python -m benchmarks.study --publish-only  # tables and plots from the runs that there are
    python -m benchmarks.study --plan          # what would be run

Arguments after `--` are given to every run, such as training.steps=20.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: the workers share the cores

from .pages import publish
from .plan import SEEDS, jobs, preparations, soups
from .work import work

HERE = Path(__file__).parents[1]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description=__doc__)
    parser.add_argument("--thin", action="store_true")
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--publish-only", action="store_true")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--minutes", type=float, default=110.0, help="start no run after this long")
    parser.add_argument("--runs", type=Path, default=Path("runs/study"))
    parser.add_argument("--results", type=Path, default=HERE / "results" / "study")
    parser.add_argument("--document", type=Path, default=HERE.parent / "docs" / "study.md")
    parser.add_argument("overrides", nargs="*", help="given to every run")
    options = parser.parse_args(arguments)
    seeds = range(2 if options.thin else options.seeds)
    todo = jobs(seeds)
    if options.thin:
        todo = [job for job in todo if job.name.rpartition("-s")[0] in ("2-gold/pama", "2-gold/linear")]
        options.runs, options.results, options.document = Path("runs/study-thin"), Path("runs/study-thin-results"), None
    if options.plan:
        print("\n".join(f"{job.name}: python run.py {' '.join(job.overrides)}" for job in todo))
        print(dict(Counter(job.block for job in todo)), len(todo))
        return 0
    failed: dict[str, str] = {}
    if not options.publish_only:
        deadline = time.time() + options.minutes * 60
        for first in preparations()[: 1 if options.thin else None]:  # gold rewards need no reward model
            failed |= work(first, options.runs, options.overrides, options.workers, deadline)
        failed |= work(todo, options.runs, options.overrides, options.workers, deadline)
        if not options.thin:
            failed |= work(soups(seeds, str(options.runs)), options.runs, options.overrides, options.workers, deadline)
    publish(options.runs, options.results, options.document, "python -m benchmarks.study")
    for name, error in failed.items():
        print(f"failed: {name}: {error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
