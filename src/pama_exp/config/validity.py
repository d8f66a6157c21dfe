"""Checks of a composed configuration against its schema: keys, types, ranges, and nodes that the schema leaves open."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from pama_exp.config.ranges import Filled, Range, Rule, check, shown, with_rule
from pama_exp.errors import UserError, suggest

_MISSING = "???"
_SIZE = re.compile(r"^(n|num)_|(_size|_dim|_layers|_heads|_embeddings)$")  # names of transformers' settings
_FORMS = ("program", "function", "_target_")


def setting(default: Any, rule: Rule | None = None) -> Any:
    """A field of the schema with its default, and a rule for its value. Null is allowed if the field's type allows it.

    conf/config.yaml has the same defaults.
    """
    metadata = {} if rule is None else {"rule": rule}
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def merged(composed: DictConfig, schema: type) -> Any:
    """An instance of the dataclass `schema` with the composed values, resolved, and defaults for the others.

    Raises:
        UserError: for an unknown key, a value of the wrong type or outside its range, an interpolation that cannot be
            resolved, or a missing value without a default.
    """
    try:
        values: dict[str, Any] = {}
        # Interpolations come last, when the values that they refer to have been checked.
        for key in sorted(map(str, composed), key=lambda key: OmegaConf.is_interpolation(composed, key)):
            node = composed[key] if not OmegaConf.is_missing(composed, key) else _MISSING
            values[key] = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
            _check_node({key: values[key]}, schema, "")
        result = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.create(values)))
    except MissingMandatoryValue as error:
        raise UserError(f"{shown(error.full_key)} has no value.", f"Give {error.full_key}=VALUE.") from None
    except OmegaConfBaseException as error:
        reason = shown(str(error.msg or error).splitlines()[0])
        raise UserError(
            f"{shown(error.full_key or 'the configuration')}: {reason}.", "`python run.py --cfg job` shows every key."
        ) from None
    check_fields(result, type(result), "")
    return result


def check_fields(values: object, schema: type, where: str) -> None:
    """Check that an object's attributes fit the types and ranges of the fields of `schema`.

    Args:
        values: has an attribute for each field.
        schema: a dataclass.
        where: the key of the object with a dot after it, or empty; for messages.

    Raises:
        UserError: for the first that does not fit.
    """
    for one in fields(schema):
        value, path = getattr(values, one.name), f"{where}{one.name}"
        if is_dataclass(value):
            check_fields(value, type(value), f"{path}.")
        else:
            check_field(schema, one.name, value, where)
            for key, inner in value.items() if isinstance(value, dict) else ():
                if is_dataclass(inner):
                    check_fields(inner, type(inner), f"{path}.{key}.")


def check_field(schema: type, name: str, value: Any, where: str) -> None:
    """Check that a value fits the type and range of the field `name` of `schema`.

    Args:
        schema: a dataclass.
        name: of its field.
        value: to be checked.
        where: the key of the object with a dot after it, or empty; for messages.

    Raises:
        UserError: if it does not.
    """
    if value != _MISSING:
        (one,) = (one for one in fields(schema) if one.name == name)
        check(value, with_rule(_hints(schema)[name], one.metadata.get("rule")), f"{where}{name}")


def _check_node(node: Any, schema: type, path: str) -> None:
    """Check that every key is a field, with a value of its type: OmegaConf's merge would take −1 for true."""
    valid = [one.name for one in fields(schema)]
    if not isinstance(node, Mapping):
        raise UserError(f"{path.rstrip('.')}={shown(node)}.", f"It is a group of settings, such as {path}{valid[0]}.")
    for key, value in node.items():
        here = f"{path}{key}"
        if key not in valid:
            raise UserError(f"Unknown key '{shown(here)}'.", suggest(str(key), valid))
        kind = _hints(schema)[str(key)]
        inner = get_args(kind)[1] if get_origin(kind) is dict else None
        if isinstance(kind, type) and is_dataclass(kind):
            _check_node(value, kind, f"{here}.")
        elif isinstance(inner, type) and is_dataclass(inner):
            check(value, dict[str, Any], here)
            for name, one in value.items():
                _check_node(one, inner, f"{here}.{name}.")
        else:
            check_field(schema, str(key), _read(value, kind), path)


