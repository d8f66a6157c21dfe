"""Every setting has its type, default and range in one place, and is held to them before any work."""

import math
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from commands import composed
from pama_exp.assembly.setup import resolve
from pama_exp.config import schema
from pama_exp.config.instantiate import locate, parameters
from pama_exp.config.ranges import admits, rules_of, with_rule
from pama_exp.config.schema import CONF
from pama_exp.errors import UserError
from pama_exp.rewards.classifier import ClassifierScorer

LONGEST = 300  # characters of a line
ODD = {
    "-1": -1,
    "0": 0,
    "NaN": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "1e30": 1e30,
    "10**30": 10**30,
    "abc": "abc",
    "no": "no",
    "null": None,
    "[1]": [1],
    "{a: 1}": {"a": 1},
    "true": True,
}
QUICK = ["model=micro", "reward=gold", "cache_dir=unused", "output=unused"]
OPTIONS = sorted(
    f"{group}={path.stem}" for group in ("solver", "advantage", "rollout") for path in (CONF / group).glob("*.yaml")
)


@cache
def base(*overrides: str) -> DictConfig:
    return composed(*QUICK, *overrides)


def refusal(values: dict[str, Any], *overrides: str) -> str | None:
    """What a run says whose configuration holds these values, before any work; None where it would begin."""
    config = base(*overrides).copy()
    OmegaConf.set_struct(config, False)
    for key, value in values.items():
        OmegaConf.update(config, key, value, merge=False)
    try:
        resolve(schema.typed(config))
    except UserError as error:
        lines = [error.message, error.hint]
        assert all("\n" not in line and 0 < len(line) <= LONGEST for line in lines), lines
        return "\n".join(lines)
    return None


def keys(node: Any, path: str = "") -> list[str]:
    """Every key, of groups and of single settings."""
    found = []
    for key, value in node.items() if isinstance(node, dict) else ():
        found += [f"{path}{key}", *keys(value, f"{path}{key}.")]
    return found


def stated(key: str, *overrides: str) -> Any:
    """The type and range that stand beside the setting: in the schema's field, or in the target's parameter.

    Any where neither has a say: within model.config, whose owner is the architecture.
    """
    node: Any = schema.Config
    parts = key.split(".")
    for depth, part in enumerate(parts):
        (one,) = (field for field in fields(node) if field.name == part)
        kind = get_type_hints(node)[part]
        if is_dataclass(kind):
            node = kind
        elif depth + 1 == len(parts):
            return with_rule(kind, one.metadata.get("rule"))
        elif part == "objectives":
            if depth + 2 == len(parts):
                return dict
            (one,) = (field for field in fields(schema.ObjectiveConfig) if field.name == parts[2])
            hint = get_type_hints(schema.ObjectiveConfig)[parts[2]]
            return with_rule(hint, one.metadata.get("rule")) if len(parts) == 3 else of_target(key, *overrides)
        else:
            return of_target(key, *overrides)
    return dict


def of_target(key: str, *overrides: str) -> Any:
    parent, _, name = key.rpartition(".")
    owner = OmegaConf.select(base(*overrides), parent)
    target = "pama_exp.world.FactWorld" if parent == "data.world" else owner.get("_target_")
    if target is None or name == "_target_" or parent == "stage":
        return Any if parent == "model.config" else str if name in ("_target_", "program", "name") else bool
    taken = parameters(locate({"_target_": target}, key))
    taken |= {} if not target.endswith(".published") else {**parameters(ClassifierScorer), **taken}
    return taken[name].annotation if name in taken else str


def makes_sense(key: str, value: Any, *overrides: str) -> bool:
    """Whether the value is of the kind of the shipped one, and within the range that stands beside the setting."""
    shipped, annotation = OmegaConf.select(base(*overrides), key), stated(key, *overrides)
    may_be_null = annotation is Any or shipped is None or NoneType in get_args(annotation)
    if value is None:
        return may_be_null
    if isinstance(shipped, str) or (shipped is None and str in get_args(annotation)):  # a name may be any text
        return isinstance(value, str | int | float) and value is not True and admits(str(value), annotation)
    if isinstance(shipped, bool):
        return value is True
    if isinstance(shipped, int):
        return type(value) is int and abs(value) < 2**63 and admits(value, annotation)
    if isinstance(shipped, float):
        return type(value) in (int, float) and math.isfinite(value) and admits(value, annotation)
    return admits(value, annotation) and rules_of(annotation) != [] and not isinstance(value, dict)


