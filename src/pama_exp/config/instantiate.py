"""What a `_target_` names, and calling it with settings of the names and types that it takes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from pama_exp.errors import UserError, described, suggest
from pama_exp.safety.import_path import import_module

_PLAIN = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    NoneType: "null",
}


def build(node: Mapping[str, Any], where: str, **given: Any) -> Any:
    """Import `node['_target_']` and call it with the node's other keys and `given`, which win.

    Raises:
        UserError: if the target cannot be imported, has no such setting, or takes another type of value for it.
    """
    check_settings(node, where, *given)
    settings = {key: value for key, value in node.items() if key != "_target_"}
    return locate(node, where)(**{**settings, **given})


def locate(node: Mapping[str, Any], where: str) -> Any:
    """What `node['_target_']` names.

    Raises:
        UserError: if it cannot be imported.
    """
    target = node.get("_target_")
    if not isinstance(target, str) or "." not in target:
        raise UserError(f"{where} has no usable _target_ (got {target!r}).", "Write _target_: package.module.Name.")
    module_name, _, name = target.rpartition(".")
    try:
        return getattr(import_module(module_name), name)
    except (Exception, SystemExit) as error:  # a module may raise anything
        raise UserError(
            f"{where}: cannot import {target} ({described(error)}).", "Is the module on the path, the name right?"
        ) from None


def check_settings(node: Mapping[str, Any], where: str, *given: str) -> None:
    """Each key is a parameter of the target, and where that is annotated with plain types, its value is of one.

    Args:
        node: with its `_target_`.
        where: the node's key, for the message.
        given: parameters that are not the configuration's to set.

    Raises:
        UserError: if not.
    """
    accepted = parameters(node, where)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    for key, value in node.items():
        if key == "_target_":
            continue
        if key not in accepted:
            if takes_any:
                continue
            valid = [name for name in accepted if name not in given]
            raise UserError(f"{where} has no setting '{key}' ({node['_target_']}).", suggest(key, valid))
        kinds = _plain_types(accepted[key].annotation)
        if kinds is not None and not any(_is(value, kind) for kind in kinds):
            raise UserError(f"{where}.{key}={value}.", f"It is {' or '.join(_PLAIN[kind] for kind in kinds)}.")


def parameters(node: Mapping[str, Any], where: str) -> Mapping[str, inspect.Parameter]:
    """What the target takes, with annotations as types where their names can be resolved, and as text otherwise.

    Raises:
        UserError: if the target cannot be imported.
    """
    factory = locate(node, where)
    try:
        return inspect.signature(factory, eval_str=True).parameters
    except (NameError, AttributeError, TypeError, SyntaxError):
        return inspect.signature(factory).parameters


def _plain_types(annotation: Any) -> tuple[type, ...] | None:
    """The types that are allowed, if all are among the plain ones."""
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return kinds if all(isinstance(kind, type) and kind in _PLAIN for kind in kinds) else None


def _is(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)
