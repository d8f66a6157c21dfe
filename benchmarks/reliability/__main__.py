"""Runs disturbed in every way, from nothing to docs/reliability.md.

    python -m benchmarks.reliability                              # all parts; goes on where it was stopped
    python -m benchmarks.reliability --parts kills,events --kills 500 --events 500 --seed 1
    python -m benchmarks.reliability --parts disk --scenarios align,soup
    python -m benchmarks.reliability --publish-only               # the page from the cases that there are

Linux alone. As root, full disks are real ones: file systems in memory.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: no thread may be there when this process forks
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from pama_exp.errors import UserError, suggest

from . import campaign, commands, damage, disk, forks, kills, page
from .case import Case
from .scenarios import SCENARIOS, Workshop

PARTS = ("kills", "events", "damage", "disk", "commands")
RESULTS = Path(__file__).parents[1] / "results" / "reliability.json"
DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reliability",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--scenarios", default=",".join(SCENARIOS), help="what is disturbed, with commas")
    parser.add_argument("--kills", type=int, default=100, help="at random moments")
    parser.add_argument("--events", type=int, default=100, help="kills at changes to files")
    parser.add_argument("--damages", type=int, default=None, help="of all pairs of file and way; all by default")
    parser.add_argument("--sizes", type=int, default=24, help="of disks, for each scenario")
    parser.add_argument("--commands", type=int, default=1000, help="bad ones, from the grammar")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no case after this long")
    parser.add_argument("--scratch", type=Path, default=Path("runs/reliability"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    parser.add_argument("--publish-only", action="store_true")
    options = parser.parse_args(arguments)
    try:
        return _run(options)
    except UserError as error:
        print(f"{error.message}\n{error.hint}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    parts, names = _of("parts", options.parts, PARTS), _of("scenarios", options.scenarios, tuple(SCENARIOS))
    scratch = options.scratch.absolute()
    scratch.mkdir(parents=True, exist_ok=True)
    workshop = Workshop(scratch)
    kept = scratch / "cases.jsonl"
    if options.publish_only:
        page.publish(list(campaign.load(kept).values()), options.results, options.document, disk.means())
        return 0
    forks.warm()
    workshop.stock_up()
    made = {
        "kills": lambda: kills.random_kills(workshop, options.kills, options.seed, names),
        "events": lambda: kills.kills_at_events(workshop, options.events, options.seed, names),
        "damage": lambda: damage.damages(workshop, options.seed, names, options.damages),
        "commands": lambda: commands.bad_commands(workshop, options.commands, options.seed),
        "disk": lambda: disk.full_disks(workshop, options.sizes, names),
    }
    cases = _in_turn([list(made[part]()) for part in parts])
    verdicts = campaign.work(cases, kept, options.minutes)
    page.publish(list(campaign.load(kept).values()), options.results, options.document, disk.means())
    return 1 if any(verdict.faults for verdict in verdicts) else 0


def _in_turn(parts: Sequence[Sequence[Case]]) -> list[Case]:
    """All parts' cases side by side, so that a campaign cut short is a smaller one of every part."""
    placed = [
        ((i + 0.5) / len(cases), number, case) for number, cases in enumerate(parts) for i, case in enumerate(cases)
    ]
    return [case for *_, case in sorted(placed, key=lambda each: each[:2])]


def _of(name: str, text: str, valid: Sequence[str]) -> list[str]:
    given = [part.strip() for part in text.split(",") if part.strip()]
    for part in given:
        if part not in valid:
            raise UserError(f"--{name}={part[:60]} is not one of its values.", suggest(part, valid))
    if not given:
        raise UserError(f"--{name} names nothing.", f"Valid: {', '.join(valid)}.")
    return given


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
