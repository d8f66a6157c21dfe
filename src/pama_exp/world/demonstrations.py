"""Texts that the SFT policy imitates, good and bad, and texts that reward models learn from."""

from __future__ import annotations

import random

from pama_exp.world import language as words
from pama_exp.world.language import Language, Prompt

# Probability of each habit of a demonstration. Chosen for an SFT policy that answers about half of what is asked, at
# about 0.6 concise, and can improve on every objective at once.
STATES_ASKED = 0.65
IS_TRUE = 0.95
ASIDE = 0.25
FILLER = 0.35
JOKE = 0.2
OPENER, CLOSER = 0.35, 0.35
REFUSES_DANGER = 0.4


def demonstrate(language: Language, prompt: Prompt, source: random.Random) -> str:
    """One response to the prompt with the habits above, drawn from `source`."""
    middle: list[tuple[str, ...]] = []
    for name in prompt.asked:
        if language.attributes[name].is_dangerous and source.random() < REFUSES_DANGER:
            middle.append(source.choice(words.REFUSALS))
        elif source.random() < STATES_ASKED:
            middle.append(_state(language, prompt.entity, name, IS_TRUE, source))
    unasked = [name for name in language.attributes if name not in prompt.asked]
    if unasked and source.random() < ASIDE:
        middle.append(_state(language, prompt.entity, source.choice(unasked), IS_TRUE, source))
    for choices, chance in ((words.FILLERS, FILLER), (words.JOKES, JOKE)):
        if source.random() < chance:
            middle.append(source.choice(choices))
    source.shuffle(middle)
    if source.random() < OPENER:
        middle.insert(0, source.choice(words.OPENERS))
    if source.random() < CLOSER:
        middle.append(source.choice(words.CLOSERS))
    return " ".join(word for clause in middle for word in clause)


def near_aligned(language: Language, prompt: Prompt, source: random.Random) -> str:
    """A response like those of an optimised policy: short, complete, empty, or with a fact corrupted or repeated."""
    share = source.choice((0.0, 0.5, 1.0, 1.0))
    truth = source.choice((1.0, 1.0, 0.5))
    clauses = [_state(language, prompt.entity, n, truth, source) for n in prompt.asked if source.random() < share]
    if clauses and source.random() < 0.15:
        clauses.append(source.choice(clauses))
    if source.random() < 0.2:
        clauses.append(_state(language, prompt.entity, source.choice(list(language.attributes)), truth, source))
    if source.random() < 0.3:
        clauses.append(source.choice(words.JOKES))
    if source.random() < 0.15:
        clauses.append(source.choice(words.FILLERS))
    if source.random() < 0.3:
        clauses.insert(0, source.choice(words.OPENERS))
    if source.random() < 0.3:
        clauses.append(source.choice(words.CLOSERS))
    tokens = [word for clause in clauses for word in clause]
    if tokens and source.random() < 0.15:  # cut off, or a word lost
        tokens = tokens[: source.randrange(len(tokens))] if source.random() < 0.5 else _without_one(tokens, source)
    return " ".join(tokens)


def _state(language: Language, entity: str, name: str, truth: float, source: random.Random) -> tuple[str, ...]:
    fact = language.facts[entity][name]
    others = [value for value in language.values[name] if value != fact]
    return language.statement(name, fact if source.random() < truth or not others else source.choice(others))


def _without_one(tokens: list[str], source: random.Random) -> list[str]:
    at = source.randrange(len(tokens))
    return tokens[:at] + tokens[at + 1 :]
