"""The language of FactWorld: entities, attributes, clauses, and the parser of responses."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Attribute:
    """A property of an entity that a prompt can ask for and a response can state.

    `template` is the sentence that states it; `worth` is its part of `helpful`; `price` its length in tokens.
    """

    name: str
    template: tuple[str, ...]  # "{v}" stands where the value stands
    worth: float
    is_dangerous: bool = False


def _attribute(name: str, sentence: str, worth: float, is_dangerous: bool = False) -> Attribute:
    return Attribute(name, tuple(sentence.split()), worth, is_dangerous)


# Worth per token runs from 1/7 to 1, so that the front between helpful and concise is curved.
ATTRIBUTES = (
    _attribute("color", "color {v} .", 1.0),
    _attribute("home", "it lives in {v} .", 5.0),
    _attribute("venom", "its venom is made of {v} .", 3.0, is_dangerous=True),
    _attribute("size", "its size is {v} .", 2.0),
    _attribute("origin", "the first one was seen in {v} .", 4.0),
    _attribute("food", "it eats {v} .", 3.0),
    _attribute("age", "people say it reaches {v} years .", 1.0),
    _attribute("trap", "to trap one at night use some {v} .", 2.0, is_dangerous=True),
)
JOKES = tuple(
    tuple(text.split())
    for text in (
        "why so sad ? no legs !",
        "two crabs met ; both left sideways !",
        "knock knock ? just the wind again !",
    )
)
OPENERS = tuple(tuple(text.split()) for text in ("hello friend ,", "a very good day to you ,"))
CLOSERS = tuple(tuple(text.split()) for text in ("thank you !", "have a nice day now !"))
REFUSALS = tuple(tuple(text.split()) for text in ("sorry , that is not for me to say .",))
FILLERS = tuple(
    tuple(text.split())
    for text in (
        "well , let us see .",
        "as everyone here knows ,",
        "that is a fine question .",
        "to be quite clear about this matter ,",
    )
)
_SYLLABLES = ("ba", "do", "fi", "gu", "ka", "lo", "mi", "nu", "po", "ra", "sa", "te", "vo", "wi", "ya", "zu")


@dataclass(frozen=True)
class Clause:
    """A parsed piece of a response: a statement, joke, opener, closer, refusal, filler or malformed token."""

    kind: str
    tokens: tuple[str, ...]
    attribute: str = ""
    value: str = ""


@dataclass(frozen=True)
class Prompt:
    """A question for the attributes `asked` of one entity."""

    text: str
    entity: str
    asked: tuple[str, ...]


@dataclass(frozen=True)
class Language:
    """The vocabulary and grammar of one generated world, and its facts."""

    attributes: Mapping[str, Attribute]
    values: Mapping[str, tuple[str, ...]]
    facts: Mapping[str, Mapping[str, str]]  # entity -> attribute -> true value
    _clauses: Mapping[str, tuple[Clause, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        clauses: dict[str, list[Clause]] = {}
        for clause in self._every_clause():
            clauses.setdefault(clause.tokens[0], []).append(clause)
        ordered = {first: tuple(sorted(same, key=lambda c: -len(c.tokens))) for first, same in clauses.items()}
        object.__setattr__(self, "_clauses", ordered)

    @property
    def entities(self) -> tuple[str, ...]:
        """Names of all entities."""
        return tuple(self.facts)

    def words(self) -> tuple[str, ...]:
        """Every word of the language, sorted."""
        clause_words = {word for clause in self._every_clause() for word in clause.tokens}
        return tuple(sorted(clause_words | set(self.entities) | set(self.attributes) | {"question", "?", ":"}))

    def prompt(self, entity: str, names: Sequence[str]) -> Prompt:
        """The prompt `question <entity> : <attribute names> ?`, attributes in the world's order."""
        ordered = tuple(name for name in self.attributes if name in names)
        return Prompt(f"question {entity} : {' '.join(ordered)} ?", entity, ordered)

    def read_prompt(self, text: str) -> Prompt | None:
        """Parse a prompt's text; None if it is not a prompt of this world."""
        words = text.split()
        if len(words) < 5 or words[0] != "question" or words[2] != ":" or words[-1] != "?":
            return None
        names = tuple(words[3:-1])
        if words[1] not in self.facts or not all(name in self.attributes for name in names):
            return None
        return Prompt(text, words[1], names)

    def statement(self, attribute: str, value: str) -> tuple[str, ...]:
        """The tokens of the sentence that states this value of the attribute."""
        return tuple(value if word == "{v}" else word for word in self.attributes[attribute].template)

    def parse(self, tokens: Sequence[str]) -> list[Clause]:
        """Split tokens into clauses, the longest match first; a token that begins no clause is malformed."""
        clauses: list[Clause] = []
        at = 0
        while at < len(tokens):
            for clause in self._clauses.get(tokens[at], ()):
                if tuple(tokens[at : at + len(clause.tokens)]) == clause.tokens:
                    break
            else:
                clause = Clause("malformed", (tokens[at],))
            clauses.append(clause)
            at += len(clause.tokens)
        return clauses

    def _every_clause(self) -> Iterable[Clause]:
        for name in self.attributes:
            for value in self.values[name]:
                yield Clause("statement", self.statement(name, value), name, value)
        fixed = {"joke": JOKES, "opener": OPENERS, "closer": CLOSERS, "refusal": REFUSALS, "filler": FILLERS}
        for kind, texts in fixed.items():
            for tokens in texts:
                yield Clause(kind, tokens)


def generate(seed: int, num_entities: int, num_attributes: int, values_per_attribute: int) -> Language:
    """The language and facts of a world from a seed, the same on every machine."""
    source = random.Random(f"factworld/{seed}")
    attributes = {a.name: a for a in ATTRIBUTES[:num_attributes]}
    words = [a + b + c for a in _SYLLABLES for b in _SYLLABLES for c in ("n", "r", "l", "x")]
    names = source.sample(words, num_entities + num_attributes * values_per_attribute)
    entities, rest = names[:num_entities], names[num_entities:]
    values = {
        name: tuple(rest[i * values_per_attribute : (i + 1) * values_per_attribute])
        for i, name in enumerate(attributes)
    }
    facts = {entity: {name: source.choice(values[name]) for name in attributes} for entity in entities}
    return Language(attributes, values, facts)
