"""The record of a run: the files in its folder, which can be read however the process that writes them ends."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from pama_exp.config.naming import identity
from pama_exp.errors import UserError
from pama_exp.safety.secrets import redact, redacted
from pama_exp.storage.csv_table import write_records
from pama_exp.storage.files import replace_text
from pama_exp.tracking import checkpoints, locks, reading, sums
from pama_exp.tracking import folder as folders
from pama_exp.tracking.console import note
from pama_exp.tracking.environment import environment


class RunRecord:
    """The files of one run. A run is complete if it has result.json, which is written last.

    Args:
        folder: of the run.
        checkpoints: the folder of the checkpoints; None for the one in the run's folder.
    """

    def __init__(self, folder: Path, checkpoints: Path | None = None) -> None:
        self.folder = folder
        self.checkpoints = folder / "checkpoints" if checkpoints is None else checkpoints

    @classmethod
    def open(cls, folder: Path, checkpoints: Path | None = None) -> RunRecord:
        """The record in a folder, which is made if it is missing. The arguments are those of the class.

        Raises:
            UserError: if the folder cannot be written, or holds other files than a run's.
        """
        return cls(folders.run_folder(str(folder)), checkpoints).make()

    def make(self) -> RunRecord:
        """Make the folder if it is missing; returns this record.

        Raises:
            UserError: if it cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not os.access(self.folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise self._unwritable(error) from None
        return self

    @property
    def run_id(self) -> str:
        """A hash of the folder's path, so the same when the run resumes."""
        return hashlib.sha256(str(self.folder.absolute()).encode()).hexdigest()[:12]

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run's lock. The system frees it when the process ends.

        Raises:
            UserError: if another process holds it, or its file cannot be written.
        """

        def refuse() -> None:
            raise UserError(
                f"Another process is working on {self.folder}.", "Wait for it, or give this run output=FOLDER."
            )

        with ExitStack() as stack:
            try:
                stack.enter_context(locks.held(self.folder / folders.LOCK, on_wait=refuse))
            except OSError as error:
                raise self._unwritable(error) from None
            yield

    def is_locked(self) -> bool:
        """Whether a process holds the run's lock."""
        return locks.is_held(self.folder / folders.LOCK)

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"The run folder {self.folder} cannot be written ({error.strerror}).", "Set output=FOLDER.")

    # ---- configuration and environment ----------------------------------------------------------------------------

    def refuse_another(self, config: Mapping[str, Any]) -> None:
        """Check that the folder holds no run of another configuration. The keys in `VOLATILE` may differ.

        Args:
            config: plain nested values.

        Raises:
            UserError: naming the keys that differ.
        """
        differing = self._differing(config)
        if differing:
            more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
            raise UserError(
                f"{self.folder} holds a run of another configuration; different: {', '.join(differing[:5])}{more}.",
                "Choose another output=FOLDER, or give force=true to run in this one afresh.",
            )

    def take_over(self, config: Mapping[str, Any]) -> None:
        """Delete a run of another configuration that ended before its first step.

        Such a run has no result, model or checkpoint, and no row after step 0. A run with a damaged table stays.
        """
        results = ("result.json", "policy", "reward_model")
        if folders.has_checkpoint(self.folder) or any((self.folder / name).exists() for name in results):
            return
        with suppress(UserError):
            if self._differing(config) and all(row["step"] == 0 for row in self.read_metrics()):
                folders.clear(self.folder)

    def _differing(self, config: Mapping[str, Any]) -> list[str]:
        """The keys that differ from those of the folder's configuration; empty if it has none."""
        if not (self.folder / folders.CONFIG).exists():
            return []
        return _differences(identity(self.read_config()), identity(redacted(config)))

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write config.yaml, without secrets. Raises as `refuse_another`."""
        self.refuse_another(config)
        text = yaml.safe_dump(redacted(config), sort_keys=False, allow_unicode=True, width=120)
        _replace(self.folder / folders.CONFIG, folders.HEADER + text)

    def read_config(self) -> dict[str, Any]:
        """The content of config.yaml.

        Raises:
            UserError: if it is missing or damaged.
        """
        return reading.read_yaml(self.folder / folders.CONFIG, reading.check_mapping)

    def write_environment(self, command: Sequence[str]) -> None:
        """Write environment.json: the command, versions, hardware, and the commit of the source."""
        _write_json(self.folder / "environment.json", environment(command))

    # ---- metrics and generations ----------------------------------------------------------------------------------

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row to metrics.jsonl. A value that is not finite becomes null."""
        row = {k: float(v) if math.isfinite(v) else None for k, v in values.items()}
        self._append("metrics.jsonl", [{"step": step, **row}])

    def log_generations(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows to generations.jsonl."""
        self._append("generations.jsonl", [{"step": step, **row} for row in rows])

    def read_metrics(self) -> list[dict[str, Any]]:
        """The complete rows of metrics.jsonl, in order.

        Raises:
            UserError: if the table is damaged.
        """
        return reading.read_rows(self.folder / "metrics.jsonl")

    def read_generations(self) -> list[dict[str, Any]]:
        """The complete rows of generations.jsonl, in order.

        Raises:
            UserError: if the table is damaged.
        """
        return reading.read_rows(self.folder / "generations.jsonl")

    def truncate(self, step: int, known: Mapping[str, int] | None = None) -> None:
        """Cut both tables back to their content at a checkpoint; to nothing at step 0.

        Rows with a split are of the final evaluation. They are removed, because it is repeated.

        Args:
            step: of the checkpoint.
            known: {table: bytes} at the checkpoint; None for a checkpoint of an earlier version.
        """
        for name in checkpoints.TABLES:
            path = self.folder / name
            if not path.exists():
                continue
            if known is not None:
                os.truncate(path, min(known[name], path.stat().st_size))
                continue
            rows = reading.read_rows(path) if step > 0 else []
            remaining = [row for row in rows if row["step"] <= step and "split" not in row]
            _replace(path, "".join(json.dumps(row) + "\n" for row in remaining))

    def resume(self, steps: int) -> checkpoints.Checkpoint | None:
        """The newest good checkpoint, to which the tables are cut back; None if training starts from the beginning.

        A line says where a run of `steps` steps resumes, and which damaged checkpoints are passed over.

        Raises:
            UserError: if no checkpoint is good, but one knows rows that the tables lack.
        """
        checkpoint, passed_over = checkpoints.newest(self.checkpoints)
        step = checkpoint.step if checkpoint is not None else 0
        self.truncate(step, checkpoint.tables if checkpoint is not None else None)
        self.write_status("running", step)
        why = f" ({'; '.join(passed_over)})" if passed_over else ""
        if checkpoint is not None:
            note(f"Resuming from step {step} of {steps}{why}.")
        elif passed_over:
            note(f"Starting from the beginning{why}.")
        return checkpoint

    def last_step(self) -> int:
        """The step of the newest row of metrics.jsonl; 0 if there is none, or the table is damaged."""
        try:
            return max((row["step"] for row in self.read_metrics()), default=0)
        except UserError:
            return 0

    def metrics_table(self, path: Path) -> None:
        """Write all metrics as a CSV file with the union of their columns."""
        write_records(path, self.read_metrics())

    # ---- status and result ----------------------------------------------------------------------------------------

    def write_status(self, state: str, step: int, detail: str = "") -> None:
        """Write status.json. The state is running, interrupted, failed or complete."""
        status = {"state": state, "step": step, "detail": redact(detail), "time": time.time()}
        _write_json(self.folder / "status.json", status)

    def note_failure(self, state: str, detail: str) -> None:
        """Write status.json of a failing run. On a full disk the old file is overwritten, if there is one."""
        with suppress(OSError, ValueError):
            step = 0
            with suppress(OSError, ValueError, KeyError, TypeError):
                step = self.last_step()
            try:
                self.write_status(state, step, detail)
            except OSError:
                content = {"state": state, "step": step, "detail": detail[:200], "time": time.time()}
                descriptor = os.open(self.folder / "status.json", os.O_RDWR | os.O_NOFOLLOW)
                with open(descriptor, "r+", encoding="utf-8") as file:
                    file.write(json.dumps(content) + "\n")
                    file.truncate()

    def read_status(self) -> dict[str, Any]:
        """The content of status.json. The state of a killed run is corrected by its lock and its result.

        So a run is not complete without a result, and not running without a process; without both it is dead.

        Raises:
            UserError: if it is missing or damaged.
        """
        status = dict(redacted(reading.read_json(self.folder / "status.json", reading.check_status)))
        if status.get("state") not in ("running", "complete"):
            return status
        if status["state"] == "running" and self.is_locked():
            return status
        return status | {"state": "complete" if self.is_complete else "running" if self.is_locked() else "dead"}

    def mend_status(self) -> None:
        """Write that a run with a result is complete, if the process was killed before it wrote it."""
        with suppress(UserError):
            if reading.read_json(self.folder / "status.json", reading.check_status)["state"] == "complete":
                return
        self.write_status("complete", self.last_step())

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write result.json atomically, with the hashes of the run's other files."""
        _write_json(self.folder / "result.json", sums.summed(self.folder, result))

    @property
    def is_complete(self) -> bool:
        """Whether the run has a result."""
        return (self.folder / "result.json").is_file()

    def read_result(self) -> dict[str, Any]:
        """The result, checked against the hashes that `write_result` wrote.

        Raises:
            UserError: if it or another file of the run is missing or damaged.
        """
        return sums.verified(self.folder, reading.read_json(self.folder / "result.json", reading.check_result))

    def _append(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        with (self.folder / name).open("a") as file:
            file.write("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    _replace(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = dict.fromkeys([*old, *new])
        return [d for key in keys for d in _differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))]
    return [] if old == new else [path]


def _replace(path: Path, text: str) -> None:
    """Write atomically; what a killed process leaves is recognised by its number, and removed by `folder.settle`."""
    replace_text(path, text, f".{os.getpid()}")
