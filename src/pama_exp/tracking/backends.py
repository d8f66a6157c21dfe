"""Loggers besides the run's record: W&B, CSV, TensorBoard, trackio. A failing logger does not end the run."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pama_exp.errors import UserError, suggest
from pama_exp.safety.secrets import redact
from pama_exp.tracking.console import note

KINDS = ("wandb", "csv", "tensorboard", "trackio")
_NEEDED = {"tensorboard": ("tensorboard", "tensorboard"), "trackio": ("trackio", "trackio")}


def check(kinds: Sequence[str]) -> None:
    """Check that the loggers are known and their packages installed.

    Raises:
        UserError: for the first that is not.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"logger.kinds={list(kinds)}: there is no logger '{kind}'.", suggest(kind, KINDS))
        module, extra = _NEEDED.get(kind, ("json", ""))
        if importlib.util.find_spec(module) is None:  # trackio reads $TRACKIO_DIR when it is imported
            raise UserError(
                f"logger={kind} needs the package {module}, which is not installed.",
                f"pip install 'pama-exp[{extra}]', or choose another logger.",
            )


class Trackio:
    """A trackio run, with the part of the interface of a W&B run that this project uses."""

    def __init__(
        self, project: str, name: str, group: str | None, config: Mapping[str, Any], folder: Path, resume: bool
    ) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(folder / "trackio"))
        import trackio

        self._run = trackio.init(
            project=project,
            name=name,
            group=group,
            config={"experiment": dict(config)},
            resume="allow" if resume else "never",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self._finish = trackio.finish

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log one row of metrics."""
        self._run.log(dict(values), step=step)

    def finish(self) -> None:
        """Write pending rows and close the run."""
        self._finish()


_failed: set[str] = set()  # names of loggers whose failure has been printed


def survive(name: str, call: Callable[[], Any]) -> bool:
    """Call a logger; returns whether it succeeded. The first exception of a logger is printed in a line.

    No exception is raised: the run's record holds the metrics, so a failing logger must not end the run.
    """
    try:
        call()
    except Exception as error:
        if name not in _failed:
            note(f"{name}: {first_line(error)}; the run's own record goes on.")
        _failed.add(name)
        return False
    return True


def first_line(error: Exception) -> str:
    """The first line of an error's message, shortened and without secrets; its type if the message is empty."""
    lines = [line.strip() for line in redact(str(error)).splitlines() if line.strip()]
    return lines[0].rstrip(".")[:160] if lines else type(error).__name__
