"""Writing a trained policy with its model card."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pama_exp.assembly.setup import Setup
from pama_exp.config.naming import markdown_text, method_label
from pama_exp.config.schema import Config
from pama_exp.data.preferences import Writer
from pama_exp.policy.export import PREFERENCE_GATES, PREFERENCE_MAP, Card, export, fenced, write_card
from pama_exp.policy.policy import Policy
from pama_exp.safety.secrets import redact
from pama_exp.storage.files import write_manifest
from pama_exp.tracking.record import RunRecord
from pama_exp.training.alignment import Alignment

_PICTURE = "front.png"


def export_run(
    setup: Setup,
    record: RunRecord,
    module: Alignment,
    result: Mapping[str, Any],
    state: Mapping[str, Any] | None = None,
) -> None:
    """Write the run's folder `policy/`: weights or adapter, tokenizer, value heads, README.md and the front's picture.

    Args:
        setup: of the run.
        record: of the run; `policy/` is made in its folder.
        module: holds the policy.
        result: of the run, as result.json holds it.
        state: the policy's state dict, if it was gathered from shards.
    """
    config, folder = setup.config, record.folder / "policy"
    merged = config.adapter.export == "merged"
    adapter_only = config.adapter.name != "none" and not merged
    channels = module.names if module.policy.value_heads.out_features == len(module.names) else ["scalarised"]
    export(module.policy, module.prompts.tokenizer, folder, channels, merged, state, module.names)
    picture = record.folder / _PICTURE
    if picture.exists():
        shutil.copy(picture, folder / _PICTURE)
    m, t = config.model, config.training
    card = Card(
        base=setup.start.description,
        is_hub_id=m.path is None and m.id is not None and m.weights == "pretrained",
        licence=m.licence,
        objectives={name: f"{o.description} Weight {o.weight:g}." for name, o in config.objectives.items()},
        solver=method_label(asdict(config)),
        settings={
            "data": markdown_text(config.data.domain),
            "steps": f"{t.steps} of {t.batch_size} responses",
            "learning rate": t.learning_rate,
            "KL coefficient": t.kl.coefficient,
            "adapter": config.adapter.name,
            **_conditioning(config),
            "seed": config.seed,
            "solver's settings": markdown_text(json.dumps({k: v for k, v in config.solver.items() if k != "_target_"})),
        },
        before_and_after=result["objectives"],
        picture=_PICTURE if picture.exists() else None,
        command=json.loads((record.folder / "environment.json").read_text())["command"],
    )
    write_card(folder, card, adapter_only)


def _conditioning(config: Config) -> dict[str, str]:
    """The card's line on how a conditioned policy gets its preference; empty for another policy."""
    c, names = config.conditioning, list(config.objectives)
    if c.name == "none":
        return {}
    if c.name == "prompt":
        written = Writer(names, c.item, c.separator, c.end, c.levels).write("…", [1.0, *[0.0] * (len(names) - 1)])
        return {
            "told its preference": markdown_text(f"before the prompt, as in {json.dumps(written, ensure_ascii=False)}")
        }
    example = ", ".join(f"{json.dumps(name)}: {1 / len(names):.2g}" for name in names).replace("`", r"\u0060")
    name = PREFERENCE_GATES if c.name == "adapter" else PREFERENCE_MAP
    how = f"by `{name}`: `with pama_exp.policy.export.conditioned(model, FOLDER, {{{example}}}): model.generate(…)`"
    return {"told its preference": how}


def export_pair_policy(setup: Setup, record: RunRecord, policy: Policy, tokenizer: Any, pairs: int) -> None:
    """Write `policy/` of a policy that learned from so many pairs: weights or adapter, tokenizer and README.md."""
    config, folder = setup.config, record.folder / "policy"
    adapter_only = config.adapter.name != "none" and config.adapter.export == "adapter"
    export(policy, tokenizer, folder, None, not adapter_only, objectives=setup.names)
    label = method_label(asdict(config))
    made = f"Learned from {pairs} preference pairs by {label}, beta {config.dpo.beta:g}."
    told = _conditioning(config).get("told its preference")
    made += "" if told is None else f" It is told its preference {told}."
    load = "PeftModel.from_pretrained(base, FOLDER)" if adapter_only else "AutoModelForCausalLM.from_pretrained(FOLDER)"
    write_supervised_card(folder, setup, "text-generation", made, load)


def write_supervised_card(folder: Path, setup: Setup, purpose: str, made: str, load: str) -> None:
    """Write README.md and the manifest of a policy or reward model that was trained on text.

    Args:
        folder: holds the model.
        setup: of the run.
        purpose: the Hub's pipeline tag.
        made: sentences on what the model learned.
        load: the Python call that loads it.
    """
    data = setup.config.data
    lines = [
        "---",
        "library_name: transformers",
        f"pipeline_tag: {purpose}",
        "tags: [pama-exp]",
        "---",
        "",
        f"# {markdown_text(setup.config.model.name)}: {markdown_text(setup.config.stage.get('name', purpose))}",
        "",
        f"Starts from {markdown_text(setup.start.description)}. {made}",
        f"Data: {markdown_text(str(data.path or data.id or data.domain))}, read as `{data.format}`.",
        f"Load with `{load}`.",
        "",
        *fenced(redact(shlex.join(sys.argv))),
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8", errors="replace")
    write_manifest(folder)
