"""What `stage=evaluate` takes from the run that it looks at, and what of a command contradicts that run.

A run's record may be somebody else's: it is read as plain values, and names no code that this command does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import yaml

from pama_exp.config.naming import VOLATILE
from pama_exp.config.schema import CONF, ConditioningConfig, Config, DataConfig, typed
from pama_exp.errors import UserError
from pama_exp.tracking import reading
from pama_exp.tracking.console import note
from pama_exp.tracking.folder import CONFIG

_NOT_TAKEN = ("stage", "objectives", "adapter", "evaluate", "compare", "soup", "dpo", "mod", "judge", *VOLATILE)
# What a policy is: a command may not say otherwise. Null says nothing.
_FIXED = {
    "model": ("id", "revision", "path", "weights", "tokenizer", "architecture", "config", "chat_template"),
    "data": tuple(f.name for f in fields(DataConfig) if not f.name.endswith(("_prompts", "_learning_rate"))),
    "conditioning": ("name", "levels", "item", "separator", "end"),
}
_OURS = ("model.allow_pickle",)  # a permission is the command's to give
_CODE = {"solver": "solver", "advantage": "advantage", "rollout.engine": "rollout"}  # key: group of options


def as_the_run_had_it(config: Config, given: Sequence[str] | None) -> Config:
    """The configuration with all that determines the numbers as the evaluated run had it, but for what is given.

    The run's model, data, conditioning, and objectives by name, order and direction are what its policy is: a command
    that gives others is refused. How objectives are scored and responses are sampled may be given.

    Args:
        config: of any stage; all but `stage=evaluate` with a run are returned as they are.
        given: the overrides that the command names; None if all of the configuration counts as given.

    Raises:
        UserError: for what contradicts the run, what the command would have to name, or a record that cannot be read.
    """
    if not config.stage.get("scores_run", False) or config.evaluate.run is None:
        return config
    folder = Path(config.evaluate.run)
    theirs, ours = _read(folder), asdict(config)
    named = _Named(given)
    where = f"evaluate.run={folder}"
    _refuse_contradictions(where, ours, theirs, named)
    merged = {
        **ours,
        **{key: _merged(ours[key], theirs.get(key, ours[key]), key, named) for key in ours if key not in _NOT_TAKEN},
    }
    merged["objectives"] = _objectives(where, ours, theirs, named, merged["data"]["domain"])
    _refuse_code(where, merged, ours)
    return typed(merged)


class _Named:
    """Which keys a command names."""

    def __init__(self, given: Sequence[str] | None) -> None:
        words = [] if given is None else given
        self._keys = [word.lstrip("+~").partition("=")[0].partition("@")[0].replace("/", ".") for word in words]
        self._all = given is None

    def covers(self, key: str) -> bool:
        """Whether the key, or one that it lies under, is named."""
        return self._all or any(f"{key}.".startswith(f"{each}.") for each in self._keys)

    def reaches(self, key: str) -> bool:
        """Whether the key, one that it lies under, or one under it is named."""
        return self.covers(key) or any(each.startswith(f"{key}.") for each in self._keys)


def _read(folder: Path) -> dict[str, Any]:
    """The run's configuration as plain values.

    Raises:
        UserError: if it cannot be read, or is none.
    """
    path = folder / CONFIG
    if not (folder / "policy").is_dir():
        raise UserError(f"evaluate.run={folder} holds no policy/ folder.", "Name a finished run's folder.")
    found: dict[str, Any] = {}
    with suppress(UserError, OSError):
        found = reading.read_yaml(path, reading.check_mapping)
    if not _is_whole(found):
        raise UserError(
            f"evaluate.run={folder}: {CONFIG} is missing or damaged, so what the policy is for is not known.",
            f"Evaluate the policy by itself: model.path={folder / 'policy'} in place of evaluate.run.",
        )
    for key, value in _leaves(found):
        if isinstance(value, str) and "${" in value:
            raise UserError(
                f"{path}: {key} holds '${{', which no run writes.", "Evaluate runs whose record you can trust."
            )
    if not isinstance(found.get("conditioning"), dict):
        found["conditioning"] = asdict(ConditioningConfig())
    return found


def _is_whole(found: Any) -> bool:
    """Whether all that is looked into here is of its kind; what else is wrong the schema says."""
    if not isinstance(found, dict) or not all(
        isinstance(found.get(key), dict) for key in ("model", "data", "objectives")
    ):
        return False
    nodes = found["objectives"].values()
    return bool(nodes) and all(isinstance(n, dict) and isinstance(n.get("scorers") or {}, dict) for n in nodes)


def _refuse_contradictions(where: str, ours: Any, theirs: Any, named: _Named) -> None:
    theirs_named, ours_named = list(theirs["objectives"]), list(ours["objectives"])
    listed = f"'objectives=[{','.join(theirs_named)}]'"
    if named.covers("objectives") and ours_named != theirs_named:
        raise UserError(
            f"{where} was aligned to {theirs_named}, and this command has {ours_named}.",
            f"Set {listed}. By others: model.path={where.partition('=')[2]}/policy in place of evaluate.run.",
        )
    for section, keys in _FIXED.items():
        for key in keys:
            path, mine, its = f"{section}.{key}", ours[section].get(key), theirs[section].get(key)
            if key not in theirs[section] or mine == its:
                continue
            unlike = [path] if not isinstance(mine, dict) or not isinstance(its, dict) else _unlike(path, mine, its)
            unlike = [each for each in unlike if named.covers(each) and mine is not None]
            if unlike:
                hint = (
                    f"Add {section}={its}." if path == "conditioning.name" else f"Leave {section} out of the command."
                )
                raise UserError(f"{where} differs from this command in {', '.join(unlike[:3])}.", hint)
    for name in theirs_named:
        mine, its = ours["objectives"].get(name, {}).get("direction"), theirs["objectives"][name].get("direction")
        if mine is not None and mine != its and named.covers(f"objectives.{name}.direction"):
            raise UserError(f"{where}: objectives.{name}.direction is {its}, not {mine}.", "Leave it out.")


def _unlike(path: str, mine: Mapping[str, Any], its: Mapping[str, Any]) -> list[str]:
    return [f"{path}.{key}" for key in {**mine, **its} if mine.get(key) != its.get(key)]


def _merged(ours: Any, theirs: Any, path: str, named: _Named) -> Any:
    """Theirs, but for what the command names; of what it names with null, theirs where there is something."""
    if path in _OURS:
        return ours
    if isinstance(ours, dict) and isinstance(theirs, dict):
        kept = [key for key in ours if key in theirs or named.covers(f"{path}.{key}") or f"{path}.{key}" in _OURS]
        if named.covers(path) and "_target_" in ours:  # settings of another class are not this one's
            return ours
        more = [key for key in theirs if key not in ours and not named.covers(path)]
        both = {key: _merged(ours[key], theirs.get(key, ours[key]), f"{path}.{key}", named) for key in kept}
        return both | {key: theirs[key] for key in more}
    return ours if named.covers(path) and ours is not None else theirs


def _objectives(where: str, ours: Any, theirs: Any, named: _Named, domain: str) -> dict[str, Any]:
    """The run's objectives; scorers that it does not share with a shipped yaml or the command are named or refused."""
    found = {}
    for name, node in theirs["objectives"].items():
        mine = ours["objectives"].get(name, {})
        key = f"objectives.{name}.scorers"
        merged = {k: _merged(mine.get(k, v), v, f"objectives.{name}.{k}", named) for k, v in node.items()}
        source = _scorer(node, domain)
        if named.reaches(key) and mine:
            merged["scorers"] = mine["scorers"]
            if source != _scorer(mine, domain):
                note(f"! {name} is scored otherwise here than in {where.partition('=')[2]}, as the command has it.")
        elif set(source) != {"program"} and source not in (_scorer(mine, domain), _scorer(_shipped(name), domain)):
            raise UserError(
                f"{where} has a scorer of its own for '{name}', which is used only if the command names it.",
                f"Give {key}.{domain} as the run's own command does, or objectives=… to score by its yaml.",
            )
        else:
            merged["scorers"] = {domain: source}
        found[name] = merged
    return found


