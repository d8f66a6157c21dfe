"""From a finished run to the folder `policy/` that others load, with its card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from typing import Any

from pama_exp.alignment import Alignment
from pama_exp.policy.export import Card, export, write_card
from pama_exp.schema import Config, solver_label
from pama_exp.stages.base import base_name
from pama_exp.tracking.record import RunRecord

_PICTURE = "front.png"


def export_run(
    config: Config,
    record: RunRecord,
    module: Alignment,
    result: Mapping[str, Any],
    state: Mapping[str, Any] | None = None,
) -> None:
    """Write `policy/`: weights or adapter, tokenizer, value heads, README.md and the front's picture."""
    folder = record.folder / "policy"
    merged = config.adapter.export == "merged"
    adapter_only = config.adapter.name != "none" and not merged
    channels = module.names if module.policy.value_heads.out_features == len(module.names) else ["scalarised"]
    export(module.policy, module.prompts.tokenizer, folder, channels, merged, state)
    picture = record.folder / _PICTURE
    if picture.exists():
        shutil.copy(picture, folder / _PICTURE)
    m, t = config.model, config.training
    card = Card(
        base=base_name(m),
        is_hub_id=m.path is None and m.id is not None and m.weights == "pretrained",
        licence=m.licence,
        objectives={name: f"{o.description} Weight {o.weight:g}." for name, o in config.objectives.items()},
        solver=solver_label(config.solver),
        settings={
            "data": config.data.domain,
            "steps": f"{t.steps} of {t.batch_size} responses",
            "learning rate": t.learning_rate,
            "KL coefficient": t.kl.coefficient,
            "adapter": config.adapter.name,
            "seed": config.seed,
            "solver's settings": json.dumps({k: v for k, v in config.solver.items() if k != "_target_"}),
        },
        before_and_after=result["objectives"],
        picture=_PICTURE if picture.exists() else None,
        command=json.loads((record.folder / "environment.json").read_text())["command"],
    )
    write_card(folder, card, adapter_only)
