"""Registration with Hydra: the search path of `+sweep=NAME`, and the default sweeper."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from pama_exp.config.places import SWEEPS


class SweepPresets(SearchPathPlugin):
    """Adds sweeps/ to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append sweeps/, so that a user's --config-dir comes before it."""
        search_path.append("pama-exp-sweeps", f"file://{SWEEPS}")


def register() -> None:
    """Register both with Hydra in this process only: an installed plugin would affect every Hydra application.

    The default sweeper gets the name of Hydra's default. If config.yaml chose it, presets could not choose another.
    """
    Plugins.instance().register(SweepPresets)
    grid = {"_target_": "hydra_plugins.pama_exp_plugins.plugins.GridSweeper", "params": {}}
    ConfigStore.instance().store(group="hydra/sweeper", name="basic", node=grid, provider="pama-exp")
