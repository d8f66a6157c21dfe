"""Checks of a setting's type, range and choices.

A parameter of a class that a `_target_` names states them in its annotation, such as `Annotated[float,
Range(above=0)]`. A field of the schema states them in its metadata, because OmegaConf does not support `Annotated`.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Protocol, TypeVar, Union, cast, get_args, get_origin, runtime_checkable

from pama_exp.errors import UserError, suggest

F = TypeVar("F", bound=Callable[..., Any])
LARGEST_FLOAT, LARGEST_INT = 3.4e38, 2**63 - 1  # of float32 and of 64-bit integers
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}
_LISTS, _MAPPINGS = (Sequence, list, tuple), (Mapping, dict)


@runtime_checkable
class Rule(Protocol):
    """A condition on a value besides its type. `str(rule)` follows the type's name in messages."""

    def admits(self, value: Any) -> bool:
        """Whether the value, which is of the right type, satisfies the rule."""
        ...


@dataclass(frozen=True)
class Range:
    """Numbers between bounds, and the numbers in `also`. Without bounds, any finite number.

    Attributes:
        least: lower bound, included.
        most: upper bound, included.
        above: lower bound, excluded.
        below: upper bound, excluded.
        also: further numbers that are allowed.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    also: tuple[int, ...] = ()

    def admits(self, value: Any) -> bool:
        """Whether the number is within all bounds, or in `also`."""
        return value in self.also or (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        limits = [("of at least", self.least), ("above", self.above), ("of at most", self.most), ("below", self.below)]
        bounds = " and ".join(f"{words} {bound:,}" for words, bound in limits if bound is not None)
        return " or ".join([bounds, *map(str, self.also)])


@dataclass(frozen=True)
class Filled:
    """Text that is not blank: a blank path would be the current folder."""

    def admits(self, value: Any) -> bool:
        """Whether there is a character to be seen."""
        return bool(str(value).strip())

    def __str__(self) -> str:
        return "that is not blank"


@dataclass(frozen=True, init=False)
class OneOf:
    """A choice among a few values."""

    choices: tuple[Any, ...]

    def __init__(self, *choices: Any) -> None:
        object.__setattr__(self, "choices", choices)

    def admits(self, value: Any) -> bool:
        """Whether the value is one of the choices."""
        return value in self.choices

    def __str__(self) -> str:
        return f"among {', '.join(map(str, self.choices))}"


@dataclass(frozen=True)
class Bounds:
    """A list of two numbers, the lower one first.

    Attributes:
        least: lower bound of both, included.
        equal: whether the two may be equal.
    """

    least: float | None = None
    equal: bool = False

    def admits(self, value: Sequence[float]) -> bool:
        """Whether the list has two numbers in order."""
        return (
            len(value) == 2
            and (self.least is None or value[0] >= self.least)
            and (value[0] < value[1] or (self.equal and value[0] == value[1]))
        )

    def __str__(self) -> str:
        return "of two, the lower one first" + ("" if self.least is None else f", of at least {self.least:,}")


@dataclass(frozen=True, init=False)
class Shares:
    """A mapping with exactly these names as keys and numbers above 0 that sum to 1 as values."""

    names: tuple[str, ...]

    def __init__(self, *names: str) -> None:
        object.__setattr__(self, "names", names)

    def admits(self, value: Mapping[str, float]) -> bool:
        """Whether the keys are the names, and the values are above 0 and sum to 1."""
        return set(value) == set(self.names) and min(value.values()) > 0 and math.isclose(sum(value.values()), 1.0)

    def __str__(self) -> str:
        return f"of shares above 0 that sum to 1, for {', '.join(self.names)}"


Seed = Annotated[int, Range(least=0, most=2**32 - 1)]


def check(value: Any, annotation: Any, where: str) -> None:
    """Check that a value has the annotated type and satisfies the annotation's rules. Numbers must be finite.

    Args:
        value: a scalar, a list or a mapping.
        annotation: `bool`, `int`, `float`, `str`, None, lists and mappings of these, unions, `Literal`, or `Annotated`
            with rules. For any other type every value is accepted.
        where: the setting's key, for messages.

    Raises:
        UserError: if it does not.
    """
    if admits(value, annotation):
        return
    choices = next((rule.choices for rule in rules_of(annotation) if isinstance(rule, OneOf)), None)
    if choices is not None and isinstance(value, str):
        raise UserError(f"{where}={shown(value)} is not one of its values.", suggest(value, [str(c) for c in choices]))
    plain = without_rules(annotation)
    raise UserError(f"{where}={shown(value)}.", f"It is {described(annotation if admits(value, plain) else plain)}.")


def admits(value: Any, annotation: Any) -> bool:
    """Whether `check` accepts the value for the annotation."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        kind, *rules = inner
        return admits(value, kind) and all(rule.admits(value) for rule in rules if isinstance(rule, Rule))
    if origin in (Union, UnionType):
        return any(admits(value, kind) for kind in inner)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in inner)
    kind = origin or annotation
    if kind in _LISTS:
        return isinstance(value, list | tuple) and all(admits(item, inner[0]) for item in value if inner)
    if kind in _MAPPINGS:
        return isinstance(value, Mapping) and all(admits(item, inner[1]) for item in value.values() if inner)
    if kind is None or kind is NoneType:
        return value is None
    if kind is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and abs(value) <= LARGEST_FLOAT  # False for NaN
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST_INT
    return isinstance(value, kind) if kind in (bool, str) else True


