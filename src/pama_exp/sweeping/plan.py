"""From the settings of a sweep to its jobs: each one composed and checked before the first one starts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hydra._internal.utils import get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import filter_overrides
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pama_exp.assembly.evaluated_run import as_the_run_had_it
from pama_exp.assembly.setup import resolve
from pama_exp.config import schema
from pama_exp.config.naming import VOLATILE, recorded
from pama_exp.errors import UserError, suggest
from pama_exp.sweeping.jobs import Job, State, labels
from pama_exp.tracking.folder import run_folder
from pama_exp.tracking.record import RunRecord

# Settings that concern the sweep as a whole, not what a job does.
_OF_THE_SWEEP = ("hydra.mode", "hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper", "hydra.sweep")


class Plan:
    """Makes the jobs of one sweep.

    Args:
        loader: Hydra's.
        config: the composed configuration of the sweep, Hydra's own part included.
        folder: the sweep's.
    """

    def __init__(self, loader: ConfigLoader, config: DictConfig, folder: Path) -> None:
        self.loader, self.config, self.folder = loader, config, folder

    def jobs(self, lines: Sequence[Sequence[str]]) -> list[Job]:
        """One job for each line of settings, numbered from 0.

        Raises:
            UserError: for the first that cannot run, and where two would write to one folder.
        """
        jobs = [self.job(n, line, label) for n, (line, label) in enumerate(zip(lines, labels(lines), strict=True))]
        by_folder = {job.folder: job for job in jobs}
        for job in jobs:
            if by_folder[job.folder] is not job:
                raise UserError(
                    f"Jobs {job.number} and {by_folder[job.folder].number} would both write to {job.folder}.",
                    "Leave output= out of a sweep, and give each value once.",
                )
        return jobs

    def job(self, number: int, line: Sequence[str], label: str) -> Job:
        """The job of these settings.

        Raises:
            UserError: if it cannot run.
        """
        try:
            config = self.check(line)
            folder = run_folder(config.output)
            if not config.force:
                plain = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.structured(config)))
                RunRecord(folder).refuse_another(recorded(plain), volatile=VOLATILE)
        except UserError as error:
            raise UserError(f"Job {number} ({label}): {error.message}", error.hint) from None
        # Jobs of one sweep share a W&B group.
        group = [f"logger.group={self.folder.name}"] if config.logger.group is None else []
        overrides = [*filter_overrides(line), *group]
        job = Job(
            number=number,
            label=label,
            overrides=overrides,
            command=[sys.executable, "-m", "pama_exp", *_flags(), *overrides, *self._passed_on(), "hydra.mode=RUN"],
            folder=folder,
            log=self.folder / "logs" / f"{number:03d}.log",
            steps=config.training.steps,
            devices=config.trainer.devices if config.trainer.uses_gpu else 0,
            forced=config.force,
        )
        if job.record.is_complete and not job.forced:
            job.state = State.FINISHED
        return job

    def check(self, line: Sequence[str]) -> schema.Config:
        """The configuration of these settings.

        Raises:
            UserError: for anything about it that can be known to be wrong before any work.
        """
        try:
            whole = self.loader.load_sweep_config(self.config, list(line))
        except MissingConfigException as error:
            group, _, name = str(error.missing_cfg_file).rpartition("/")
            raise UserError(f"Unknown {group} '{name}'.", suggest(name, error.options or [])) from None
        except (HydraException, OmegaConfBaseException) as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise UserError(
                f"{str(error).splitlines()[0].rstrip('.')}: {reason}.",
                "Every job of a sweep has to have every key; `--cfg job` shows those of one.",
            ) from None
        config = schema.typed(OmegaConf.masked_copy(whole, [str(key) for key in whole if key != "hydra"]))
        config = as_the_run_had_it(config, line)
        resolve(config)
        return config

    def _passed_on(self) -> list[str]:
        given = self.config.hydra.overrides.hydra
        return [override for override in given if not override.lstrip("+~").startswith(_OF_THE_SWEEP)]


def _flags() -> list[str]:
    """What a job needs of this command's flags."""
    args = get_args_parser().parse_args()
    return ["--config-dir", str(Path(args.config_dir).absolute())] if args.config_dir is not None else []
