"""Run folders as finished and unfinished runs leave them, without the runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from pama_exp.config import resolvers, schema
from pama_exp.config.naming import recorded
from pama_exp.tracking.record import RunRecord

BILL = {
    "prompts": 100,
    "tokens": 2000,
    "reward_calls": 200,
    "forwards": 400,
    "backwards": 200,
    "seconds": 9.0,
    "peak_memory_bytes": 10**9,
}


@lru_cache
def _plain(overrides: tuple[str, ...]) -> Any:
    resolvers.register()
    with initialize_config_dir(str(schema.CONF), version_base="1.3"):
        config = schema.typed(compose("config", [*overrides, "output=nowhere", "cache_dir=nowhere"]))
    return recorded(OmegaConf.to_container(OmegaConf.structured(config)))


def write_run(
    folder: Path,
    *overrides: str,
    after: Mapping[str, float] | None = None,
    gold: bool = True,
    state: str = "complete",
    **extra: Any,
) -> RunRecord:
    """A run of this command line that ended at `after` (objective → mean), or that has no result if None."""
    record = RunRecord.open(folder)
    seeds = [int(override.removeprefix("seed=")) for override in overrides if override.startswith("seed=")]
    record.write_config(_plain(tuple(o for o in overrides if not o.startswith("seed="))) | {"seed": sum(seeds)})
    record.write_status(state, 3, extra.pop("detail", ""))
    if after is not None:
        means = {
            name: {
                "before": {"gold": 0.4 if gold else None, "proxy": 1.0},
                "after": {"gold": value if gold else None, "proxy": 1.0 + value},
            }
            for name, value in after.items()
        }
        share = {"before": None, "after": None}
        record.write_result(
            {
                "status": "complete",
                "objectives": means,
                "true_hypervolume_share": share,
                "bill": BILL,
                "seconds": 9.0,
                "run_dir": str(folder),
            }
            | extra
        )
        without_sums(folder)
    return record


def without_sums(folder: Path) -> None:
    """Have the run's result not say what its files were: they are to be changed."""
    path = folder / "result.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "sha256"}))