def described(annotation: Any) -> str:
    """The annotation in words, such as "a number above 0 or null"."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return " ".join([described(inner[0]), *(str(rule) for rule in inner[1:] if isinstance(rule, Rule))]).rstrip()
    if origin in (Union, UnionType):
        return " or ".join(described(kind) for kind in inner)
    if origin is Literal:
        return " or ".join(map(str, inner))
    kind = origin or annotation
    if kind in _LISTS:
        return "a list" + (f", each item {described(inner[0])}" if inner and inner[0] in _NAMES else "")
    if kind in _MAPPINGS:
        return "a mapping"
    return _NAMES.get(NoneType if kind is None else kind, "what its owner takes")


def without_rules(annotation: Any) -> Any:
    """The annotation without rules: its types only."""
    if get_origin(annotation) is Annotated:
        return get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        return Union[tuple(map(without_rules, get_args(annotation)))]  # noqa: UP007
    return annotation


def rules_of(annotation: Any) -> list[Rule]:
    """All rules in the annotation, nested ones included."""
    if get_origin(annotation) is Annotated:
        kind, *rules = get_args(annotation)
        return [*(rule for rule in rules if isinstance(rule, Rule)), *rules_of(kind)]
    return [rule for inner in get_args(annotation) for rule in rules_of(inner)]


def with_rule(annotation: Any, rule: Rule | None) -> Any:
    """`Annotated[annotation, rule]`. If the annotation allows null, the result allows it too."""
    if rule is None:
        return annotation
    if get_origin(annotation) in (Union, UnionType):
        kinds = tuple(kind if kind is NoneType else Annotated[kind, rule] for kind in get_args(annotation))
        return Union[kinds]  # noqa: UP007
    return Annotated[annotation, rule]


def checked(where: str) -> Callable[[F], F]:
    """A decorator that checks a function's arguments against the rules of its annotations, for calls from Python.

    Args:
        where: the section of the configuration that sets the parameters, for messages.

    Raises:
        UserError: when the function is called with an argument that breaks a rule.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for name, value in inspect.signature(function).bind(*args, **kwargs).arguments.items():
                if name in _ruled(function):
                    check(value, _ruled(function)[name], f"{where}.{name}")
            return function(*args, **kwargs)

        return cast(F, call)

    return decorate


@functools.cache
def _ruled(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(function, eval_str=True).parameters
    return {name: p.annotation for name, p in parameters.items() if rules_of(p.annotation)}


def _typed(value: Any) -> str:
    """Null, true and false as yaml and commands have them; an object, which no one typed, by its class."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {_typed(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_typed, value)) + "]"
    text = repr(value)
    return f"an object of {type(value).__name__}" if text.startswith("<") and " at 0x" in text else text


def shown(value: Any, longest: int = 80) -> str:
    """A value for a message: as it is typed, on one line, cut to `longest` characters."""
    text = " ".join((value if isinstance(value, str) else _typed(value)).split())
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
