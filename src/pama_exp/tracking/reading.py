"""Reading the files of a run's folder as plain data, and checking that they hold what later code relies on.

No value is interpolated or built, and no read blocks. A file that is not as expected is an error of two lines.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pama_exp.config.naming import shown
from pama_exp.errors import UserError
from pama_exp.safety.secrets import redacted
from pama_exp.storage import files

Check = Callable[[Any, str], None]  # (value, its place in the file); raises ValueError with the reason

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's loader, if installed, is ten times faster
_LARGEST = 2**26  # bytes of a document
_MOST_VALUES = 200_000  # of a document; a short yaml with aliases may hold more
_DEEPEST = 50  # levels of nesting
_LARGEST_FLOAT = sys.float_info.max
_HIGHEST = 3.5e38  # what a float32 can hold
_BILL = ("prompts", "tokens", "reward_calls", "forwards", "backwards", "seconds", "peak_memory_bytes")
_HINT = "Bring the file back from a copy, or give force=true to run again from the start."


def read_json(path: Path, check: Check) -> dict[str, Any]:
    """A mapping from a file of JSON.

    Raises:
        UserError: if the file is missing or damaged, or `check` raises.
    """
    return _read(path, json.loads, check)


def read_yaml(path: Path, check: Check) -> dict[str, Any]:
    """A mapping from a file of yaml, with secrets hidden. Tags are refused. Errors as `read_json`."""
    return dict(redacted(_read(path, lambda text: yaml.load(text, Loader=_LOADER), check)))


def checked(path: Path, content: dict[str, Any], check: Check) -> dict[str, Any]:
    """The content that was read from `path`, checked.

    Raises:
        UserError: if `check` raises.
    """
    try:
        check(content, "it")
    except ValueError as error:
        raise _damaged(path, str(error)) from None
    return content


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The complete rows of a table; empty if there is no file. A killed process may leave a partial last line.

    Raises:
        UserError: for the first line that is no row.
    """
    try:
        text = files.read_text(path)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise _damaged(path, _reason(error)) from None
    rows = []
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            row = json.loads(line)
            _row(row)
            if "\\u" in line:
                _scalar(json.dumps(row, ensure_ascii=False))
        except (ValueError, RecursionError) as error:
            reason = str(error) if not isinstance(error, json.JSONDecodeError) else "it is no JSON"
            raise _damaged(path, f"line {number}: {reason}") from None
        rows.append(row)
    return rows


def check_mapping(value: Any, where: str) -> None:
    """Check that the value is a mapping."""
    _mapping()(value, where)


def check_status(value: Any, where: str) -> None:
    """Check the content of status.json."""
    _mapping(state=_text)(value, where)
    _mapping(step=_count, detail=_text, time=_number, optional=True)(value, where)


def check_sweep(value: Any, where: str) -> None:
    """Check the content of sweep.json."""
    _mapping(jobs=_list(_mapping(number=_whole)))(value, where)


def check_front(value: Any, where: str) -> None:
    """Check the content of front.json."""
    _mapping(trials=_list(_mapping(trial=_whole, folder=_maybe(_text))))(value, where)


def check_environment(value: Any, where: str) -> None:
    """Check the content of environment.json."""
    _mapping(command=_list(_text))(value, where)
    git = _maybe(_mapping(commit=_text, dirty=_any_of(bool)))
    _mapping(git=git, packages=_every(_maybe(_text)), optional=True)(value, where)


def check_config(value: Any, where: str) -> None:
    """Check the parts of config.yaml that are read back."""
    scorers = _every(_maybe(_mapping(program=_text, optional=True)))
    objective = _mapping(weight=_number, direction=_text, description=_text, scorers=scorers, optional=True)
    _mapping(objectives=_every(objective), solver=_mapping(), seed=_whole)(value, where)
    name = _mapping(name=_text, optional=True)
    _mapping(
        stage=name,
        conditioning=name,
        data=_mapping(domain=_text, world=_mapping(), optional=True),
        training=_mapping(steps=_number, optional=True),
        optional=True,
    )(value, where)
    weights = _maybe(_list(_number))
    _mapping(name=_text, _target_=_text, weights=weights, optional=True)(value["solver"], "solver")
    listed, objectives = value["solver"].get("weights"), value["objectives"]
    if listed is not None and len(listed) != len(objectives):
        raise ValueError(f"solver.weights has {len(listed)} values for {len(objectives)} objectives")


def check_result(value: Any, where: str) -> None:
    """Check the parts of any stage's result.json that are read back."""
    _mapping(
        status=_text,
        seed=_whole,
        seconds=_number,
        run_dir=_text,
        objectives=_every(_mapping(before=_maybe(_means), after=_maybe(_means))),
        true_hypervolume_share=_maybe(_mapping(before=_maybe(_number), after=_maybe(_number), optional=True)),
        bill=_maybe(_bill),
        calibration=_maybe(_every(_every(_maybe(_mapping(mean=_number, deviation=_number))))),
        points=_list(_mapping(preference=_every(_number), objectives=_every(_means))),
        reward_models=_every(_mapping(held_out_accuracy=_number)),
        config=check_config,
        optional=True,
    )(value, where)


