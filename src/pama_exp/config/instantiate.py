"""Importing and calling what a `_target_` names, with checked settings."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from pama_exp.config.ranges import check, shown
from pama_exp.errors import UserError, described, suggest, users_code
from pama_exp.safety.import_path import import_module


def build(node: Mapping[str, Any], where: str, **arguments: Any) -> Any:
    """Import `node['_target_']` and call it with the node's other keys and `arguments`; the latter have precedence.

    Args:
        node: a node of the configuration.
        where: its key, for messages.
        arguments: keyword arguments that the configuration does not set.

    Raises:
        UserError: if the target cannot be imported or called, if one that is not of this package raises anything, or
            for an unknown, missing or invalid setting.
    """
    check_settings(node, where, *arguments)
    settings = {key: value for key, value in node.items() if key != "_target_"}
    factory = locate(node, where)
    if str(node["_target_"]).startswith(f"{__package__.partition('.')[0]}."):
        return factory(**{**settings, **arguments})
    with users_code(f"{where}: {shown(node['_target_'])}", "Correct its code, or its settings."):
        return factory(**{**settings, **arguments})


def locate(node: Mapping[str, Any], where: str) -> Any:
    """Import the class or function that `node['_target_']` names.

    Raises:
        UserError: if it cannot be imported, or is not callable.
    """
    target = node.get("_target_")
    if not isinstance(target, str) or "." not in target:
        raise UserError(
            f"{where} has no usable _target_ (got {shown(target)}).", "Write _target_: package.module.Name."
        )
    module_name, _, name = target.rpartition(".")
    try:
        factory = getattr(import_module(module_name), name)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a module may raise anything
        raise UserError(
            f"{where}: cannot import {shown(target)} ({shown(described(error))}).",
            "Is the module on the path, the name right?",
        ) from None
    if not callable(factory):
        kind = "a module" if inspect.ismodule(factory) else shown(factory)
        raise UserError(f"{where}._target_={shown(target)} is {kind}.", "Name a class or a function.")
    return factory


def check_settings(node: Mapping[str, Any], where: str, *arguments: str) -> None:
    """Check that a node's keys are parameters of its target, with values that fit their annotations, and none missing.

    Args:
        node: with its `_target_`.
        where: the node's key, for messages.
        arguments: names of parameters that the configuration does not set.

    Raises:
        UserError: for the first setting that is unknown, invalid or missing.
    """
    signature = parameters(locate(node, where))
    values = {key: value for key, value in node.items() if key != "_target_"}
    check_values(values, signature, where, f" ({node['_target_']})", arguments)
    needed = [
        name
        for name, p in signature.items()
        if p.default is p.empty
        and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        and name not in (*values, *arguments)
    ]
    if needed:
        raise UserError(f"{where} lacks the setting '{needed[0]}' ({node['_target_']}).", "It has no default: give it.")


def check_values(
    values: Mapping[str, Any], signature: Mapping[str, inspect.Parameter], where: str, of: str = "", hidden: Any = ()
) -> None:
    """Check that each key is a parameter of the signature, with a value that fits the parameter's annotation.

    Args:
        values: {key: value}.
        signature: {name: parameter}.
        where: the node's key, for messages.
        of: names the target in messages.
        hidden: names of parameters that are not suggested.

    Raises:
        UserError: for the first that is unknown or invalid.
    """
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.values())
    for key, value in values.items():
        if key in signature and signature[key].kind is not inspect.Parameter.VAR_KEYWORD:
            check(value, signature[key].annotation, f"{where}.{key}")
        elif not takes_any:
            raise UserError(
                f"{where} has no setting '{key}'{of}.", suggest(str(key), [n for n in signature if n not in hidden])
            )


def parameters(factory: Any) -> dict[str, inspect.Parameter]:
    """{name: parameter} of a callable. Annotations are types if their names can be resolved, else text."""
    try:
        return dict(inspect.signature(factory, eval_str=True).parameters)
    except (NameError, AttributeError, TypeError, SyntaxError):
        return dict(inspect.signature(factory).parameters)
    except ValueError:  # a class of C without a signature
        return {"settings": inspect.Parameter("settings", inspect.Parameter.VAR_KEYWORD)}


def require(built: Any, where: str, kind: str, attributes: Sequence[str]) -> None:
    """Check that an object which a `_target_` returned has the attributes that its use needs.

    Args:
        built: the object.
        where: the node's key, for the message.
        kind: what it is used as, for the message.
        attributes: names.

    Raises:
        UserError: if it lacks one.
    """
    lacking = [name for name in attributes if not hasattr(built, name)]
    if lacking:
        raise UserError(
            f"{where}._target_ makes {shown(built)}, which is no {kind}: it has no '{lacking[0]}'.",
            f"Name a class whose instances have {', '.join(attributes)}.",
        )
