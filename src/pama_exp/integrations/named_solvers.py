"""Solvers by the names that `solver=NAME` takes, with the settings of their yaml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pama_exp.config.instantiate import build, locate, parameters
from pama_exp.config.schema import CONF
from pama_exp.errors import UserError, suggest
from pama_exp.solvers.solver import Solver


def names() -> list[str]:
    """All of them."""
    return sorted(path.stem for path in (CONF / "solver").glob("*.yaml"))


def named_solver(
    name: str,
    weights: Sequence[float],
    group_size: int,
    settings: Mapping[str, Any] | None = None,
    where: str = "solver",
) -> Solver:
    """The solver of this name.

    Args:
        name: such as `pama`.
        weights: one per objective.
        group_size: answers per prompt, for those that compare them.
        settings: what is to differ from the yaml.
        where: what settings are called in messages.

    Raises:
        UserError: for a name or a setting that is not there, a value outside its range, or one that has to be given.
    """
    node = {**_shipped(name), **(settings or {})}
    given: dict[str, Any] = {"weights": list(weights)}
    if "group_size" in parameters(locate(node, where)):
        given["group_size"] = group_size
    for key in left_open(name):
        if settings is None or key not in settings:
            raise UserError(f"{name} is not told its {key}.", f"Give {where}.{key}=NUMBER.")
    kept = {key: value for key, value in node.items() if key not in ("weights", "name")}
    solver: Solver = build(kept, where, **given)
    return solver


def left_open(name: str) -> list[str]:
    """Settings that follow others of this project's own configuration, such as a run's number of steps."""
    return [key for key, value in _shipped(name).items() if isinstance(value, str) and value.startswith("${")]


def _shipped(name: str) -> dict[str, Any]:
    path = CONF / "solver" / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"There is no solver '{name}'.", suggest(name, names()))
    node: dict[str, Any] = yaml.safe_load(path.read_text())
    return node
