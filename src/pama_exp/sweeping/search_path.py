"""What Hydra is told of sweeps: where `+sweep=NAME` is looked up, and which sweeper is the default."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from pama_exp.config.places import SWEEPS


class SweepPresets(SearchPathPlugin):
    """Puts sweeps/ on Hydra's search path, from any working directory and from an installed wheel."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append it: a user's own --config-dir comes first."""
        search_path.append("pama-exp-sweeps", f"file://{SWEEPS}")


def register() -> None:
    """For this application alone; an installed plugin would be on every Hydra application's path.

    The default sweeper takes the name of Hydra's own: an override in config.yaml would win over a preset's.
    """
    Plugins.instance().register(SweepPresets)
    grid = {"_target_": "hydra_plugins.pama_exp_plugins.plugins.GridSweeper", "params": {}}
    ConfigStore.instance().store(group="hydra/sweeper", name="basic", node=grid, provider="pama-exp")
