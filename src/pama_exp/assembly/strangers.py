"""A configuration that was read from a run's folder, before anything of it is built: it may be another person's.

Classes are built of this package alone, each where its kind belongs, and those that the user's own command names; so
are functions called, addresses written to and pickles read. Nothing in it is interpolated.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from pama_exp.config.schema import Config
from pama_exp.errors import UserError

_PACKAGE = "pama_exp."
# What an object that is built there can do.
_KINDS = {"solver": "on_advantages", "advantage": "estimate", "rollout.engine": "generate", "scorers": "score"}
# Settings of a scorer that reach outside: what is called, who is written to, what secret is sent, how weights are read.
_OUTSIDE = ("function", "url", "token_variable", "allow_pickle")


def check_config(theirs: Mapping[str, Any], own: Config, source: str) -> None:
    """Nothing in `theirs` is more than data, but for what `own`, the user's command, names too.

    Args:
        theirs: plain values, as read from the run's folder.
        own: what the user asked for.
        source: the folder, for the message.

    Raises:
        UserError: for the first that is.
    """
    mine = asdict(own)
    for key, value in _leaves(theirs):
        if isinstance(value, str) and "${" in value:
            raise UserError(
                f"{source}: its config.yaml holds an interpolation at {key[:80]}, which no run writes.",
                "Nothing in a record is interpolated; write the plain value there.",
            )
        name = key.rpartition(".")[2]
        if name == "_target_" and value not in _named(mine, key) and not _is_ours(value, key):
            raise UserError(
                f"{source}: its config.yaml names {str(value)[:80]} at {key[:80]}, which is not this package's.",
                "If it is yours, name the same in this command too; else it is not run.",
            )
        if name in _OUTSIDE and value not in (None, False) and value not in _named(mine, key):
            raise UserError(
                f"{source}: its config.yaml has {key[:80]}={str(value)[:80]}, which this command does not name.",
                "If it is yours, name the same in this command too; else it is not used.",
            )


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key, itself as a value too, and every value that is neither mapping nor list, with where it stands."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield f"{prefix}(key)", key
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, list):
        for value in tree:
            yield from _leaves(value, prefix)
    else:
        yield prefix, tree


def _named(mine: Mapping[str, Any], key: str) -> list[Any]:
    """What the user's command has in the same place; for a scorer, in that place of any objective."""
    return [value for at, value in _leaves(mine) if _place(at) == _place(key)]


def _place(key: str) -> tuple[str, str]:
    """Where something is built, and the last part of the key."""
    node, _, last = key.rpartition(".")
    return ("scorers" if key.startswith("objectives.") and ".scorers." in key else node, last)


def _is_ours(target: Any, key: str) -> bool:
    """Whether it is a class of this package, or a function of it that makes one, of the kind that belongs there."""
    place = _place(key)[0]
    if place == "stage":  # never built: the stage is this command's
        return True
    module, _, name = str(target).rpartition(".")
    if place not in _KINDS or not module.startswith(_PACKAGE):
        return False
    try:
        made = getattr(importlib.import_module(module), name)
        if not str(made.__module__).startswith(_PACKAGE):
            return False
        kind = made if inspect.isclass(made) else inspect.signature(made, eval_str=True).return_annotation
    except (ImportError, AttributeError, TypeError, ValueError, NameError):
        return False
    return inspect.isclass(kind) and hasattr(kind, _KINDS[place])
