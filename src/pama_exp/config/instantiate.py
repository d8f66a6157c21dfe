"""What a `_target_` names, and calling it with settings of the names and types that it takes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from pama_exp.config.ranges import check, shown
from pama_exp.errors import UserError, described, suggest
from pama_exp.safety.import_path import import_module


def build(node: Mapping[str, Any], where: str, **given: Any) -> Any:
    """Import `node['_target_']` and call it with the node's other keys and `given`, which win.

    Raises:
        UserError: if the target cannot be imported or called, has no such setting, or takes another value for it.
    """
    check_settings(node, where, *given)
    settings = {key: value for key, value in node.items() if key != "_target_"}
    return locate(node, where)(**{**settings, **given})


def locate(node: Mapping[str, Any], where: str) -> Any:
    """What `node['_target_']` names.

    Raises:
        UserError: if it cannot be imported, or called.
    """
    target = node.get("_target_")
    if not isinstance(target, str) or "." not in target:
        raise UserError(
            f"{where} has no usable _target_ (got {shown(target)}).", "Write _target_: package.module.Name."
        )
    module_name, _, name = target.rpartition(".")
    try:
        found = getattr(import_module(module_name), name)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a module may raise anything
        raise UserError(
            f"{where}: cannot import {shown(target)} ({shown(described(error))}).",
            "Is the module on the path, the name right?",
        ) from None
    if not callable(found):
        raise UserError(f"{where}._target_={shown(target)} is {shown(found)}.", "Name a class or a function.")
    return found


def check_settings(node: Mapping[str, Any], where: str, *given: str) -> None:
    """Each key is a parameter of the target, its value as the parameter's annotation says, and none is left out.

    Args:
        node: with its `_target_`.
        where: the node's key, for the message.
        given: parameters that are not the configuration's to set.

    Raises:
        UserError: if not.
    """
    taken = parameters(locate(node, where))
    values = {key: value for key, value in node.items() if key != "_target_"}
    check_values(values, taken, where, f" ({node['_target_']})", given)
    needed = [
        name
        for name, p in taken.items()
        if p.default is p.empty
        and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        and name not in (*values, *given)
    ]
    if needed:
        raise UserError(f"{where} lacks the setting '{needed[0]}' ({node['_target_']}).", "It has no default: give it.")


def check_values(
    values: Mapping[str, Any], taken: Mapping[str, inspect.Parameter], where: str, of: str = "", given: Any = ()
) -> None:
    """Each key is among the parameters taken, and its value is as the parameter's annotation says.

    Raises:
        UserError: if not; `of` names the target in the message, `given` are parameters not to be suggested.
    """
    takes_any = any(p.kind is p.VAR_KEYWORD for p in taken.values())
    for key, value in values.items():
        if key in taken and taken[key].kind is not inspect.Parameter.VAR_KEYWORD:
            check(value, taken[key].annotation, f"{where}.{key}")
        elif not takes_any:
            raise UserError(
                f"{where} has no setting '{key}'{of}.", suggest(str(key), [name for name in taken if name not in given])
            )


def parameters(factory: Any) -> dict[str, inspect.Parameter]:
    """With annotations as types where their names can be resolved, and as text otherwise."""
    try:
        return dict(inspect.signature(factory, eval_str=True).parameters)
    except (NameError, AttributeError, TypeError, SyntaxError):
        return dict(inspect.signature(factory).parameters)
    except ValueError:  # a class of C without a signature
        return {"settings": inspect.Parameter("settings", inspect.Parameter.VAR_KEYWORD)}


def require(built: Any, where: str, kind: str, attributes: Sequence[str]) -> None:
    """What a `_target_` made can serve as what it is made for.

    Raises:
        UserError: if it lacks an attribute.
    """
    lacking = [name for name in attributes if not hasattr(built, name)]
    if lacking:
        raise UserError(
            f"{where}._target_ makes {shown(built)}, which is no {kind}: it has no '{lacking[0]}'.",
            f"Name a class whose instances have {', '.join(attributes)}.",
        )
