"""Composing a configuration from Python, as the command line does."""

from __future__ import annotations

from pathlib import Path

from omegaconf import OmegaConf

from pama_exp.cli.command_line import check_command_line
from pama_exp.config import resolvers, schema
from pama_exp.errors import UserError
from pama_exp.safety import failing, import_path
from pama_exp.sweeping import search_path


def prepare() -> None:
    """Prepare this process to compose configurations: resolvers, search path, output streams, imports.

    Raises:
        UserError: if the current folder has been deleted.
    """
    resolvers.register()
    search_path.register()
    failing.prepare_streams()
    import_path.add_current_folder()


def configure(*overrides: str, config_dir: str | Path | None = None) -> schema.Config:
    """The configuration that `python run.py OVERRIDES…` would run.

    Args:
        overrides: as on the command line, such as `"solver=linear"` or `"objectives=[helpful,concise]"`.
        config_dir: a folder with your own options, as for `--config-dir`.

    Returns:
        The configuration, typed, with every value within its range.

    Raises:
        UserError: for an unknown option or key, a value that is not allowed, or a sweep.
    """
    prepare()
    folder = None if config_dir is None else str(config_dir)
    if "hydra.mode=MULTIRUN" in overrides:
        raise UserError("hydra.mode=MULTIRUN asks for a sweep.", "One configuration is made here: leave it out.")
    (config,) = check_command_line(overrides, folder)
    return schema.typed(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))
