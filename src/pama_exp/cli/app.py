"""The command line: `python run.py [group=option] [key=value] …`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pama_exp.cli import command_line, execute, syntax
from pama_exp.cli.command_line import as_hydra_reads, check_command_line, config_folders
from pama_exp.cli.compose import prepare
from pama_exp.cli.family import called
from pama_exp.config import schema
from pama_exp.config.naming import solver_label
from pama_exp.errors import Interrupted, UserError, WorkerCrashed, suggest
from pama_exp.safety import failing
from pama_exp.sweeping.process import stop_with_sweep


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
    prepare()
    if "PAMA_EXP_WORKER" in os.environ:
        from pama_exp.parallel import launch

        launch.work(execute.work)
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
    if args.cfg or not composing_only:
        check_command_line(args.overrides, args.config_dir, args.multirun)
        if args.package:
            command_line.check_package(args.package, args.overrides, args.config_dir)
    try:
        hydra.main(config_path=str(schema.CONF), config_name="config", version_base="1.3")(_guarded)()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(
            str(error).splitlines()[0], "`python run.py --cfg job` shows every key that there is."
        ) from None


def say_what_comes(config: schema.Config) -> None:
    """What the command does where nothing was asked for, before it does it."""
    from pama_exp.tracking.console import note

    names = " and ".join(config.objectives)
    note(
        f"Nothing asked for, so this is the default: align the model {config.model.name} to {names} with "
        f"solver={solver_label(config.solver)} in {config.training.steps} steps.\n"
        f"What it starts from (an SFT policy, a reward model per objective) is trained first and kept in "
        f"{config.cache_dir}.\nRecord: {config.output}. Other things to do: {called()} --help"
    )


def explain_solver(overrides: Sequence[str], config_dir: str | None = None) -> None:
    """Print what the solver named on the command line is.

    Raises:
        UserError: if there is no such solver, or two are named.
    """
    from pama_exp.cli.solver_help import entry

    command_line.refuse_repeated(syntax.parse(overrides))
    name = next(override.partition("=")[2] for override in overrides if override.startswith("solver="))
    found = {path.stem: path for folder in config_folders(config_dir) for path in (folder / "solver").glob("*.yaml")}
    if name not in found:
        raise UserError(f"Unknown solver '{name}'.", suggest(name, sorted(found)))
    sys.stdout.write(entry(found[name]).text + "\n")


def _guarded(composed: DictConfig) -> dict[str, Any]:
    """Run one job; a user's mistake is two lines and status 2, a signal 128 + its number.

    A worker that runs several jobs may be ended by neither: there both are raised, and the sweep says so.
    """

    prepare()
    in_worker = HydraConfig.get().mode is RunMode.MULTIRUN

    def stop(signum: int, _: Any) -> None:
        raise Interrupted(signum)

    signals = (signal.SIGINT, signal.SIGTERM)
    previous = {signum: signal.signal(signum, stop) for signum in signals}
    try:
        config, given = schema.typed(composed), HydraConfig.get().overrides.task
        if not given:
            say_what_comes(config)
        return execute.run(config, given)
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


def _exit(error: UserError) -> NoReturn:
    from pama_exp.tracking.console import print_error

    print_error(error)
    sys.exit(2)
