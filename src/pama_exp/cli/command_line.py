"""A command line's words: how Hydra is to read them, and what is wrong with them, said in two lines."""

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
from pama_exp.config.schema import CONF
from pama_exp.errors import UserError, refuse_secrets, suggest
from pama_exp.safety.secrets import secrets_of_words

_LAUNCHERS = ("joblib", "submitit_local", "submitit_slurm")  # Hydra's, as extras


def as_hydra_reads(words: Sequence[str], overrides: Sequence[str], imply_mode: bool = True) -> list[str]:
    """`+sweep=NAME` is read as `sweep=NAME`, which has its place before `debug`, and means a multirun."""
    given = [word for word in overrides if word.startswith(("+sweep=", "sweep="))]
    read = [word.removeprefix("+") if word in given else word for word in words]
    has_mode = any(word.startswith("hydra.mode=") for word in overrides)
    return [*read, "hydra.mode=MULTIRUN"] if given and imply_mode and not has_mode else read


def check_command_line(overrides: Sequence[str], config_dir: str | None = None, multirun: bool = False) -> None:
    """Compose once before Hydra does, so that what is wrong is said in two lines; in a sweep, once for each option.

    Raises:
        UserError: for an unknown group option or key, a list of objectives with none or one twice, a secret in plain,
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
    """Single command lines that between them name every key and every option of a group that the sweep names."""
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
            given = [f"{key}={each}" for each in override.sweep_string_iterator()]
            is_group = (CONF / str(override.key_or_group)).is_dir()
            values.append(given if is_group else given[:1])
    first = [each[0] for each in values]
    others = [[*first[:i], each, *first[i + 1 :]] for i, given in enumerate(values) for each in given[1:]]
    return [first, *others]


def _check_one(parsed: Sequence[Override], overrides: Sequence[str], config_dir: str | None) -> None:
    _check_objectives(parsed)
    _check_options(parsed, config_dir)
    extra = [] if config_dir is None else [f"hydra.searchpath=[file://{Path(config_dir).absolute()}]"]
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            compose("config", [*overrides, *extra])
    except MissingConfigException as error:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        found = sorted({path.stem for folder in config_folders(config_dir) for path in (folder / group).glob("*.yaml")})
        hint = suggest(name, error.options or found)  # of a list, Hydra does not say the options
        if name in _LAUNCHERS:
            hint = "It is an extra: pip install 'pama-exp[launchers]'."
        raise UserError(f"Unknown {group or 'configuration'} '{name}'.", hint) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise _explain(error, parsed, extra) from None


def config_folders(config_dir: str | None) -> list[Path]:
    """Where options of groups are looked for: the shipped ones, then the user's own."""
    return [CONF, *([Path(config_dir)] if config_dir is not None else [])]


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
    """A group is given the name of one of its options, and `objectives` may be given a list of names."""
    for override in overrides:
        group, value = str(override.key_or_group), override.value()
        names = value if group == "objectives" and isinstance(value, list) else [value]
        if override.is_sweep_override() or override.is_delete() or all(isinstance(name, str) for name in names):
            continue
        options = {path.stem for folder in config_folders(config_dir) for path in (folder / group).glob("*.yaml")}
        if options:
            text = str(override.input_line).partition("=")[2][:60]
            raise UserError(f"{group}={text} is no option's name.", suggest(text, sorted(options)))


def _explain(error: Exception, overrides: Sequence[Override], search: Sequence[str]) -> UserError:
    """Hydra's composition error in the user's terms: the key that does not exist and its nearest neighbour."""
    groups = sorted({*(path.name for path in CONF.iterdir() if path.is_dir()), "sweep"} - {"hydra"})
    choices = [str(o.input_line) for o in overrides if o.key_or_group in groups or o.key_or_group.startswith("hydra/")]
    plain = UserError(str(error).splitlines()[0], "`python run.py --cfg job` shows every key that there is.")
    if str(error).startswith("Ambiguous value"):
        return UserError(plain.message, "Several values are a sweep: add --multirun. One list is written key=[a,b].")
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            whole = compose("config", [*choices, *search], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException):
        return plain
    for override in overrides:
        node: Any = whole
        is_choice = override.key_or_group in groups or "/" in override.key_or_group
        parts = [] if is_choice else str(override.key_or_group).split(".")
        for depth, part in enumerate(parts):
            if not isinstance(node, DictConfig):
                break
            valid = [str(key) for key in node]
            if part not in valid:
                where = ".".join(parts[: depth + 1])
                return UserError(
                    f"Unknown key '{where}'.", suggest(part, sorted({*valid, *(groups if depth == 0 else [])}))
                )
            node = node._get_node(part)
    return plain
