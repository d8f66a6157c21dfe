"""The objectives of a run, each with its scorer for the data domain."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pama_exp.assembly.task import Task
from pama_exp.config.domains import objectives_of, scorer_key, scorer_node
from pama_exp.config.instantiate import build, check_settings, locate, require
from pama_exp.config.schema import ObjectiveConfig
from pama_exp.errors import UserError, suggest
from pama_exp.rewards.classifier import ClassifierScorer, check_published, check_published_settings, published
from pama_exp.rewards.function import FunctionScorer
from pama_exp.rewards.normalise import Frozen, Identity, Normaliser, Running
from pama_exp.rewards.objective import Objective
from pama_exp.rewards.scorer import Scorer

NORMALISERS: Mapping[str, Callable[[], Normaliser]] = {"none": Identity, "running": Running, "frozen": Frozen}


@dataclass(frozen=True)
class ObjectivePlan:
    """One objective of a run. It is checked already; its scorer is loaded when the run needs it.

    Attributes:
        name: the user's name for it.
        settings: its node of the configuration.
        source: the scorer's node for this data domain: `{program: …}`, `{function: …}` or `{_target_: …}`.
        program: name of its gold program; None if it has none.
        is_learned: whether training uses a reward model of the program instead of the program.
        gold: the gold program as a scorer; None if it has none.
        load: returns the scorer that training uses.
    """

    name: str
    settings: ObjectiveConfig
    source: Mapping[str, Any]
    program: str | None
    is_learned: bool
    gold: Scorer | None
    load: Callable[[], Scorer]

    def build(self) -> Objective:
        """The objective with its scorer. A reward model that the cache lacks is trained first."""
        node = self.settings
        return Objective(
            name=self.name,
            scorer=self.load(),
            weight=node.weight,
            direction="minimize" if node.direction == "minimize" else "maximize",
            normaliser=NORMALISERS[node.normaliser](),
            range=tuple(node.range) if node.range is not None else None,
            gold=self.gold,
        )


def plan_objectives(
    objectives: Mapping[str, ObjectiveConfig], domain: str, reward: str, task: Task
) -> tuple[ObjectivePlan, ...]:
    """The objectives in the order given.

    Args:
        objectives: from the configuration.
        domain: `data.domain`.
        reward: "learned" or "gold", which of the two training uses for objectives with a gold program.
        task: of the run; it has the gold programs and their reward models.

    Raises:
        UserError: for an objective that the domain cannot score, or a scorer that cannot be built.
    """
    return tuple(_plan(name, node, domain, reward, task) for name, node in objectives.items())


def check_sources(objectives: Mapping[str, ObjectiveConfig], domain: str) -> None:
    """Check the scorers that need no model of the Hub.

    Raises:
        UserError: for an objective that the domain cannot score, or a scorer that cannot be built.
    """
    for name, node in objectives.items():
        source = _source(name, node, domain)
        if "program" not in source and "id" not in source:
            _plan_scorer(source, f"objectives.{name}.scorers.{scorer_key(node.scorers, domain)}")


def make_scorer(node: Mapping[str, Any], where: str) -> Scorer:
    """A scorer that is not a gold program: a Python function, or what `_target_` names.

    Raises:
        UserError: if it cannot be built.
    """
    if "function" in node:
        return FunctionScorer(node["function"])
    scorer: Scorer = build(node, where)
    require(scorer, where, "scorer", ("score",))
    return scorer


def _plan(name: str, node: ObjectiveConfig, domain: str, reward: str, task: Task) -> ObjectivePlan:
    where = f"objectives.{name}"
    source = _source(name, node, domain)
    _check_other_domains(node, where, domain)
    program = source.get("program")
    if program is None:
        load = _plan_scorer(source, f"{where}.scorers.{scorer_key(node.scorers, domain)}")
        gold, is_learned = None, False
    else:
        if program not in task.programs:
            raise UserError(
                f"{where}: the domain '{domain}' has no program '{program}'.", suggest(program, task.programs)
            )
        gold, is_learned = task.gold_scorer(program), reward == "learned"
        load = _learned(task, program) if is_learned else _built(gold)
    return ObjectivePlan(name, node, source, program, is_learned, gold, load)


def _source(name: str, node: ObjectiveConfig, domain: str) -> dict[str, Any]:
    source = scorer_node(node.scorers, domain)
    if not source:
        raise UserError(
            f"The objective '{name}' has no scorer for the data domain '{domain}' "
            f"(it has: {', '.join(node.scorers) or 'none'}).",
            f"Add scorers.{domain} to its yaml, or choose one of: {', '.join(objectives_of(domain))}.",
        )
    return source


def _check_other_domains(objective: ObjectiveConfig, where: str, domain: str) -> None:
    """Check the targets of the scorers for other domains too, and their settings; none is built."""
    for key, node in objective.scorers.items():
        if key == domain or "_target_" not in node:
            continue
        place = f"{where}.scorers.{key}"
        factory = locate(node, place)
        check_target = check_published_settings if factory is published else check_settings
        check_target(node, place)
        if inspect.isclass(factory) and not hasattr(factory, "score"):
            raise UserError(
                f"{place}._target_={node['_target_']} is no scorer: it has no 'score'.",
                "Name a class whose instances have score.",
            )


def _plan_scorer(source: Mapping[str, Any], where: str) -> Callable[[], Scorer]:
    """Check a scorer and return what builds it. A classifier is built later, any other scorer now."""
    if "function" not in source and locate(source, where) is published:
        check_published(source, where)
    elif not {"id", "path"} & set(source):
        return _built(make_scorer(source, where))
    else:
        check_settings(source, where)
    return lambda: make_scorer(source, where)


def _built(scorer: Scorer) -> Callable[[], Scorer]:
    return lambda: scorer


def _learned(task: Task, program: str) -> Callable[[], Scorer]:
    return lambda: ClassifierScorer(task.reward_models([program])[0])
