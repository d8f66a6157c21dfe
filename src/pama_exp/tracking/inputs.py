"""The hashes of the data files that a run reads, so that a run is not continued with other data."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pama_exp.errors import UserError
from pama_exp.tracking import folder as folders
from pama_exp.tracking import reading
from pama_exp.tracking.record import RunRecord


def refuse_changed(record: RunRecord, files: Mapping[str, str]) -> None:
    """Check that the data files of a finished or resumed run have not changed. A run without inputs.json passes.

    Args:
        record: of the run.
        files: {path: SHA-256} of the data files now.

    Raises:
        UserError: naming a file that has changed.
    """
    path = record.folder / folders.INPUTS
    if not path.exists() or not (record.is_complete or folders.has_checkpoint(record.folder)):
        return
    before = reading.read_json(path, reading.check_mapping)
    if sorted(before.values()) == sorted(files.values()):  # the paths may differ
        return
    changed = [name for name, digest in files.items() if digest not in before.values()]
    raise UserError(
        f"{record.folder} holds a run on other data: {', '.join(changed[:3]) or 'a file'} has changed since.",
        "Put the old file back, choose another output=FOLDER, or give force=true to run in this one afresh.",
    )


def keep(record: RunRecord, files: Mapping[str, str]) -> None:
    """Write inputs.json if the run reads data files."""
    if files:
        (record.folder / folders.INPUTS).write_text(json.dumps(dict(files), indent=2) + "\n")
