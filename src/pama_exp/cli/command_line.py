"""Checks of a command line's overrides before Hydra composes them: what is wrong is an error of two lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.types import Glob, IntervalSweep, Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from pama_exp.cli import syntax
from pama_exp.config import own_options
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


def check_command_line(
    overrides: Sequence[str], config_dir: str | None = None, multirun: bool = False
) -> list[DictConfig]:
    """Compose the overrides once before Hydra does; those of a sweep once for each option of a group.

    Returns:
        The configurations that were composed, without Hydra's own part: one where there is no sweep.

    Raises:
        UserError: for an unknown group option or key, a key or option given twice, a list of objectives with none or
            one twice, a secret in plain, or bad syntax.
    """
    refuse_secrets(secrets_of_words(overrides))
    if config_dir is not None:
        own_options.check_folder(config_dir)
    parsed = syntax.parse(overrides)
    refuse_repeated(parsed)
    if not (multirun or "hydra.mode=MULTIRUN" in overrides):
        return [_check_one(parsed, overrides, config_dir)]
    return [_check_one(syntax.parse(line), line, config_dir) for line in _representatives(parsed)]


def refuse_repeated(overrides: Sequence[Override]) -> None:
    """Each key, and each option of a group, is given once: Hydra would take the last one. Deletions are not counted.

    Raises:
        UserError: for the first that is given twice, with both.
    """
    given: dict[str, str] = {}
    for override in overrides:
        if override.is_delete():
            continue
        key = f"{override.key_or_group}{'@' if override.package else ''}{override.package or ''}"
        for leaf in _leaves(key, override.value()):
            text = syntax.short(str(override.input_line))
            if leaf in given:
                raise UserError(f"{leaf} is given twice: {given[leaf]} and {text}.", "Leave one of them out.")
            given[leaf] = text


def _leaves(key: str, value: Any) -> list[str]:
    """The keys that an override sets: those within a mapping, or its own."""
    if not isinstance(value, dict) or not value:
        return [key]
    return [leaf for name, inner in value.items() for leaf in _leaves(f"{key}.{name}", inner)]


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


def _check_one(parsed: Sequence[Override], overrides: Sequence[str], config_dir: str | None) -> DictConfig:
    _check_objectives(parsed)
    _check_options(parsed, config_dir)
    _check_own(parsed, config_dir)
    try:
        return composed(overrides, config_dir)
    except MissingConfigException as error:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        # For an unknown name in a list, Hydra's error has no options.
        hint = suggest(name, error.options or options(group, *_folders(config_dir)))
        if name in _LAUNCHERS:
            hint = "It is an extra: pip install 'pama-exp[launchers]'."
        raise UserError(f"Unknown {group or 'configuration'} '{name}'.", hint) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise _explain(error, parsed, config_dir) from None
    except (YAMLError, UnicodeDecodeError, OSError):  # of a file that another option names
        for path in sorted(Path(config_dir or CONF).glob("*/*.yaml")):
            own_options.option(path)
        raise


def check_package(package: str, overrides: Sequence[str], config_dir: str | None) -> None:
    """`--cfg job --package=NAME` names a part of the configuration.

    Raises:
        UserError: if there is none of the name.
    """
    whole = composed(overrides, config_dir)
    if package != "_global_" and not OmegaConf.is_config(OmegaConf.select(whole, package)):
        groups = [str(key) for key in whole if OmegaConf.is_config(whole._get_node(key))]
        raise UserError(f"--package={syntax.short(package)} is no part of the configuration.", suggest(package, groups))


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
        is_named = override.is_delete() and value is None
        if override.is_sweep_override() or is_named or all(isinstance(name, str) for name in names):
            continue
        valid = options(group, *_folders(config_dir))
        if valid or group == "hydra" or "/" in group:
            text = str(override.input_line).partition("=")[2][:60]
            raise UserError(f"{group}={text} is no option's name.", suggest(text, valid))


def _check_own(overrides: Sequence[Override], config_dir: str | None) -> None:
    """The chosen options that are files of the user's own can be read."""
    for override in overrides if config_dir is not None else ():
        value = override.value()
        for name in value if isinstance(value, list) else [value]:
            path = Path(str(config_dir), str(override.key_or_group), f"{name}.yaml")
            if isinstance(name, str) and path.is_file():
                own_options.option(path)


