"""The league, from nothing to docs/league.md.

    python -m benchmarks.league                             # every cell of the table that has no row yet
    python -m benchmarks.league --solvers linear,pama --n 2,5 --rewards gold --seeds 0-2
    python -m benchmarks.league --protocols once            # the KL charged once; see docs/league.md
    python -m benchmarks.league --world second --seeds 100-107  # another world, for the confirmation alone
    python -m benchmarks.league --plan                      # what would be run, as commands
    python -m benchmarks.league --publish-only              # the page from the rows that there are
    python -m benchmarks.league enter my_conf/solver/mine.yaml  # a solver of your own against the table

Rows are added to benchmarks/results/league/runs.csv; a cell that has one is not run again. Arguments after `--` are
given to every run, such as cache_dir=FOLDER.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: the workers share the cores

from pama_exp.errors import UserError, suggest

from ..study.work import work
from . import solver_table, table
from .confirm import is_fresh
from .enter import standing, stranger
from .page import publish
from .plan import OBJECTIVES, PROTOCOLS, REWARDS, SEEDS, WORLDS, cells, entries, job, preparations
from .rank import blocks

RESULTS = Path(__file__).parents[1] / "results" / "league"
DOCUMENT = Path(__file__).parents[2] / "docs" / "league.md"
SOLVER_TABLE = DOCUMENT.with_name("solver-table.md")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.league", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--solvers", default=None, help="entries by name, with commas; all by default")
    parser.add_argument("--n", default=",".join(map(str, OBJECTIVES)), help="numbers of objectives")
    parser.add_argument("--rewards", default=",".join(REWARDS))
    parser.add_argument("--protocols", default="reward", help=f"of {', '.join(PROTOCOLS)}")
    parser.add_argument("--world", default="first", help="first, or second, which is not ranked")
    parser.add_argument("--seeds", default=f"{SEEDS[0]}-{SEEDS[-1]}", help="such as 0-7, or 0,3,5")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--minutes", type=float, default=600.0, help="start no run after this long")
    parser.add_argument("--runs", type=Path, default=Path("runs/league"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--publish-only", action="store_true")
    parser.add_argument("command", nargs="*", help="`enter YAML`, or overrides for every run after --")
    options = parser.parse_intermixed_args(arguments)
    try:
        return _run(options)
    except UserError as error:
        print(f"{error.message}\n{error.hint}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    known, extra, entered = entries(), list(options.command), None
    if extra[:1] == ["enter"]:
        if len(extra) < 2:
            raise UserError("enter: which solver?", "Name its yaml: enter my_conf/solver/mine.yaml.")
        entered, overrides = stranger(Path(extra[1]), known)
        known, extra = known | {entered: overrides}, extra[2:]
        options.solvers = entered
    world, *more = _of("world", options.world, list(WORLDS))
    if more:
        raise UserError(f"--world={options.world} names several.", f"Give one of {', '.join(WORLDS)}.")
    protocols = _of("protocols", options.protocols, PROTOCOLS)
    rewards = _of("rewards", options.rewards, REWARDS)
    counts = [int(n) for n in _of("n", options.n, [str(n) for n in OBJECTIVES])]
    chosen = list(known) if options.solvers is None else _of("solvers", options.solvers, known)
    wanted = cells(chosen, counts, rewards, protocols, _seeds(options.seeds), world)
    path = options.results / "runs.csv"
    there = table.load(path)
    filled = {row.cell for row in there}
    todo = [cell for cell in wanted if cell not in filled]
    if options.plan:
        print("\n".join(f"{cell.name}: python run.py {' '.join(job(cell, known, extra).overrides)}" for cell in todo))
        print(f"{len(wanted)} cells, {len(wanted) - len(todo)} of them filled.")
        return 0
    failed: dict[str, str] = {}
    if not options.publish_only and todo:
        deadline = time.time() + options.minutes * 60
        sft, models = preparations(world)
        for first in [sft, models] if any(cell.reward == "learned" for cell in todo) else [sft]:
            failed |= work(first, options.runs, extra, options.workers, deadline)
        jobs = [job(cell, known) for cell in todo]
        failed |= work(jobs, options.runs, extra, options.workers, deadline)
    rows = table.merged(there, table.read_runs(options.runs, wanted))
    if entered is None:
        table.save(path, rows)
        publish(rows, known, options.results, options.document)
        if options.document == DOCUMENT:
            solver_table.publish(blocks(row for row in rows if not is_fresh(row)), SOLVER_TABLE)
    else:
        seeds = {cell.seed for cell in wanted}  # the others' on the same world and seeds
        print(standing(entered, [r for r in rows if r.cell.world == world and r.cell.seed in seeds]))
    for name, error in failed.items():
        print(f"failed: {name}: {error}", file=sys.stderr)
    return 1 if failed else 0


def _of(name: str, text: str, valid: Sequence[str] | dict[str, tuple[str, ...]]) -> list[str]:
    given = [part.strip() for part in text.split(",") if part.strip()]
    for part in given:
        if part not in valid:
            raise UserError(f"--{name}={part} is not one of its values.", suggest(part, list(valid)))
    if not given:
        raise UserError(f"--{name} names nothing.", f"Valid: {', '.join(valid)}.")
    return given


def _seeds(text: str) -> list[int]:
    found: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            found += range(int(first), int(last or first) + 1)
    except ValueError:
        raise UserError(f"--seeds={text} is not a list of seeds.", "Write 0-7, or 0,3,5.") from None
    if not found:
        raise UserError(f"--seeds={text} names no seed.", "Write the lower first: 0-7.")
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
