"""Planning a sweep: all its jobs are composed and checked before the first one starts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import filter_overrides
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pama_exp.assembly.evaluated_run import with_run_settings
from pama_exp.assembly.setup import resolve
from pama_exp.config import schema
from pama_exp.config.naming import recorded
from pama_exp.errors import UserError, suggest
from pama_exp.sweeping.jobs import Job, State, labels
from pama_exp.tracking.folder import run_folder
from pama_exp.tracking.record import RunRecord

# Settings of the sweep as a whole, which its jobs do not get.
_SWEEP_SETTINGS = ("hydra.mode", "hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper", "hydra.sweep")


class Plan:
    """Plans the jobs of one sweep.

    Args:
        loader: of Hydra's configuration.
        config: the composed configuration of the sweep, with the node `hydra`.
        folder: of the sweep.
    """

    def __init__(self, loader: ConfigLoader, config: DictConfig, folder: Path) -> None:
        self.loader, self.config, self.folder = loader, config, folder

    def jobs(self, lines: Sequence[Sequence[str]]) -> list[Job]:
        """One job for each line of overrides, numbered from 0.

        Raises:
            UserError: for the first job that cannot run, and if two jobs would write to the same folder.
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
        """The job with these overrides.

        Args:
            number: of the job.
            line: its overrides.
            label: names it for people.

        Raises:
            UserError: if it cannot run.
        """
        try:
            config = self.check(line)
            folder = run_folder(config.output)
            if not config.force:
                RunRecord(folder).refuse_another(recorded(asdict(config)))
        except UserError as error:
            raise UserError(f"Job {number} ({label}): {error.message}", error.hint) from None
        # Jobs of one sweep share a W&B group.
        is_set = config.logger.group is not None or any(word.lstrip("+").startswith("logger.group=") for word in line)
        group = [] if is_set else [f"logger.group={self.folder.name}"]
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
        """The configuration with these overrides, checked by `resolve`.

        Raises:
            UserError: for the first thing that is wrong.
        """
        try:
            composed = self.loader.load_sweep_config(self.config, list(line))
        except MissingConfigException as error:
            group, _, name = str(error.missing_cfg_file).rpartition("/")
            raise UserError(f"Unknown {group} '{name}'.", suggest(name, error.options or [])) from None
        except (HydraException, OmegaConfBaseException) as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise UserError(
                f"{str(error).splitlines()[0].rstrip('.')}: {reason}.",
                "Every job of a sweep has to have every key; `--cfg job` shows those of one.",
            ) from None
        config = schema.typed(OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"]))
        config = with_run_settings(config, line)
        resolve(config)
        return config

    def _passed_on(self) -> list[str]:
        overrides = self.config.hydra.overrides.hydra
        return [override for override in overrides if not override.lstrip("+~").startswith(_SWEEP_SETTINGS)]


def _flags() -> list[str]:
    """This command's flags that its jobs need too."""
    args = get_args_parser().parse_args()
    return ["--config-dir", str(Path(args.config_dir).absolute())] if args.config_dir is not None else []