def _explain(error: Exception, overrides: Sequence[Override], config_dir: str | None) -> UserError:
    """Hydra's composition error in the user's terms: the override that is wrong, and what would be right."""
    groups = sorted({*(path.name for path in CONF.iterdir() if path.is_dir()), "sweep"} - {"hydra"})
    several = next((o for o in overrides if o.is_sweep_override()), None)
    if several is not None:
        return UserError(
            f"'{syntax.short(str(several.input_line))}' gives several values.",
            "Several values are a sweep: add --multirun. One list is written key=[a,b], and text \"key='a,b'\".",
        )
    choices = [
        str(o.input_line)
        for o in overrides
        if o.key_or_group in groups and not (o.is_add() or o.is_delete() or o.package)
    ]
    plain = UserError(
        syntax.short(str(error).splitlines()[0], 200), "`python run.py --cfg job` shows every key that there is."
    )
    try:
        config = composed(choices, config_dir, with_hydra=True)
    except (HydraException, OmegaConfBaseException):
        return plain
    return next((found for each in overrides if (found := _fault(each, config, groups)) is not None), plain)


def _fault(override: Override, whole: DictConfig, groups: Sequence[str]) -> UserError | None:
    """What is wrong with one override of the composed configuration; None where it can be applied."""
    key, text = str(override.key_or_group), syntax.short(str(override.input_line))
    if override.package is not None or "/" in key:
        chosen = f"{key}@{override.package}" if override.package is not None else key
        is_known = chosen in whole.hydra.runtime.choices
        hint = suggest(key, [*groups, *(str(name) for name in whole.hydra.runtime.choices if "/" in str(name))])
        return None if is_known else UserError(f"'{text}': there is no group '{syntax.short(chosen)}'.", hint)
    if key in groups and not override.is_delete():
        is_twice = override.is_add() and key in whole.hydra.runtime.choices and key != "objectives"
        return _there_already(text) if is_twice else None
    if key in groups:
        chosen, value = whole.hydra.runtime.choices.get(key), override.value()
        if isinstance(chosen, str) and value in (None, chosen):
            return None
        hint = f"It is {chosen}." if isinstance(chosen, str) else f"Name those that are wanted: {key}=[NAME,NAME]."
        return UserError(f"'{text}' deletes no option that is chosen.", hint)
    node: Any = whole
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(node, DictConfig):
            break
        if part not in node:
            if override.is_add() or override.is_force_add():
                return None
            return _unknown(".".join(parts[: depth + 1]), node, groups if depth == 0 else ())
        node = node._get_node(part)
    value = override.value()
    if override.is_add():
        return None if isinstance(node, DictConfig) and isinstance(value, dict) else _there_already(text)
    if override.is_delete():
        return UserError(f"'{text}': it has another value.", f"~{key} deletes it, whatever it is.") if value else None
    if isinstance(node, DictConfig) and not isinstance(value, dict | str) and value is not None:
        such = [f", such as {key}.{name!s}" for name in node][:1]
        return UserError(f"{text}.", f"It is a group of settings{''.join(such)}.")
    unknown = [str(name) for name in value if name not in node] if isinstance(value, dict) and node else []
    return _unknown(f"{key}.{unknown[0]}", node, ()) if unknown and not override.is_force_add() else None


def _there_already(text: str) -> UserError:
    return UserError(f"'{text}' adds what is there already.", f"Write {text.lstrip('+')}, which sets it.")


def _unknown(where: str, node: DictConfig, more: Sequence[str]) -> UserError:
    valid = sorted({*map(str, node), *more})
    return UserError(f"Unknown key '{syntax.short(where)}'.", suggest(where.rpartition(".")[2], valid))
