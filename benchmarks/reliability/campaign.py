"""Cases done one after another, kept as they end, so that a campaign that is stopped goes on where it was."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from .case import Case, Verdict


def load(path: Path) -> dict[str, Verdict]:
    """{case: verdict} of what was done before."""
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    return {row["name"]: Verdict(**{**row, "faults": tuple(row["faults"])}) for row in rows}


def work(cases: Sequence[Case], kept: Path, minutes: float) -> list[Verdict]:
    """Do those that were not done before, and keep each verdict in the file as it comes.

    No case is begun after so many minutes.
    """
    done = load(kept)
    todo = [case for case in cases if case.name not in done]
    print(f"{len(cases)} cases, {len(cases) - len(todo)} of them done before.", flush=True)
    started = time.monotonic()
    for count, case in enumerate(todo, 1):
        if time.monotonic() - started > 60 * minutes:
            print(f"No time left for {len(todo) - count + 1} cases; the same command goes on.", flush=True)
            break
        verdict = attempt(case)
        done[case.name] = verdict
        with kept.open("a") as file:
            file.write(json.dumps(verdict.row()) + "\n")
        left = (time.monotonic() - started) / count * (len(todo) - count) / 60
        said = f"FAULT: {'; '.join(verdict.faults)}" if verdict.faults else verdict.kind
        print(
            f"{count}/{len(todo)}  {case.name}  {verdict.scenario}: {verdict.how}: {said}  {left:.0f} min left",
            flush=True,
        )
    return [done[case.name] for case in cases if case.name in done]


def attempt(case: Case) -> Verdict:
    """The case's verdict; a campaign that cannot judge it says so and goes on."""
    started = time.monotonic()
    try:
        return case.run()
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        fault = f"not judged: {type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        return Verdict(case.name, case.part, case.scenario, "", "not judged", (fault,), time.monotonic() - started)
