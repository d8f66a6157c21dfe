"""Holding a composed configuration to its schema: keys, types, ranges, and the form of what the schema leaves free."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pama_exp.config.ranges import Range, Rule, check, shown, with_rule
from pama_exp.errors import UserError, suggest

_MISSING = "???"
_SIZE = re.compile(r"^(n|num)_|(_size|_dim|_layers|_heads|_embeddings)$")  # as transformers names them
_FORMS = ("program", "function", "_target_")


def setting(default: Any, rule: Rule | None = None) -> Any:
    """A field of the schema with its default and the rule that its value satisfies; null where its type allows it.

    What the command line composes has conf/config.yaml's values, the same as these.
    """
    metadata = {} if rule is None else {"rule": rule}
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def merged(composed: DictConfig, schema: type) -> Any:
    """An instance of the dataclass `schema` with the composed values, resolved, and its defaults for the others.

    Raises:
        UserError: for an unknown key, a value of the wrong type or outside its range, one that refers to what is not
            there, or one that has to be given and is not.
    """
    try:
        whole: dict[str, Any] = {}
        # What is put together from the other values comes after them, which are then known to be right.
        for key in sorted(map(str, composed), key=lambda key: OmegaConf.is_interpolation(composed, key)):
            node = composed[key] if not OmegaConf.is_missing(composed, key) else _MISSING
            whole[key] = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
            _hold({key: whole[key]}, schema, "")
        result = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.create(whole)))
    except OmegaConfBaseException as error:
        reason = shown(str(error.msg or error).splitlines()[0])
        raise UserError(
            f"{shown(error.full_key or 'the configuration')}: {reason}.", "`python run.py --cfg job` shows every key."
        ) from None
    check_fields(result, type(result), "")
    return result


def check_fields(values: object, schema: type, where: str) -> None:
    """The attributes of `values` that are fields of `schema` are of the types and ranges that these say.

    Raises:
        UserError: naming `where` and the field.
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
    """The value is of the type and range that this one field of `schema` says.

    Raises:
        UserError: naming `where` and the field.
    """
    if value != _MISSING:
        (one,) = (one for one in fields(schema) if one.name == name)
        check(value, with_rule(_hints(schema)[name], one.metadata.get("rule")), f"{where}{name}")


def _hold(given: Any, schema: type, path: str) -> None:
    """Every key is a field, every value of its type: before the merge, which would take −1 for true and 1 for text."""
    valid = [one.name for one in fields(schema)]
    if not isinstance(given, Mapping):
        raise UserError(f"{path.rstrip('.')}={shown(given)}.", f"It is a group of settings, such as {path}{valid[0]}.")
    for key, value in given.items():
        here = f"{path}{key}"
        if key not in valid:
            raise UserError(f"Unknown key '{shown(here)}'.", suggest(str(key), valid))
        kind = _hints(schema)[str(key)]
        inner = get_args(kind)[1] if get_origin(kind) is dict else None
        if isinstance(kind, type) and is_dataclass(kind):
            _hold(value, kind, f"{here}.")
        elif isinstance(inner, type) and is_dataclass(inner):
            check(value, dict[str, Any], here)
            for name, one in value.items():
                _hold(one, inner, f"{here}.{name}.")
        else:
            check_field(schema, str(key), _read(value, kind), path)


def _read(value: Any, kind: Any) -> Any:
    """The value as the merge will read it: numbers within text, as an environment variable gives them, and ids."""
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
    """What every stage may say of itself is of its type; what a stage of the user's own says besides is its own.

    Raises:
        UserError: if not.
    """
    check(stage.get("_target_"), str, "stage._target_")
    for key, kind in (("name", str), *((flag, bool) for flag in ("shared", "fresh", "learns_from_rows", "scores_run"))):
        if key in stage:
            check(stage[key], kind, f"stage.{key}")


def check_architecture(settings: Mapping[str, Any]) -> None:
    """The sizes and counts among `model.config` can be built; what else it says is the architecture's to judge.

    Raises:
        UserError: for a whole number that is below 1 or beyond any model's.
    """
    for key, value in settings.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and _SIZE.search(str(key)):
            most = 1000 if "layer" in str(key) else 100_000_000
            check(value, Annotated[int, Range(least=1, most=most)], f"model.config.{key}")


def check_scorers(objective: str, scorers: Mapping[str, Any], domain: str, conf: Path) -> None:
    """Each scorer of an objective is for a data domain that there is, and of exactly one form.

    Args:
        objective: its name.
        scorers: by domain.
        domain: this run's, which may be the user's own.
        conf: the shipped configuration, which says the other domains.

    Raises:
        UserError: if not.
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
    check(node[form], str | None if form == "function" else str, f"{where}.{form}")
    unknown = [] if form == "_target_" else [str(other) for other in node if other != form]
    if unknown:
        raise UserError(f"{where} has no setting '{shown(unknown[0])}'.", f"A {form} has none besides its name.")
    for name in ("id", "revision", "path"):  # by which a scorer's weights are looked for, on the Hub and here
        if name in node:
            check(node[name], str | None, f"{where}.{name}")


@cache
def _domains(conf: Path) -> list[str]:
    return sorted({str(yaml.safe_load(path.read_text())["domain"]) for path in (conf / "data").glob("*.yaml")})


def check_unused(section: Any, where: str) -> None:
    """Where a section's name is `none`, its other settings are as they were: nothing would read them.

    Raises:
        UserError: if not.
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
