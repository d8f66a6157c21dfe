"""A run's configuration as a script for another trainer: `python -m pama_exp.runs export trl RUN FOLDER`."""

from __future__ import annotations

import json
import os
import pprint
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pama_exp.assembly.imported_config import check_code, check_plain
from pama_exp.assembly.objective_plans import make_scorer
from pama_exp.comparison.load import Run
from pama_exp.config.domains import scorer_key, scorer_node
from pama_exp.config.naming import slug
from pama_exp.config.ranges import shown
from pama_exp.errors import UserError, described, suggest
from pama_exp.integrations.combining import refuse_gradients
from pama_exp.integrations.named_solvers import named_solver, names
from pama_exp.rewards.scorer import checked_score
from pama_exp.types import PromptBatch

KINDS = ("trl", "verl")
_GROUP = 4  # answers per prompt, where the run had a critic in their place


def reward_function(name: str, node: Mapping[str, Any], direction: str = "maximize") -> Callable[..., list[float]]:
    """An objective's scorer in the signature of TRL's reward functions, under the objective's name.

    Args:
        name: of the objective.
        node: `{function: …}` or `{_target_: …}`, as in an objective's yaml.
        direction: minimize turns the sign.

    Raises:
        UserError: if the scorer cannot be built.
    """
    scorer, sign = make_scorer(node, f"objectives.{name}"), -1.0 if direction == "minimize" else 1.0

    def score(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float]:
        kept = {key: value for key, value in columns.items() if isinstance(value, list) and len(value) == len(prompts)}
        nothing = torch.zeros(len(prompts), 1, dtype=torch.long)
        batch = PromptBatch(nothing, torch.ones_like(nothing).bool(), list(prompts), kept)
        found: list[float] = (sign * checked_score(name, scorer, batch, list(completions))).tolist()
        return found

    score.__name__ = name
    return score


def write_scripts(run: Run, kind: str, folder: Path, code: Sequence[str] = ()) -> list[Path]:
    """Scripts that go on with the run's solver, objectives and settings: train.py for TRL, train.sh and rewards.py.

    Args:
        run: one of stage=align on text.
        kind: trl or verl.
        folder: that the scripts are written to.
        code: functions, classes and addresses outside this package that the run's objectives may name in the scripts;
            `allow_pickle` where they may read pickled weights.

    Raises:
        UserError: for another kind, a run of the testbed, a solver that needs gradients, a record that lacks what a
            script says or names other code, a file that is there, or a folder that cannot be written.
    """
    if kind not in KINDS:
        raise UserError(f"There is no export to '{kind}'.", suggest(kind, KINDS))
    if run.solver not in names():
        raise UserError(f"{run.name}: '{run.solver}' is no solver of this project.", suggest(run.solver, names()))
    try:
        written = _scripts(run, kind, code)
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # of an imported run, or another's record
        raise UserError(
            f"{run.name}: its record lacks what a script says ({shown(described(error))}).",
            "Export a run of stage=align.",
        ) from None
    for name in written:
        if os.path.lexists(folder / name):
            raise UserError(f"{folder / name} is there already.", "Name a new folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in written.items():
            (folder / name).write_text(text)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}).", "Name another folder.") from None
    return [folder / name for name in written]


def _scripts(run: Run, kind: str, code: Sequence[str]) -> dict[str, str]:
    """{name: text} of the scripts."""
    group = int(run.config.get("advantage", {}).get("group_size", _GROUP))
    solver = _solver_settings(run)
    refuse_gradients(named_solver(run.solver, list(run.preference.values()), group, solver), kind)
    objectives = _objectives(run, code)
    if kind == "trl":
        return {"train.py": _trl(run, objectives, solver, group)}
    return {"rewards.py": _rewards(run, objectives), "train.sh": _verl(run, solver, group)}


def _objectives(run: Run, code: Sequence[str]) -> str:
    """Source of the list of reward functions. The record may be another's: they are checked before they are written."""
    named: list[dict[str, object]] = [
        dict.fromkeys(("_target_", "function", "url", "token_variable"), each) for each in code
    ]
    if "allow_pickle" in code:
        named.append({"allow_pickle": True})
    command = {"objectives": {"any": {"scorers": {str(place): node for place, node in enumerate(named)}}}}
    domain = str(run.config.get("data", {}).get("domain", "text"))
    rows = []
    for name, objective in run.config["objectives"].items():
        node = scorer_node(objective.get("scorers", {}), domain)
        if not node or "program" in node:
            raise UserError(
                f"The objective '{name}' is scored by {scorer_key(objective.get('scorers', {}), domain)}, which the "
                "testbed alone has.",
                "Export a run on real text.",
            )
        place = {"objectives": {name: {"scorers": {scorer_key(objective["scorers"], domain): node}}}}
        check_plain(place, run.name)
        check_code(place, command, run.name, "add --code and its name (--code allow_pickle for pickles)")
        plain = pprint.pformat(dict(node), sort_dicts=False, width=110, indent=1)
        rows.append(f"    reward_function({name!r}, {plain}, {objective.get('direction', 'maximize')!r}),")
    return "\n".join(["[", *rows, "]"])


