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
from pama_exp.cli.command_line import as_hydra_reads, check_command_line
from pama_exp.cli.compose import prepare
from pama_exp.cli.family import called
from pama_exp.config import schema
from pama_exp.config.naming import solver_label
from pama_exp.errors import Interrupted, UserError, WorkerCrashed, on_signals
from pama_exp.safety import failing
from pama_exp.sweeping.process import stop_with_sweep


def main() -> NoReturn:
    """Run the command line and exit: with status 2 for a user's mistake, 128 + the number of a signal."""
    failing.guarded(_main, "The command")


def _main() -> None:
    prepare()
    if "PAMA_EXP_WORKER" in os.environ:
        from pama_exp.parallel import launch

        launch.work(execute.work)
        return
    stop_with_sweep()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises errors, which are printed here
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


def _note_default(config: schema.Config) -> None:
    """Print what a command without overrides does, before it does it."""
    from pama_exp.tracking.console import note

    names = " and ".join(config.objectives)
    note(
        f"Nothing asked for, so this is the default: align the model {config.model.name} to {names} with "
        f"solver={solver_label(config.solver)} in {config.training.steps} steps.\n"
        f"What it starts from (an SFT policy, a reward model per objective) is trained first and kept in "
        f"{config.cache_dir}.\nRecord: {config.output}. Other things to do: {called()} --help"
    )


def explain_solver(overrides: Sequence[str], config_dir: str | None = None) -> None:
    """Print the entry of the solver that an override names.

    Raises:
        UserError: if there is no such solver, or two are named.
    """
    from pama_exp.cli.listing import solvers

    command_line.refuse_repeated(syntax.parse(overrides))
    name = next(override.partition("=")[2] for override in overrides if override.startswith("solver="))
    solvers([name, *(["--config-dir", config_dir] if config_dir is not None else [])], called())


def _guarded(composed: DictConfig) -> dict[str, Any]:
    """Run one job. Exit with status 2 after a user's mistake, with 128 + its number after a signal.

    In a worker that runs several jobs both are raised instead, and the sweep prints them.
    """
    prepare()
    in_worker = HydraConfig.get().mode is RunMode.MULTIRUN

    def stop(signum: int, _: Any) -> None:
        raise Interrupted(signum)

    try:
        with on_signals(stop):
            config, overrides = schema.typed(composed), HydraConfig.get().overrides.task
            if not overrides:
                _note_default(config)
            return execute.run(config, overrides)
    except WorkerCrashed as error:  # its text says where the traceback is
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
        folder = Path(str(OmegaConf.select(composed, "output", default=""))).absolute()
        if not in_worker:
            failing.leave(error, f"stage={OmegaConf.select(composed, 'stage.name')}", folder)
        if isinstance(error, UserError):
            raise
        raise failing.unwritable(error, folder) or error from None