# ---- one source of defaults -------------------------------------------------------------------------------------------


def test_the_schemas_defaults_are_those_of_the_shipped_configuration():
    """Every key that the default command composes and for which the schema has a default: the same value.

    Left out is what the schema leaves to the groups: names, and free-form nodes, which are empty there.
    """

    def flat(node: dict[str, Any], path: str = "") -> dict[str, Any]:
        parts = [flat(v, f"{path}{k}.") if isinstance(v, dict) else {f"{path}{k}": v} for k, v in node.items()]
        return {key: value for part in parts for key, value in part.items()}

    ours = flat(OmegaConf.to_container(composed(), resolve=True))
    theirs = flat(OmegaConf.to_container(OmegaConf.structured(schema.Config), resolve=True))
    both = {key for key in ours.keys() & theirs.keys() if theirs[key] != "???"}
    assert len(both) > 80
    assert {key: ours[key] for key in both} == {key: theirs[key] for key in both}


@pytest.mark.parametrize("key", ["training.steps", "training.kl.coefficient", "sft.examples", "reward_model.steps"])
def test_a_deleted_key_leaves_the_shipped_default(key):
    left = OmegaConf.structured(schema.typed(composed(f"~{key}")))
    assert OmegaConf.select(left, key) == OmegaConf.select(composed(), key)


def test_a_deleted_learning_rate_is_still_the_models_own():
    assert schema.typed(composed("model=gpt2", "~training.learning_rate")).training.learning_rate == 1e-5


# ---- every setting states its range -----------------------------------------------------------------------------------


def is_number(annotation: Any) -> bool:
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType, Annotated) else (annotation,)
    return annotation in (int, float) or any(kind in (int, float) for kind in kinds)


def test_every_number_of_the_schema_states_its_range():
    def walk(kind: Any, path: str = "") -> list[str]:
        found = []
        for field in fields(kind):
            hint = get_type_hints(kind)[field.name]
            inner = [k for k in (hint, *get_args(hint)) if is_dataclass(k)]
            found += [name for k in inner for name in walk(k, f"{path}{field.name}.")]
            found += [f"{path}{field.name}"] if is_number(hint) and "rule" not in field.metadata else []
        return found

    assert walk(schema.Config) == []


def shipped_targets() -> set[str]:
    def walk(node: Any) -> list[str]:
        if not isinstance(node, dict):
            return []
        own = [node["_target_"]] if "_target_" in node else []
        return own + [target for value in node.values() for target in walk(value)]

    found = {t for path in CONF.glob("*/*.yaml") for t in walk(yaml.safe_load(path.read_text()))}
    return {t for t in found if not t.startswith("pama_exp.stages.")} | {
        "pama_exp.world.FactWorld",
        "pama_exp.rewards.classifier.ClassifierScorer",
    }


@pytest.mark.parametrize("target", sorted(shipped_targets()))
def test_every_number_of_a_shipped_target_states_its_range(target):
    taken = parameters(locate({"_target_": target}, "here"))
    assert not any(isinstance(p.annotation, str) for p in taken.values()), "annotations can be read"
    bare = [name for name, p in taken.items() if is_number(p.annotation) and not rules_of(p.annotation)]
    assert bare == []


# ---- every key, with every odd value ----------------------------------------------------------------------------------


@pytest.mark.slow("walks every key of the configuration")
@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
def test_an_odd_value_of_any_key_is_refused_in_two_lines_or_makes_sense(value):
    for key in keys(OmegaConf.to_container(base())):
        assert makes_sense(key, value) or refusal({key: value}) is not None, f"{key}={value} is accepted"


@pytest.mark.slow("walks every key of every option")
@pytest.mark.parametrize("option", OPTIONS)
def test_an_odd_value_of_any_setting_of_an_option_is_refused_in_two_lines_or_makes_sense(option):
    group = option.partition("=")[0]
    needed = ["advantage=group", "advantage.baseline=standardise"] if group == "solver" else []
    given = [option, *needed]
    for key in keys(OmegaConf.to_container(base(*given)[group]), f"{group}."):
        for value in ODD.values():
            sensible = makes_sense(key, value, *given)
            assert sensible or refusal({key: value}, *given) is not None, f"{key}={value} is accepted"
