"""Checks of a configuration that was read from a run's folder: another person may have written it.

Objects are built only of classes of this package, of the kind that belongs in their place, or of classes that the
user's own command names in the same place. The same holds for functions that are called, addresses that are written to
and pickles that are read. Interpolations are refused.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from pama_exp.config.schema import Config, typed
from pama_exp.errors import UserError

_PACKAGE = "pama_exp."
_FROM_COMMAND = ("output", "cache_dir", "trainer", "logger")
# {place: a method that objects which are built there have}
_KINDS = {"solver": "on_advantages", "advantage": "estimate", "rollout.engine": "generate", "scorers": "score"}
# Settings of a scorer that reach outside: what is called, who is written to, what secret is sent, how weights are read.
_OUTSIDE = ("function", "url", "token_variable", "allow_pickle")

_CURE = "name the same in this command too"


def check_config(imported: Mapping[str, Any], command: Config, source: str) -> None:
    """Check that an imported configuration holds only data, and code that the user's command names too.

    Args:
        imported: plain values, as read from the run's folder.
        command: the configuration of the user's command.
        source: names the run's folder in messages.

    Raises:
        UserError: for the first value that is refused.
    """
    check_plain(imported, source)
    check_code(imported, asdict(command), source)


def adopted(imported: Mapping[str, Any], command: Config, source: str, **nodes: Any) -> Config:
    """The imported configuration as this command runs it: with the command's stage, folders, devices and loggers.

    Args:
        imported: plain values, as read from the run's folder.
        command: the configuration of the user's command.
        source: names the run's folder in messages.
        nodes: nodes that replace the imported ones.

    Raises:
        UserError: if it holds more than data.
    """
    check_config(imported, command, source)
    here = {key: value for key, value in asdict(command).items() if key in _FROM_COMMAND}
    model = {**imported.get("model", {}), "allow_pickle": command.model.allow_pickle}
    return typed({**imported, "model": model, **nodes, **here, "stage": command.stage})


def check_plain(imported: Mapping[str, Any], source: str) -> None:
    """Check that no key and no value of an imported configuration is an OmegaConf interpolation.

    Raises:
        UserError: for the first that is.
    """
    for key, value in _leaves(imported):
        if isinstance(value, str) and "${" in value:
            raise UserError(
                f"{source}: its config.yaml holds an interpolation at {key[:80]}, which no run writes.",
                "Nothing in a record is interpolated; write the plain value there.",
            )


def check_code(
    imported: Mapping[str, Any],
    command: Mapping[str, Any],
    source: str,
    cure: str = _CURE,
) -> None:
    """Check that an imported configuration names only code of this package or of the user's command.

    Args:
        imported: plain values.
        command: the plain values of the user's command.
        source: names the run's folder in messages.
        cure: what to do where the code is the user's own.

    Raises:
        UserError: for the first class, function, address or permission to read pickles that is refused.
    """
    for key, value in _leaves(imported):
        name = key.rpartition(".")[2]
        if name == "_target_" and value not in _named(command, key) and not _is_of_package(value, key):
            raise UserError(
                f"{source}: its config.yaml names {str(value)[:80]} at {key[:80]}, which is not this package's.",
                f"If it is yours, {cure}; else it is not run.",
            )
        if name in _OUTSIDE and value not in (None, False) and value not in _named(command, key):
            raise UserError(
                f"{source}: its config.yaml has {key[:80]}={str(value)[:80]}, which this command does not name.",
                f"If it is yours, {cure}; else it is not used.",
            )


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every value that is neither mapping nor list, and of every key, taken as a value."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield f"{prefix}(key)", key
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, list):
        for value in tree:
            yield from _leaves(value, prefix)
    else:
        yield prefix, tree


def _named(command: Mapping[str, Any], key: str) -> list[Any]:
    """The values that the command has in the same place; for a scorer, in that place of any objective."""
    return [value for other, value in _leaves(command) if _place(other) == _place(key)]


def _place(key: str) -> tuple[str, str]:
    """The node that an object is built from, `scorers` for every scorer, and the last part of the key."""
    node, _, last = key.rpartition(".")
    return ("scorers" if key.startswith("objectives.") and ".scorers." in key else node, last)


def _is_of_package(target: Any, key: str) -> bool:
    """Whether the target is a class of this package, or a function of it that returns one, of the right kind."""
    place = _place(key)[0]
    if place == "stage":  # never built: the stage is the command's
        return True
    module, _, name = str(target).rpartition(".")
    if place not in _KINDS or not module.startswith(_PACKAGE):
        return False
    try:
        factory = getattr(importlib.import_module(module), name)
        if not str(factory.__module__).startswith(_PACKAGE):
            return False
        kind = factory if inspect.isclass(factory) else inspect.signature(factory, eval_str=True).return_annotation
    except (ImportError, AttributeError, TypeError, ValueError, NameError):
        return False
    return inspect.isclass(kind) and hasattr(kind, _KINDS[place])
