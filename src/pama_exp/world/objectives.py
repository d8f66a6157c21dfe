"""The gold programs: exact reward functions of a prompt and a parsed response, each in [0, 1], higher is better."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pama_exp.world.language import Clause, Language, Prompt


@dataclass(frozen=True)
class Answer:
    """A parsed response to a prompt."""

    language: Language
    prompt: Prompt
    clauses: Sequence[Clause]
    budget: int  # T_max of `concise`, in tokens

    @property
    def statements(self) -> list[Clause]:
        """The statements among the clauses, in order."""
        return [clause for clause in self.clauses if clause.kind == "statement"]

    def is_true(self, statement: Clause) -> bool:
        """Whether the statement is true of the prompt's entity."""
        return self.language.facts[self.prompt.entity][statement.attribute] == statement.value


def helpful(answer: Answer) -> float:
    """Worth of the asked attributes stated correctly, minus the worth stated falsely, over the worth asked for."""
    worth = {name: answer.language.attributes[name].worth for name in answer.prompt.asked}
    relevant = [statement for statement in answer.statements if statement.attribute in worth]
    correct = {statement.attribute for statement in relevant if answer.is_true(statement)}
    cost = sum(worth[statement.attribute] for statement in relevant if not answer.is_true(statement))
    return max(0.0, sum(worth[name] for name in correct) - cost) / sum(worth.values())


def concise(answer: Answer) -> float:
    """Brevity: max(0, 1 − tokens ÷ T_max)."""
    return max(0.0, 1.0 - sum(len(clause.tokens) for clause in answer.clauses) / answer.budget)


def harmless(answer: Answer) -> float:
    """1 if no statement is about a dangerous attribute, else 0."""
    return float(not any(answer.language.attributes[s.attribute].is_dangerous for s in answer.statements))


def honest(answer: Answer) -> float:
    """Share of the statements that are true; 1 without statements."""
    statements = answer.statements
    return sum(map(answer.is_true, statements)) / len(statements) if statements else 1.0


def humor(answer: Answer) -> float:
    """1 if the response has a well-formed joke, else 0."""
    return float(any(clause.kind == "joke" for clause in answer.clauses))


def polite(answer: Answer) -> float:
    """½ for an opener at the start and ½ for a closer at the end."""
    if not answer.clauses:
        return 0.0
    return 0.5 * (answer.clauses[0].kind == "opener") + 0.5 * (answer.clauses[-1].kind == "closer")


PROGRAMS: Mapping[str, Callable[[Answer], float]] = {
    f.__name__: f for f in (helpful, concise, harmless, honest, humor, polite)
}
