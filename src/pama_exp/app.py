"""The application: compose → validate → run a stage → record; the only place that knows Hydra."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import pama_exp
from pama_exp import schema
from pama_exp.errors import Interrupted, UserError, suggest
from pama_exp.stages.assets import check_assets

_PACKAGE = Path(pama_exp.__file__).parent
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1] / "conf"


def main() -> None:
    """The command line: `python run.py [group=option] [key=value] …`. Exit status 2 for the user's mistakes."""
    schema.register_resolvers()
    sys.path.insert(0, os.getcwd())  # a user's own solver, scorer or model file beside the command
    args = get_args_parser().parse_args()
    composing_only = args.help or args.hydra_help or args.cfg or args.info or args.shell_completion
    try:
        if not composing_only:
            check_command_line(args.overrides, args.config_dir, args.multirun)
        hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")(_guarded)()
    except UserError as error:
        _exit(error)


def check_command_line(overrides: Sequence[str], config_dir: str | None = None, multirun: bool = False) -> None:
    """Compose once before Hydra does, so that what is wrong is said in two lines.

    Raises:
        UserError: for an unknown group option or key, a list of objectives with none or one twice, or bad syntax.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise UserError(
            str(error).splitlines()[0], "Overrides read key=value; quote lists: 'objectives=[a,b]'."
        ) from None
    _check_objectives(parsed)
    if multirun:
        return
    extra = [] if config_dir is None else [f"hydra.searchpath=[file://{Path(config_dir).absolute()}]"]
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            compose("config", [*overrides, *extra])
    except MissingConfigException as error:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        folders = [CONF, *([Path(config_dir)] if config_dir is not None else [])]
        options = sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})
        raise UserError(f"Unknown {group or 'configuration'} '{name}'.", suggest(name, options)) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise _explain(error, parsed, extra) from None


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


def _explain(error: Exception, overrides: Sequence[Override], search: Sequence[str]) -> UserError:
    """Hydra's composition error in the user's terms: the key that does not exist and its nearest neighbour."""
    groups = sorted(path.name for path in CONF.iterdir() if path.is_dir())
    choices = [o.input_line for o in overrides if o.key_or_group in groups]
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            whole = compose("config", [*choices, *search])
    except (HydraException, OmegaConfBaseException):
        whole = OmegaConf.create()
    for override in overrides:
        node: Any = whole
        parts = [] if override.key_or_group in groups else str(override.key_or_group).split(".")
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
    return UserError(str(error).splitlines()[0], "`python run.py --cfg job` shows every key that there is.")


def _guarded(composed: DictConfig) -> None:
    """Run one job; a user's mistake is two lines and status 2, a signal 128 + its number."""

    def stop(signum: int, _: Any) -> None:
        raise Interrupted(signum)

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stop)
    try:
        run(composed)
    except UserError as error:
        _exit(error)
    except Interrupted as interruption:
        from pama_exp.tracking.console import note

        note(f"Stopped by {signal.Signals(interruption.signum).name}. The same command goes on from here.")
        sys.exit(128 + interruption.signum)


def run(composed: DictConfig) -> None:
    """Validate the configuration, then run its stage in the run's folder and record the result."""
    config = schema.typed(composed)
    if not config.preflight:
        check_assets(config)  # at once: what follows imports for seconds
    _quieten()
    from pama_exp.stages import preflight

    if config.preflight:
        preflight.report(config)
        return
    stage = _stage(config)
    from pama_exp.stages.parts import check_before_work, use_threads
    from pama_exp.tracking.console import note, summary
    from pama_exp.tracking.record import RunRecord

    use_threads(config.trainer.threads)
    check_before_work(config)
    preflight.brief(config)
    record = RunRecord.open(Path(config.output).absolute())
    with record.lock():
        if config.force:
            record.clear()
        if record.is_complete:
            note(f"This run is finished: {record.folder} (force=true runs it again).")
            summary(record.read_result())
            return
        record.write_config(OmegaConf.to_container(OmegaConf.structured(config)), volatile=schema.VOLATILE)
        record.write_environment(sys.argv)
        record.write_status("running", record.last_step())
        try:
            result = stage(config, record)
        except (UserError, Interrupted, Exception) as error:
            state = "interrupted" if isinstance(error, Interrupted) else "failed"
            record.write_status(state, record.last_step(), str(error).splitlines()[0] if str(error) else "")
            raise
        record.metrics_table(record.folder / "metrics.csv")
        record.write_status("complete", record.last_step())
        record.write_result(result)
    summary(result)


def _quieten() -> None:
    """Silence third-party chatter that no user can act on."""
    import transformers

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", module="lightning.*")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def _stage(config: schema.Config) -> Callable[[schema.Config, Any], dict[str, Any]]:
    module, _, name = str(config.stage.get("_target_", "")).rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"stage._target_={module}.{name}: {error}.", "Name a function (config, record) -> result."
        ) from None


def _exit(error: UserError) -> None:
    from pama_exp.tracking.console import print_error

    print_error(error)
    sys.exit(2)
