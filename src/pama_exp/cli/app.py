"""The application: compose → validate → run a stage → record; the only place that knows Hydra."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Glob, IntervalSweep, Override
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pama_exp.build.assets import check_assets
from pama_exp.build.evaluated_run import as_the_run_had_it
from pama_exp.cli import syntax
from pama_exp.config import schema
from pama_exp.config.naming import recorded
from pama_exp.errors import Interrupted, UserError, WorkerCrashed, refuse_secrets, suggest
from pama_exp.safety import failing, import_path
from pama_exp.safety.secrets import secrets_of_words
from pama_exp.sweeping import search_path
from pama_exp.sweeping.process import stop_with_sweep
from pama_exp.tracking import folder as folders

CONF = schema.CONF
_LAUNCHERS = ("joblib", "submitit_local", "submitit_slurm")  # Hydra's, as extras


def main() -> None:
    """The command line: `python run.py [group=option] [key=value] …`. Exit status 2 for the user's mistakes."""
    try:
        _main()
        sys.stdout.flush()
    except UserError as error:
        _exit(error)
    except BrokenPipeError:  # `… | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is flushed at exit goes nowhere
        sys.exit(128 + signal.SIGPIPE)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        failing.leave(error, "The command", None)


def _main() -> None:
    _prepare()
    if "PAMA_EXP_WORKER" in os.environ:
        from pama_exp.parallel import launch

        launch.work(_work)
        return
    stop_with_sweep()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here, and are told here
    args = syntax.arguments()
    if args.help and any(override.startswith("solver=") for override in args.overrides):
        explain_solver(args.overrides, args.config_dir)
        return
    composing_only = args.help or args.hydra_help or args.cfg or args.info or args.shell_completion
    sys.argv[1:] = as_hydra_reads(sys.argv[1:], args.overrides, imply_mode=not composing_only)
    args = syntax.arguments()
    if not composing_only:
        check_command_line(args.overrides, args.config_dir, args.multirun)
    try:
        hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")(_guarded)()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(
            str(error).splitlines()[0], "`python run.py --cfg job` shows every key that there is."
        ) from None


def _prepare() -> None:
    """What a process needs before it composes or runs anything; workers of other launchers begin here too."""
    schema.register_resolvers()
    search_path.register()
    failing.prepare_streams()
    import_path.add_current_folder()


def as_hydra_reads(words: Sequence[str], overrides: Sequence[str], imply_mode: bool = True) -> list[str]:
    """`+sweep=NAME` is read as `sweep=NAME`, which has its place before `debug`, and means a multirun."""
    given = [word for word in overrides if word.startswith(("+sweep=", "sweep="))]
    read = [word.removeprefix("+") if word in given else word for word in words]
    has_mode = any(word.startswith("hydra.mode=") for word in overrides)
    return [*read, "hydra.mode=MULTIRUN"] if given and imply_mode and not has_mode else read


def explain_solver(overrides: Sequence[str], config_dir: str | None = None) -> None:
    """Print what the solver named on the command line is.

    Raises:
        UserError: if there is no such solver.
    """
    from pama_exp.cli.solver_help import entry

    name = next(override.partition("=")[2] for override in overrides if override.startswith("solver="))
    found = {path.stem: path for folder in _folders(config_dir) for path in (folder / "solver").glob("*.yaml")}
    if name not in found:
        raise UserError(f"Unknown solver '{name}'.", suggest(name, sorted(found)))
    sys.stdout.write(entry(found[name]).text + "\n")


def check_command_line(overrides: Sequence[str], config_dir: str | None = None, multirun: bool = False) -> None:
    """Compose once before Hydra does, so that what is wrong is said in two lines; in a sweep, once for each option.

    Raises:
        UserError: for an unknown group option or key, a list of objectives with none or one twice, a secret in plain,
            or bad syntax.
    """
    refuse_secrets(secrets_of_words(overrides))
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
    extra = [] if config_dir is None else [f"hydra.searchpath=[file://{Path(config_dir).absolute()}]"]
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            compose("config", [*overrides, *extra])
    except MissingConfigException as error:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        found = sorted({path.stem for folder in _folders(config_dir) for path in (folder / group).glob("*.yaml")})
        hint = suggest(name, error.options or found)  # of a list, Hydra does not say the options
        if name in _LAUNCHERS:
            hint = "It is an extra: pip install 'pama-exp[launchers]'."
        raise UserError(f"Unknown {group or 'configuration'} '{name}'.", hint) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise _explain(error, parsed, extra) from None


def _folders(config_dir: str | None) -> list[Path]:
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


def _explain(error: Exception, overrides: Sequence[Override], search: Sequence[str]) -> UserError:
    """Hydra's composition error in the user's terms: the key that does not exist and its nearest neighbour."""
    groups = sorted({*(path.name for path in CONF.iterdir() if path.is_dir()), "sweep"} - {"hydra"})
    choices = [o.input_line for o in overrides if o.key_or_group in groups or o.key_or_group.startswith("hydra/")]
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


