"""Reading run folders, found recursively, whether or not the runs are finished."""

from __future__ import annotations

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
from pama_exp.storage import html_view
from pama_exp.tracking import reading
from pama_exp.tracking.record import RunRecord
from pama_exp.world import FactWorld

COMPARABLE = ("align", "soup", "mod", "dpo", "imported")  # stages whose result is an operating point
_EMPTY_CONFIG: Mapping[str, Any] = {"objectives": {}, "solver": {"name": "–"}, "seed": 0, "stage": {"name": "unknown"}}
# Sections that say what is done with finished runs, and so are no settings of a run; the seed is told apart.
_NOT_SETTINGS = ("seed", "evaluate", "compare", "soup", "mod", "judge", "stage")
_OF_EXPERTS = ("soup", "mod")  # train nothing: how their experts were trained is in the experts' configurations


@dataclass(frozen=True)
class Run:
    """One run, as read from its folder.

    Attributes:
        folder: the run's folder.
        config: the resolved configuration as plain values.
        status: complete, running, interrupted, failed, dead (its process ended without a word) or damaged (a file
            cannot be read, or does not hold what a run writes).
        detail: explains the status, such as the error of a failed run, or which file is damaged.
        result: the content of result.json if the run is complete, else None.
        written: the content of status.json; empty if there is none.
    """

    folder: Path
    config: Mapping[str, Any]
    status: str
    detail: str
    result: Mapping[str, Any] | None
    written: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The folder's name, with unprintable characters escaped."""
        return shown(self.folder.name)

    def _repr_html_(self) -> str:
        """What a notebook shows: rewards before and after, the share of the true front, and the folder."""
        means = (self.result or {}).get("objectives") or {}
        kinds = [
            kind for kind in ("gold", "proxy") if any((m["after"] or {}).get(kind) is not None for m in means.values())
        ]
        columns = [(kind, when) for kind in kinds for when in ("before", "after")]
        rows = [[name, *((m[when] or {}).get(kind) for kind, when in columns)] for name, m in means.items()]
        share = ((self.result or {}).get("true_hypervolume_share") or {}).get("after")
        said = f"{self.name}: {self.solver}, seed {self.seed}, {self.status}"
        said += "" if share is None else f", {share:.1%} of the true front"
        return html_view.table(said, ["objective", *(f"{kind} {when}" for kind, when in columns)], rows)

    @property
    def stage(self) -> str:
        """The name of the stage: align, soup, dpo, evaluate, …"""
        return str(self.config.get("stage", {}).get("name", "align"))

    @property
    def solver(self) -> str:
        """The method's label, with `-conditioned` after it for a conditioned policy; `soup` or `mod` for experts."""
        return self.stage if self.stage in _OF_EXPERTS else method_label(self.config)

    @property
    def seed(self) -> int:
        """The run's seed; for a soup or a mixture, the seed of its experts."""
        return int((self.result or {}).get("seed", self.config["seed"]))

    @property
    def objectives(self) -> tuple[str, ...]:
        """The objectives' names, in the run's order."""
        return tuple(self.config["objectives"])

    @property
    def steps(self) -> int | None:
        """How many steps it is to take; None where that is not said."""
        section = "dpo" if self.stage == "dpo" else "training"
        found = self.config.get(section, {}).get("steps")
        return None if found is None else int(found)

    @cached_property
    def preference(self) -> dict[str, float]:
        """{objective: share}, summing to 1: from `solver.weights` if set, else from the objectives' weights."""
        weights = self.config["solver"].get("weights")
        nodes = self.config["objectives"]
        if weights is None:
            weights = [node.get("weight", 1.0) for node in nodes.values()]
        total = sum(weights) or 1.0
        return {name: float(w) / total for name, w in zip(nodes, weights, strict=True)}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """{dotted key: value} of all settings that determine the numbers, without the seed and the preference."""
        sections = {k: v for k, v in recorded(self.config).items() if k not in (*VOLATILE, *_NOT_SETTINGS)}
        flat = flatten(sections)
        flat["stage"] = self.stage
        for name in self.objectives:
            flat.pop(f"objectives.{name}.weight", None)
            flat.pop(f"objectives.{name}.description", None)
        # The preference, a seed derived from the run's, how many preferences are evaluated, and where a policy lies.
        for key in ("solver.weights", "solver.seed", "conditioning.grid", "imported.policy"):
            flat.pop(key, None)
        if self.stage in (*_OF_EXPERTS, "dpo"):
            flat = {k: v for k, v in flat.items() if not k.startswith("solver.")}
        return flat

    @cached_property
    def programs(self) -> tuple[str, ...] | None:
        """The gold program of each objective; None unless each has a different one and all are maximised."""
        domain = self.config.get("data", {}).get("domain")
        nodes = self.config["objectives"].values()
        programs = tuple(p for node in nodes if (p := program_of(node.get("scorers", {}), domain)))
        maximised = all(node.get("direction", "maximize") == "maximize" for node in nodes)
        return programs if maximised and len(set(programs)) == len(nodes) else None

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl; empty for a damaged run."""
        return [] if self.status == "damaged" else RunRecord(self.folder).read_metrics()

    @cached_property
    def generations(self) -> list[dict[str, Any]]:
        """The rows of generations.jsonl; empty for a damaged run."""
        return [] if self.status == "damaged" else RunRecord(self.folder).read_generations()


def load_runs(folders: Sequence[Path | str]) -> list[Run]:
    """Every run in the folders, in order of their paths.

    Damaged runs are included, with status "damaged" and without a result.

    Args:
        folders: each is a run, or holds runs at any depth.

    Raises:
        UserError: for a folder that does not exist, or if there is no run in any of them.
    """
    runs: dict[Path, Run] = {}
    seen: set[tuple[int, int]] = set()
    for folder in map(Path, folders):
        if not os.path.isdir(folder):
            raise UserError(f"The folder {shown(folder)} does not exist.", "Name folders that are runs or hold runs.")
        runs |= {run.folder.resolve(): run for run in _runs_under(folder, seen)}
    if not runs:
        names = ", ".join(map(shown, folders)) or "no folder"
        raise UserError(
            f"No run in {names}.", "A run's folder holds config.yaml and status.json; name one, or its parent."
        )
    return [runs[path] for path in sorted(runs)]


def damaged(runs: Sequence[Run]) -> list[str]:
    """One line per damaged run, with its folder and what is damaged."""
    return [f"{shown(run.folder)} is left out: {run.detail}" for run in runs if run.status == "damaged"]


def split_by_objectives(runs: Sequence[Run]) -> list[list[Run]]:
    """Lists of runs of the same objectives in any order, in order of first appearance.

    Damaged runs, and runs of stages that cannot be compared, are left out.
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
    """Nested mappings as one with dotted keys: {"a": {"b": 1}} becomes {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _runs_under(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Run]:
    """The runs in and below a folder. Folders of a run are not searched, and links to a searched folder are skipped."""
    try:
        info = folder.stat()
        if (info.st_dev, info.st_ino) in seen:
            return
        seen.add((info.st_dev, info.st_ino))
        run = read_run(folder)
        children = sorted(folder.iterdir()) if run is None else []
    except OSError as error:
        yield Run(folder, _EMPTY_CONFIG, "damaged", f"{shown(folder)} cannot be read ({error.strerror}).", None)
        return
    if run is not None:
        yield run
        return
    for child in children:
        if os.path.isdir(child) and not child.name.startswith("."):
            yield from _runs_under(child, seen)


def read_run(folder: Path) -> Run | None:
    """The run in this folder, of any status; None if the folder is no run's.

    Raises:
        OSError: if the folder cannot be read.
    """
    names = set(os.listdir(folder))
    record = RunRecord(folder)
    try:
        config = reading.read_yaml(folder / "config.yaml", reading.check_mapping)
        if not {"objectives", "solver", "seed"} <= set(config) and not names & {"status.json", "result.json"}:
            return None  # written by another program
        reading.checked(folder / "config.yaml", config, reading.check_config)
    except UserError as error:
        is_run = bool(names & {"status.json", "metrics.jsonl", "result.json"})
        return Run(folder, _EMPTY_CONFIG, "damaged", shown(error.message), None) if is_run else None
    try:
        written = record.read_status() if "status.json" in names else {}
        result = record.read_result() if "result.json" in names else None
        # A soup's config.yaml does not say how its experts were trained; its result does.
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
    """The FactWorld with these settings, which are given as JSON.

    Raises:
        UserError: if a setting is unknown or out of range.
    """
    world: FactWorld = build({**json.loads(settings), "_target_": "pama_exp.world.FactWorld"}, "data.world")
    return world


def _check_point(run: Run) -> None:
    """Check that a run to be compared names existing gold programs and, if finished, holds its operating point.

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
    """The run's `status` and `detail`, as in `Run`."""
    if result is not None:
        return "complete", ""
    state, detail = str(written.get("state", "running")), shown(written.get("detail", ""))
    if state in ("running", "complete"):  # complete without a result: it ended between the two
        return ("running" if record.is_locked() else "dead"), detail
    return state, detail