def _scorer(node: Mapping[str, Any], domain: str) -> dict[str, Any]:
    scorers = node.get("scorers") or {}
    found = scorers.get(domain, scorers.get("any"))
    return dict(found) if isinstance(found, dict) else {}


def _shipped(name: str) -> dict[str, Any]:
    path = CONF / "objectives" / f"{Path(name).name}.yaml"
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")).get(name) or {}) if path.is_file() else {}


def _refuse_code(where: str, merged: Any, ours: Any) -> None:
    """What would be imported is of a shipped option, or what the command has there itself."""
    for key, group in _CODE.items():
        here, mine = merged, ours
        for part in key.split("."):
            here, mine = here[part], mine[part]
        target = here.get("_target_") if isinstance(here, dict) else None
        options = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in (CONF / group).glob("*.yaml")]
        shipped = {option.get("engine", option).get("_target_") for option in options}
        if str(target) not in shipped and target != mine.get("_target_"):
            raise UserError(
                f"{where}: its {key} is {target}, which is used only if the command names it.", f"Add {group}=…."
            )


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every value and every key, which is a value too."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield f"{path}{key}", key
            yield from _leaves(value, f"{path}{key}.")
    elif isinstance(tree, list):
        for value in tree:
            yield from _leaves(value, path)
    else:
        yield path.rstrip("."), tree