def _solver_settings(run: Run) -> dict[str, Any]:
    node = run.config["solver"]
    return {key: value for key, value in node.items() if key not in ("_target_", "name", "weights", "group_size")}


def _trl(run: Run, objectives: str, solver: Mapping[str, Any], group: int) -> str:
    s = _Settings(run)
    return f'''"""{s.name} in TRL. The KL is a term of the loss here; {group} answers per prompt replace a critic."""

import json
import sys

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig

from pama_exp.assembly.handover import reward_function
from pama_exp.integrations.named_solvers import named_solver
from pama_exp.integrations.trl import MultiObjectiveGRPOTrainer

objectives = {objectives}
solver = named_solver({run.solver!r}, {list(run.preference.values())!r}, {group}, {dict(solver)!r})

if __name__ == "__main__":
    model, prompts, output = sys.argv[1:] or ({s.model!r}, {s.data.get("path")!r}, "trl-run")
    rows = [json.loads(line)[{s.data.get("column", "prompt")!r}] for line in open(prompts, encoding="utf-8")]
    trainer = MultiObjectiveGRPOTrainer(
        solver=solver,
        model=AutoModelForCausalLM.from_pretrained(model),
        processing_class=AutoTokenizer.from_pretrained(model, padding_side="left"),
        reward_funcs=objectives,
        train_dataset=Dataset.from_dict({{"prompt": rows}}),
        args=GRPOConfig(
            output_dir=output,
            max_steps={s.training["steps"]!r},
            per_device_train_batch_size={s.training["batch_size"]!r},
            num_generations={group!r},
            num_iterations={s.training["epochs"]!r},
            learning_rate={s.training["learning_rate"]!r},
            epsilon={s.training["clip"]!r},
            beta={s.training["kl"]["coefficient"]!r},
            max_completion_length={s.sampling["max_new_tokens"]!r},
            temperature={s.sampling["temperature"]!r},
            seed={run.seed!r},
            report_to=[],
        ),
    )
    trainer.train()
    trainer.save_model(output)
'''


def _rewards(run: Run, objectives: str) -> str:
    name = _Settings(run).name
    return f'''"""The objectives of {name} for verl; `extra_info["prompt"]` is the prompt, where they read it."""

from pama_exp.assembly.handover import reward_function

objectives = {objectives}


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **more):
    prompts = [str((extra_info or {{}}).get("prompt", ""))]
    found = {{one.__name__: one(prompts=prompts, completions=[solution_str])[0] for one in objectives}}
    return {{"score": sum(found.values()), **found}}
'''


def _verl(run: Run, solver: Mapping[str, Any], group: int) -> str:
    s = _Settings(run)
    shares = ",".join(f"{share:g}" for share in run.preference.values())
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    words = [
        f"algorithm.adv_estimator={run.solver}",
        f"+algorithm.gdpo_reward_keys=[{','.join(run.objectives)}]",
        f"+algorithm.gdpo_reward_weights=[{shares}]",
        *(f"+algorithm.solver.{key}={json.dumps(value)}" for key, value in solver.items()),
        "reward.custom_reward_function.path=rewards.py",
        "reward.custom_reward_function.name=compute_score",
        f"data.train_batch_size={max(1, int(s.training['batch_size']) // group)}",
        f"data.max_response_length={s.sampling['max_new_tokens']}",
        f"{actor}.optim.lr={s.training['learning_rate']}",
        f"{actor}.clip_ratio={s.training['clip']}",
        f"{actor}.ppo_epochs={s.training['epochs']}",
        f"{actor}.ppo_mini_batch_size={max(1, int(s.training['mini_batch_size']) // group)}",
        f"{actor}.use_kl_loss=true",
        f"{actor}.kl_loss_coef={s.training['kl']['coefficient']}",
        f"{rollout}.n={group}",
        f"{rollout}.temperature={s.sampling['temperature']}",
        f"trainer.total_training_steps={s.training['steps']}",
        "trainer.logger=[console]",
    ]
    listed = " \\\n  ".join(map(shlex.quote, words))
    return f"""#!/usr/bin/env bash
# {s.name} in verl: MODEL=… TRAIN=train.parquet TEST=test.parquet ./train.sh [what depends on the machine]
set -euo pipefail
cd "$(dirname "$0")"
export VERL_USE_EXTERNAL_MODULES=pama_exp.integrations.verl
default={shlex.quote(s.model)}
python -m verl.trainer.main_ppo \\
  actor_rollout_ref.model.path="${{MODEL:-$default}}" \\
  data.train_files="$TRAIN" \\
  data.val_files="$TEST" \\
  {listed} \\
  "$@"
"""


class _Settings:
    """What of the run's configuration both scripts say."""

    def __init__(self, run: Run) -> None:
        config = run.config
        self.name = slug(run.folder.name)
        self.model = str(config["model"].get("path") or config["model"].get("id") or "MODEL")
        self.training, self.sampling = config["training"], config["rollout"]["sampling"]
        self.data: Mapping[str, Any] = config["data"]
