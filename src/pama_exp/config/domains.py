"""The scorer of an objective in a data domain: the one under the domain's name, else the one under `any`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from pama_exp.config.schema import CONF, Config

ANY = "any"


def scorer_key(scorers: Mapping[str, Any], domain: str) -> str:
    """The key of the domain's scorer: the domain if `scorers` has it, else `any`."""
    return domain if domain in scorers else ANY


def scorer_node(scorers: Mapping[str, Any], domain: str) -> dict[str, Any]:
    """The node of the domain's scorer; empty if there is none."""
    return dict(scorers.get(scorer_key(scorers, domain)) or {})


def program_of(scorers: Mapping[str, Any], domain: str) -> str | None:
    """The name of the gold program that scores the domain; None if there is none."""
    return scorer_node(scorers, domain).get("program")


def objectives_of(domain: str) -> list[str]:
    """The names of the shipped objectives that have a scorer for the domain."""
    files = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted((CONF / "objectives").glob("*.yaml"))]
    return [name for file in files for name, node in file.items() if scorer_node(node.get("scorers") or {}, domain)]


def learns_rows_alone(config: Config) -> bool:
    """Whether of a table of text the stage learns rows, and scores no objective: of pairs, plain DPO does."""
    is_scored = config.stage.get("name") == "dpo" and config.dpo.method != "dpo"
    return bool(config.stage.get("learns_from_rows", False)) and not is_scored
