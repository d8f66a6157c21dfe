"""Where metrics go besides the run's own record: W&B, CSV, TensorBoard, trackio, several of them, or none."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pama_exp.errors import UserError, suggest

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
