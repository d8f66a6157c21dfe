"""Run folders read back: found recursively, never hidden for being unfinished."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from pama_exp.config.domains import program_of
from pama_exp.config.instantiate import build
from pama_exp.config.naming import VOLATILE, method_label, recorded, shown
from pama_exp.errors import UserError
from pama_exp.tracking import reading
from pama_exp.tracking.record import RunRecord
from pama_exp.world import FactWorld

COMPARABLE = ("align", "soup", "mod", "dpo")  # stages that end at an operating point and have a bill for it
_NOTHING: Mapping[str, Any] = {"objectives": {}, "solver": {"name": "–"}, "seed": 0, "stage": {"name": "unknown"}}
# Settings of what is done with runs, not of a run.
_ELSEWHERE = ("seed", "evaluate", "compare", "soup", "mod", "judge", "stage")
_OF_EXPERTS = ("soup", "mod")  # these train nothing: how their experts were trained is in the experts' configurations


@dataclass(frozen=True)
class Run:
    """One run's folder as a reader sees it.

    Attributes:
        folder: where it is.
        config: the resolved configuration as plain values.
        status: complete, running, interrupted, failed, dead (its process is gone without a word) or damaged (a file
            that readers rely on cannot be read, or is not what a run writes).
        detail: what the status says beyond that, such as the error of a failed run, or what is damaged.
        result: result.json of a complete run, else None.
        written: status.json; empty where there is none.
    """

    folder: Path
    config: Mapping[str, Any]
    status: str
    detail: str
    result: Mapping[str, Any] | None
    written: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The folder's name, fit to be printed."""
        return shown(self.folder.name)

    @property
    def stage(self) -> str:
        """align, soup, dpo, evaluate, …"""
        return str(self.config.get("stage", {}).get("name", "align"))

    @property
    def solver(self) -> str:
        """What trained the policy, `-conditioned` after it where it is told its preference; of experts the stage."""
        return self.stage if self.stage in _OF_EXPERTS else method_label(self.config)

    @property
    def seed(self) -> int:
        """The run's seed; of a soup or a mixture, its experts'."""
        return int((self.result or {}).get("seed", self.config["seed"]))

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names, in the run's order."""
        return tuple(self.config["objectives"])

    @property
    def steps(self) -> int | None:
        """How many steps it is to take; None where that is not said."""
        section = "dpo" if self.stage == "dpo" else "training"
        found = self.config.get(section, {}).get("steps")
        return None if found is None else int(found)

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
        if self.stage in (*_OF_EXPERTS, "dpo"):
            flat = {k: v for k, v in flat.items() if not k.startswith("solver.")}
        return flat

    @cached_property
    def programs(self) -> tuple[str, ...] | None:
        """The gold program behind each objective, where all have one of their own and are maximised."""
        domain = self.config.get("data", {}).get("domain")
        nodes = self.config["objectives"].values()
        found = [program_of(node.get("scorers", {}), domain) for node in nodes]
        upward = all(node.get("direction", "maximize") == "maximize" for node in nodes)
        named = tuple(program for program in found if program)
        return named if upward and len(set(named)) == len(found) else None

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """Rows of metrics.jsonl, read when first asked for; none of a damaged run."""
        return [] if self.status == "damaged" else RunRecord(self.folder).read_metrics()

    @cached_property
    def generations(self) -> list[dict[str, Any]]:
        """Rows of generations.jsonl, likewise."""
        return [] if self.status == "damaged" else RunRecord(self.folder).read_generations()


def load_runs(folders: Sequence[Path | str]) -> list[Run]:
    """Every run in the folders, each of which is a run or holds runs at any depth; in order of their paths.

    Damaged ones are among them, with their status and without a result.

    Raises:
        UserError: for a folder that is not there, or if none of them holds a run.
    """
    found: dict[Path, Run] = {}
    seen: set[tuple[int, int]] = set()
    for folder in map(Path, folders):
        if not os.path.isdir(folder):
            raise UserError(f"The folder {shown(folder)} does not exist.", "Name folders that are runs or hold runs.")
        found |= {run.folder.resolve(): run for run in _runs_under(folder, seen)}
    if not found:
        names = ", ".join(map(shown, folders)) or "no folder"
        raise UserError(
            f"No run in {names}.", "A run's folder holds config.yaml and status.json; name one, or its parent."
        )
    return [found[path] for path in sorted(found)]


