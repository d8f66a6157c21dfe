"""docs/families.md: the tables between its markers, from the rows alone; what is written by hand around them stays."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from pama_exp.comparison.statistics import LEAST, Interval, interval, paired_test

from .plan import FAMILIES, OBJECTIVES, PREFERENCES
from .table import Row

BASELINE = "each"


def publish(rows: Sequence[Row], document: Path) -> None:
    """Put the tables into the document."""
    if document.exists():
        document.write_text(filled(document.read_text(), sections(rows)))


def filled(text: str, made: Mapping[str, str]) -> str:
    """The document with what stands between `<!-- families:NAME -->` and `<!-- /families:NAME -->` replaced."""
    for name, content in made.items():
        pattern = re.compile(f"<!-- families:{name} -->.*?<!-- /families:{name} -->", re.DOTALL)
        block = f"<!-- families:{name} -->\n{content}\n<!-- /families:{name} -->"
        text = pattern.sub(lambda _, block=block: block, text)
    return text


def sections(rows: Sequence[Row]) -> dict[str, str]:
    """{name: markdown} of everything on the page that comes from data."""
    by_family = {name: [row for row in rows if row.family == name] for name in FAMILIES}
    run = {name: found for name, found in by_family.items() if found}
    return {
        "state": _state(by_family),
        "fronts": _fronts(run),
        "points": _points(run),
        "bills": _bills(run),
        "verdict": _verdict(run),
    }


def _state(by_family: Mapping[str, Sequence[Row]]) -> str:
    counts = {FAMILIES[name].label: len(rows) for name, rows in by_family.items()}
    seeds = sorted({row.seed for rows in by_family.values() for row in rows})
    if not seeds:
        return "Nothing has been run yet."
    few = [f"{label}: {count}" for label, count in counts.items() if count < len(seeds)]
    said = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''} ({', '.join(map(str, seeds))})"
    return f"Run with {said}" + (f"; of fewer {', '.join(few)}." if few else " of every family.")


def _fronts(run: Mapping[str, Sequence[Row]]) -> str:
    base = {row.seed: row.values["share"] for row in run.get(BASELINE, ())}
    lines = []
    for name, rows in run.items():
        own = {row.seed: row.values["share"] for row in rows}
        test = paired_test(own, base) if name != BASELINE else None
        against = "" if test is None else _percent(test.difference, signed=True)
        measures = [interval([row.values[m] for row in rows]) for m in ("igd_plus", "regret")]
        cells = [_percent(interval(list(own.values()))), against, *(f"{m.mean:.3f}" for m in measures if m is not None)]
        lines.append([FAMILIES[name].label, str(len(rows)), *cells])
    head = ["family", "seeds", "share of the true front", f"against {FAMILIES[BASELINE].label}", "IGD+", "regret"]
    return _markdown(head, lines)


def _points(run: Mapping[str, Sequence[Row]]) -> str:
    lines = []
    for name, rows in run.items():
        means = [
            " / ".join(f"{fmean(row.points[share][i] for row in rows):.2f}" for i in range(len(OBJECTIVES)))
            for share in PREFERENCES
        ]
        lines.append([FAMILIES[name].label, *means])
    head = [f"{' / '.join(OBJECTIVES)} when asked for", *(f"{s:g} : {1 - s:.1g}" for s in PREFERENCES)]
    return _markdown(head, lines)


def _bills(run: Mapping[str, Sequence[Row]]) -> str:
    lines = []
    for name, rows in run.items():
        family = FAMILIES[name]
        bill = {key: fmean(row.values[key] for row in rows) for key in ("prompts", "pairs", "forwards", "backwards")}
        held, passes = family.serves
        served = f"{len(PREFERENCES)} models, one for each" if family.per_preference else f"{held} for all"
        counts = [f"{bill[key]:,.0f}" for key in bill]
        lines.append([family.label, *counts, served, str(passes), family.needs])
    head = ["family", "prompts answered", "pairs", "sequences forwards", "backwards"]
    return _markdown([*head, "models to serve five preferences", "passes a token", "needs"], lines)


def _verdict(run: Mapping[str, Sequence[Row]]) -> str:
    """One line for each family: better, worse or not told apart from a policy per preference."""
    base = {row.seed: row.values["share"] for row in run.get(BASELINE, ())}
    lines = []
    for name, rows in run.items():
        if name == BASELINE:
            continue
        test = paired_test({row.seed: row.values["share"] for row in rows}, base)
        found = None if test is None else test.difference
        if found is None or found.low is None or found.high is None:
            said = f"fewer than {LEAST} seeds, so nothing is claimed"
        elif found.low > 0:
            said = "better"
        elif found.high < 0:
            said = "not better: worse"
        else:
            said = "not better: the two are not told apart"
        lines.append(f"- {FAMILIES[name].label}: {said}.")
    return "\n".join(lines)


def _percent(found: Interval | None, signed: bool = False) -> str:
    if found is None:
        return ""
    mean = f"{100 * found.mean:+.1f}" if signed else f"{100 * found.mean:.1f} %"
    return (
        mean if found.low is None or found.high is None else f"{mean} [{100 * found.low:.1f}, {100 * found.high:.1f}]"
    )


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))
