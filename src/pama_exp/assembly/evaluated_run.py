"""The settings that `stage=evaluate` takes from the run it evaluates, and the checks that the command agrees with them.

The run may be another person's: its record is read as plain values, and may name only code that the command names too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import yaml

from pama_exp.assembly.imported_config import check_code, check_plain
from pama_exp.config.domains import scorer_node
from pama_exp.config.naming import VOLATILE
from pama_exp.config.schema import CONF, ConditioningConfig, Config, DataConfig, typed
from pama_exp.errors import UserError
from pama_exp.tracking import reading, sums
from pama_exp.tracking.console import note
from pama_exp.tracking.folder import CONFIG

_NOT_TAKEN = ("stage", "objectives", "adapter", "evaluate", "compare", "soup", "dpo", "mod", "judge", *VOLATILE)
# What a policy is: a command that sets another value is refused. Null sets nothing.
_FIXED = {
    "model": ("id", "revision", "path", "weights", "tokenizer", "architecture", "config", "chat_template"),
    "data": tuple(f.name for f in fields(DataConfig) if not f.name.endswith(("_prompts", "_learning_rate"))),
    "conditioning": ("name", "levels", "item", "separator", "end"),
}
_PERMISSIONS = ("model.allow_pickle",)  # only the command can give them


def with_run_settings(config: Config, overrides: Sequence[str] | None) -> Config:
    """The configuration with every setting that determines the numbers as the evaluated run had it, except overrides.

    The run's model, data, conditioning, and the objectives' names, order and directions belong to its policy: a command
    that sets others is refused. It may set how objectives are scored and how responses are sampled.

    Args:
        config: of any stage. All but `stage=evaluate` with a run are returned as they are.
        overrides: those of the command line; None if every setting of the configuration counts as one.

    Raises:
        UserError: if an override contradicts the run, if the run's configuration names code or a scorer that the
            command does not name, or if it cannot be read.
    """
    if not config.stage.get("scores_run", False) or config.evaluate.run is None:
        return config
    folder = Path(config.evaluate.run)
    run, command = _read(folder), asdict(config)
    named = _Overrides(overrides)
    where = f"evaluate.run={folder}"
    _refuse_contradictions(where, command, run, named)
    taken = {key: value for key, value in command.items() if key not in _NOT_TAKEN}
    merged = {**command, **{key: _merged(value, run.get(key, value), key, named) for key, value in taken.items()}}
    merged["objectives"] = _objectives(where, command, run, named, merged["data"]["domain"])
    check_code(merged, command, where)
    return typed(merged)


class _Overrides:
    """The keys that a command's overrides set."""

    def __init__(self, overrides: Sequence[str] | None) -> None:
        words = overrides or ()
        self._keys = [word.lstrip("+~").partition("=")[0].partition("@")[0].replace("/", ".") for word in words]
        self._all = overrides is None

    def covers(self, key: str) -> bool:
        """Whether the key, or a node above it, is set."""
        return self._all or any(f"{key}.".startswith(f"{each}.") for each in self._keys)

    def reaches(self, key: str) -> bool:
        """Whether the key, or a node above or below it, is set."""
        return self.covers(key) or any(each.startswith(f"{key}.") for each in self._keys)


def _read(folder: Path) -> dict[str, Any]:
    """The run's configuration as plain values.

    Raises:
        UserError: if it cannot be read, or is no configuration of a run.
    """
    path = folder / CONFIG
    if not os.path.isdir(folder / "policy"):
        raise UserError(f"evaluate.run={folder} holds no policy/ folder.", "Name a finished run's folder.")
    config: dict[str, Any] = {}
    with suppress(UserError, OSError):
        config = reading.read_yaml(path, reading.check_mapping)
    if not _is_whole(config):
        raise UserError(
            f"evaluate.run={folder}: {CONFIG} is missing or damaged, so what the policy is for is not known.",
            f"Evaluate the policy by itself: model.path={folder / 'policy'} in place of evaluate.run.",
        )
    sums.check(folder, CONFIG)
    check_plain(config, f"evaluate.run={folder}")
    if not isinstance(config.get("conditioning"), dict):
        config["conditioning"] = asdict(ConditioningConfig())
    return config


