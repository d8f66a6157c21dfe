"""The syntax of a command line: flags, then overrides. An error quotes what cannot be read, and a correction."""

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

from pama_exp.config.naming import shortened
from pama_exp.errors import UserError

_CLOSERS = {"[": "]", "{": "}", "(": ")"}


def arguments() -> Namespace:
    """The command line as Hydra's parser reads it.

    Raises:
        UserError: if it cannot be read, such as a flag between two overrides.
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
        if "--version" in action.option_strings:  # otherwise Hydra's version
            vars(action)["version"] = f"pama-exp {version('pama-exp')}"
    return parser.parse_args()


def parse(overrides: Sequence[str]) -> list[Override]:
    """The parsed overrides.

    Raises:
        UserError: for the first that cannot be read, with the place in it and a correction.
    """
    parsed = []
    for override in overrides:
        try:
            parsed.append(OverridesParser.create().parse_override(override))
        except (HydraException, RecursionError) as error:
            raise UserError(_problem(override, error), _correction(override)) from None
    return parsed


def _problem(override: str, error: Exception) -> str:
    """What is wrong with the override, and at which character."""
    shown = _short(override)
    if "=" not in override and not override.startswith("~"):
        return f"'{shown}' is no override: it has no =."
    open_ones = _open_brackets(override)
    if open_ones:
        last = open_ones[-1]
        return f"'{shown}' cannot be read: the {override[last]} at character {last + 1} is not closed."
    token = getattr(error.__cause__, "offendingToken", None)
    place = token.column if token is not None else getattr(error.__cause__, "startIndex", None)
    if place is None:  # then the parser's message quotes the unexpected text
        unexpected = re.search(r"input '(.+?)'", str(error))
        place = override.rfind(unexpected[1]) if unexpected is not None else 0
    if place >= len(override):
        return f"'{shown}' cannot be read: something is missing at its end."
    return f"'{shown}' cannot be read from character {place + 1} on: {_short(override[place:], 20)}"


def _correction(override: str) -> str:
    """A hint with the nearest override that can be read, quoted for the shell."""
    for corrected in _corrections(override) if override.isprintable() else ():
        try:
            OverridesParser.create().parse_override(corrected)
        except (HydraException, RecursionError):
            continue
        return f"Write {_quoted(_short(corrected, 120))}."
    return "Overrides read key=value; quote values with special characters: \"key='value'\"."


def _corrections(override: str) -> Iterator[str]:
    key, sign, value = override.partition("=")
    if not sign:
        yield f"{key}=VALUE"
        return
    yield override.rstrip(",") + "".join(_CLOSERS[override[place]] for place in reversed(_open_brackets(override)))
    if value[-1:] in _CLOSERS.values():
        yield override[:-1]
    escaped = value.strip("'\"").replace("'", "\\'")
    yield f"{key}='{escaped}'"


def _quoted(override: str) -> str:
    """The override quoted for a shell: in double quotes if it holds single ones and nothing that these expand."""
    return f'"{override}"' if "'" in override and not set(override) & set('"$`!') else shlex.quote(override)


def _open_brackets(override: str) -> list[int]:
    """The positions of brackets that are not closed, outside of quotes."""
    positions: list[int] = []
    quote = ""
    for place, character in enumerate(override):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in _CLOSERS:
            positions.append(place)
        elif positions and character == _CLOSERS[override[positions[-1]]]:
            positions.pop()
    return positions


def _short(text: str, longest: int = 80) -> str:
    return shortened(text, longest)
