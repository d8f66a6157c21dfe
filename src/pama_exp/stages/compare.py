"""`stage=compare`: a comparison of finished runs as tables, files and pictures. Nothing is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pama_exp.assembly.setup import Setup
from pama_exp.comparison import compare, load_runs, split_by_objectives
from pama_exp.comparison.load import damaged
from pama_exp.comparison.pictures import draw
from pama_exp.comparison.write import tables, write
from pama_exp.config.naming import slug
from pama_exp.errors import UserError
from pama_exp.tracking.console import note, table
from pama_exp.tracking.record import RunRecord


def run(setup: Setup, record: RunRecord) -> dict[str, Any]:
    """Compare the runs in `compare.runs`. Runs of different objectives are compared separately, in a folder each.

    Raises:
        UserError: for a missing folder, if there is no finished run, or for an unknown baseline.
    """
    settings = setup.config.compare
    runs = load_runs([Path(folder) for folder in settings.runs])
    for line in damaged(runs):
        note(line)
    parts = split_by_objectives(runs)
    if not parts:
        raise UserError("None of the runs aligns a policy.", "Name folders of stage=align or stage=soup runs.")
    finished = [runs for runs in parts if any(run.result is not None for run in runs)]
    written = []
    for runs in finished or parts[:1]:
        comparison = compare(runs, settings.baseline)
        folder = record.folder if len(finished) == 1 else record.folder / slug(*comparison.objectives)
        folder.mkdir(exist_ok=True)
        write(comparison, folder)
        draw(comparison, folder)
        for title, header, rows in tables(comparison):
            table(title, header, rows)
        for warning in comparison.warnings:
            note(f"! {warning}")
        written.append(
            {"objectives": list(comparison.objectives), "folder": str(folder)}
            | {"controlled": comparison.is_controlled, "warnings": list(comparison.warnings)}
        )
    for runs in parts:
        if runs not in finished:
            note(f"! None of the {len(runs)} runs of {' + '.join(runs[0].objectives)} is finished.")
    if len(finished) > 1:
        note(f"! Runs of {len(finished)} sets of objectives, compared separately.")
    return {"status": "complete", "comparisons": written, "run_dir": str(record.folder)}