def _is_whole(config: Mapping[str, Any]) -> bool:
    """Whether every node that this module reads is of its type; `typed` checks the rest."""
    if not all(isinstance(config.get(key), dict) for key in ("model", "data", "objectives")):
        return False
    scorers = [node.get("scorers") or {} if isinstance(node, dict) else None for node in config["objectives"].values()]
    return bool(scorers) and all(
        isinstance(s, dict) and all(isinstance(v or {}, dict) for v in s.values()) for s in scorers
    )


def _refuse_contradictions(where: str, command: Any, run: Any, named: _Overrides) -> None:
    run_names, command_names = list(run["objectives"]), list(command["objectives"])
    if named.covers("objectives") and command_names != run_names:
        raise UserError(
            f"{where} was aligned to {run_names}, and this command has {command_names}.",
            f"Set 'objectives=[{','.join(run_names)}]'. "
            f"By others: model.path={where.partition('=')[2]}/policy in place of evaluate.run.",
        )
    for section, keys in _FIXED.items():
        for key in keys:
            path, here, there = f"{section}.{key}", command[section].get(key), run[section].get(key)
            if key not in run[section] or here == there:
                continue
            both = isinstance(here, dict) and isinstance(there, dict)
            unequal = [f"{path}.{k}" for k in {**here, **there} if here.get(k) != there.get(k)] if both else [path]
            unequal = [each for each in unequal if named.covers(each) and here is not None]
            if unequal:
                hint = (
                    f"Add {section}={there}." if path == "conditioning.name" else f"Leave {section} out of the command."
                )
                raise UserError(f"{where} differs from this command in {', '.join(unequal[:3])}.", hint)
    for name in run_names:
        here = command["objectives"].get(name, {}).get("direction")
        there = run["objectives"][name].get("direction")
        if here is not None and here != there and named.covers(f"objectives.{name}.direction"):
            raise UserError(f"{where}: objectives.{name}.direction is {there}, not {here}.", "Leave it out.")


def _merged(command: Any, run: Any, path: str, named: _Overrides) -> Any:
    """The run's value, or the command's if an override sets it to something else than null."""
    if path in _PERMISSIONS:
        return command
    if isinstance(command, dict) and isinstance(run, dict):
        if named.covers(path) and "_target_" in command:  # the run's settings may be another class's
            return command
        keys = [k for k in command if k in run or named.covers(f"{path}.{k}") or f"{path}.{k}" in _PERMISSIONS]
        both = {key: _merged(command[key], run.get(key, command[key]), f"{path}.{key}", named) for key in keys}
        return both | {key: run[key] for key in run if key not in command and not named.covers(path)}
    return command if named.covers(path) and command is not None else run


def _objectives(where: str, command: Any, run: Any, named: _Overrides, domain: str) -> dict[str, Any]:
    """The run's objectives. A scorer that is neither a shipped one nor the command's has to be named by the command."""
    objectives = {}
    for name, node in run["objectives"].items():
        mine = command["objectives"].get(name, {})
        key = f"objectives.{name}.scorers"
        merged = {k: _merged(mine.get(k, v), v, f"objectives.{name}.{k}", named) for k, v in node.items()}
        source, command_source, shipped_source = (_scorer(each, domain) for each in (node, mine, _shipped(name)))
        if named.reaches(key) and mine:
            merged["scorers"] = mine["scorers"]
            if source != command_source:
                note(f"! {name} is scored otherwise here than in {where.partition('=')[2]}, as the command has it.")
        elif set(source) != {"program"} and source not in (command_source, shipped_source):
            raise UserError(
                f"{where} has a scorer of its own for '{name}', which is used only if the command names it.",
                f"Give {key}.{domain} as the run's own command does, or objectives=… to score by its yaml.",
            )
        else:
            merged["scorers"] = {domain: source}
        objectives[name] = merged
    return objectives


def _scorer(node: Mapping[str, Any], domain: str) -> dict[str, Any]:
    return scorer_node(node.get("scorers") or {}, domain)


def _shipped(name: str) -> dict[str, Any]:
    path = CONF / "objectives" / f"{Path(name).name}.yaml"
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")).get(name) or {}) if path.is_file() else {}
