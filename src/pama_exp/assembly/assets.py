"""What a run needs from the Hugging Face Hub, and where it is: looked up before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pama_exp.config.domains import learns_rows_alone, scorer_key, scorer_node
from pama_exp.config.schema import Config, ModelConfig
from pama_exp.errors import UserError
from pama_exp.hub import repositories


@dataclass(frozen=True)
class Asset:
    """A repository of the Hub, and what the run needs it for."""

    purpose: str
    repo_id: str
    revision: str | None
    kind: repositories.Kind
    parameters: int | None = None  # as its yaml states them
    gated: bool = False
    pickled: bool = False  # said to hold no safetensors
    refused_pickle: str | None = None  # the setting that would allow pickled weights, where it is off

    @property
    def pickle_hint(self) -> str:
        """What else to type for weights that are pickled; empty where nothing."""
        return (
            "" if self.refused_pickle is None else f"add {self.refused_pickle}=true, or give a revision of safetensors"
        )


def assets_of(config: Config) -> list[Asset]:
    """The policy's model, the reward models and the data, those that come from the Hub."""
    m = config.model
    found = []
    if m.path is None and m.weights == "pretrained" and m.id is not None and config.evaluate.run is None:
        refused = None if m.allow_pickle else "model.allow_pickle"
        found.append(Asset("policy", m.id, m.revision, "model", m.parameters, m.gated, m.pickled, refused))
    learns_rows = config.data.domain != "factworld" and learns_rows_alone(config)
    for name, objective in ({} if learns_rows else config.objectives).items():
        domain = scorer_key(objective.scorers, config.data.domain)
        node = scorer_node(objective.scorers, config.data.domain)
        if node.get("id") is not None and node.get("path") is None:
            refused = None if node.get("allow_pickle") else f"objectives.{name}.scorers.{domain}.allow_pickle"
            size, revision = node.get("parameters"), node.get("revision")
            found.append(Asset(f"objective {name}", node["id"], revision, "model", size, refused_pickle=refused))
    found += _data(config)
    return found


def _data(config: Config) -> Iterator[Any]:
    d = config.data
    if d.path is None and d.id is not None:
        yield Asset("data", d.id, d.revision, "dataset")


def whereabouts(assets: list[Asset]) -> list[str]:
    """For each: `cached`, `pickled` (cached, and refused), `to be fetched`, or `missing`.

    The Hub is asked once, and only if something is not cached.
    """
    folders = [repositories.cached(a.repo_id, a.revision, a.kind) for a in assets]
    answers = None not in folders or repositories.is_reachable()
    return [_state(a, folder, answers) for a, folder in zip(assets, folders, strict=True)]


def _state(asset: Asset, folder: Path | None, answers: bool) -> str:
    if folder is None:
        return "to be fetched" if answers else "missing"
    is_pickled = asset.kind == "model" and repositories.weights_format(folder) == "pickle"
    return "pickled" if is_pickled and asset.refused_pickle is not None else "cached"


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
    """Everything from the Hub is cached or can be fetched, and may be read.

    Raises:
        UserError: naming what is missing, the folder looked in, and the commands that fetch it; also for a preset
            that names no model, and for pickled weights that nobody asked for.
    """
    check_named(config.model)
    assets = assets_of(config)
    states = whereabouts(assets)
    missing = [asset for asset, state in zip(assets, states, strict=True) if state == "missing"]
    if missing:
        first = repositories.missing(missing[0].repo_id, missing[0].revision, missing[0].kind)
        others = ", ".join(f"{asset.repo_id} ({asset.purpose})" for asset in missing[1:])
        commands = " && ".join(repositories.fetch_command(a.repo_id, a.revision, a.kind) for a in missing)
        pickled = [f" {a.repo_id} is pickled: {a.pickle_hint}." for a in missing if a.pickled and a.pickle_hint]
        raise UserError(
            first.message + (f" Neither is: {others}." if others else ""),
            f"Where there is a network: {commands}{''.join(f';{said}' for said in pickled)}",
        )
    for asset, state in zip(assets, states, strict=True):
        if state == "pickled":
            raise repositories.pickled(asset.repo_id, str(asset.refused_pickle))
