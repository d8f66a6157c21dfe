"""Where the shipped configuration and the sweep presets are: beside the package in a checkout, within it in a wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def _shipped(name: str) -> Path:
    return _PACKAGE / name if (_PACKAGE / name).is_dir() else _PACKAGE.parents[1] / name


CONF, SWEEPS = _shipped("conf"), _shipped("sweeps")


def options(group: str, *folders: Path) -> dict[str, Path]:
    """{option: its yaml} of a group, by name. Options in `folders` are added, or replace those of the same name."""
    paths = {path.stem: path for root in (CONF, SWEEPS, *folders) for path in (root / group).glob("*.yaml")}
    return dict(sorted(paths.items()))
