"""Arguments of the commands that are no runs: what cannot be read is told in two lines, an option counts once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from pama_exp.errors import UserError


class _Once(argparse.Action):
    """Stores an option's value; argparse would take the last of several."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        if option_string is not None and vars(self).get("is_given", False):
            both = f"{str(getattr(namespace, self.dest))[:100]} and {str(values)[:100]}"
            raise UserError(f"{option_string} is given twice: {both}.", "Leave one of them out.")
        vars(self)["is_given"] = True
        setattr(namespace, self.dest, values)


class Parser(argparse.ArgumentParser):
    """Raises `UserError` where argparse would print its usage, on as many lines as the terminal is narrow."""

    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog, **settings)
        self.register("action", None, _Once)
        self.register("action", "store", _Once)

    def error(self, message: str) -> NoReturn:
        """What cannot be read, and where help is."""
        raise UserError(f"{self.prog}: {' '.join(message.split())[:200]}.", f"`{self.prog} --help` says what it takes.")


def folder(text: str) -> Path:
    """A folder's name, for `type=`. A blank one would be the current folder.

    Raises:
        ArgumentTypeError: if it is blank, or no name of a file.
    """
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError(f"'{text}' names no folder")
    return Path(text)
