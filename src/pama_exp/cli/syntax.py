"""The syntax of a command line: flags, then overrides. An error quotes what cannot be read, and a correction."""

from __future__ import annotations

import re
import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from itertools import takewhile
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
        UserError: if it cannot be read, such as for a flag between two overrides, or asks for what cannot be had.
    """

    def refuse(message: str) -> NoReturn:
        words = sys.argv[1:]
        first = next((i for i, word in enumerate(words) if not word.startswith("-")), len(words))
        later = [word for word in words[first:] if word.startswith("-")]
        unread = message.partition("unrecognized arguments: ")[2]
        if later and unread and not unread.startswith("-"):
            raise UserError(
                f"Flags come first: {later[0]} stands after the override {short(words[first])}.",
                f"Write {shlex.join([*later[:1], words[first]])} …, with every flag before the first override.",
            )
        raise UserError(f"The command line: {short(message)}.", "`python run.py --hydra-help` lists the flags.")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    for action in parser._actions:
        if "--version" in action.option_strings:  # otherwise Hydra's version
            vars(action)["version"] = f"pama-exp {version('pama-exp')}"
    given = parser.parse_args()
    _check_flags(given, parser)
    return given


def _check_flags(given: Namespace, parser: ArgumentParser) -> None:
    """Flags that mean nothing together, or that Hydra alone knows.

    Raises:
        UserError: for the first.
    """
    words = list(takewhile(lambda word: word.startswith("-") or "=" not in word, sys.argv[1:]))
    for action in parser._actions:
        count = sum(word.partition("=")[0] in action.option_strings for word in words)
        if count > 1 and action.nargs is None:
            raise UserError(f"{action.option_strings[0]} is given {count} times.", "Give it once.")
    modes = [flag for flag in ("run", "multirun", "cfg", "info") if getattr(given, flag)]
    if len(modes) > 1:
        raise UserError(f"--{modes[0]} and --{modes[1]} ask for two things.", "Give one of them.")
    if given.shell_completion:
        raise UserError(
            "--shell-completion is Hydra's.", "`pama-exp completion bash` and zsh print what a shell needs."
        )
    if given.experimental_rerun is not None:
        raise UserError(
            "--experimental-rerun would load a pickle, which can run any code.",
            "`pama-exp show RUN` says the command that made a run.",
        )
    for flag in ("package", "resolve"):
        if getattr(given, flag) and not (given.cfg or given.help):
            raise UserError(
                f"--{flag} belongs to --cfg.",
                f"For example --cfg job --{flag}{' solver' if flag == 'package' else ''}.",
            )


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
        repeated = _twice_in_braces(override)
        if repeated is not None:
            raise UserError(f"'{short(override)}' gives {short(repeated)} twice.", "Leave one of them out.")
    return parsed


def _problem(override: str, error: Exception) -> str:
    """What is wrong with the override, and at which character."""
    shown = short(override)
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
    return f"'{shown}' cannot be read from character {place + 1} on: {short(override[place:], 20)}"


def _correction(override: str) -> str:
    """A hint with the nearest override that can be read, quoted for the shell."""
    for corrected in _corrections(override) if override.isprintable() else ():
        try:
            OverridesParser.create().parse_override(corrected)
        except (HydraException, RecursionError):
            continue
        return f"Write {_quoted(short(corrected, 120))}."
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


def _twice_in_braces(override: str) -> str | None:
    """The first key that a mapping in the override holds twice, of which the parser takes the last; None if none is."""
    levels: list[set[str]] = []
    quote, word = "", ""
    for character in override.partition("=")[2]:
        if quote or character in "'\"":
            quote = character if not quote else "" if character == quote else quote
        elif character in _CLOSERS:
            levels.append(set())
            word = ""
        elif character in _CLOSERS.values() and levels:
            levels.pop()
        elif character == ",":
            word = ""
        elif character == ":" and levels and word:
            key, word = word.strip(), ""
            if key in levels[-1]:
                return key
            levels[-1].add(key)
        else:
            word += character
    return None


def short(text: str, longest: int = 80) -> str:
    """The text of at most `longest` characters, all of them printable."""
    return shortened(text, longest)
