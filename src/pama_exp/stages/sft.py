"""`stage=sft`: train or find the SFT policy, and say how it does on every objective."""

from __future__ import annotations

from typing import Any

from pama_exp.schema import Config
from pama_exp.stages.evaluate import evaluate_folder
from pama_exp.stages.parts import make_world
from pama_exp.stages.trained import sft_policy
from pama_exp.tracking.record import RunRecord


def run(config: Config, record: RunRecord) -> dict[str, Any]:
    """Returns the result: the policy's folder and its gold means on the evaluation split."""
    folder = sft_policy(config, make_world(config))
    return evaluate_folder(config, record, folder) | {"policy": str(folder)}
