"""What the yamls of conf/ say of their keys, in the comments at the ends of lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pama_exp.config.own_options import option_text


@dataclass(frozen=True)
class Commented:
    """A key of a yaml: its value, and the comment behind it."""

    key: str
    value: Any
    comment: str


def commented(path: Path) -> list[Commented]:
    """Every key of the yaml, those within others as dotted ones, in the file's order."""
    text = option_text(path)
    return list(_walk(yaml.compose(text), text.splitlines(), ""))


def headline(path: Path) -> str:
    """The yaml's first comment, which says what the option is; empty where there is none."""
    lines = [line.removeprefix("#").strip() for line in option_text(path).splitlines() if line.startswith("#")]
    return next((line for line in lines if not line.startswith("@package")), "")


def _walk(node: Any, lines: list[str], above: str) -> Iterator[Commented]:
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        name = f"{above}{key.value}"
        is_block = isinstance(value, yaml.MappingNode | yaml.SequenceNode) and not value.flow_style
        mark = key.end_mark if is_block else value.end_mark
        rest = lines[mark.line][mark.column :] if mark.line < len(lines) else ""
        comment = re.match(r"[:\s]*#\s*(.*)", rest)
        yield Commented(name, yaml.safe_load(yaml.serialize(value)), comment[1] if comment is not None else "")
        yield from _walk(value, lines, f"{name}.")
