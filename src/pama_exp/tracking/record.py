"""A run's folder: everything a later reader needs, whatever happens to the process that writes it."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml

from pama_exp.errors import UserError
from pama_exp.parallel.products import library
from pama_exp.safety.secrets import redact, redacted
from pama_exp.storage.csv_table import write_records
from pama_exp.tracking import checkpoints, locks, reading, sums
from pama_exp.tracking import folder as folders
from pama_exp.tracking.console import note

_PACKAGES = (
    "pama-exp",
    "torch",
    "transformers",
    "tokenizers",
    "lightning",
    "hydra-core",
    "omegaconf",
    "numpy",
    "torchjd",
    "wandb",
)


class RunRecord:
    """The files of one run; `result.json` is written last, so that its presence means the run is complete."""

    def __init__(self, folder: Path, checkpoints: Path | None = None) -> None:
        self.folder = folder
        self.checkpoints = folder / "checkpoints" if checkpoints is None else checkpoints

    @classmethod
    def open(cls, folder: Path, checkpoints: Path | None = None) -> RunRecord:
        """The record in this folder, which is made if it is missing.

        Args:
            folder: of the record.
            checkpoints: read and written there; None for the record's own.

        Raises:
            UserError: if the folder cannot be written, or holds something else than a run.
        """
        return cls(folders.run_folder(str(folder)), checkpoints).make()

    def make(self) -> RunRecord:
        """Make the folder if it is missing; returns the record.

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
        """The same for every process that goes on with this run."""
        return hashlib.sha256(str(self.folder.absolute()).encode()).hexdigest()[:12]

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held while the run is worked on; freed by the system when the process ends, however it ends.

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
        """Whether a process is working on this run now."""
        return locks.is_held(self.folder / folders.LOCK)

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"The run folder {self.folder} cannot be written ({error.strerror}).", "Set output=FOLDER.")

    # ---- what ran -------------------------------------------------------------------------------------------------

    def refuse_another(self, resolved: Mapping[str, Any], volatile: Sequence[str] = ()) -> None:
        """Go on only if the folder holds no run, or the one of this configuration.

        Args:
            resolved: plain nested values.
            volatile: top-level keys in which two configurations may differ and still be the same run.

        Raises:
            UserError: naming the keys that differ.
        """
        differing = self._differing(resolved, volatile)
        if differing:
            more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
            raise UserError(
                f"{self.folder} holds a run of another configuration; different: {', '.join(differing[:5])}{more}.",
                "Choose another output=FOLDER, or give force=true to run in this one afresh.",
            )

    def take_over(self, resolved: Mapping[str, Any], volatile: Sequence[str] = ()) -> None:
        """Delete a run of another configuration that ended before its first step, as one that its engine refused.

        It has nothing to lose: no result, model or checkpoint, and no row of a step. A damaged table may hold some.
        """
        made = ("result.json", "policy", "reward_model")
        if folders.has_checkpoint(self.folder) or any((self.folder / name).exists() for name in made):
            return
        with suppress(UserError):
            if self._differing(resolved, volatile) and all(row["step"] == 0 for row in self.read_metrics()):
                folders.clear(self.folder)

    def _differing(self, resolved: Mapping[str, Any], volatile: Sequence[str]) -> list[str]:
        """The keys in which the folder's configuration is another; none where there is none."""
        if not (self.folder / folders.CONFIG).exists():
            return []
        return _differences(_without(self.read_config(), volatile), _without(redacted(resolved), volatile))

    def write_config(self, resolved: Mapping[str, Any], volatile: Sequence[str] = ()) -> None:
        """config.yaml; a folder that holds another run's is refused, as `refuse_another` does."""
        resolved = redacted(resolved)
        self.refuse_another(resolved, volatile)
        text = yaml.safe_dump(dict(resolved), sort_keys=False, allow_unicode=True, width=120)
        _write_atomically(self.folder / folders.CONFIG, folders.HEADER + text)

    def read_config(self) -> dict[str, Any]:
        """What `write_config` wrote.

        Raises:
            UserError: if it is damaged.
        """
        return reading.read_yaml(self.folder / "config.yaml", reading.check_mapping)

    def write_environment(self, command: Sequence[str]) -> None:
        """environment.json: versions, hardware, and the source's commit."""
        _write_json(
            self.folder / "environment.json",
            {
                "command": [redact(word) for word in command],
                "packages": {name: _version(name) for name in _PACKAGES},
                "python": sys.version.split()[0],
                "platform": platform.platform(),
                "processor": {
                    "model": _processor(),
                    "cores": os.cpu_count(),
                    "threads": torch.get_num_threads(),
                    "products": library(),
                },
                "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
                "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
                "git": _git(),
            },
        )

    # ---- what happened --------------------------------------------------------------------------------------------

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """One row of metrics.jsonl; a value that is not finite becomes null."""
        row = {k: float(v) if math.isfinite(v) else None for k, v in values.items()}
        self._append("metrics.jsonl", [{"step": step, **row}])

    def log_generations(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows of generations.jsonl."""
        self._append("generations.jsonl", [{"step": step, **row} for row in rows])

    def read_metrics(self) -> list[dict[str, Any]]:
        """Every whole row, in order.

        Raises:
            UserError: if the table is damaged.
        """
        return reading.read_rows(self.folder / "metrics.jsonl")

    def read_generations(self) -> list[dict[str, Any]]:
        """Likewise."""
        return reading.read_rows(self.folder / "generations.jsonl")

    def truncate(self, step: int, known: Mapping[str, int] | None = None) -> None:
        """Keep the rows up to `step`: what a checkpoint at that step knows of. Nothing is kept where there is none.

        Rows of a split are those of the policy at its end, which are written after the last checkpoint, and again.

        Args:
            step: of the checkpoint.
            known: {table: bytes} where the checkpoint says exactly how much it knows of.
        """
        for name in checkpoints.TABLES:
            path = self.folder / name
            if not path.exists():
                continue
            if known is not None:
                os.truncate(path, min(known[name], path.stat().st_size))
                continue
            rows = reading.read_rows(path) if step > 0 else []
            kept = [row for row in rows if row["step"] <= step and "split" not in row]
            _write_atomically(path, "".join(json.dumps(row) + "\n" for row in kept))

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
        """The step of the newest metrics row; 0 where there is none, or none can be read."""
        try:
            return max((row["step"] for row in self.read_metrics()), default=0)
        except UserError:  # whoever goes on with the run says so
            return 0

    def metrics_table(self, path: Path) -> None:
        """All metrics as one CSV file with the union of their columns."""
        write_records(path, self.read_metrics())

    # ---- how it stands --------------------------------------------------------------------------------------------

    def write_status(self, state: str, step: int, detail: str = "") -> None:
        """status.json: running, interrupted, failed or complete."""
        shown = {"state": state, "step": step, "detail": redact(detail), "time": time.time()}
        _write_json(self.folder / "status.json", shown)

    def note_failure(self, state: str, detail: str) -> None:
        """The same of a run that is failing; on a full disk over the old one, which takes no room, or not at all."""
        with suppress(OSError, ValueError):
            step = 0
            with suppress(OSError, ValueError, KeyError, TypeError):
                step = self.last_step()
            try:
                self.write_status(state, step, detail)
            except OSError:
                content = {"state": state, "step": step, "detail": detail[:200], "time": time.time()}
                own = os.open(self.folder / "status.json", os.O_RDWR | os.O_NOFOLLOW)
                with open(own, "r+", encoding="utf-8") as file:
                    file.write(json.dumps(content) + "\n")
                    file.truncate()

    def read_status(self) -> dict[str, Any]:
        """What `write_status` wrote; its state as the result and the lock have it, wherever a kill came.

        So it is complete with a result alone, running with a process alone, and dead where neither is there.

        Raises:
            UserError: if it is missing or damaged.
        """
        written = dict(redacted(reading.read_json(self.folder / "status.json", reading.check_status)))
        if written.get("state") not in ("running", "complete"):
            return written
        if written["state"] == "running" and self.is_locked():
            return written
        return written | {"state": "complete" if self.is_complete else "running" if self.is_locked() else "dead"}

    def mend_status(self) -> None:
        """Have status.json say complete where there is a result, and a kill came before it could."""
        try:
            is_said = reading.read_json(self.folder / "status.json", reading.check_status)["state"] == "complete"
        except UserError:
            is_said = False
        if not is_said:
            self.write_status("complete", self.last_step())

    def write_result(self, result: Mapping[str, Any]) -> None:
        """result.json, last and atomically, with the sums of the files that it goes with."""
        _write_json(self.folder / "result.json", sums.summed(self.folder, result))

    @property
    def is_complete(self) -> bool:
        """Whether the run has its result."""
        return (self.folder / "result.json").is_file()

    def read_result(self) -> dict[str, Any]:
        """What `write_result` was given.

        Raises:
            UserError: if it or a file that it goes with is damaged.
        """
        return sums.verified(self.folder, reading.read_json(self.folder / "result.json", reading.check_result))

    def _append(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        with (self.folder / name).open("a") as file:
            file.write("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    _write_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _without(content: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in keys}


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = dict.fromkeys([*old, *new])
        return [d for key in keys for d in _differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))]
    return [] if old == new else [path]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _git() -> dict[str, Any] | None:
    """Commit and whether there are changes on top of it; None outside a checkout."""

    def ask(*arguments: str) -> str:
        where = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(where, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
