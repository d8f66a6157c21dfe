"""The table of families, from nothing to docs/families.md.

    python -m benchmarks.families                  # every run that is not finished; seeds one after the other
    python -m benchmarks.families --seeds 3        # seeds 1 to 3; 0 was used for choosing settings
    python -m benchmarks.families --plan           # what would be run, as commands
    python -m benchmarks.families --publish-only   # the page from the rows and runs that there are

Rows go to benchmarks/results/families/. Arguments after `--` are given to every run, such as cache_dir=FOLDER.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: the workers share the cores

from ..study.plan import preparations
from ..study.work import work
from .page import publish
from .plan import OBJECTIVES, expert_jobs, family_jobs, mixing_jobs
from .table import load, merged, read_rows, save

RESULTS = Path(__file__).parents[1] / "results" / "families"
DOCUMENT = Path(__file__).parents[2] / "docs" / "families.md"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.families", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--minutes", type=float, default=600.0, help="start no run after this long")
    parser.add_argument("--runs", type=Path, default=Path("runs/families"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--publish-only", action="store_true")
    parser.add_argument("overrides", nargs="*", help="given to every run, after --")
    options = parser.parse_args(arguments)
    seeds = range(1, 1 + options.seeds)
    if options.plan:
        for seed in seeds:
            for job in [*expert_jobs(seed), *mixing_jobs(seed, str(options.runs)), *family_jobs(seed)]:
                print(f"{job.name}: python run.py {' '.join(job.overrides)}")
        return 0
    failed: dict[str, str] = {}
    if not options.publish_only:
        deadline, extra = time.time() + options.minutes * 60, options.overrides
        wanted = {f"prepare/{name}" for name in OBJECTIVES}
        first = [[job for job in stage if job.block == "prepare"] for stage in preparations()]
        for stage in (first[0], [job for job in first[1] if job.name in wanted]):
            failed |= work(stage, options.runs, extra, options.workers, deadline)
        for seed in seeds:
            rest = [*mixing_jobs(seed, str(options.runs)), *family_jobs(seed)]
            for jobs in (expert_jobs(seed), rest):
                failed |= work(jobs, options.runs, extra, options.workers, deadline)
            save(options.results, merged(load(options.results), read_rows(options.runs, seeds)))
    rows = merged(load(options.results), read_rows(options.runs, seeds))
    save(options.results, rows)
    publish(rows, options.document)
    for name, error in failed.items():
        print(f"failed: {name}: {error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
