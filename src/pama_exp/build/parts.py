"""From a configuration to the objects that a stage needs."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PreTrainedTokenizerBase

from pama_exp.build.conditioned import check_conditioning
from pama_exp.build.task import Task, make_task
from pama_exp.config.instantiate import build, check_settings, locate
from pama_exp.config.naming import solver_label
from pama_exp.config.schema import CONF, Config, ObjectiveConfig
from pama_exp.data.prompts import PromptStream
from pama_exp.errors import UserError, suggest
from pama_exp.rewards.classifier import ClassifierScorer, check_published, published
from pama_exp.rewards.function import FunctionScorer
from pama_exp.rewards.gold import GoldScorer
from pama_exp.rewards.normalise import Frozen, Identity, Running
from pama_exp.rewards.objective import Objective
from pama_exp.rewards.scorer import Scorer
from pama_exp.rollout.engine import Sampling
from pama_exp.solvers.solver import Solver
from pama_exp.supervised.start_model import check_base, read_tokenizer, tokenizer_source
from pama_exp.supervised.testbed import reward_model
from pama_exp.tracking import backends
from pama_exp.training.strategies import check_trainer
from pama_exp.world import FactWorld

NORMALISERS = {"none": Identity, "running": Running, "frozen": Frozen}


def scorer_node(name: str, objective: ObjectiveConfig, domain: str) -> dict[str, Any]:
    """How the objective is scored in this domain; `any` serves where the domain is not named.

    Raises:
        UserError: if neither is there, or the entry is not of a known form.
    """
    node = objective.scorers.get(domain, objective.scorers.get("any"))
    if node is None:
        known = ", ".join(objective.scorers) or "none"
        raise UserError(
            f"The objective '{name}' has no scorer for the data domain '{domain}' (it has: {known}).",
            f"Add scorers.{domain} to its yaml, or choose one of: {', '.join(objectives_of(domain))}.",
        )
    if not {"program", "function", "_target_"} & set(node):
        raise UserError(
            f"objectives.{name}.scorers.{domain} holds none of program, function, _target_.",
            "Write program: NAME (a gold program), function: module:name, or _target_: package.Class.",
        )
    return dict(node)


def objectives_of(domain: str) -> list[str]:
    """The shipped objectives that this domain can score."""
    shipped = [
        yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted((CONF / "objectives").glob("*.yaml"))
    ]
    return [name for file in shipped for name, o in file.items() if {domain, "any"} & set(o.get("scorers") or {})]


def program_of(objective: ObjectiveConfig, domain: str) -> str | None:
    """The gold program behind the objective in this domain, if there is one."""
    return objective.scorers.get(domain, objective.scorers.get("any", {})).get("program")


def make_objectives(config: Config, world: FactWorld | None) -> list[Objective]:
    """The objectives in the order given, each with its proxy scorer and, where a program defines it, its gold one."""
    objectives = []
    for name, node in config.objectives.items():
        source = scorer_node(name, node, config.data.domain)
        program = source.get("program")
        gold = GoldScorer(world, program) if program is not None else None
        scorer: Scorer
        if program is not None and config.reward == "learned":
            scorer = ClassifierScorer(reward_model(config, world, program))
        elif gold is not None:
            scorer = gold
        else:
            scorer = make_scorer(source, f"objectives.{name}.scorers.{config.data.domain}")
        objectives.append(
            Objective(
                name=name,
                scorer=scorer,
                weight=node.weight,
                direction=node.direction,
                normaliser=NORMALISERS[node.normaliser](),
                range=tuple(node.range) if node.range is not None else None,
                gold=gold,
            )
        )
    return objectives


def make_scorer(node: dict[str, Any], where: str) -> Scorer:
    """A scorer that is not a FactWorld program: a Python function, or whatever `_target_` names."""
    return FunctionScorer(node["function"]) if "function" in node else build(node, where)


def make_solver(config: Config) -> Solver:
    """The solver, with `solver.weights` where given and the objectives' own weights otherwise.

    Raises:
        UserError: if the weights do not match the objectives, are negative, or are all zero, or if the solver does not
            go with the advantage estimator, the normalisers or the evaluations.
    """
    given = config.solver.get("weights")
    weights = [float(w) for w in ([o.weight for o in config.objectives.values()] if given is None else given)]
    if len(weights) != len(config.objectives):
        names = ", ".join(config.objectives)
        raise UserError(
            f"solver.weights={weights} has {len(weights)} values for {len(config.objectives)} objectives ({names}).",
            "Give one weight per objective, in their order.",
        )
    settings = {key: value for key, value in config.solver.items() if key not in ("weights", "name")}
    solver: Solver = build(settings, "solver", weights=weights)
    estimator = make_estimator(config)
    _check_solver(config, solver, estimator.label)
    solver.group_size = estimator.group_size
    return solver


def _check_solver(config: Config, solver: Solver, estimator: str) -> None:
    label = solver_label(config.solver)
    if solver.estimators and estimator not in solver.estimators:
        options = [" advantage.baseline=".join(["advantage=group", e.split("/")[1]]) for e in solver.estimators]
        raise UserError(
            f"solver={label} is not defined for the advantage '{estimator}'.", f"Add {' or '.join(options)}."
        )
    if solver.needs_validation and config.training.evaluate_every < 1:
        raise UserError(
            f"solver={label} is steered by validation, and training.evaluate_every={config.training.evaluate_every}.",
            "Set training.evaluate_every to a number of steps.",
        )
    moving = [name for name, node in config.objectives.items() if node.normaliser == "running"]
    if solver.needs_calibration and moving:
        raise UserError(
            f"solver={label} freezes a point of the rewards, and objectives.{moving[0]}.normaliser=running moves them.",
            "Use the normaliser frozen, or none.",
        )


def make_sampling(config: Config) -> Sampling:
    """How responses are sampled."""
    s = config.rollout.sampling
    return Sampling(max_new_tokens=s.max_new_tokens, temperature=s.temperature, top_p=s.top_p, top_k=s.top_k)


def evaluation_stream(config: Config, task: Task, tokenizer: Any, split: str, count: int) -> PromptStream:
    """The first `count` prompts of a held-out split."""
    texts, said = task.texts(split)[:count], task.said(split)[:count]
    columns = {name: values[:count] for name, values in task.columns(split).items()}
    return PromptStream(texts, tokenizer, prompts_per_step=len(texts), seed=0, columns=columns, said=said)


def use_threads(threads: int | None) -> None:
    """How many processor threads torch uses; all cores where None."""
    if threads is not None:
        torch.set_num_threads(threads)


def check_before_work(config: Config, *, all_there: bool = True, here: bool = True) -> None:
    """Everything that can be known to be wrong before any training starts.

    Args:
        config: of the run.
        all_there: whether models and data are; without, what is read from them is not checked.
        here: whether the run is to happen on this machine; otherwise its devices are not looked for.

    Raises:
        UserError: for the first thing found.
    """
    t, estimator = config.training, make_estimator(config)
    backends.check(config.logger.kinds)
    if config.evaluate.run is None and config.model.path is not None and not Path(config.model.path).is_dir():
        raise UserError(f"model.path={config.model.path} is not a folder.", "Give a folder in Hugging Face format.")
    if config.evaluate.run is not None and not (Path(config.evaluate.run) / "policy").is_dir():
        raise UserError(f"evaluate.run={config.evaluate.run} holds no policy/ folder.", "Name a finished run's folder.")
    task = make_task(config) if all_there or config.data.domain == "factworld" else None
    for name, node in scored_objectives(config, task).items():
        where = f"objectives.{name}"
        source = scorer_node(name, node, config.data.domain)
        program = source.get("program")
        if program is None and (all_there or "id" not in source):
            domain = config.data.domain if config.data.domain in node.scorers else "any"
            _check_scorer(source, f"{where}.scorers.{domain}")
        if program is not None and task is not None and program not in task.programs:
            raise UserError(
                f"{where}: the domain '{config.data.domain}' has no program '{program}'.",
                suggest(program, task.programs),
            )
        if node.normaliser not in NORMALISERS:
            raise UserError(f"{where}.normaliser={node.normaliser}.", suggest(node.normaliser, NORMALISERS))
        if node.direction not in ("maximize", "minimize"):
            raise UserError(f"{where}.direction={node.direction}.", "It is maximize or minimize.")
    check_conditioning(config, make_solver(config))
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
    for key in ("steps", "batch_size", "epochs", "mini_batch_size", "micro_batch_tokens"):
        if getattr(t, key) < 1:
            raise UserError(f"training.{key}={getattr(t, key)}.", "It is at least 1.")
    if not 0.0 < t.clip < 1.0:
        raise UserError(f"training.clip={t.clip}.", "The clip range ε lies between 0 and 1; 0.2 is usual.")
    check_trainer(config, here)
    if t.gramian.sketch_dimension < 1:
        raise UserError(f"training.gramian.sketch_dimension={t.gramian.sketch_dimension}.", "It is at least 1.")
    if t.gramian.target == "adapter" and config.adapter.name == "none":
        raise UserError("training.gramian.target=adapter: there is no adapter.", "Choose one with adapter=lora.")
    make_sampling(config).for_training()
    check_installed(config)
    check_settings(config.rollout.engine, "rollout.engine", "model", "tokenizer")
    if (
        all_there
        and task is not None
        and not (config.stage.get("name") == "evaluate" and config.evaluate.run is not None)
    ):
        known = config if here else replace(config, adapter=replace(config.adapter, bits=None))
        check_base(known, _random_models_tokenizer(config, task), task.longest())


def _check_scorer(node: dict[str, Any], where: str) -> None:
    """A classifier by its folder; anything else that has nothing to load by making it."""
    if "function" not in node and locate(node, where) is published:
        check_published(node, where)
    elif not {"id", "path"} & set(node):
        make_scorer(node, where)


def _random_models_tokenizer(config: Config, task: Task) -> PreTrainedTokenizerBase | None:
    """None where the model's folder holds one."""
    if config.model.path is not None or config.model.weights == "pretrained":
        return None
    return task.world.tokenizer() if task.world is not None else read_tokenizer(tokenizer_source(config.model))


def check_installed(config: Config) -> None:
    """The package that the rollout engine names as required is there.

    Raises:
        UserError: if it is not.
    """
    package = getattr(locate(config.rollout.engine, "rollout.engine"), "requires", None)
    if package is not None and find_spec(package) is None:
        raise UserError(f"rollout.engine needs {package}.", f"pip install 'pama-exp[{package}]', or set rollout=fast.")


def make_estimator(config: Config) -> Any:
    """The advantage estimator."""
    return build(config.advantage, "advantage")


def _divisors_near(whole: int, wanted: int) -> str:
    divisors = [d for d in range(1, whole + 1) if whole % d == 0]
    return ", ".join(str(d) for d in sorted(sorted(divisors, key=lambda d: abs(d - wanted))[:3]))


def scored_objectives(config: Config, task: Task | None) -> dict[str, ObjectiveConfig]:
    """The objectives that the stage scores by: none where it learns from the rows of a table."""
    learns_rows = (task is None or task.world is None) and config.stage.get("name") in ("sft", "reward_model")
    return {} if learns_rows else config.objectives
