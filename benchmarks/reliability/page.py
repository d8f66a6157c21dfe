"""docs/reliability.md: what stands between its markers, from the cases that ran; what is written by hand stays."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from .case import Verdict

NOT_RUN = "Not run."
PARTS = {
    "kills": "kills at random moments",
    "events": "kills at changes to files",
    "damage": "damaged files",
    "disk": "full disks",
    "commands": "bad commands",
}


def publish(verdicts: Sequence[Verdict], results: Path, document: Path | None, disk: str) -> None:
    """Write the counts and the faults as JSON, and both into the document.

    Args:
        verdicts: of all cases that ran, of whatever seed.
        results: the JSON file.
        document: the page; None for none.
        disk: how disks were made full.
    """
    content = {
        "cases": len(verdicts),
        "counted": {part: len(_of(verdicts, part)) for part in PARTS},
        "disk": disk,
        "parts": {part: _counts(_of(verdicts, part)) for part in PARTS},
        "faults": [
            {"case": v.name, "scenario": v.scenario, "how": v.how, "faults": list(v.faults)}
            for v in verdicts
            if v.faults
        ],
    }
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(content, indent=1) + "\n")
    if document is not None and document.exists():
        document.write_text(filled(document.read_text(), sections(content)))


def filled(text: str, made: Mapping[str, str]) -> str:
    """The document with what stands between `<!-- reliability:NAME -->` and its end replaced."""

    def put(match: re.Match[str]) -> str:
        name = match.group(1)
        return f"<!-- reliability:{name} -->\n{made[name]}\n<!-- /reliability:{name} -->" if name in made else match[0]

    return re.sub(r"<!-- reliability:([\w-]+) -->.*?<!-- /reliability:\1 -->", put, text, flags=re.DOTALL)


def sections(content: Mapping[str, object]) -> dict[str, str]:
    """{name: markdown}, of what `publish` writes as JSON."""
    parts = content["parts"]
    faults = content["faults"]
    assert isinstance(parts, Mapping)
    assert isinstance(faults, list)
    made = {part: _table(counts) if counts else NOT_RUN for part, counts in parts.items()}
    counted = content["counted"]
    assert isinstance(counted, Mapping)
    said = ", ".join(f"{counted[part]} {what}" for part, what in PARTS.items())
    found = f"{len(faults)} of them ended as they should not have" if faults else "all of them ended as they should"
    made["state"] = f"Made by `python -m benchmarks.reliability` from {content['cases']} cases: {said}; {found}."
    made["means"] = f"Disks were made full by {content['disk']}."
    made["faults"] = (
        "\n".join(
            f"- {fault['scenario']}, {_cell(fault['how'])}: {_cell('; '.join(fault['faults']))}" for fault in faults
        )
        or "None."
    )
    return made


def _of(verdicts: Sequence[Verdict], part: str) -> list[Verdict]:
    return [verdict for verdict in verdicts if verdict.part == part]


def _counts(verdicts: Sequence[Verdict]) -> dict[str, dict[str, int]]:
    """{scenario: {how it went: cases}}; where a case is of several commands, a scenario for each of them."""
    found: dict[str, Counter[str]] = {}
    for verdict in verdicts:
        for scenario, way in _ways(verdict):
            found.setdefault(scenario, Counter())[way] += 1
    return {scenario: dict(sorted(counts.items())) for scenario, counts in sorted(found.items())}


def _ways(verdict: Verdict) -> list[tuple[str, str]]:
    if verdict.faults:
        return [(verdict.scenario, "at fault")]
    if verdict.part != "damage":
        return [(verdict.scenario, verdict.kind)]
    parts = [part.partition(": ") for part in verdict.kind.split(", ")]
    return [(f"{verdict.scenario}: {command}", way) for command, _, way in parts]


def _table(counts: Mapping[str, Mapping[str, int]]) -> str:
    """A row per scenario, a column per way that it went."""
    ways = sorted({way for by_way in counts.values() for way in by_way} - {"at fault"})
    header = ["", "all", *ways, "at fault"]
    rows = [[name, str(sum(by.values())), *(str(by.get(way, 0)) for way in header[2:])] for name, by in counts.items()]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *rows])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")[:300]
