"""Configurations composed from Python, as the command line composes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from pama_exp.cli.command_line import check_command_line
from pama_exp.config import resolvers, schema
from pama_exp.safety import failing, import_path
from pama_exp.sweeping import search_path


def prepare() -> None:
    """What a process needs before it composes or runs anything.

    Raises:
        UserError: if there is no current folder any more.
    """
    resolvers.register()
    search_path.register()
    failing.prepare_streams()
    import_path.add_current_folder()


def configure(*overrides: str, config_dir: str | Path | None = None) -> schema.Config:
    """The configuration that `python run.py OVERRIDES…` would run.

    Args:
        overrides: in the command line's words, such as `"solver=linear"` or `"objectives=[helpful,concise]"`.
        config_dir: a folder with your own options, as `--config-dir` takes it.

    Returns:
        The configuration: typed, with every value within its range.

    Raises:
        UserError: for an unknown option or key, or a value that is not allowed.
    """
    prepare()
    words: Sequence[str] = list(overrides)
    folder = None if config_dir is None else str(config_dir)
    check_command_line(words, folder)
    extra = [] if folder is None else [f"hydra.searchpath=[file://{Path(folder).absolute()}]"]
    with initialize_config_dir(str(schema.CONF), version_base="1.3"):
        composed = compose("config", [*words, *extra])
    return schema.typed(OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"]))
