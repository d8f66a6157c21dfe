"""docs/league.md: the tables between its markers, from the rows alone; what is written by hand around them stays."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from pama_exp.comparison.statistics import LEAST

from . import claims, picture
from .advice import advice
from .confirm import confirmation_table, confirmed, is_fresh, planned
from .plan import OBJECTIVES, PROTOCOLS, REWARDS, SEEDS
from .rank import BASELINE, Block, Seeds, Standing, blocks, leads, standings
from .table import Row, version

NOT_RUN = "not run"
Table = tuple[list[str], list[list[str]]]
Found = Mapping[Block, Mapping[str, Seeds]]


def publish(rows: Sequence[Row], known: Mapping[str, tuple[str, ...]], results: Path, document: Path | None) -> None:
    """Write the tables as json beside the rows and into the document, and the picture of the confirmation beside it."""
    found = blocks(row for row in rows if not is_fresh(row))
    ranked = {_name(block): [asdict(place) for place in standings(by_entry)] for block, by_entry in found.items()}
    results.mkdir(parents=True, exist_ok=True)
    content = {"version": version(rows), "rows": len(rows), "blocks": ranked}
    (results / "standings.json").write_text(json.dumps(content, indent=1) + "\n")
    if document is not None and document.exists():
        document.write_text(filled(document.read_text(), sections(rows, known)))
        picture.draw(rows, document.with_name("league.png"))


def filled(text: str, made: Mapping[str, str]) -> str:
    """The document with what stands between `<!-- league:NAME -->` and `<!-- /league:NAME -->` replaced."""

    def put(match: re.Match[str]) -> str:
        name = match.group(1)
        return f"<!-- league:{name} -->\n{made[name]}\n<!-- /league:{name} -->" if name in made else match.group(0)

    return re.sub(r"<!-- league:([\w-]+) -->.*?<!-- /league:\1 -->", put, text, flags=re.DOTALL)


def sections(rows: Sequence[Row], known: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """{name: markdown} of everything on the page that comes from data."""
    found = blocks(row for row in rows if not is_fresh(row))
    made = {
        "state": state(rows, known, found),
        "confirmation": markdown(confirmation_table(rows, "first")),
        "second-world": markdown(confirmation_table(rows, "second")),
        "advice": "\n".join(
            f"{i}. {line}" for i, line in enumerate(advice(found, blocks(confirmed(rows, "first"))), 1)
        ),
        "coverage": markdown(coverage_table(known, found)),
        "overall": markdown(lead_table(found)),
        "kl": markdown(kl_table(found)),
        "claims": markdown(claims.table()),
    }
    for n in OBJECTIVES:
        for reward in REWARDS:
            by_entry = found.get(("reward", n, reward))
            made[f"{n}-{reward}"] = markdown(block_table(by_entry, n)) if by_entry else f"{NOT_RUN}."
    return made


def state(rows: Sequence[Row], known: Mapping[str, tuple[str, ...]], found: Found) -> str:
    """How far the table is filled, and what it is to be cited by."""
    ranked = [row for row in rows if row.cell.protocol == "reward" and not is_fresh(row)]
    fresh, second = (len(confirmed(rows, world)) for world in ("first", "second"))
    whole = len(known) * len(OBJECTIVES) * len(REWARDS) * len(SEEDS)
    seeds = [len(seeds) for block, by_entry in found.items() if block[0] == "reward" for seeds in by_entry.values()]
    met = len({row.cell.entry for row in ranked})
    return " ".join(
        [
            f"Made by `python -m benchmarks.league` from {len(rows)} runs, table `{version(rows)}`, world seed 0.",
            f"**{len(ranked)} of {whole} cells** of the ranking are filled: {len(known)} entries, {len(OBJECTIVES)}",
            f"numbers of objectives, {len(REWARDS)} kinds of reward, {len(SEEDS)} seeds. {met} entries have run",
            f"anywhere, and {sum(count >= LEAST for count in seeds)} of {len(seeds)} pairs of entry and block have",
            f"the {LEAST} seeds that an interval needs. Confirmation of the frozen leader on seeds 100 to 107:",
            f"**{fresh} of {planned()} runs**; on a second world: **{second} of {planned()}**.",
        ]
    )


def coverage_table(known: Mapping[str, tuple[str, ...]], found: Found) -> Table:
    """Mean share and number of seeds of every entry in every block; no cell is empty."""
    wanted = [("reward", n, reward) for n in OBJECTIVES for reward in REWARDS]
    rows = []
    for entry in known:
        cells = []
        for block in wanted:
            seeds = found.get(block, {}).get(entry)
            cells.append(f"{100 * _mean(seeds):.1f} % ({len(seeds)})" if seeds else NOT_RUN)
        rows.append([entry, *cells])
    return ["entry", *(f"N = {n}, {reward}" for _, n, reward in wanted)], rows


def standing_row(place: Standing, n: int, ordered: Sequence[Standing]) -> dict[str, str]:
    """{column: cell} of one entry in one block."""
    base = next((other for other in ordered if other.entry == BASELINE), None)
    m = place.means
    share = f"{100 * m['share']:.1f} %" + _ends(place.share, 100)
    if place.p is not None and place.p < 0.05 and base is not None:
        share += " ▲" if m["share"] > base.means["share"] else " ▼"
    return {
        "rank": str(place.rank) + (f" [{place.ranks[0]}, {place.ranks[1]}]" if place.ranks else ""),
        "entry": place.entry,
        "seeds": str(len(place.seeds)),
        "share": share,
        "share^(1/N)": f"{m['share'] ** (1 / n):.3f}",
        "P(> linear)": "–" if place.improvement is None else f"{place.improvement:.2f}",
        "IGD+": f"{m['igd_plus']:.3f}",
        "regret": f"{m['regret']:.3f}",
        "least gain": f"{m['least_gain']:+.2f}",
        "mean gain": f"{m['mean_gain']:+.2f}",
        "sd of share": "–" if place.deviation is None else f"{100 * place.deviation:.1f}",
        "KL": f"{m['kl']:.2f}",
        "backward passes": f"{m['backwards_per_prompt']:.0f}",
    }


def block_table(by_entry: Mapping[str, Seeds], n: int) -> Table:
    """A row per entry that has run in the block, the best share first."""
    ordered = standings(by_entry)
    rows = [standing_row(place, n, ordered) for place in ordered]
    return list(rows[0]), [list(row.values()) for row in rows]


def lead_table(found: Found) -> Table:
    """A row per entry: how far ahead of the baseline over the cells that both have."""
    header = ["entry", "cells in common", f"lead over {BASELINE} in share^(1/N), IQM", "least mean lead of a block"]
    return header, [
        [lead.entry, str(lead.cells), f"{lead.iqm:+.3f}" + _ends(lead.ends, 1, 3), f"{lead.least:+.3f}"]
        for lead in leads(found)
    ]


def kl_table(found: Found) -> Table:
    """Entries that have run under more than one placement of the KL, on the seeds that all of these have."""
    rows = []
    for n in OBJECTIVES:
        for reward in REWARDS:
            by_protocol = {p: found[p, n, reward] for p in PROTOCOLS if (p, n, reward) in found}
            for entry in sorted({e for p, by_entry in by_protocol.items() if p != "reward" for e in by_entry}):
                there = {p: by_entry[entry] for p, by_entry in by_protocol.items() if entry in by_entry}
                common = sorted(set.intersection(*(set(seeds) for seeds in there.values())))
                for protocol, seeds in there.items() if len(there) > 1 and common else ():
                    kept = [seeds[seed] for seed in common]
                    shares = [f"{name} {100 * _average(kept, f'kl_share/{name}'):.0f}" for name in OBJECTIVES[n]]
                    rows.append(
                        [
                            str(n),
                            reward,
                            entry,
                            protocol,
                            str(len(common)),
                            f"{100 * _average(kept, 'share'):.1f} %",
                            f"{_average(kept, 'least_gain'):+.2f}",
                            f"{_average(kept, 'kl'):.2f}",
                            ", ".join(shares),
                        ]
                    )
    header = ["N", "rewards", "entry", "KL", "seeds", "share", "least gain", "final KL", "KL's share of variance, %"]
    return header, rows or [[NOT_RUN] * len(header)]


def markdown(table: Table) -> str:
    """GitHub's table."""
    header, rows = table
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *rows])


def _ends(ends: tuple[float, float] | None, factor: float, digits: int = 1) -> str:
    return "" if ends is None else f" [{factor * ends[0]:.{digits}f}, {factor * ends[1]:.{digits}f}]"


def _mean(seeds: Seeds) -> float:
    return _average(list(seeds.values()), "share")


def _average(rows: Sequence[Row], column: str) -> float:
    values = [row.values.get(column) for row in rows]
    kept = [value for value in values if value is not None]
    return sum(kept) / len(kept) if kept else float("nan")


def _name(block: Block) -> str:
    protocol, n, reward = block
    return f"{n}-{reward}-{protocol}"
