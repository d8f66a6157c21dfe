"""Checks of a configuration before any work: files, batch sizes, devices, rollout engine, conditioning and model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from transformers import PreTrainedTokenizerBase

from pama_exp.assembly.conditioned import make_writer
from pama_exp.assembly.objective_plans import ObjectivePlan
from pama_exp.assembly.task import Task
from pama_exp.config.instantiate import check_settings, locate, parameters
from pama_exp.config.naming import solver_label
from pama_exp.config.schema import CONF, Config
from pama_exp.data.preferences import shares
from pama_exp.data.tokens import encode
from pama_exp.errors import UserError, suggest
from pama_exp.policy.loading import max_positions
from pama_exp.rl.estimators import Estimator
from pama_exp.rl.kl import check_placement
from pama_exp.rollout.engine import quantised
from pama_exp.solvers.solver import Solver
from pama_exp.tracking import backends
from pama_exp.training.strategies import check_trainer


def check_inputs(config: Config) -> None:
    """Check that there is an objective, the loggers are installed, and the folders exist that the configuration names.

    Raises:
        UserError: for the first that is missing.
    """
    backends.check(config.logger.kinds)
    if not config.objectives:
        raise UserError("There is no objective.", "Give one or more: 'objectives=[helpful,concise]'.")
    if config.evaluate.run is None and config.model.path is not None and not os.path.isdir(config.model.path):
        raise UserError(f"model.path={config.model.path} is not a folder.", "Give a folder in Hugging Face format.")
    if config.evaluate.run is not None and not os.path.isdir(Path(config.evaluate.run) / "policy"):
        raise UserError(f"evaluate.run={config.evaluate.run} holds no policy/ folder.", "Name a finished run's folder.")


def check_training(config: Config, estimator: Estimator, is_here: bool = True) -> None:
    """Check the batch sizes, the KL's placement, the devices, and the target of the Gramian.

    Args:
        config: of the run.
        estimator: its advantage estimator.
        is_here: whether the run will be on this machine; if not, its devices are not checked.

    Raises:
        UserError: for the first thing that is wrong.
    """
    t = config.training
    if t.batch_size % t.mini_batch_size:
        raise UserError(
            f"training.batch_size={t.batch_size} is not a multiple of training.mini_batch_size={t.mini_batch_size}.",
            f"Nearest that fit: {_divisors_near(t.batch_size, t.mini_batch_size)}.",
        )
    if t.batch_size % estimator.group_size:
        raise UserError(
            f"training.batch_size={t.batch_size} is not a multiple of advantage.group_size={estimator.group_size}.",
            "Every prompt of a step is answered group_size times.",
        )
    check_placement(t.kl.estimator, t.kl.placement)
    if t.importance_cap is not None and not t.importance_cap >= 1:
        raise UserError(f"training.importance_cap={t.importance_cap}.", "It is at least 1; 2 is usual, null is none.")
    check_trainer(config, is_here)
    if t.gramian.target == "adapter" and config.adapter.name == "none":
        raise UserError("training.gramian.target=adapter: there is no adapter.", "Choose one with adapter=lora.")


def check_engine(engine: Mapping[str, Any], bits: int | None = None) -> None:
    """Check the rollout engine's settings, and that the package it needs is installed.

    Args:
        engine: the node `rollout.engine`.
        bits: of a quantised base model, which not every engine can run; None if it is not quantised.

    Raises:
        UserError: for the first thing that is wrong.
    """
    factory = locate(engine, "rollout.engine")
    if bits is not None and not getattr(factory, "takes_quantised", True):
        raise quantised("This rollout engine")
    package = getattr(factory, "requires", None)
    if package is not None and find_spec(package) is None:
        raise UserError(f"rollout.engine needs {package}.", f"pip install 'pama-exp[{package}]', or set rollout=fast.")
    check_settings(engine, "rollout.engine", "model", "tokenizer", "shift_of")
    if isinstance(factory, type) and not hasattr(factory, "generate"):
        raise UserError(
            f"rollout.engine._target_={engine['_target_']} generates nothing.", "Name a class with a method `generate`."
        )


def check_calibration(config: Config, solver: Solver) -> None:
    """Check that there are calibration prompts if a normaliser or the solver needs calibration.

    Raises:
        UserError: if there are none.
    """
    frozen = [
        f"objectives.{name}.normaliser=frozen" for name, o in config.objectives.items() if o.normaliser == "frozen"
    ]
    needing = [*frozen, *([f"solver={solver_label(config.solver)}"] if solver.needs_calibration else [])]
    if config.training.calibration_prompts == 0 and needing:
        raise UserError(
            f"training.calibration_prompts=0 leaves nothing to calibrate {needing[0]} by.", "Set it to 1 or more."
        )


def check_conditioning(config: Config, solver: Solver) -> None:
    """Check that the solver, the engine and the objectives can be used with a conditioned policy.

    Raises:
        UserError: if one cannot, or for conditioning settings that exclude each other.
    """
    c = config.conditioning
    if c.name == "none":
        return
    where = f"conditioning={c.name}"
    if len(config.objectives) < 2:
        raise UserError(f"{where}: one objective leaves nothing to prefer.", "Give two or more, or conditioning=none.")
    if not solver.takes_preferences:
        able = ", ".join(solvers_that_take_preferences())
        label = solver_label(config.solver)
        as_set = " as it is set" if label in able.split(", ") else ""
        raise UserError(
            f"{where} weighs every response by its own preference, which solver={label}{as_set} cannot.",
            f"Choose one of: {able}" + (" (pama by token or by sequence)." if "pama" in able else "."),
        )
    if c.name == "adapter" and config.evaluate.run is None:
        if config.adapter.name == "none":
            raise UserError(f"{where}: there is no adapter to act in.", "Add adapter=lora adapter.export=adapter.")
        if config.adapter.export != "adapter":
            raise UserError(
                f"{where}: folded into the weights, the adapter could be told nothing.", "Set adapter.export=adapter."
            )
    takes_shift = "shift_of" in parameters(locate(config.rollout.engine, "rollout.engine"))
    if c.name in ("embedding", "adapter") and not takes_shift:
        raise UserError(
            f"{where}: this rollout engine cannot be told preferences.",
            "Set rollout=fast, rollout=hf, or conditioning=prompt.",
        )
    if c.name == "prompt":
        make_writer(config)
        if c.levels % c.grid:
            raise UserError(
                f"conditioning.levels={c.levels} is not a multiple of conditioning.grid={c.grid}.",
                "Preferences are evaluated as they are written.",
            )
        if config.model.chat_template == "tokenizer":
            raise UserError(
                f"{where} writes before the prompt, and a chat template is to begin it.",
                "Use conditioning=embedding, or model.chat_template=none.",
            )


def check_pairs(config: Config, solver: Solver, plans: Sequence[ObjectivePlan], has_rows: bool) -> None:
    """`stage=dpo` has pairs of the objective that it names, weights that its method can use, and nothing unused.

    Raises:
        UserError: if not.
    """
    d, names = config.dpo, list(config.objectives)
    if config.stage.get("name") != "dpo":
        return
    if d.objective is not None and d.objective not in names:
        raise UserError(f"dpo.objective={d.objective} is none of the run's objectives.", suggest(d.objective, names))
    own = 0 if d.objective is None else names.index(d.objective)
    if d.method == "mo-odpo":
        moving = [name for name, node in config.objectives.items() if node.normaliser == "running"]
        if moving:
            raise UserError(
                f"dpo.method=mo-odpo compares rewards, and objectives.{moving[0]}.normaliser=running moves them.",
                "Use the normaliser frozen, or none.",
            )
        return
    if config.conditioning.name != "none":
        raise UserError(
            f"dpo.method={d.method} learns one preference, and conditioning={config.conditioning.name} tells many.",
            "Set dpo.method=mo-odpo, or conditioning=none.",
        )
    if d.method == "modpo" and not solver.weights[own] > 0:
        raise UserError(
            f"dpo.method=modpo divides by the weight of '{names[own]}', whose pairs it learns from, and that is 0.",
            "Give it a weight above 0, or name another in dpo.objective.",
        )
    if not has_rows and plans[own].program is None:
        raise UserError(
            f"There are no pairs of '{names[own]}': it has no gold program.",
            "Name an objective that has one in dpo.objective, or set dpo.method=mo-odpo.",
        )


def check_start(config: Config, task: Task, is_here: bool = True) -> None:
    """Check that the model can be read, and that prompts and responses fit into its positions.

    Args:
        config: of the run.
        task: its prompts and model.
        is_here: whether the run will be on this machine; if not, its support for quantisation is not checked.

    Raises:
        UserError: if `StartModel.check` refuses the model, if a prompt and response exceed its positions, or if its
            tokenizer has no tokens for the written preferences.
    """
    task.start.check(is_here)
    _check_written(config, task.start.tokenizer)
    _check_positions(config, task.start.tokenizer, max_positions(task.start.skeleton), _longest_read(config, task))


def solvers_that_take_preferences() -> list[str]:
    """The shipped solvers that can weight each response by its own preference."""
    nodes = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((CONF / "solver").glob("*.yaml"))}
    return [name for name, node in nodes.items() if getattr(locate(node, "solver"), "takes_preferences", False)]


def _check_written(config: Config, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that the tokenizer writes every preference of the grid with known, different tokens."""
    writer = make_writer(config)
    if writer is None:
        return
    texts = [writer.write("", preference) for preference in shares(len(config.objectives), config.conditioning.grid)]
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    unknown = tokenizer.unk_token_id is not None and any(tokenizer.unk_token_id in row for row in rows)
    if unknown or len({tuple(row) for row in rows}) < len(texts):
        raise UserError(
            f"conditioning=prompt: the tokenizer has no words for {texts[0]!r}.",
            "Use conditioning=embedding, which needs none.",
        )


