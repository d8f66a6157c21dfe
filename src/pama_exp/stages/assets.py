"""What a run needs from the Hugging Face Hub, and where it is: looked up before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pama_exp import hub
from pama_exp.errors import UserError
from pama_exp.schema import Config, ModelConfig


@dataclass(frozen=True)
class Asset:
    """A repository of the Hub, and what the run needs it for."""

    purpose: str
    repo_id: str
    revision: str | None
    kind: hub.Kind
    parameters: int | None = None  # as its yaml states them
    gated: bool = False


def assets_of(config: Config) -> list[Asset]:
    """The policy's model, the reward models and the data, those that come from the Hub."""
    m = config.model
    found = []
    if m.path is None and m.weights == "pretrained" and m.id is not None and config.evaluate.run is None:
        found.append(Asset("policy", m.id, m.revision, "model", m.parameters, m.gated))
    learns_rows = config.data.domain != "factworld" and config.stage.get("name") in ("sft", "reward_model")
    for name, objective in ({} if learns_rows else config.objectives).items():
        node = objective.scorers.get(config.data.domain, objective.scorers.get("any")) or {}
        if node.get("id") is not None and node.get("path") is None:
            found.append(Asset(f"objective {name}", node["id"], node.get("revision"), "model", node.get("parameters")))
    found += _data(config)
    return found


def _data(config: Config) -> Iterator[Any]:
    d = config.data
    if d.path is None and d.id is not None:
        yield Asset("data", d.id, d.revision, "dataset")


def whereabouts(assets: list[Asset]) -> list[str]:
    """For each: `cached`, `to be fetched`, or `missing`. The Hub is asked once, and only if something is not cached."""
    cached = [hub.cached(a.repo_id, a.revision, a.kind) is not None for a in assets]
    answers = all(cached) or hub.is_reachable()
    return ["cached" if here else "to be fetched" if answers else "missing" for here in cached]


def check_named(model: ModelConfig) -> None:
    """The preset says which model it is, and gives no tokenizer to one that brings its own.

    Raises:
        UserError: if not.
    """
    if model.tokenizer is not None and (model.path is not None or model.weights == "pretrained"):
        source = model.path or model.id or model.name
        raise UserError(
            f"model.tokenizer={model.tokenizer}: {source} has the tokenizer that it was trained with.",
            "Leave model.tokenizer out, or set model.weights=random.",
        )
    if model.path is None and model.weights == "pretrained" and model.id is None:
        raise UserError(f"model={model.name} names no model.", "Give model.id=owner/name or model.path=FOLDER.")


def check_assets(config: Config) -> None:
    """Everything from the Hub is cached or can be fetched.

    Raises:
        UserError: naming what is missing, the folder looked in, and the commands that fetch it; also for a preset
            that names no model.
    """
    check_named(config.model)
    assets = assets_of(config)
    missing = [asset for asset, state in zip(assets, whereabouts(assets), strict=True) if state == "missing"]
    if len(missing) == 1:
        raise hub.missing(missing[0].repo_id, missing[0].revision, missing[0].kind)
    if missing:
        first = hub.missing(missing[0].repo_id, missing[0].revision, missing[0].kind)
        others = ", ".join(f"{asset.repo_id} ({asset.purpose})" for asset in missing[1:])
        commands = " && ".join(hub.fetch_command(a.repo_id, a.revision, a.kind) for a in missing)
        raise UserError(f"{first.message} Neither is: {others}.", f"Where there is a network: {commands}")