def _guarded(composed: DictConfig) -> dict[str, Any]:
    """Run one job; a user's mistake is two lines and status 2, a signal 128 + its number.

    A worker that runs several jobs may be ended by neither: there both are raised, and the sweep says so.
    """

    _prepare()
    in_worker = HydraConfig.get().mode is RunMode.MULTIRUN

    def stop(signum: int, _: Any) -> None:
        raise Interrupted(signum)

    signals = (signal.SIGINT, signal.SIGTERM)
    previous = {signum: signal.signal(signum, stop) for signum in signals}
    try:
        return run(composed, HydraConfig.get().overrides.task)
    except UserError as error:
        if in_worker:
            raise
        _exit(error)
    except WorkerCrashed as error:  # it has said so
        if in_worker:
            raise
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
    except Interrupted as interruption:
        from pama_exp.tracking.console import note

        if in_worker:
            raise RuntimeError(str(interruption)) from None
        note(f"Stopped by {signal.Signals(interruption.signum).name}. The same command goes on from here.")
        sys.exit(128 + interruption.signum)
    except Exception as error:
        stage = f"stage={OmegaConf.select(composed, 'stage.name')}"
        folder = Path(str(OmegaConf.select(composed, "output", default=""))).absolute()
        if in_worker:
            raise failing.unwritable(error, folder) or error from None
        failing.leave(error, stage, folder)
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def run(composed: DictConfig, given: Sequence[str] | None = None) -> dict[str, Any]:
    """Validate the configuration, then run its stage in the run's folder, record the result and return it.

    Args:
        composed: by Hydra.
        given: the overrides that the user named; None where that is not known, and everything counts as named.
    """
    config = schema.typed(composed)
    folders.run_folder(config.output)
    config = as_the_run_had_it(config, given)
    if not config.preflight:
        check_assets(config)  # at once: what follows imports for seconds
    stage = _load_stage(config)
    from pama_exp.build import preflight

    if config.preflight:
        preflight.report(config)
        return {}
    from pama_exp.build.parts import check_before_work, use_threads
    from pama_exp.tracking.console import note, summary
    from pama_exp.tracking.record import RunRecord

    use_threads(config.trainer.threads)
    check_before_work(config)
    preflight.brief(config)
    record = RunRecord.open(Path(config.output).absolute())
    plain = recorded(cast(dict[str, Any], OmegaConf.to_container(OmegaConf.structured(config))))
    with record.lock():
        folders.settle(record.folder)
        if not config.force:
            record.refuse_another(plain, volatile=schema.VOLATILE)
            if record.is_complete and not config.stage.get("fresh", False):
                result = record.read_result()
                record.mend_status()
                note(f"This run is finished: {record.folder} (force=true runs it again).")
                summary(result)
                return result
        try:
            if config.force:
                folders.set_aside(record.folder)
            record.write_config(plain, volatile=schema.VOLATILE)
            record.write_environment(sys.argv)
            if not folders.has_checkpoint(record.folder):
                record.truncate(0)  # nothing to go on from: the stage writes all its rows again
            record.write_status("running", record.last_step())
            result = _perform(stage, config, record)
            record.metrics_table(record.folder / "metrics.csv")
            record.write_result(result)
            record.write_status("complete", record.last_step())
        except (Interrupted, Exception) as error:
            state = "interrupted" if isinstance(error, Interrupted) else "failed"
            told = failing.unwritable(error, record.folder) or error
            record.note_failure(state, str(told).splitlines()[0] if str(told) else type(told).__name__)
            if folders.settle(record.folder):
                note(f"The run that this one was to replace is back in {record.folder}.")
            raise
        folders.settle(record.folder)  # what it replaces is deleted
    summary(result)
    return result


def _perform(
    stage: Callable[[schema.Config, Any], dict[str, Any]], config: schema.Config, record: Any
) -> dict[str, Any]:
    """The stage's result, from this process or from several started for it."""
    from pama_exp.training.strategies import is_shared, process_count

    if not is_shared(config):
        return stage(config, record)
    from pama_exp.parallel import launch

    container = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.structured(config)))
    count = process_count(config.trainer)
    return launch.run_in_processes(container, count, config.trainer.accelerator in ("gpu", "cuda"))


def _work(container: dict[str, Any], scratch: Path | None) -> dict[str, Any]:
    """One process's part of a shared run. What any but the main one writes goes to a scratch folder, and nowhere."""
    from pama_exp.build.parts import use_threads
    from pama_exp.tracking.record import RunRecord

    config = schema.typed(OmegaConf.create(container))
    stage = _load_stage(config)
    use_threads(config.trainer.threads)
    record = RunRecord.open(Path(config.output).absolute())
    if scratch is not None:
        checkpoints, record = record.checkpoints, RunRecord.open(scratch)
        record.checkpoints = checkpoints
        config.logger.mode = "disabled"
    return stage(config, record)


def _load_stage(config: schema.Config) -> Callable[[schema.Config, Any], dict[str, Any]]:
    """The stage's function. The first time it is asked for, what it needs is imported, for seconds.

    The objects that imports make stay for good: the garbage collector, which would walk them again and again, is
    told so. A process starts and ends in two thirds of the time.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    is_first = "transformers" not in sys.modules
    if is_first:
        gc.disable()
    try:
        stage = _stage(config)
        quieten()
    finally:
        if is_first:
            gc.freeze()
            gc.enable()
    return stage


def quieten() -> None:
    """Silence third-party chatter that no user can act on; once Lightning is imported, which sets its own level."""
    import transformers

    warnings.filterwarnings("ignore", module="lightning.*")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def _stage(config: schema.Config) -> Callable[[schema.Config, Any], dict[str, Any]]:
    module, _, name = str(config.stage.get("_target_", "")).rpartition(".")
    try:
        return getattr(import_path.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"stage._target_={module}.{name}: {error}.", "Name a function (config, record) -> result."
        ) from None


def _exit(error: UserError) -> NoReturn:
    from pama_exp.tracking.console import print_error

    print_error(error)
    sys.exit(2)
