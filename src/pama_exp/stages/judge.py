"""`stage=judge`: finished runs against the SFT policy, scored by a scorer that none of them was trained on.

Legend: B prompts, k responses to each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pama_exp.assembly import imported_config
from pama_exp.assembly.experts import finished_run
from pama_exp.assembly.module import build_alignment, held_out
from pama_exp.assembly.objective_plans import ObjectivePlan, plan_objectives
from pama_exp.assembly.setup import Setup, resolve
from pama_exp.comparison import Run
from pama_exp.comparison.statistics import interval
from pama_exp.config.schema import Config, ObjectiveConfig, typed
from pama_exp.data.streams import random_state
from pama_exp.errors import UserError
from pama_exp.rewards.objective import Objective
from pama_exp.tracking.console import note, phase, table
from pama_exp.tracking.record import RunRecord
from pama_exp.training import shared_rollout
from pama_exp.training.evaluation import answers
from pama_exp.training.operating_points import EVALUATION_SEED

JUDGE = "judge"


def run(setup: Setup, record: RunRecord) -> dict[str, Any]:
    """Score k responses of every run's policy and of its SFT policy to the same held-out prompts.

    Returns:
        The content of result.json. For each run: the mean reward, the mean of the best of k, and the shares of wins,
        ties and losses of its responses against those of the SFT policy. A tie counts half in `win_rate`. Intervals are
        Student's, over prompts.

    Raises:
        UserError: for no run, one named twice, an unfinished one, no scorer, or one that a run was trained on.
    """
    settings = setup.config.judge
    runs = [finished_run(folder, "judge.runs") for folder in settings.runs]
    if not runs:
        raise UserError("judge.runs=[] names no run.", "Give 'judge.runs=[runs/a,runs/b]'.")
    folders = [each.folder.resolve() for each in runs]
    if twice := [name for place, name in enumerate(settings.runs) if folders[place] in folders[:place]]:
        raise UserError(f"judge.runs names the run '{twice[0]}' twice.", "Name each run once.")
    judged: dict[str, Any] = {}
    sft_scores: dict[str, Tensor] = {}
    for run_read in runs:
        run_setup = resolve(_config_of(run_read, setup.config))
        plan = _judge(setup.config, run_setup)
        _check_held_out(plan, run_setup, run_read)
        base, judge = run_setup.task.start_policy(), plan.build()
        key = f"{base} {run_setup.sampling}"
        if key not in sft_scores:
            sft_scores[key] = _scores(_unconditioned(run_setup), base, judge, record, "SFT policy")
        scores = _scores(run_setup, run_read.folder / "policy", judge, record, run_read.name)
        label = run_read.name if run_read.name not in judged else str(run_read.folder)
        judged[label] = {
            **_intervals({"mean": scores.mean(0), "best_of": scores.amax(0)} | compare(scores, sft_scores[key])),
            "folder": str(run_read.folder),
        }
    first = next(iter(sft_scores.values()))
    sft = _intervals({"mean": first.mean(0), "best_of": first.amax(0)})
    _print(judged, sft, settings.responses)
    return {
        "status": "complete",
        "judged": judged,
        "sft": sft,
        "responses": settings.responses,
        "prompts": int(first.shape[1]),
        "run_dir": str(record.folder),
    }


def compare(scores: Tensor, others: Tensor) -> dict[str, Tensor]:
    """The shares of pairs of responses in which the first policy's scores higher, the same, or lower.

    Each response is compared with each response of the other policy to the same prompt.

    Args:
        scores: (k, B).
        others: (k, B) of the other policy.

    Returns:
        {wins, ties, losses, win_rate}: (B,) each. `win_rate` counts a tie as half a win.
    """
    difference = scores[:, None] - others[None]
    wins, ties = (difference > 0).float().mean((0, 1)), (difference == 0).float().mean((0, 1))
    return {"win_rate": wins + ties / 2, "wins": wins, "ties": ties, "losses": 1 - wins - ties}


def _scores(setup: Setup, folder: Path, judge: Objective, record: RunRecord, name: str) -> Tensor:
    """The judge's scores (k, B) of the policy's responses. Every policy samples with the same random streams."""
    settings = setup.config.judge
    module = build_alignment(replace(setup, objectives=()), folder)  # without the scorers that the policy learned from
    judge.to(setup.device)
    stream = held_out(setup, module, settings.split, settings.prompts)
    rows = []
    with phase(f"Judging {name}", settings.responses) as judging:
        for index in range(settings.responses):
            generate = shared_rollout.answering(module.engine, setup.sampling, setup.device)
            seed = random_state(EVALUATION_SEED, index, "judge")
            parts = []
            module.policy.eval()
            with torch.no_grad():
                for rollout in answers(generate, stream, seed):
                    scores = shared_rollout.score(judge.scores, rollout)
                    parts.append(scores)
                    scored = zip(rollout.prompts.texts, rollout.texts, scores.tolist(), strict=True)
                    logged = [
                        {"prompt": p, "response": r, "split": settings.split, f"proxy/{JUDGE}": s} for p, r, s in scored
                    ]
                    record.log_generations(index, logged[:8])
            rows.append(torch.cat(parts))
            judging.advance()
    return torch.stack(rows)


def _config_of(run: Run, config: Config) -> Config:
    """The run's configuration as this command runs it.

    Raises:
        UserError: if it holds more than data.
    """
    weights = list(run.preference.values())  # a conditioned policy is conditioned on them
    solver = {"_target_": "pama_exp.solvers.scalarizers.Linear", "weights": weights}  # nothing is trained
    return imported_config.adopted(run.config, config, str(run.folder), solver=solver, judge=asdict(config.judge))


def _judge(config: Config, setup: Setup) -> ObjectivePlan:
    """The judge in the data domain of the run that it judges. A gold program is used itself, not a model of it."""
    settings = config.judge
    if settings.scorer is None:
        raise UserError(
            "judge.scorer=null names no judge.", "Give 'judge.scorer={program: honest}' or {function: module:name}."
        )
    domain = setup.config.data.domain
    node = ObjectiveConfig(direction=settings.direction, scorers={domain: settings.scorer})
    try:
        (plan,) = plan_objectives({JUDGE: node}, domain, "gold", setup.task)
    except UserError as error:  # the message names an objective's scorer, which is the judge's here
        place = (f"objectives.{JUDGE}.scorers.{domain}", f"objectives.{JUDGE}")
        message = error.message.replace(place[0], "judge.scorer").replace(place[1], "judge.scorer")
        raise UserError(message, error.hint) from None
    return plan


def _check_held_out(plan: ObjectivePlan, setup: Setup, run: Run) -> None:
    """Check that the run was not trained on the judge. A learned reward model of a gold program is not the program.

    Raises:
        UserError: if it was.
    """
    for objective in setup.objectives:
        if dict(objective.source) == dict(plan.source) and not objective.is_learned:
            raise UserError(
                f"judge.scorer is what {run.name} was trained on as '{objective.name}'.",
                "Judge by a scorer that it never saw.",
            )


def _unconditioned(setup: Setup) -> Setup:
    """The setup for the SFT policy, which is not conditioned and has no adapter."""
    plain = asdict(setup.config)
    return resolve(typed(plain | {"conditioning": {"name": "none"}, "adapter": {"name": "none"}}))


def _intervals(values: Mapping[str, Tensor]) -> dict[str, Any]:
    """{name: {mean, low, high}} over the prompts."""
    intervals = {name: interval(of_prompts.tolist()) for name, of_prompts in values.items()}
    return {name: {"mean": i.mean, "low": i.low, "high": i.high} for name, i in intervals.items() if i is not None}


def _print(judged: Mapping[str, Mapping[str, Any]], sft: Mapping[str, Any], count: int) -> None:
    header = ("run", "reward", f"best of {count}", "win rate", "wins", "ties", "losses")
    rows: list[tuple[str, ...]] = [("SFT policy", *_means(sft), "", "", "", "")]
    for name, values in judged.items():
        shares = [f"{values[key]['mean']:.1%}" for key in ("wins", "ties", "losses")]
        rows.append((name, *_means(values), _interval(values["win_rate"]), *shares))
    table("Against the SFT policy, by a scorer that no run was trained on", header, rows)
    note("Win rates count a tie as half; intervals are of 95 %, over prompts.")


def _means(values: Mapping[str, Mapping[str, float]]) -> tuple[str, str]:
    return f"{values['mean']['mean']:.3f}", f"{values['best_of']['mean']:.3f}"


def _interval(share: Mapping[str, float | None]) -> str:
    mean, low, high = share["mean"] or 0.0, share["low"], share["high"]
    return f"{mean:.1%}" if low is None or high is None else f"{mean:.1%} [{low:.1%}, {high:.1%}]"
