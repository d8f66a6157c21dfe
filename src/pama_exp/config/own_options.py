"""Option files, which may be the user's own (`--config-dir`): read, or told where they are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pama_exp.config.ranges import shown
from pama_exp.errors import UserError


def check_folder(folder: str | Path) -> None:
    """The folder of own options is there.

    Raises:
        UserError: if not.
    """
    if not Path(folder).is_dir():
        raise UserError(f"--config-dir={shown(str(folder))} is no folder.", "Name the folder of your own options.")


def option_text(path: Path) -> str:
    """The file's text.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UserError(f"{path} cannot be read ({reason}).", "An option is a file of yaml: key: value.") from None


def option(path: Path) -> dict[str, Any]:
    """The settings in the file; none if it is empty.

    Raises:
        UserError: if it cannot be read, is no yaml, or holds no mapping or a key twice.
    """
    try:
        content = strictly(option_text(path))
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark is not None else str(path)
        reason = getattr(error, "problem", None) or "it cannot be read"
        raise UserError(f"{where}: {shown(reason)}.", "It is yaml: key: value, each key once.") from None
    if content is not None and not isinstance(content, dict):
        raise UserError(f"{path} holds {shown(content)}.", "It is yaml: key: value, each key once.")
    return content or {}


def strictly(text: str) -> Any:
    """The yaml's plain values.

    Raises:
        YAMLError: if it is no yaml, or a mapping holds a key twice, of which yaml would take the last.
    """
    return yaml.load(text, Loader=_Strict)


class _Strict(yaml.SafeLoader):  # type: ignore[misc]
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                mark = node.value[place][0].start_mark
                raise yaml.constructor.ConstructorError(None, None, f"'{key}' is there twice", mark)
        return dict(super().construct_mapping(node, deep))