def _read(value: Any, kind: Any) -> Any:
    """The value as OmegaConf's merge converts it: text (from environment variables) to numbers, numbers to text."""
    kinds = get_args(kind) or (kind,)
    if isinstance(value, str):
        words: dict[Any, Callable[[str], Any]] = {int: int, float: float, bool: _truth}
        for wanted in words.keys() & set(kinds):
            try:
                return words[wanted](value)
            except ValueError:
                continue
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number and str in kinds and not {int, float} & set(kinds) else value


def _truth(word: str) -> bool:
    if word.lower() not in ("true", "false"):
        raise ValueError(word)
    return word.lower() == "true"


@cache
def _hints(schema: type) -> dict[str, Any]:
    return get_type_hints(schema)


def check_stage(stage: Mapping[str, Any]) -> None:
    """Check the types of the keys that every stage's yaml may have. Further keys of a user's stage are not checked.

    Raises:
        UserError: for the first of a wrong type.
    """
    check(stage.get("_target_"), str, "stage._target_")
    for key, kind in (("name", str), *((flag, bool) for flag in ("shared", "fresh", "learns_from_rows", "scores_run"))):
        if key in stage:
            check(stage[key], kind, f"stage.{key}")


def check_architecture(settings: Mapping[str, Any]) -> None:
    """Check the sizes and counts in `model.config`. transformers checks its other settings.

    Raises:
        UserError: for one that is no whole number, is below 1, or is larger than that of any model.
    """
    for key, value in settings.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and _SIZE.search(str(key)):
            most = 1000 if "layer" in str(key) else 100_000_000
            check(value, Annotated[int, Range(least=1, most=most)], f"model.config.{key}")


def check_scorers(objective: str, scorers: Mapping[str, Any], domain: str, conf: Path) -> None:
    """Check that each scorer of an objective is for a known data domain, and has exactly one form.

    Args:
        objective: its name.
        scorers: {domain: node}.
        domain: the run's, which may be the user's own.
        conf: the folder of the shipped configuration, whose domains are known.

    Raises:
        UserError: for the first that is not.
    """
    for key, node in scorers.items():
        where = f"objectives.{objective}.scorers.{key}"
        if key not in ("any", domain, *_domains(conf)):
            raise UserError(
                f"{shown(where)}: there is no data domain '{shown(key)}'.", suggest(str(key), ["any", *_domains(conf)])
            )
        check_scorer(where, node)


def check_scorer(where: str, node: Any) -> None:
    """A scorer is of exactly one form.

    Args:
        where: its key, for the message.
        node: what stands there.

    Raises:
        UserError: if not.
    """
    if not isinstance(node, Mapping):
        raise UserError(f"{where}={shown(node)}.", f"It holds one of {', '.join(_FORMS)}.")
    forms = [form for form in _FORMS if form in node]
    if not forms:
        raise UserError(
            f"{where} holds none of {', '.join(_FORMS)}.",
            "Write program: NAME (a gold program), function: module:name, or _target_: package.Class.",
        )
    if len(forms) > 1:
        raise UserError(f"{where} holds {' and '.join(forms)}.", f"Keep one of them: delete one with ~{where}.KEY.")
    (form,) = forms
    check(node[form], str | None if form == "function" else Annotated[str, Filled()], f"{where}.{form}")
    unknown = [] if form == "_target_" else [str(other) for other in node if other != form]
    if unknown:
        raise UserError(f"{where} has no setting '{shown(unknown[0])}'.", f"A {form} has none besides its name.")
    for name in ("id", "revision", "path"):  # by which a scorer's weights are looked for, on the Hub and here
        if name in node:
            check(node[name], Annotated[str, Filled()] | None, f"{where}.{name}")


@cache
def _domains(conf: Path) -> list[str]:
    return sorted({str(yaml.safe_load(path.read_text())["domain"]) for path in (conf / "data").glob("*.yaml")})


def check_unused(section: Any, where: str) -> None:
    """Check that a section whose `name` is none has defaults otherwise: other settings would have no effect.

    Raises:
        UserError: for the first setting that is not the default.
    """
    if section.name != "none":
        return
    for one in fields(section):
        is_default = one.default is MISSING or getattr(section, one.name) == one.default
        if one.name != "name" and not is_default:
            raise UserError(
                f"{where}.{one.name}={shown(getattr(section, one.name))} has no effect with {where}=none.",
                f"Choose another option of {where}, or leave it out.",
            )
