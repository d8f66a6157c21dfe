"""The command line as text: flags, then overrides; what cannot be read is quoted with its cure."""

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

from pama_exp.errors import UserError

_CLOSERS = {"[": "]", "{": "}", "(": ")"}


def arguments() -> Namespace:
    """The command line, by Hydra's parser.

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
        if "--version" in action.option_strings:  # Hydra would tell its own
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
        twice = _twice_in_braces(override)
        if twice is not None:
            raise UserError(f"'{short(override)}' gives {short(twice)} twice.", "Leave one of them out.")
    return found


def _wrong(override: str, error: Exception) -> str:
    """What is wrong with it, and at which character."""
    shown = short(override)
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
    return f"'{shown}' cannot be read from character {place + 1} on: {short(override[place:], 20)}"


def _cure(override: str) -> str:
    """The override as it would be read, quoted for the shell."""
    for written in _corrections(override) if override.isprintable() else ():
        try:
            OverridesParser.create().parse_override(written)
        except (HydraException, RecursionError):
            continue
        return f"Write {_quoted(short(written, 120))}."
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
    """Cut to `longest` characters that can be printed."""
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return printable if len(printable) <= longest else printable[: longest - 1] + "…"
