"""`stage=soup`: policies between single-objective experts, by averaging their weights; nothing is trained.

Source: Ramé et al., "Rewarded soups: towards Pareto-optimal alignment by interpolating weights fine-tuned on diverse
rewards", NeurIPS 2023. Legend: E experts, one per objective.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from pama_exp.assembly.experts import experts_config, experts_result, single_objective_experts
from pama_exp.assembly.module import build_alignment, held_out
from pama_exp.assembly.setup import Setup, resolve
from pama_exp.data.preferences import shares
from pama_exp.policy.loading import load_model
from pama_exp.tracking.console import progress
from pama_exp.tracking.record import RunRecord
from pama_exp.training.operating_points import EVALUATION_SEED, operating_point


def run(setup: Setup, record: RunRecord) -> dict[str, Any]:
    """Evaluate θ = Σ λᵉ θᵉ for every λ of the grid on the test prompts; its cost is that of all the experts' training.

    Raises:
        UserError: unless `soup.runs` are two or more finished runs that differ in their one objective alone.
    """
    experts = single_objective_experts(setup.config.soup.runs, "soup.runs")
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
    return experts_result(of_experts.config, record, experts, points)


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
