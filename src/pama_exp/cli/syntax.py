"""The command line as text: flags, then overrides; what cannot be read is quoted with its cure."""

from __future__ import annotations

import re
import shlex
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from pama_exp.errors import UserError

_CLOSERS = {"[": "]", "{": "}", "(": ")"}


def arguments() -> Namespace:
    """The command line, by Hydra's parser.

    Raises:
        UserError: if it cannot be read, such as for a flag between two overrides.
    """

    def refuse(message: str) -> NoReturn:
        words = sys.argv[1:]
        first = next((i for i, word in enumerate(words) if not word.startswith("-")), len(words))
        later = [word for word in words[first:] if word.startswith("-")]
        unread = message.partition("unrecognized arguments: ")[2]
        if later and unread and not unread.startswith("-"):
            raise UserError(
                f"Flags come first: {later[0]} stands after the override {_short(words[first])}.",
                f"Write {shlex.join([*later[:1], words[first]])} …, with every flag before the first override.",
            )
        raise UserError(f"The command line: {_short(message)}.", "`python run.py --hydra-help` lists the flags.")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    for action in parser._actions:
        if "--version" in action.option_strings:  # Hydra would tell its own
            vars(action)["version"] = f"pama-exp {version('pama-exp')}"
    return parser.parse_args()


def parse(overrides: Sequence[str]) -> list[Override]:
    """What the overrides say.

    Raises:
        UserError: for the first that cannot be read: where in it, and how it would be written.
    """
    found = []
    for override in overrides:
        try:
            found.append(OverridesParser.create().parse_override(override))
        except (HydraException, RecursionError) as error:
            raise UserError(_wrong(override, error), _cure(override)) from None
    return found


def _wrong(override: str, error: Exception) -> str:
    """What is wrong with it, and at which character."""
    shown = _short(override)
    if "=" not in override and not override.startswith("~"):
        return f"'{shown}' is no override: it has no =."
    open_ones = _open_brackets(override)
    if open_ones:
        last = open_ones[-1]
        return f"'{shown}' cannot be read: the {override[last]} at character {last + 1} is not closed."
    token = getattr(error.__cause__, "offendingToken", None)
    place = token.column if token is not None else getattr(error.__cause__, "startIndex", None)
    if place is None:  # the parser says what it met instead
        met = re.search(r"input '(.+?)'", str(error))
        place = override.rfind(met[1]) if met is not None else 0
    if place >= len(override):
        return f"'{shown}' cannot be read: something is missing at its end."
    return f"'{shown}' cannot be read from character {place + 1} on: {_short(override[place:], 20)}"


def _cure(override: str) -> str:
    """The override as it would be read, quoted for the shell."""
    for written in _corrections(override) if override.isprintable() else ():
        try:
            OverridesParser.create().parse_override(written)
        except (HydraException, RecursionError):
            continue
        return f"Write {_quoted(_short(written, 120))}."
    return "Overrides read key=value; quote values with special characters: \"key='value'\"."


def _corrections(override: str) -> Iterator[str]:
    key, is_there, value = override.partition("=")
    if not is_there:
        yield f"{key}=VALUE"
        return
    yield override.rstrip(",") + "".join(_CLOSERS[override[place]] for place in reversed(_open_brackets(override)))
    if value[-1:] in _CLOSERS.values():
        yield override[:-1]
    escaped = value.strip("'\"").replace("'", "\\'")
    yield f"{key}='{escaped}'"


def _quoted(override: str) -> str:
    """As a shell reads it; in double quotes where it holds single ones and nothing that means more in double ones."""
    return f'"{override}"' if "'" in override and not set(override) & set('"$`!') else shlex.quote(override)


def _open_brackets(override: str) -> list[int]:
    """Places of the brackets that nothing closes, outside of quotes."""
    found: list[int] = []
    quote = ""
    for place, character in enumerate(override):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in _CLOSERS:
            found.append(place)
        elif found and character == _CLOSERS[override[found[-1]]]:
            found.pop()
    return found


def _short(text: str, longest: int = 80) -> str:
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return printable if len(printable) <= longest else printable[: longest - 1] + "…"
