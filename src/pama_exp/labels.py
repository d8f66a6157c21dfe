"""What a configuration is called in folders and tables, and what of it is kept there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def solver_label(solver: Mapping[str, Any]) -> str:
    """The solver's name as folders and tables show it."""
    return str(solver.get("name", str(solver.get("_target_", "solver")).rpartition(".")[2].lower()))


def method_label(container: Mapping[str, Any]) -> str:
    """The solver's label, and whether the policy is told its preference."""
    is_told = "conditioning" in recorded(container)
    return solver_label(container["solver"]) + ("-conditioned" if is_told else "")


def recorded(container: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as a run's folder keeps it: without a conditioning where there is none.

    So a run that was begun before there could be one is still the same run.
    """
    is_told = container.get("conditioning", {}).get("name", "none") != "none"
    return {key: value for key, value in container.items() if key != "conditioning" or is_told}


def basename(*paths: str | None) -> str:
    """The last part of the last path given; `hf` where none is."""
    given = [path for path in paths if path is not None]
    return given[-1].rstrip("/").rpartition("/")[2] if given else "hf"
