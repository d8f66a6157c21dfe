"""One run: resolved, worked on by its stage in one process or several, and recorded."""

from __future__ import annotations

import gc
import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from omegaconf import OmegaConf

from pama_exp.assembly.assets import check_assets
from pama_exp.assembly.evaluated_run import with_run_settings
from pama_exp.config import schema
from pama_exp.config.naming import VOLATILE, recorded
from pama_exp.config.ranges import shown
from pama_exp.errors import Interrupted, UserError, described
from pama_exp.safety import failing, import_path
from pama_exp.tracking import folder as folders

if TYPE_CHECKING:
    from pama_exp.assembly.setup import Setup
    from pama_exp.tracking.record import RunRecord

Stage = Callable[["Setup", "RunRecord"], dict[str, Any]]


def align(config: schema.Config) -> dict[str, Any]:
    """Run a configuration as `python run.py` does, from Python.

    Args:
        config: from `pama_exp.configure`. Its `stage` decides what is done: by default a policy is aligned.

    Returns:
        The result as result.json in the run's folder `config.output` holds it: for each objective the mean reward on
        unseen prompts before and after, as the training's rewards (`proxy`) and, where it is known, in truth (`gold`).
        A run that was finished before is not run again.

    Raises:
        UserError: for whatever the user can mend; two lines that say what is wrong and what would be right.
    """
    return run(config)


def run(config: schema.Config, given: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the configuration's stage in the run's folder; returns the result as result.json holds it.

    A finished run is not run again, and an interrupted one goes on. With `preflight`, only say what the run needs.

    Args:
        config: typed.
        given: the overrides that the user named; None where that is not known, and everything counts as named.

    Raises:
        UserError: for whatever the user can mend.
        Interrupted: after a signal.
    """
    folders.run_folder(config.output)
    config = with_run_settings(config, given)
    if not config.preflight:
        check_assets(config)  # at once: what follows imports for seconds
    from pama_exp.tracking.console import phase

    with phase("Loading libraries"):
        stage = load_stage(config)
        from pama_exp.assembly import preflight
        from pama_exp.assembly.setup import resolve

    if config.preflight:
        preflight.report(config)
        return {}
    use_threads(config.trainer.threads)
    with phase("Reading the data and what the model is"):
        setup = resolve(config)
        preflight.warn(setup)
    return _recorded(stage, setup)


def _recorded(stage: Stage, setup: Setup) -> dict[str, Any]:
    """The stage's result, written to the run's record as it comes about; a finished run's is read."""
    from pama_exp.tracking import inputs
    from pama_exp.tracking.console import note, summary
    from pama_exp.tracking.record import RunRecord

    config, values, files = setup.config, recorded(plain(setup.config)), setup.task.files
    record = RunRecord.open(Path(config.output).absolute())
    with record.lock():
        folders.settle(record.folder)
        if not config.force:
            record.take_over(values, volatile=VOLATILE)
            record.refuse_another(values, volatile=VOLATILE)
            inputs.refuse_changed(record, files)
            if record.is_complete and not config.stage.get("fresh", False):
                result = record.read_result()
                record.mend_status()
                note(f"This run is finished: {record.folder} (force=true runs it again).")
                summary(result)
                return result
        try:
            if config.force or record.is_complete:
                folders.set_aside(record.folder)
            folders.refuse_links(record.folder)
            record.write_config(values, volatile=VOLATILE)
            record.write_environment(sys.argv)
            inputs.keep(record, files)
            if not folders.has_checkpoint(record.folder):
                record.truncate(0)  # nothing to go on from: the stage writes all its rows again
            record.write_status("running", record.last_step())
            result = _perform(stage, setup, record)
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


def work(container: Mapping[str, Any], scratch: Path | None) -> dict[str, Any]:
    """One process's part of a run in several.

    Args:
        container: the configuration as plain values.
        scratch: where this process writes what nobody reads; None for the main process, which writes the record.
    """
    values = dict(container)
    if scratch is not None:
        values["logger"] = {**values["logger"], "mode": "disabled"}
    config = schema.typed(values)
    stage = load_stage(config)
    from pama_exp.assembly.setup import resolve
    from pama_exp.tracking.record import RunRecord

    use_threads(config.trainer.threads)
    folder = Path(config.output).absolute()
    record = RunRecord.open(folder if scratch is None else scratch, checkpoints=folder / "checkpoints")
    return stage(resolve(config), record)


def plain(config: schema.Config) -> dict[str, Any]:
    """The configuration as nested plain values."""
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.structured(config)))


def use_threads(threads: int | None) -> None:
    """How many processor threads torch uses; all cores where None."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)


def load_stage(config: schema.Config) -> Stage:
    """The stage's function. The first time it is asked for, what it needs is imported, for seconds.

    The objects that imports make stay for good: the garbage collector, which would walk them again and again, is
    told so. A process starts and ends in two thirds of the time.

    Raises:
        UserError: if the stage cannot be imported.
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


def _stage(config: schema.Config) -> Stage:
    module, _, name = str(config.stage.get("_target_", "")).rpartition(".")
    hint = "Name a function (setup, record) -> result."
    try:
        found = getattr(import_path.import_module(module), name)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a module may raise anything
        raise UserError(f"stage._target_={shown(f'{module}.{name}')}: {shown(described(error))}.", hint) from None
    if not inspect.isfunction(found) or len(inspect.signature(found).parameters) != 2:
        raise UserError(f"stage._target_={module}.{name} is no function of a setup and a record.", hint)
    return cast(Stage, found)


def _perform(stage: Stage, setup: Setup, record: RunRecord) -> dict[str, Any]:
    """The stage's result, from this process or from several started for it."""
    from pama_exp.parallel import launch
    from pama_exp.training.strategies import is_shared, process_count

    config = setup.config
    if not is_shared(config):
        return stage(setup, record)
    return launch.run_in_processes(plain(config), process_count(config.trainer), config.trainer.uses_gpu)