def check_point(result: Mapping[str, Any], names: Sequence[str]) -> None:
    """Check that a result with an operating point has values for every objective.

    Raises:
        ValueError: naming the first that is missing.
    """
    for name in names:
        if (result.get("objectives") or {}).get(name, {}).get("after") is None:
            raise ValueError(f"objectives.{name}.after is missing")
        if any(name not in point[key] for point in result.get("points", ()) for key in ("preference", "objectives")):
            raise ValueError(f"points: one lacks {name}")
        if result.get("calibration") and not (result["calibration"].get(name) or {}).get("proxy"):
            raise ValueError(f"calibration.{name}.proxy is missing")


def _read(path: Path, parse: Callable[[str], Any], check: Check) -> dict[str, Any]:
    try:
        content = parse(files.read_text(path, _LARGEST))
        _plain(content)
        check(content, "it")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.", "Is this a run's folder?") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise _damaged(path, _reason(error)) from None
    return dict(content)


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"{shown(path)} is damaged: {shown(reason)[:160]}.", _HINT)


def _reason(error: Exception) -> str:
    """The reason in a short line."""
    if isinstance(error, json.JSONDecodeError):
        return f"it cannot be read, being no JSON from line {error.lineno} on"
    if isinstance(error, yaml.YAMLError):
        mark = getattr(error, "problem_mark", None)
        return "it cannot be read, being no plain yaml" + ("" if mark is None else f" from line {mark.line + 1} on")
    if isinstance(error, UnicodeDecodeError):
        return "it cannot be read, being no UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return f"it cannot be read ({error.strerror})" if isinstance(error, OSError) else str(error)


def _plain(content: Any) -> None:
    """Check that the content is plain: text, numbers, booleans, nulls, mappings and lists, not too many or too deep."""
    left = _MOST_VALUES
    level = [content]
    for _ in range(_DEEPEST):
        deeper: list[Any] = []
        for value in level:
            if isinstance(value, Mapping):
                if len(set(map(type, value))) > 1:
                    raise ValueError("it holds a mapping with keys of several types")
                deeper += [*value.keys(), *value.values()]
            elif isinstance(value, list):
                deeper += value
            else:
                _scalar(value)
            if len(deeper) > left:
                raise ValueError(f"it has more than {_MOST_VALUES} values")
        left -= len(deeper)
        level = deeper
        if not level:
            return
    raise ValueError("it is nested too deeply")


def _scalar(value: Any) -> None:
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("it holds half a character") from None
    elif isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise ValueError("it holds a whole number of more than 64 bits")
    elif value is not None and not isinstance(value, bool | int | float):
        raise ValueError(f"it holds a value of the type {type(value).__name__}")


def _row(row: Any) -> None:
    """Check a row of a table: numbers, null for one that was not finite, and the texts of a generation."""
    if not isinstance(row, dict):
        raise ValueError("it is no mapping")
    _count(row.get("step"), "step")
    for key, value in row.items():
        if key in ("prompt", "response", "split"):
            _text(value, key)
        elif isinstance(value, int | float):
            if not abs(value) <= _LARGEST_FLOAT:
                raise ValueError(f"{key[:60]} is not finite")
        elif "/" in key and value is not None:
            raise ValueError(f"{key[:60]} is no number")


def _mapping(optional: bool = False, **checks: Check) -> Check:
    """A check of a mapping's values at these keys; with `optional`, keys may be missing. Other keys are not checked."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} is no mapping")
        for key, inner in checks.items():
            here = key if where == "it" else f"{where}.{key}"
            if key in value:
                inner(value[key], here)
            elif not optional:
                raise ValueError(f"{here} is missing")

    return check


def _every(inner: Check) -> Check:
    """A check of a mapping whose keys are texts and whose values pass `inner`."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} is no mapping")
        for key, each in value.items():
            _text(key, f"a key of {where}")
            inner(each, f"{where}.{key}"[:120])

    return check


def _list(inner: Check) -> Check:
    def check(value: Any, where: str) -> None:
        if not isinstance(value, list):
            raise ValueError(f"{where} is no list")
        for index, each in enumerate(value):
            inner(each, f"{where}[{index}]")

    return check


def _maybe(inner: Check) -> Check:
    def check(value: Any, where: str) -> None:
        if value is not None:
            inner(value, where)

    return check


def _any_of(*kinds: type) -> Check:
    def check(value: Any, where: str) -> None:
        if not isinstance(value, kinds):
            raise ValueError(f"{where} is {str(value)[:40]!r}")

    return check


_text = _any_of(str)


def _number(value: Any, where: str) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not abs(value) <= _HIGHEST:  # also false for NaN
        raise ValueError(f"{where} is {str(value)[:40]!r}, not a finite number")


def _whole(value: Any, where: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{where} is {str(value)[:40]!r}, not a whole number")


def _count(value: Any, where: str) -> None:
    _whole(value, where)
    if not 0 <= value < 2**53:
        raise ValueError(f"{where} is {value}")


def _bill(value: Any, where: str) -> None:
    _every(_number)(value, where)
    if value:
        _mapping(False, **dict.fromkeys(_BILL, _number))(value, where)


def _means(value: Any, where: str) -> None:
    """Check mean rewards: the gold one may be null."""
    _mapping(gold=_maybe(_number), proxy=_number)(value, where)
