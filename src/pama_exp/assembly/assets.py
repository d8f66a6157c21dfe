"""The repositories that a run needs from the Hugging Face Hub, and whether they are in the local cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pama_exp.config.domains import learns_rows_alone, scorer_key, scorer_node
from pama_exp.config.schema import Config, ModelConfig
from pama_exp.errors import UserError
from pama_exp.hub import repositories


@dataclass(frozen=True)
class Asset:
    """A repository of the Hub that a run needs.

    Attributes:
        purpose: what the run needs it for, such as "policy".
        repo_id: owner/name.
        revision: commit, tag or branch; None for the newest.
        kind: model or dataset.
        parameters: the model's number of parameters, if its yaml states it.
        gated: whether access has to be requested.
        pickled: whether it is known to hold no safetensors.
        refused_pickle: name of the setting that allows pickled weights, if it is off.
    """

    purpose: str
    repo_id: str
    revision: str | None
    kind: repositories.Kind
    parameters: int | None = None
    gated: bool = False
    pickled: bool = False
    refused_pickle: str | None = None

    @property
    def pickle_hint(self) -> str:
        """The hint for pickled weights; empty if they are allowed."""
        return (
            "" if self.refused_pickle is None else f"add {self.refused_pickle}=true, or give a revision of safetensors"
        )


def assets_of(config: Config) -> list[Asset]:
    """The repositories of the policy's model, the reward models and the data that come from the Hub."""
    m = config.model
    assets = []
    if m.path is None and m.weights == "pretrained" and m.id is not None and config.evaluate.run is None:
        refused = None if m.allow_pickle else "model.allow_pickle"
        assets.append(Asset("policy", m.id, m.revision, "model", m.parameters, m.gated, m.pickled, refused))
    learns_rows = config.data.domain != "factworld" and learns_rows_alone(config)
    for name, objective in ({} if learns_rows else config.objectives).items():
        domain = scorer_key(objective.scorers, config.data.domain)
        node = scorer_node(objective.scorers, config.data.domain)
        if node.get("id") is not None and node.get("path") is None:
            refused = None if node.get("allow_pickle") else f"objectives.{name}.scorers.{domain}.allow_pickle"
            size, revision = node.get("parameters"), node.get("revision")
            assets.append(Asset(f"objective {name}", node["id"], revision, "model", size, refused_pickle=refused))
    d = config.data
    if d.path is None and d.id is not None:
        assets.append(Asset("data", d.id, d.revision, "dataset"))
    return assets


def states_of(assets: list[Asset]) -> list[str]:
    """The state of each asset: `cached`, `pickled` (cached, but refused), `to be fetched`, or `missing`.

    The Hub is contacted once, and only if an asset is not cached.
    """
    folders = [repositories.cached(a.repo_id, a.revision, a.kind) for a in assets]
    is_online = None not in folders or repositories.is_reachable()
    return [_state(a, folder, is_online) for a, folder in zip(assets, folders, strict=True)]


def _state(asset: Asset, folder: Path | None, is_online: bool) -> str:
    if folder is None:
        return "to be fetched" if is_online else "missing"
    is_pickled = asset.kind == "model" and repositories.weights_format(folder) == "pickle"
    return "pickled" if is_pickled and asset.refused_pickle is not None else "cached"


def check_named(model: ModelConfig) -> None:
    """Check that the settings name a model, and set a tokenizer only for a model that does not bring one.

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
    """Check that every repository is in the cache or can be downloaded, and that its weights may be read.

    Raises:
        UserError: naming the missing repositories, the cache folder, and the commands that download them; also for
            settings that `check_named` refuses, and for pickled weights that are not allowed.
    """
    check_named(config.model)
    assets = assets_of(config)
    states = states_of(assets)
    missing = [asset for asset, state in zip(assets, states, strict=True) if state == "missing"]
    if missing:
        first = repositories.missing(missing[0].repo_id, missing[0].revision, missing[0].kind)
        others = ", ".join(f"{asset.repo_id} ({asset.purpose})" for asset in missing[1:])
        commands = " && ".join(repositories.fetch_command(a.repo_id, a.revision, a.kind) for a in missing)
        pickled = [f" {a.repo_id} is pickled: {a.pickle_hint}." for a in missing if a.pickled and a.pickle_hint]
        raise UserError(
            first.message + (f" Neither is: {others}." if others else ""),
            f"Where there is a network: {commands}{''.join(f';{hint}' for hint in pickled)}",
        )
    for asset, state in zip(assets, states, strict=True):
        if state == "pickled":
            raise repositories.pickled(asset.repo_id, str(asset.refused_pickle))
