"""`stage=soup`: policies between single-objective experts, by averaging their weights; nothing is trained.

Source: Ramé et al., "Rewarded soups: towards Pareto-optimal alignment by interpolating weights fine-tuned on diverse
rewards", NeurIPS 2023. Legend: E experts, one per objective.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from pama_exp.assembly import imported_config
from pama_exp.assembly.module import build_alignment, held_out
from pama_exp.assembly.setup import Setup, resolve
from pama_exp.comparison import Run, load_runs
from pama_exp.config.schema import Config, typed
from pama_exp.data.preferences import shares
from pama_exp.errors import UserError
from pama_exp.policy.loading import load_model
from pama_exp.tracking.console import progress
from pama_exp.tracking.record import RunRecord
from pama_exp.training.operating_points import EVALUATION_SEED, operating_point


def run(setup: Setup, record: RunRecord) -> dict[str, Any]:
    """Evaluate θ = Σ λᵉ θᵉ for every λ of the grid on the test prompts; its cost is that of all the experts' training.

    Raises:
        UserError: unless `soup.runs` are two or more finished runs that differ in their one objective alone.
    """
    experts = single_objective_experts(setup.config.soup.runs)
    of_experts = resolve(experts_config(experts, setup.config))
    names, front = list(experts), of_experts.front("test")
    folders = [expert.folder / "policy" for expert in experts.values()]
    module = build_alignment(of_experts, folders[0])
    stream = held_out(of_experts, module, "test", of_experts.config.data.evaluation_prompts)
    states = [load_model(folder).state_dict() for folder in folders]
    points: list[dict[str, Any]] = []
    grid = list(shares(len(names), setup.config.soup.grid))
    with progress(f"Souping {' + '.join(names)}", len(grid)) as bar:
        for index, mix in enumerate(grid):
            module.policy.model.load_state_dict(average(states, mix))
            evaluation = module.evaluate_policy(stream, EVALUATION_SEED)
            means = evaluation.means()
            preference = dict(zip(names, mix, strict=True))
            record.log_metrics(
                index, evaluation.metrics() | {f"soup/{name}": share for name, share in preference.items()}
            )
            record.log_generations(index, [{"split": "test", **row} for row in evaluation.rows()])
            points.append(operating_point(preference, means, front))
            bar.advance({name: rewards.mean().item() for name, rewards in evaluation.proxy.items()})
    return _result(of_experts.config, record, experts, points)


def single_objective_experts(folders: Sequence[str]) -> dict[str, Run]:
    """{objective: run}, in the order given.

    Raises:
        UserError: for fewer than two, an unfinished run, one of several objectives or of another's objective, or runs
            that differ in more.
    """
    if len(folders) < 2:
        raise UserError(f"soup.runs={list(folders)} names fewer than two runs.", "Give 'soup.runs=[runs/a,runs/b]'.")
    experts: dict[str, Run] = {}
    for folder in folders:
        expert = load_runs([folder])[0]
        if expert.status == "damaged":
            raise UserError(f"soup.runs: {expert.detail}", "Name whole runs.")
        if expert.folder != Path(folder) or expert.result is None or not (expert.folder / "policy").is_dir():
            raise UserError(
                f"soup.runs: {folder} is no finished run with a policy/ folder.", "Name the run's own folder."
            )
        aims = [name for name, share in expert.preference.items() if share > 0]
        if len(aims) != 1 or aims[0] in experts:
            raise UserError(
                f"soup.runs: {folder} is of {' + '.join(aims)}.",
                "Each expert has one objective, and another than the rest.",
            )
        experts[aims[0]] = expert
    first, *rest = experts.values()
    for other in rest:
        mine, theirs = _shared(first), _shared(other)
        unequal = sorted(key for key in {*mine, *theirs} if mine.get(key) != theirs.get(key))
        if unequal:
            raise UserError(
                f"soup.runs: {first.name} and {other.name} differ in {', '.join(unequal[:3])}.",
                "Experts differ in their objective alone, their seed included.",
            )
    return experts


def experts_config(experts: Mapping[str, Run], config: Config) -> Config:
    """The experts' configuration with all their objectives, in this run's place.

    Raises:
        UserError: if one of them holds more than data.
    """
    for expert in experts.values():
        imported_config.check_config(expert.config, config, str(expert.folder))
    first = next(iter(experts.values()))
    nodes = {name: dict(expert.config["objectives"][name]) | {"weight": 1.0} for name, expert in experts.items()}
    here = {
        key: value
        for key, value in asdict(config).items()
        if key in ("stage", "output", "cache_dir", "trainer", "logger")
    }
    solver = dict(first.config["solver"]) | {"weights": None}
    model = {**first.config.get("model", {}), "allow_pickle": config.model.allow_pickle}
    return typed({**first.config, "objectives": nodes, "solver": solver, "model": model, **here})


def average(states: Sequence[Mapping[str, Tensor]], mix: Sequence[float]) -> dict[str, Tensor]:
    """Σ λᵉ θᵉ for every floating-point tensor; the others are the first expert's."""
    mixed = {}
    for name, value in states[0].items():
        if value.is_floating_point():
            total = sum(share * state[name].double() for share, state in zip(mix, states, strict=True))
            assert isinstance(total, Tensor)
            mixed[name] = total.to(value.dtype)
        else:
            mixed[name] = value
    return mixed


def _shared(expert: Run) -> dict[str, Any]:
    """What all experts have to agree in."""
    settings = {k: v for k, v in expert.settings.items() if not k.startswith("objectives.")}
    return settings | {"seed": expert.seed}


def _result(
    config: Config, record: RunRecord, experts: Mapping[str, Run], points: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The even mix (or the one nearest to it) stands for the soup where one operating point is asked for."""
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
