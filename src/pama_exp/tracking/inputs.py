"""The data files that a run reads, by their SHA-256: it goes on with the same data, or it is another run."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pama_exp.errors import UserError
from pama_exp.tracking import folder as folders
from pama_exp.tracking import reading
from pama_exp.tracking.record import RunRecord


def refuse_changed(record: RunRecord, files: Mapping[str, str]) -> None:
    """Nothing is gone on with, or called finished, whose data files now hold something else.

    Args:
        record: of the run; one from before this file was written is taken as it is.
        files: {path: SHA-256} of what the configuration reads now.

    Raises:
        UserError: naming a file that has changed.
    """
    path = record.folder / folders.INPUTS
    if not path.exists() or not (record.is_complete or folders.has_checkpoint(record.folder)):
        return
    before = reading.read_json(path, reading.check_mapping)
    if sorted(before.values()) == sorted(files.values()):  # wherever they lie now
        return
    changed = [name for name, digest in files.items() if digest not in before.values()]
    raise UserError(
        f"{record.folder} holds a run on other data: {', '.join(changed[:3]) or 'a file'} has changed since.",
        "Put the old file back, choose another output=FOLDER, or give force=true to run in this one afresh.",
    )


def keep(record: RunRecord, files: Mapping[str, str]) -> None:
    """Write inputs.json; nothing where no file is read."""
    if files:
        (record.folder / folders.INPUTS).write_text(json.dumps(dict(files), indent=2) + "\n")
