"""Running one configuration: its stage, in one process or several, and the record in the run's folder."""

from __future__ import annotations

import gc
import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pama_exp.assembly.assets import check_assets
from pama_exp.assembly.evaluated_run import with_run_settings
from pama_exp.config import schema
from pama_exp.config.naming import recorded
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
        The content of result.json in the run's folder `config.output`: for each objective the mean reward on unseen
        prompts before and after training, by the scorers of the training (`proxy`) and by the gold program (`gold`),
        which is None without one. A finished run is not run again.

    Raises:
        UserError: for whatever the user can fix. Its two lines say what is wrong and what would be right.
    """
    return run(config)


def run(config: schema.Config, overrides: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the configuration's stage in the run's folder; returns the content of result.json.

    A finished run is not run again, and an interrupted one resumes. With `preflight`, only what the run needs is
    printed, and the result is empty.

    Args:
        config: typed.
        overrides: those of the command line; None if every setting of the configuration counts as one.

    Raises:
        UserError: for whatever the user can fix.
        Interrupted: after a signal.
    """
    folders.run_folder(config.output)
    config = with_run_settings(config, overrides)
    if not config.preflight:
        check_assets(config)  # before the imports below, which take seconds
    from pama_exp.tracking.console import phase

    with phase("Loading libraries"):
        stage = load_stage(config)
        from pama_exp.assembly import preflight
        from pama_exp.assembly.setup import resolve

    if config.preflight:
        preflight.report(config)
        return {}
    with processor(config.trainer):
        with phase("Reading the data and what the model is"):
            setup = resolve(config)
            preflight.warn(setup)
        return _recorded(stage, setup)


def _recorded(stage: Stage, setup: Setup) -> dict[str, Any]:
    """Run the stage and write its result to the record; the result of a finished run is only read."""
    from pama_exp.tracking import inputs
    from pama_exp.tracking.console import note, summary
    from pama_exp.tracking.record import RunRecord

    config, values, files = setup.config, recorded(asdict(setup.config)), setup.task.files
    record = RunRecord.open(Path(config.output).absolute())
    with record.lock():
        folders.settle(record.folder)
        if not config.force:
            folders.refuse_folders(record.folder)
            record.take_over(values)
            record.refuse_another(values)
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
            record.write_config(values)
            record.write_environment(sys.argv)
            inputs.keep(record, files)
            if not folders.has_checkpoint(record.folder):
                record.truncate(0)  # the stage starts anew and writes all rows again
            record.write_status("running", record.last_step())
            result = _perform(stage, setup, record)
            record.metrics_table(record.folder / "metrics.csv")
            record.write_result(result)
            record.write_status("complete", record.last_step())
        except (Interrupted, Exception) as error:
            state = "interrupted" if isinstance(error, Interrupted) else "failed"
            cause = failing.unwritable(error, record.folder) or error
            record.note_failure(state, str(cause).splitlines()[0] if str(cause) else type(cause).__name__)
            if folders.settle(record.folder):
                note(f"The run that this one was to replace is back in {record.folder}.")
            raise
        folders.settle(record.folder)  # deletes the files of the run that this one has replaced
    summary(result)
    return result


def work(container: Mapping[str, Any], scratch: Path | None) -> dict[str, Any]:
    """The part of one process in a run of several; returns the stage's result.

    Args:
        container: the configuration as plain values.
        scratch: a folder for this process's record, which is not read; None for the main process.
    """
    values = dict(container)
    if scratch is not None:
        values["logger"] = {**values["logger"], "mode": "disabled"}
    config = schema.typed(values)
    stage = load_stage(config)
    from pama_exp.assembly.setup import resolve
    from pama_exp.tracking.record import RunRecord

    folder = Path(config.output).absolute()
    with processor(config.trainer):
        record = RunRecord.open(folder if scratch is None else scratch, checkpoints=folder / "checkpoints")
        return stage(resolve(config), record)


@contextmanager
def processor(trainer: schema.TrainerConfig) -> Iterator[None]:
    """Set the number of torch's threads, and within the block the library for products, as `trainer` says."""
    import torch

    from pama_exp.parallel.products import products

    if trainer.threads is not None:
        torch.set_num_threads(trainer.threads)
    with products(trainer.products):
        yield


def load_stage(config: schema.Config) -> Stage:
    """The stage's function. The first call imports the libraries it needs, which takes seconds.

    Garbage collection is off during the imports, and the imported objects are frozen: they live as long as the process.
    This makes starting and ending a process a third faster.

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
    """Silence messages of libraries that no user can act on. Importing Lightning later would undo it."""
    import transformers

    warnings.filterwarnings("ignore", module="lightning.*")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def _stage(config: schema.Config) -> Stage:
    module, _, name = str(config.stage.get("_target_", "")).rpartition(".")
    hint = "Name a function (setup, record) -> result."
    try:
        stage = getattr(import_path.import_module(module), name)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a module may raise anything
        raise UserError(f"stage._target_={shown(f'{module}.{name}')}: {shown(described(error))}.", hint) from None
    if not inspect.isfunction(stage) or len(inspect.signature(stage).parameters) != 2:
        raise UserError(f"stage._target_={module}.{name} is no function of a setup and a record.", hint)
    return cast(Stage, stage)


def _perform(stage: Stage, setup: Setup, record: RunRecord) -> dict[str, Any]:
    """Run the stage in this process, or in several if the stage's yaml and the trainer say so; returns the result."""
    from pama_exp.parallel import launch
    from pama_exp.training.strategies import is_shared, process_count

    config = setup.config
    if not is_shared(config):
        return stage(setup, record)
    return launch.run_in_processes(asdict(config), process_count(config.trainer), config.trainer.uses_gpu)
