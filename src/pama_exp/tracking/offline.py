"""Offline W&B runs on disk: listed and uploaded."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pama_exp.config.naming import shown
from pama_exp.errors import UserError

_NAME = re.compile(r"offline-run-(\d{8})_(\d{6})-([\w.-]+)")


@dataclass(frozen=True)
class OfflineRun:
    """An offline run in W&B's format. A run that was resumed has several, with the same id.

    Attributes:
        name: the name of the run's folder.
        run_id: W&B's id.
        written: day and time of its start.
        log: W&B's file.
    """

    name: str
    run_id: str
    written: str
    log: Path

    @property
    def is_uploaded(self) -> bool:
        """Whether `wandb sync` has written its marker file."""
        return self.log.with_name(self.log.name + ".synced").exists()


def offline_runs(root: Path) -> list[OfflineRun]:
    """Every offline run under `root`, oldest first.

    Raises:
        UserError: if there is no such folder, or no offline run in it.
    """
    if not root.is_dir():
        raise UserError(f"The folder {root} does not exist.", "Name the folder that holds the runs.")
    runs = []
    for log in root.rglob("wandb/offline-run-*/*.wandb"):
        match = _NAME.fullmatch(log.parent.name)
        if match is None or not log.is_file():
            continue  # not written by W&B
        day, clock, run_id = match.groups()
        written = f"{day[:4]}-{day[4:6]}-{day[6:]} {clock[:2]}:{clock[2:4]}"
        runs.append(OfflineRun(shown(log.parents[2].name), run_id, written, log))
    if not runs:
        raise UserError(f"No offline W&B run in {root}.", "Runs write one with logger=wandb and no verified key.")
    return sorted(runs, key=lambda run: (run.written, run.name))


def upload(run: OfflineRun) -> None:
    """Upload a run by `wandb sync`.

    Raises:
        UserError: if it fails, with the last line of its output.
    """
    command = [sys.executable, "-m", "wandb", "sync", str(run.log.parent)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode or not run.is_uploaded:
        lines = (done.stdout + done.stderr).strip().splitlines() or ["wandb sync said nothing"]
        raise UserError(f"{run.name} was not uploaded: {lines[-1]}", "Is there an account? `wandb login` sets one up.")
