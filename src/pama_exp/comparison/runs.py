"""Run folders read back: found recursively, never hidden for being unfinished."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from pama_exp.errors import UserError
from pama_exp.labels import method_label, recorded
from pama_exp.schema import VOLATILE
from pama_exp.tracking.record import RunRecord

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, ten times as quick, where it is there
COMPARABLE = ("align", "soup")  # stages that end at an operating point and have a bill for it
# Settings of what is done with runs, not of a run.
_ELSEWHERE = ("seed", "evaluate", "compare", "soup", "stage")


@dataclass(frozen=True)
class Run:
    """One run's folder as a reader sees it.

    Attributes:
        folder: where it is.
        config: the resolved configuration as plain values.
        status: complete, running, interrupted, failed, dead (its process is gone without a word) or damaged (its
            result.json cannot be read).
        detail: what the status says beyond that, such as the error of a failed run.
        result: result.json of a complete run, else None.
    """

    folder: Path
    config: Mapping[str, Any]
    status: str
    detail: str
    result: Mapping[str, Any] | None

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def stage(self) -> str:
        """align, soup, evaluate, …"""
        return str(self.config.get("stage", {}).get("name", "align"))

    @property
    def solver(self) -> str:
        """The solver's label, `-conditioned` after it where the policy is told its preference; `soup` of experts."""
        return "soup" if self.stage == "soup" else method_label(self.config)

    @property
    def seed(self) -> int:
        """The run's seed; of a soup, its experts'."""
        return int((self.result or {}).get("seed", self.config["seed"]))

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names, in the run's order."""
        return tuple(self.config["objectives"])

    @cached_property
    def preference(self) -> dict[str, float]:
        """{objective: share}, summing to 1: `solver.weights` where given, the objectives' own weights otherwise."""
        given = self.config["solver"].get("weights")
        nodes = self.config["objectives"]
        weights = [node.get("weight", 1.0) for node in nodes.values()] if given is None else given
        total = sum(weights) or 1.0
        return {name: float(w) / total for name, w in zip(nodes, weights, strict=True)}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Flat keys of all that determines the numbers, seed and preference apart."""
        kept = {k: v for k, v in recorded(self.config).items() if k not in (*VOLATILE, *_ELSEWHERE)}
        flat = flatten(kept)
        flat["stage"] = self.stage
        for name in self.objectives:
            flat.pop(f"objectives.{name}.weight", None)
            flat.pop(f"objectives.{name}.description", None)
        # The preference, a seed that follows the run's, and how many preferences are evaluated.
        for key in ("solver.weights", "solver.seed", "conditioning.grid"):
            flat.pop(key, None)
        if self.stage == "soup":  # it trains nothing: its experts' solver is in their own configurations
            flat = {k: v for k, v in flat.items() if not k.startswith("solver.")}
        return flat

    @cached_property
    def programs(self) -> tuple[str, ...] | None:
        """The gold program behind each objective, where all have one of their own and are maximised."""
        domain = self.config["data"].get("domain")
        nodes = self.config["objectives"].values()
        found = [node["scorers"].get(domain, node["scorers"].get("any", {})).get("program") for node in nodes]
        upward = all(node.get("direction", "maximize") == "maximize" for node in nodes)
        return tuple(found) if upward and all(found) and len(set(found)) == len(found) else None

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """Rows of metrics.jsonl, read when first asked for."""
        return RunRecord(self.folder).read_metrics()

    @cached_property
    def generations(self) -> list[dict[str, Any]]:
        """Rows of generations.jsonl, read when first asked for."""
        return RunRecord(self.folder).read_generations()


def load_runs(folders: Sequence[Path | str]) -> list[Run]:
    """Every run in the folders, each of which is a run or holds runs at any depth; in order of their paths.

    Raises:
        UserError: for a folder that is not there, or if none of them holds a run.
    """
    found: dict[Path, Run] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise UserError(f"The folder {folder} does not exist.", "Name folders that are runs or hold runs.")
        found |= {run.folder.resolve(): run for run in _runs_under(folder)}
    if not found:
        names = ", ".join(map(str, folders)) or "no folder"
        raise UserError(
            f"No run in {names}.", "A run's folder holds config.yaml and status.json; name one, or its parent."
        )
    return [found[path] for path in sorted(found)]


def split_by_objectives(runs: Sequence[Run]) -> list[list[Run]]:
    """Alignments and soups of the same objectives (in whatever order) together, in order of first appearance."""
    parts: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        if run.stage in COMPARABLE:
            parts.setdefault(tuple(sorted(run.objectives)), []).append(run)
    return list(parts.values())


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _runs_under(folder: Path) -> Iterator[Run]:
    """A run's own folders (checkpoints, policy, wandb) are not searched."""
    run = _read(folder)
    if run is not None:
        yield run
        return
    for child in sorted(folder.iterdir()):
        if child.is_dir() and not child.name.startswith("."):
            yield from _runs_under(child)


def _read(folder: Path) -> Run | None:
    path = folder / "config.yaml"
    if not path.is_file():
        return None
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
    except yaml.YAMLError:
        return None
    if not isinstance(config, dict) or not {"objectives", "solver", "seed"} <= set(config):
        return None  # another program's config.yaml
    status, detail, result = _status(RunRecord(folder))
    # A soup's own command line says nothing of how its experts were trained; its result does.
    return Run(folder, (result or {}).get("config", config), status, detail, result)


def _status(record: RunRecord) -> tuple[str, str, dict[str, Any] | None]:
    if record.is_complete:
        try:
            return "complete", "", record.read_result()
        except UserError as error:
            return "damaged", error.message, None
    try:
        written = record.read_status()
    except UserError:
        written = {"state": "running"}
    state, detail = str(written["state"]), str(written.get("detail", ""))
    if state in ("running", "complete"):  # complete without a result: it ended between the two
        return ("running", detail, None) if _is_locked(record.folder) else ("dead", detail, None)
    return state, detail, None


def _is_locked(folder: Path) -> bool:
    try:
        descriptor = os.open(folder / ".lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
