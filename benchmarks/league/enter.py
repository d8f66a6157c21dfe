"""A stranger in the league: one yaml, run against the table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from pama_exp.errors import UserError

from .page import standing_row
from .plan import needed
from .rank import blocks, standings
from .table import Row


def stranger(path: Path, known: Mapping[str, tuple[str, ...]]) -> tuple[str, tuple[str, ...]]:
    """The name and the command line of a solver's yaml in a configuration folder of one's own.

    Raises:
        UserError: if there is no such file, it is not in a folder named solver, it names no class, or an entry of the
            league has its name.
    """
    if not path.is_file():
        raise UserError(f"enter {path}: there is no such file.", "Give your solver's yaml, my_conf/solver/mine.yaml.")
    if path.parent.name != "solver" or path.suffix != ".yaml":
        raise UserError(f"enter {path}: not a yaml in a folder named solver.", "Such as my_conf/solver/mine.yaml.")
    name = path.stem
    if name in known:
        raise UserError(f"enter {path}: the league has an entry {name}.", "Give your file another name.")
    try:
        node: Any = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError):
        node = None
    if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
        raise UserError(f"enter {path}: it does not say which class.", "Begin it with _target_: my_solver.MySolver.")
    folder = path.parent.parent.absolute()
    return name, (f"solver={name}", f"hydra.searchpath=[file://{folder}]", *needed(node))


def standing(entry: str, rows: Iterable[Row]) -> str:
    """The entry's row in every block that it has run in, and its rank among the rows' others."""
    said = []
    for (protocol, n, reward), block in blocks(rows).items():
        ordered = standings(block)
        for place in ordered:
            if place.entry == entry:
                said.append(f"N = {n}, {reward} rewards, KL {protocol}: rank {place.rank} of {len(ordered)}")
                said += [f"  {name}: {cell}" for name, cell in standing_row(place, n, ordered).items()]
    return "\n".join(said) or f"{entry} has not run."
