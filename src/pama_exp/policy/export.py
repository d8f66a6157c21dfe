"""Export of an aligned policy: weights or adapter, tokenizer, value heads and a model card."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from pama_exp.config.naming import markdown_text
from pama_exp.errors import UserError
from pama_exp.policy.adapters import gates_of
from pama_exp.policy.input_shift import gated, shifted
from pama_exp.policy.loading import save
from pama_exp.policy.policy import Policy
from pama_exp.storage.files import check_folder, write_manifest

VALUE_HEADS = "value_heads.safetensors"
PREFERENCE_MAP = "preference_map.safetensors"  # of a policy conditioned by its input embeddings
PREFERENCE_GATES = "preference_gates.safetensors"  # of one conditioned in its adapter


@dataclass(frozen=True)
class Card:
    """The contents of the model card in an exported folder."""

    base: str  # a Hub id, or what the policy was before alignment
    is_hub_id: bool
    licence: str
    objectives: Mapping[str, str]  # name: description
    solver: str
    settings: Mapping[str, Any]  # what else the reader should know: steps, seed, data, adapter
    before_and_after: Mapping[str, Mapping[str, Any]]  # as in result.json
    picture: str | None  # a file beside the card
    command: Sequence[str]


def export(
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    channels: Sequence[str] | None,
    merged: bool,
    state: Mapping[str, Any] | None = None,
    objectives: Sequence[str] = (),
) -> None:
    """Write the policy in Hugging Face's format (an adapter that is not merged in PEFT's), and its value heads.

    The preference map of a conditioned policy is a separate file; without it the folder is the policy of the even
    preference.

    Args:
        policy: with `merged`, its adapter is merged permanently.
        tokenizer: the policy's.
        folder: where to write.
        channels: name of the reward that each value head estimates; None: there is no critic, and no heads are written.
        merged: whether to merge an adapter into the weights.
        state: the full weights, if the model holds only a shard of them.
        objectives: names of the objectives of a conditioned policy's preference, in order.
    """
    folder = Path(folder)
    heads = {name: p.detach().cpu().contiguous() for name, p in policy.value_heads.state_dict().items()}
    if policy.adapter is not None and not merged:
        policy.adapter.save(folder)
        tokenizer.save_pretrained(folder)
    elif policy.adapter is not None:
        save(policy.adapter.merge(), tokenizer, folder)
    else:
        policy.model.save_pretrained(folder, state_dict=state)
        tokenizer.save_pretrained(folder)
    if channels is not None:
        save_file(heads, folder / VALUE_HEADS, metadata={"channels": json.dumps(list(channels))})
    if policy.preference_map is not None:
        weight = policy.preference_map.weight.detach().cpu().contiguous()
        name = PREFERENCE_GATES if policy.is_conditioned_in_adapter else PREFERENCE_MAP
        save_file({"weight": weight}, folder / name, metadata={"objectives": json.dumps(list(objectives))})


def load_preference_map(folder: str | Path) -> tuple[Tensor, list[str]] | None:
    """The exported preference map (E, N) and the names of its N objectives; None if the policy is not conditioned.

    Raises:
        UserError: if the file is damaged.
    """
    path = next((p for name in (PREFERENCE_MAP, PREFERENCE_GATES) if (p := Path(folder) / name).is_file()), None)
    if path is None:
        return None
    check_folder(Path(folder))
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor("weight"), [str(name) for name in json.loads(file.metadata()["objectives"])]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged.", "Copy the folder again from where it was written.") from None


@contextmanager
def conditioned(model: Any, folder: str | Path, preference: Mapping[str, float]) -> Iterator[None]:
    """Within the block the exported model follows this preference, in `generate` and in `forward`.

    Args:
        model: the exported model, loaded by transformers; of a policy conditioned in its adapter by PEFT, not merged.
        folder: the exported folder.
        preference: a weight for each objective by name, not negative and not all zero.

    Raises:
        UserError: if the folder's policy is not conditioned, or conditioned on other objectives.
    """
    loaded = load_preference_map(folder)
    if loaded is None:
        raise UserError(f"The policy in {folder} is not told a preference.", f"It holds no {PREFERENCE_MAP}.")
    weight, names = loaded
    total = sum(preference.values())
    if set(names) != set(preference) or not total > 0 or min(preference.values()) < 0:
        raise UserError(f"preference={dict(preference)} is not one over {names}.", "Give each a weight, not negative.")
    centred = torch.tensor([preference[name] / total - 1 / len(names) for name in names]).to(weight)
    shift = (weight @ centred)[None, None].to(model.device)
    with gated(gates_of(model), shift) if (Path(folder) / PREFERENCE_GATES).is_file() else shifted(model, shift):
        yield


def write_card(folder: str | Path, card: Card, adapter_only: bool) -> None:
    """Write README.md with the metadata that the Hub reads, and the manifest of all files of the folder."""
    base = [f"base_model: {card.base}"] if card.is_hub_id else []
    head = [
        "---",
        *base,
        f"library_name: {'peft' if adapter_only else 'transformers'}",
        "pipeline_tag: text-generation",
        "tags: [pama-exp, multi-objective, rlhf]",
        "---",
    ]
    load = "PeftModel.from_pretrained(base, FOLDER)" if adapter_only else "AutoModelForCausalLM.from_pretrained(FOLDER)"
    title = f"{card.base.rpartition('/')[2]} aligned to {' + '.join(card.objectives)} with {card.solver}"
    body = [
        f"# {markdown_text(title)}",
        "",
        markdown_text(f"Starts from {card.base}. Licence of the base: {card.licence or 'see there'}."),
        f"Load with `{load}`; `{VALUE_HEADS}` holds the critic's heads.",
        "",
        "## Objectives",
        "",
        *(f"- **{markdown_text(name)}**: {markdown_text(text)}" for name, text in card.objectives.items()),
        "",
        "## Mean rewards on unseen prompts",
        "",
        *_rewards(card.before_and_after),
        "",
        *([f"![Before and after]({card.picture})", ""] if card.picture is not None else []),
        "## How it was made",
        "",
        *(f"- {name}: {value}" for name, value in card.settings.items()),
        "",
        *fenced(shlex.join(card.command)),
        "",
    ]
    (Path(folder) / "README.md").write_text("\n".join([*head, "", *body]), encoding="utf-8", errors="replace")
    write_manifest(Path(folder))


def fenced(command: str) -> list[str]:
    """A markdown block with a shell command, fenced by more backticks than the command has in a row."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", command))])
    return [f"{fence}sh", command, fence]


def _rewards(objectives: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A table of the training (proxy) rewards and, on FactWorld, of the gold rewards."""

    def row(name: str, means: Mapping[str, Any]) -> list[float | None]:
        return [(means[when] or {}).get(kind) for kind in ("proxy", "gold") for when in ("before", "after")]

    rows = {name: row(name, means) for name, means in objectives.items()}
    width = 4 if any(value is not None for values in rows.values() for value in values[2:]) else 2
    head = ["objective", "before", "after", "before (gold)", "after (gold)"][: width + 1]
    cells = {n: ["–" if value is None else f"{value:.3f}" for value in values[:width]] for n, values in rows.items()}
    return [
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
        *(f"| {markdown_text(name)} | {' | '.join(shown)} |" for name, shown in cells.items()),
    ]
