"""`stage=judge`: finished runs against the SFT policy, by a scorer that none of them was trained on.

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
from pama_exp.assembly.module import build_alignment, held_out
from pama_exp.assembly.objective_plans import ObjectivePlan, plan_objectives
from pama_exp.assembly.setup import Setup, resolve
from pama_exp.comparison import Run, load_runs
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
        The result as result.json holds it. For each run: the mean reward, the mean of the best of k, and the share of
        wins, ties and losses of its responses against the SFT policy's, a tie counting half in `win_rate`; intervals
        are Student's, over prompts.

    Raises:
        UserError: for no run, an unfinished one, no scorer, or one that a run was trained on.
    """
    settings = setup.config.judge
    runs = [_finished(folder) for folder in settings.runs]
    if not runs:
        raise UserError("judge.runs=[] names no run.", "Give 'judge.runs=[runs/a,runs/b]'.")
    judged: dict[str, Any] = {}
    start: dict[str, Tensor] = {}
    for one in runs:
        theirs = resolve(_config_of(one, setup.config))
        plan = _judge(setup.config, theirs)
        _check_held_out(plan, theirs, one)
        base, judge = theirs.task.start_policy(), plan.build()
        key = f"{base} {theirs.sampling}"
        if key not in start:
            start[key] = _scores(_told_nothing(theirs), base, judge, record, "SFT policy")
        scores = _scores(theirs, one.folder / "policy", judge, record, one.name)
        judged[_label(one, judged)] = _verdict(scores, start[key]) | {"folder": str(one.folder)}
    first = next(iter(start.values()))
    sft = {"mean": _shown(first.mean(0)), "best_of": _shown(first.amax(0))}
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
    """(B,) shares of the k responses that are worth more, as much, or less than the other policy's, each with each.

    Args:
        scores: (k, B).
        others: (k, B) of the other policy, to the same prompts.
    """
    difference = scores[:, None] - others[None]
    wins, ties = (difference > 0).float().mean((0, 1)), (difference == 0).float().mean((0, 1))
    return {"win_rate": wins + ties / 2, "wins": wins, "ties": ties, "losses": 1 - wins - ties}


def _verdict(scores: Tensor, others: Tensor) -> dict[str, Any]:
    by_prompt = {"mean": scores.mean(0), "best_of": scores.amax(0)} | compare(scores, others)
    return {name: _shown(values) for name, values in by_prompt.items()}


def _scores(setup: Setup, folder: Path, judge: Objective, record: RunRecord, name: str) -> Tensor:
    """(k, B) what the judge gives the policy's responses; every policy draws from the same streams."""
    settings = setup.config.judge
    module = build_alignment(replace(setup, objectives=()), folder)  # without the scorers that it was trained on
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
                    given = shared_rollout.score(judge.scores, rollout)
                    parts.append(given)
                    texts = zip(rollout.prompts.texts, rollout.texts, given.tolist(), strict=True)
                    shown = [
                        {"prompt": p, "response": r, "split": settings.split, f"proxy/{JUDGE}": s} for p, r, s in texts
                    ]
                    record.log_generations(index, shown[:8])
            rows.append(torch.cat(parts))
            judging.advance()
    return torch.stack(rows)


def _finished(folder: str) -> Run:
    found = load_runs([folder])[0]
    if found.folder != Path(folder) or found.result is None or not (found.folder / "policy").is_dir():
        detail = found.detail if found.status == "damaged" else f"{folder} is no finished run with a policy/ folder."
        raise UserError(f"judge.runs: {detail}", "Name the run's own folder.")
    return found


def _config_of(run: Run, config: Config) -> Config:
    """The run's configuration in this run's place, judged as this command says.

    Raises:
        UserError: if it holds more than data.
    """
    imported_config.check_config(run.config, config, str(run.folder))
    here = {
        key: value
        for key, value in asdict(config).items()
        if key in ("stage", "judge", "output", "cache_dir", "trainer", "logger")
    }
    model = {**run.config.get("model", {}), "allow_pickle": config.model.allow_pickle}
    weights = list(run.preference.values())  # by which a conditioned policy is asked
    solver = {"_target_": "pama_exp.solvers.scalarizers.Linear", "weights": weights}  # none is trained
    return typed({**run.config, "model": model, "solver": solver, **here})


def _judge(config: Config, setup: Setup) -> ObjectivePlan:
    """The judge, in the data domain of the run that it judges; a gold program judges as it is."""
    settings = config.judge
    if settings.scorer is None:
        raise UserError(
            "judge.scorer=null names no judge.", "Give 'judge.scorer={program: honest}' or {function: module:name}."
        )
    domain = setup.config.data.domain
    node = ObjectiveConfig(direction=settings.direction, scorers={domain: settings.scorer})
    try:
        (plan,) = plan_objectives({JUDGE: node}, domain, "gold", setup.task)
    except UserError as error:  # it is written as an objective's, and stands elsewhere
        place = (f"objectives.{JUDGE}.scorers.{domain}", f"objectives.{JUDGE}")
        message = error.message.replace(place[0], "judge.scorer").replace(place[1], "judge.scorer")
        raise UserError(message, error.hint) from None
    return plan


def _check_held_out(plan: ObjectivePlan, setup: Setup, run: Run) -> None:
    """The run was trained on none of the scorers that judge it.

    Raises:
        UserError: if it was; a learned stand-in of a gold program is not the program.
    """
    for own in setup.objectives:
        if dict(own.source) == dict(plan.source) and not own.is_learned:
            raise UserError(
                f"judge.scorer is what {run.name} was trained on as '{own.name}'.",
                "Judge by a scorer that it never saw.",
            )


def _told_nothing(setup: Setup) -> Setup:
    """The same for the SFT policy, which is told no preference and has no adapter."""
    plain = asdict(setup.config)
    return resolve(typed(plain | {"conditioning": {"name": "none"}, "adapter": {"name": "none"}}))


def _label(run: Run, taken: Mapping[str, Any]) -> str:
    return run.name if run.name not in taken else str(run.folder)


def _shown(values: Tensor) -> dict[str, float | None]:
    found = interval(values.tolist())
    assert found is not None
    return {"mean": found.mean, "low": found.low, "high": found.high}


def _print(judged: Mapping[str, Mapping[str, Any]], sft: Mapping[str, Any], count: int) -> None:
    header = ("run", "reward", f"best of {count}", "win rate", "wins", "ties", "losses")
    rows: list[tuple[str, ...]] = [("SFT policy", _number(sft["mean"]), _number(sft["best_of"]), "", "", "", "")]
    for name, found in judged.items():
        shares = [f"{found[key]['mean']:.1%}" for key in ("wins", "ties", "losses")]
        rate = _interval(found["win_rate"])
        rows.append((name, _number(found["mean"]), _number(found["best_of"]), rate, *shares))
    table("Against the SFT policy, by a scorer that no run was trained on", header, rows)
    note("Win rates count a tie as half; intervals are of 95 %, over prompts.")


def _number(found: Mapping[str, float]) -> str:
    return f"{found['mean']:.3f}"


def _interval(found: Mapping[str, float | None]) -> str:
    mean, low, high = found["mean"] or 0.0, found["low"], found["high"]
    return f"{mean:.1%}" if low is None or high is None else f"{mean:.1%} [{low:.1%}, {high:.1%}]"