def _longest_read(config: Config, task: Task) -> list[str]:
    """The longest prompts as the policy reads them, with the longest written preference."""
    writer, prompts = make_writer(config), task.longest()
    if writer is None:
        return prompts
    uneven = [1 / writer.levels] * (len(writer.names) - 1)
    return [writer.write(text, [*uneven, 1 - sum(uneven)]) for text in prompts]


def _check_positions(
    config: Config, tokenizer: PreTrainedTokenizerBase, positions: int | None, prompts: list[str]
) -> None:
    """Check that the longest prompt and the longest response fit into the model's positions."""
    if positions is None or not prompts:
        return
    longest = max(len(ids) for ids in encode(tokenizer, prompts))
    if longest >= positions:
        raise UserError(
            f"The longest prompt has {longest} tokens; the model '{config.model.name}' has {positions} positions.",
            f"Set data.max_prompt_tokens to less than {positions}, or choose a model with more positions.",
        )
    wanted = longest + config.rollout.sampling.max_new_tokens
    if wanted > positions:
        raise UserError(
            f"rollout.sampling.max_new_tokens={config.rollout.sampling.max_new_tokens} after prompts of up to "
            f"{longest} tokens needs {wanted} positions; the model '{config.model.name}' has {positions}.",
            f"Set rollout.sampling.max_new_tokens to at most {positions - longest}, or give the model more positions.",
        )


def _divisors_near(number: int, wanted: int) -> str:
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    return ", ".join(str(d) for d in sorted(sorted(divisors, key=lambda d: abs(d - wanted))[:3]))
