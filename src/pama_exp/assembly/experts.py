"""Finished runs of one objective each, which `stage=soup` and `stage=mod` put together; and the result of doing so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pama_exp.assembly import imported_config
from pama_exp.comparison import Run, load_runs
from pama_exp.config.schema import Config
from pama_exp.errors import UserError
from pama_exp.tracking.record import RunRecord


def finished_run(folder: str, setting: str) -> Run:
    """The finished run in a folder, with its policy.

    Raises:
        UserError: if there is none, with the name of the setting.
    """
    run = load_runs([folder])[0]
    if run.folder != Path(folder) or run.result is None or not (run.folder / "policy").is_dir():
        detail = run.detail if run.status == "damaged" else f"{folder} is no finished run with a policy/ folder."
        raise UserError(f"{setting}: {detail}", "Name the run's own folder.")
    return run


def single_objective_experts(folders: Sequence[str], setting: str) -> dict[str, Run]:
    """{objective: run}, in the order of `folders`, which the setting (such as soup.runs) names.

    Raises:
        UserError: for fewer than two, an unfinished run, one of several objectives or of another's objective, or runs
            that differ in more.
    """
    if len(folders) < 2:
        raise UserError(f"{setting}={list(folders)} names fewer than two runs.", f"Give '{setting}=[runs/a,runs/b]'.")
    experts: dict[str, Run] = {}
    for folder in folders:
        expert = finished_run(folder, setting)
        aims = [name for name, share in expert.preference.items() if share > 0]
        if len(aims) != 1 or aims[0] in experts:
            raise UserError(
                f"{setting}: {folder} is of {' + '.join(aims)}.",
                "Each expert has one objective, and another than the rest.",
            )
        experts[aims[0]] = expert
    first, *rest = experts.values()
    for other in rest:
        mine, theirs = _shared(first), _shared(other)
        unequal = sorted(key for key in {*mine, *theirs} if mine.get(key) != theirs.get(key))
        if unequal:
            raise UserError(
                f"{setting}: {first.name} and {other.name} differ in {', '.join(unequal[:3])}.",
                "Experts differ in their objective alone, their seed included.",
            )
    return experts


def experts_config(experts: Mapping[str, Run], config: Config) -> Config:
    """The experts' configuration with all their objectives, in this run's place.

    Raises:
        UserError: if one of them holds more than data.
    """
    first, *others = experts.values()
    for expert in others:
        imported_config.check_config(expert.config, config, str(expert.folder))
    nodes = {name: dict(expert.config["objectives"][name]) | {"weight": 1.0} for name, expert in experts.items()}
    solver = dict(first.config["solver"]) | {"weights": None}
    return imported_config.adopted(first.config, config, str(first.folder), objectives=nodes, solver=solver)


def _shared(expert: Run) -> dict[str, Any]:
    """What all experts have to agree in."""
    settings = {k: v for k, v in expert.settings.items() if not k.startswith("objectives.")}
    return settings | {"seed": expert.seed}


def experts_result(
    config: Config, record: RunRecord, experts: Mapping[str, Run], points: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The result of mixing experts, as result.json holds it; its bill is that of all their training.

    The even mix (or the one nearest to it) stands for all where one operating point is asked for.
    """
    even = min(points, key=lambda point: max(point["preference"].values()))
    results = {name: expert.result or {} for name, expert in experts.items()}
    bill: dict[str, float] = {}
    for result in results.values():
        for key, value in result["bill"].items():
            bill[key] = max(bill.get(key, 0), value) if key == "peak_memory_bytes" else bill.get(key, 0) + value
    return {
        "status": "complete",
        "objectives": {
            name: {"before": result["objectives"][name]["before"], "after": even["objectives"][name]}
            for name, result in results.items()
        },
        "true_hypervolume_share": {"before": None, "after": even["true_hypervolume_share"]},
        "true_front": {"before": None, "after": even["true_front"]},
        "calibration": {name: result["calibration"][name] for name, result in results.items()},
        "points": list(points),
        "experts": [str(expert.folder) for expert in experts.values()],
        "seed": next(iter(experts.values())).seed,
        "config": asdict(config),
        "bill": bill,
        "seconds": bill["seconds"],
        "run_dir": str(record.folder),
    }
