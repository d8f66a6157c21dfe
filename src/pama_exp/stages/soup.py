"""`stage=soup`: policies between single-objective experts, by averaging their weights; nothing is trained.

Source: Ramé et al., "Rewarded soups: towards Pareto-optimal alignment by interpolating weights fine-tuned on diverse
rewards", NeurIPS 2023. Legend: E experts, one per objective.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from pama_exp.assembly.experts import experts_config, experts_result, single_objective_experts
from pama_exp.assembly.module import build_alignment, held_out
from pama_exp.assembly.setup import Setup, resolve
from pama_exp.data.preferences import shares
from pama_exp.policy.loading import load_model
from pama_exp.tracking.console import progress
from pama_exp.tracking.record import RunRecord
from pama_exp.training.evaluation import Evaluation
from pama_exp.training.operating_points import EVALUATION_SEED, operating_point


def run(setup: Setup, record: RunRecord) -> dict[str, Any]:
    """Evaluate θ = Σ λᵉ θᵉ on the test prompts for every λ of the grid. The cost is that of training all experts.

    Raises:
        UserError: unless `soup.runs` are two or more finished runs that differ in their one objective alone.
    """
    experts = single_objective_experts(setup.config.soup.runs, "soup.runs")
    of_experts = resolve(experts_config(experts, setup.config))
    folders = [expert.folder / "policy" for expert in experts.values()]
    module = build_alignment(of_experts, folders[0])
    stream = held_out(of_experts, module, "test", of_experts.config.data.evaluation_prompts)
    states = [load_model(folder).state_dict() for folder in folders]

    def evaluate_at(mix: Sequence[float]) -> Evaluation:
        module.policy.model.load_state_dict(average(states, mix))
        return module.evaluate_policy(stream, EVALUATION_SEED)

    points = evaluate_mixes(of_experts, record, setup.config.soup.grid, "soup", "Souping", evaluate_at)
    return experts_result(of_experts.config, record, experts, points)


def evaluate_mixes(
    setup: Setup,
    record: RunRecord,
    grid: int,
    kind: str,
    title: str,
    evaluate_at: Callable[[Sequence[float]], Evaluation],
) -> list[dict[str, Any]]:
    """The operating points of the experts mixed at every λ of the grid; each is recorded with its responses.

    Args:
        setup: of the experts.
        record: of this run.
        grid: the shares λ are multiples of 1 / grid.
        kind: soup or mod, the prefix of the metrics that hold the shares.
        title: what the progress bar says is done.
        evaluate_at: evaluates the mixture with the shares λ, one per expert.
    """
    names, front = setup.names, setup.front("test")
    mixes = list(shares(len(names), grid))
    points = []
    with progress(f"{title} {' + '.join(names)}", len(mixes)) as bar:
        for index, mix in enumerate(mixes):
            evaluation, preference = evaluate_at(mix), dict(zip(names, mix, strict=True))
            record.log_metrics(
                index, evaluation.metrics() | {f"{kind}/{name}": share for name, share in preference.items()}
            )
            record.log_generations(index, [{"split": "test", **row} for row in evaluation.rows()])
            points.append(operating_point(preference, evaluation.means(), front))
            bar.advance({name: rewards.mean().item() for name, rewards in evaluation.proxy.items()})
    return points


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
