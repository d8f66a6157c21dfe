"""Where metrics go besides the run's own record: W&B, CSV, TensorBoard, trackio, several of them, or none."""

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
    """Refuse what cannot be written to.

    Raises:
        UserError: for an unknown logger, or one whose package is not installed.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"logger.kinds={list(kinds)}: there is no logger '{kind}'.", suggest(kind, KINDS))
        module, extra = _NEEDED.get(kind, ("json", ""))
        if importlib.util.find_spec(module) is None:  # not imported: trackio reads its folder when it is
            raise UserError(
                f"logger={kind} needs the package {module}, which is not installed.",
                f"pip install 'pama-exp[{extra}]', or choose another logger.",
            )


class Trackio:
    """A trackio run: the part of a W&B run's interface that Lightning's logger and this project use."""

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
        """One row."""
        self._run.log(dict(values), step=step)

    def finish(self) -> None:
        """Write what is pending."""
        self._finish()


_said: set[str] = set()  # what is known to have gone wrong


def survive(name: str, call: Callable[[], Any]) -> bool:
    """Whether the call went well; the first time that one of this name does not, a line says so.

    The run's own record has it all: nothing else that keeps its metrics may cost it.
    """
    try:
        call()
    except Exception as error:
        if name not in _said:
            note(f"{name}: {first_line(error)}; the run's own record goes on.")
        _said.add(name)
        return False
    return True


def first_line(error: Exception) -> str:
    """What went wrong, in a few words and without secrets."""
    lines = [line.strip() for line in redact(str(error)).splitlines() if line.strip()]
    return lines[0].rstrip(".")[:160] if lines else type(error).__name__
