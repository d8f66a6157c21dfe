"""docs/solver-table.md: every solver on one screen, from its yaml, its docstring and the league's rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from pama_exp.cli.solver_help import Entry, entry
from pama_exp.config.places import CONF

from .plan import OBJECTIVES
from .rank import Block, Seeds

INTRODUCTION = """\
# Solver table

Every solver on one screen; written by `python -m benchmarks.league --publish-only`. [Solvers](solvers.md) has an
entry for each: its rule as a formula, its settings, its source.

- **cost**: backward passes for one update with N objectives. *1* is what a single objective costs.
- **needs**: *groups*: several answers per prompt, `advantage=group advantage.baseline=standardise`; *validation*:
  `training.evaluate_every` above 0; *extra*: `pip install 'pama-exp[solvers]'`.
- **N = 2, 3, 5**, where it stands: the share of FactWorld's true hypervolume at equal preferences with exact rewards,
  and the number of seeds, from [the league](league.md). With one seed it is a hint, not a finding. –: not run yet.
"""


def page(found: Mapping[Block, Mapping[str, Seeds]]) -> str:
    """The page, from the league's rows by block."""
    head = ["solver", "what it does", "cost", "needs", *(f"N = {n}" for n in OBJECTIVES)]
    rows = [_row(entry(path), found) for path in sorted((CONF / "solver").glob("*.yaml"))]
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join([INTRODUCTION, '<div class="solvers" markdown>', "", *lines, "", "</div>"]) + "\n"


def publish(found: Mapping[Block, Mapping[str, Seeds]], document: Path) -> None:
    """Write the page."""
    document.write_text(page(found))


def _row(solver: Entry, found: Mapping[Block, Mapping[str, Seeds]]) -> list[str]:
    does = re.sub(r"(; needs [^()]*)?,?\s*\([^()]*(?:\([^()]*\))?[^()]*\)", "", solver.headline).strip().rstrip(".")
    shares = [_share(found.get(("reward", n, "gold"), {}), solver.name) for n in OBJECTIVES]
    return [f"[{solver.name}](solvers.md#{solver.name})", does, _cost(solver), _needs(solver), *shares]


def _cost(solver: Entry) -> str:
    said = solver.fields["Cost"]
    if "through the head per objective" in said:
        return "1, N of the head"
    return "N + 1" if said.startswith("one backward pass per objective") else "1"


def _needs(solver: Entry) -> str:
    advantage = solver.fields["Advantage"]
    needs = {
        "groups": advantage.startswith("advantage=group"),
        "validation": "training.evaluate_every" in advantage,
        "extra": "extra `solvers`" in solver.headline,
    }
    return ", ".join(need for need, is_needed in needs.items() if is_needed) or "–"


def _share(block: Mapping[str, Seeds], name: str) -> str:
    seeds = block.get(name)
    return f"{100 * fmean(row['share'] for row in seeds.values()):.1f} % ({len(seeds)})" if seeds else "–"