def damaged(runs: Sequence[Run]) -> list[str]:
    """A line for each that is damaged: which, and why."""
    return [f"{shown(run.folder)} is left out: {run.detail}" for run in runs if run.status == "damaged"]


def split_by_objectives(runs: Sequence[Run]) -> list[list[Run]]:
    """Alignments and soups of the same objectives (in whatever order) together, in order of first appearance.

    Damaged runs are left out.
    """
    parts: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        if is_comparable(run) and run.status != "damaged":
            parts.setdefault(tuple(sorted(run.objectives)), []).append(run)
    return list(parts.values())


def is_comparable(run: Run) -> bool:
    """Whether it ends at an operating point; of pairs of text, which nothing scores, there is none."""
    is_scored = run.stage != "dpo" or run.result is None or "objectives" in run.result
    return run.stage in COMPARABLE and is_scored


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _runs_under(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Run]:
    """A run's own folders (checkpoints, policy, wandb) are not searched, and no folder twice, by whatever links."""
    try:
        there = folder.stat()
        if (there.st_dev, there.st_ino) in seen:
            return
        seen.add((there.st_dev, there.st_ino))
        run = read_run(folder)
        children = sorted(folder.iterdir()) if run is None else []
    except OSError as error:
        yield Run(folder, _NOTHING, "damaged", f"{shown(folder)} cannot be read ({error.strerror}).", None)
        return
    if run is not None:
        yield run
        return
    for child in children:
        if os.path.isdir(child) and not child.name.startswith("."):
            yield from _runs_under(child, seen)


def read_run(folder: Path) -> Run | None:
    """The run in this folder, whatever state it is in; None where there is none.

    Raises:
        OSError: if the folder cannot be read.
    """
    names = set(os.listdir(folder))
    record = RunRecord(folder)
    try:
        config = reading.read_yaml(folder / "config.yaml", reading.check_mapping)
        if not {"objectives", "solver", "seed"} <= set(config) and not names & {"status.json", "result.json"}:
            return None  # another program's
        reading.checked(folder / "config.yaml", config, reading.check_config)
    except UserError as error:
        is_run = bool(names & {"status.json", "metrics.jsonl", "result.json"})
        return Run(folder, _NOTHING, "damaged", shown(error.message), None) if is_run else None
    try:
        written = record.read_status() if "status.json" in names else {}
        result = record.read_result() if "result.json" in names else None
        # A soup's own command line says nothing of how its experts were trained; its result does.
        config = (result or {}).get("config", config)
        run = Run(folder, config, *_status(record, written, result), result, written)
        for table in (record.read_metrics, record.read_generations):
            table()
        _check_point(run)
    except UserError as error:
        return Run(folder, config, "damaged", shown(error.message), None)
    return run


@lru_cache
def world_of(settings: str) -> FactWorld:
    """The testbed with these settings, as JSON.

    Raises:
        UserError: if there is none.
    """
    world: FactWorld = build({**json.loads(settings), "_target_": "pama_exp.world.FactWorld"}, "data.world")
    return world


def _check_point(run: Run) -> None:
    """A run that can be compared is of a world that there is, and a finished one says where it stands.

    Raises:
        UserError: if not.
    """
    if not is_comparable(run):
        return
    data = run.config.get("data", {})
    try:
        if run.result is not None:
            reading.check_point(run.result, run.objectives)
        if run.programs is not None and data.get("domain") == "factworld":
            world = world_of(json.dumps(data.get("world", {}), sort_keys=True))
            unknown = sorted(set(run.programs) - set(world.objectives))
            if unknown:
                raise ValueError(f"there is no program '{unknown[0][:60]}'")
    except ValueError as error:
        raise UserError(f"{run.folder} is damaged: {error}.", "Its numbers are left out.") from None


def _status(record: RunRecord, written: Mapping[str, Any], result: Mapping[str, Any] | None) -> tuple[str, str]:
    """Status and detail."""
    if result is not None:
        return "complete", ""
    state, detail = str(written.get("state", "running")), shown(written.get("detail", ""))
    if state in ("running", "complete"):  # complete without a result: it ended between the two
        return ("running" if _is_locked(record.folder) else "dead"), detail
    return state, detail


def _is_locked(folder: Path) -> bool:
    try:
        descriptor = os.open(folder / ".lock", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
