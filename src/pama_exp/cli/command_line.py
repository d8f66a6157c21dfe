"""Checks of a command line's overrides before Hydra composes them: what is wrong is an error of two lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.types import Glob, IntervalSweep, Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pama_exp.cli import syntax
from pama_exp.config.naming import shown
from pama_exp.config.places import CONF, options
from pama_exp.errors import UserError, refuse_secrets, suggest
from pama_exp.safety.secrets import secrets_of_words

_LAUNCHERS = ("joblib", "submitit_local", "submitit_slurm")  # Hydra's, as extras


def as_hydra_reads(words: Sequence[str], overrides: Sequence[str], imply_mode: bool = True) -> list[str]:
    """The words with `+sweep=NAME` as `sweep=NAME`, which the list of defaults holds before `debug`.

    With `imply_mode`, a sweep adds `hydra.mode=MULTIRUN` unless the overrides set a mode.
    """
    sweeps = [word for word in overrides if word.startswith(("+sweep=", "sweep="))]
    read = [word.removeprefix("+") if word in sweeps else word for word in words]
    has_mode = any(word.startswith("hydra.mode=") for word in overrides)
    return [*read, "hydra.mode=MULTIRUN"] if sweeps and imply_mode and not has_mode else read


def check_command_line(overrides: Sequence[str], config_dir: str | None = None, multirun: bool = False) -> None:
    """Compose the overrides once before Hydra does; those of a sweep once for each option of a group.

    Raises:
        UserError: for an unknown option or key, an empty list of objectives or a repeated one, a secret in plain text,
            or bad syntax.
    """
    refuse_secrets(secrets_of_words(overrides))
    if config_dir is not None and not Path(config_dir).is_dir():
        raise UserError(f"--config-dir={shown(config_dir)[:120]} is no folder.", "Name the folder of your own options.")
    parsed = syntax.parse(overrides)
    if not (multirun or "hydra.mode=MULTIRUN" in overrides):
        _check_one(parsed, overrides, config_dir)
        return
    for line in _representatives(parsed):
        _check_one(syntax.parse(line), line, config_dir)


def _representatives(overrides: Sequence[Override]) -> list[list[str]]:
    """Command lines without sweeps that together name every key and every option of a group that the sweep names."""
    values: list[list[str]] = []
    for override in overrides:
        key, value = override.get_key_element(), override.value()
        if isinstance(value, Glob):
            continue
        if not override.is_sweep_override():
            values.append([str(override.input_line)])
        elif isinstance(value, IntervalSweep):
            values.append([f"{key}={value.start}"])
        else:
            swept = [f"{key}={each}" for each in override.sweep_string_iterator()]
            is_group = (CONF / str(override.key_or_group)).is_dir()
            values.append(swept if is_group else swept[:1])
    first = [each[0] for each in values]
    others = [[*first[:i], each, *first[i + 1 :]] for i, swept in enumerate(values) for each in swept[1:]]
    return [first, *others]


def _check_one(parsed: Sequence[Override], overrides: Sequence[str], config_dir: str | None) -> None:
    _check_objectives(parsed)
    _check_options(parsed, config_dir)
    try:
        composed(overrides, config_dir)
    except MissingConfigException as error:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        # For an unknown name in a list, Hydra's error has no options.
        hint = suggest(name, error.options or options(group, *_folders(config_dir)))
        if name in _LAUNCHERS:
            hint = "It is an extra: pip install 'pama-exp[launchers]'."
        raise UserError(f"Unknown {group or 'configuration'} '{name}'.", hint) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise _explain(error, parsed, config_dir) from None


def composed(overrides: Sequence[str], config_dir: str | None, with_hydra: bool = False) -> DictConfig:
    """The configuration that Hydra composes from the overrides, with the user's options in `config_dir`."""
    search = [] if config_dir is None else [f"hydra.searchpath=[file://{Path(config_dir).absolute()}]"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", [*overrides, *search], return_hydra_config=with_hydra)


def _folders(config_dir: str | None) -> list[Path]:
    return [] if config_dir is None else [Path(config_dir)]


def _check_objectives(overrides: Sequence[Override]) -> None:
    for override in overrides:
        value = override.value() if override.key_or_group == "objectives" else None
        if isinstance(value, list):
            names = [str(v) for v in value]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise UserError(f"objectives={names} holds '{twice[0]}' twice.", "Name each objective once.")
            if not names:
                raise UserError(
                    "objectives=[] names no objective.", "Give one or more: 'objectives=[helpful,concise]'."
                )


def _check_options(overrides: Sequence[Override], config_dir: str | None) -> None:
    """Check that the value of a group is a name, or for `objectives` a list of names."""
    for override in overrides:
        group, value = str(override.key_or_group), override.value()
        names = value if group == "objectives" and isinstance(value, list) else [value]
        if override.is_sweep_override() or override.is_delete() or all(isinstance(name, str) for name in names):
            continue
        valid = options(group, *_folders(config_dir))
        if valid:
            text = str(override.input_line).partition("=")[2][:60]
            raise UserError(f"{group}={text} is no option's name.", suggest(text, valid))


def _explain(error: Exception, overrides: Sequence[Override], config_dir: str | None) -> UserError:
    """Hydra's composition error as a `UserError`: the key that does not exist, and the nearest valid one."""
    groups = sorted({*(path.name for path in CONF.iterdir() if path.is_dir()), "sweep"} - {"hydra"})
    choices = [str(o.input_line) for o in overrides if o.key_or_group in groups or o.key_or_group.startswith("hydra/")]
    plain = UserError(str(error).splitlines()[0], "`python run.py --cfg job` shows every key that there is.")
    if str(error).startswith("Ambiguous value"):
        return UserError(plain.message, "Several values are a sweep: add --multirun. One list is written key=[a,b].")
    try:
        config = composed(choices, config_dir, with_hydra=True)
    except (HydraException, OmegaConfBaseException):
        return plain
    for override in overrides:
        node: Any = config
        is_choice = override.key_or_group in groups or "/" in override.key_or_group
        parts = [] if is_choice else str(override.key_or_group).split(".")
        for depth, part in enumerate(parts):
            if not isinstance(node, DictConfig):
                break
            valid = [str(key) for key in node]
            if part not in valid:
                hint = suggest(part, sorted({*valid, *(groups if depth == 0 else [])}))
                return UserError(f"Unknown key '{'.'.join(parts[: depth + 1])}'.", hint)
            node = node._get_node(part)
    return plain
