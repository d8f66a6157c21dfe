"""What can have become of a run's folder: name, and what does it to a folder that was whole. A line adds a kind."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml


def _text(name: str, content: str | bytes) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return do


def _set(name: str, key: str, value: Any) -> Callable[[Path], None]:
    """A dotted key of a file of JSON or yaml set to `value`; removed where it is ...."""

    def do(folder: Path) -> None:
        path = folder / name
        content = json.loads(path.read_text()) if name.endswith(".json") else yaml.safe_load(path.read_text())
        *parents, last = key.split(".")
        node = content
        for part in parents:
            node = node[part]
        if value is ...:
            del node[last]
        else:
            node[last] = value
        path.write_text(json.dumps(content) if name.endswith(".json") else yaml.safe_dump(content))

    return do


def _append(name: str, line: str | bytes) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        with (folder / name).open("ab") as file:
            file.write((line.encode() if isinstance(line, str) else line) + b"\n")

    return do


def _instead(name: str, make: Callable[[Path], None]) -> Callable[[Path], None]:
    """Something else in place of the file."""

    def do(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return do


def _cut(name: str) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _half_a_line(path: Path) -> None:
    path.write_text(path.read_text() + '{"step": 99, "rew')


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**33)


AFTER = "objectives.helpful.after"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(9)
)
DAMAGED: dict[str, Callable[[Path], None]] = {
    "result is a list": _text("result.json", "[1, 2]"),
    "result is a number": _text("result.json", "3"),
    "result is null": _text("result.json", "null"),
    "result is empty": _text("result.json", ""),
    "result is cut": _cut("result.json"),
    "result is binary": _text("result.json", bytes(range(256))),
    "result is not UTF-8": _text("result.json", '{"status": "é"}'.encode("latin-1")),
    "result is nested": _text("result.json", "[" * 100_000),
    "result is a number of 5000 digits": _text("result.json", "1" * 5000),
    "result is huge": _instead("result.json", _sparse),
    "result is a folder": _instead("result.json", Path.mkdir),
    "result is a pipe": _instead("result.json", os.mkfifo),
    "result is a link to itself": _instead("result.json", _loop),
    "result has half a character": _set("result.json", "run_dir", "\ud800"),
    "result is empty of keys": _text("result.json", "{}"),
    "result lacks objectives": _set("result.json", "objectives", ...),
    "result lacks one objective": _set("result.json", "objectives.helpful", ...),
    "result lacks after": _set("result.json", AFTER, ...),
    "result has after null": _set("result.json", AFTER, None),
    "result has objectives as a list": _set("result.json", "objectives", [1]),
    "result has an objective as a number": _set("result.json", "objectives.helpful", 1),
    "result has a mean of text": _set("result.json", f"{AFTER}.gold", "high"),
    "result has a mean of NaN": _set("result.json", f"{AFTER}.gold", float("nan")),
    "result has a mean of infinity": _set("result.json", f"{AFTER}.proxy", float("inf")),
    "result has a mean of 1e300": _set("result.json", f"{AFTER}.gold", 1e300),
    "result has a mean of 10^400": _set("result.json", f"{AFTER}.gold", 10**400),
    "result has a mean that is true": _set("result.json", f"{AFTER}.gold", True),
    "result lacks the proxy": _set("result.json", f"{AFTER}.proxy", ...),
    "result has a share of text": _set("result.json", "true_hypervolume_share", "all"),
    "result has a share after of text": _set("result.json", "true_hypervolume_share.after", "all"),
    "result has a bill of texts": _set("result.json", "bill.prompts", "many"),
    "result has half a bill": _set("result.json", "bill.tokens", ...),
    "result has a bill as a list": _set("result.json", "bill", [1]),
    "result has points as a mapping": _set("result.json", "points", {"a": 1}),
    "result has points without preferences": _set("result.json", "points", [{"objectives": {}}]),
    "result has points of nothing": _set("result.json", "points", [{"preference": {}, "objectives": {}}]),
    "result has a calibration of texts": _set("result.json", "calibration", {"helpful": {"proxy": "x"}}),
    "result has a seed of text": _set("result.json", "seed", "x"),
    "result has an empty config": _set("result.json", "config", {}),
    "config is malformed": _text("config.yaml", "a: [1,\n"),
    "config is a list": _text("config.yaml", "[1, 2]"),
    "config is empty": _text("config.yaml", ""),
    "config is binary": _text("config.yaml", bytes(range(256))),
    "config has a python tag": _append("config.yaml", "x: !!python/object/apply:os.system ['touch was-run']"),
    "config is a bomb of aliases": _text("config.yaml", BOMB),
    "config contains itself": _text("config.yaml", "&a [*a]"),
    "config is nested": _text("config.yaml", "[" * 5000),
    "config is a folder": _instead("config.yaml", Path.mkdir),
    "config is a pipe": _instead("config.yaml", os.mkfifo),
    "config is a link to itself": _instead("config.yaml", _loop),
    "config is missing": lambda folder: (folder / "config.yaml").unlink(),
    "config lacks the solver": _set("config.yaml", "solver", ...),
    "config has objectives as a list": _set("config.yaml", "objectives", ["helpful"]),
    "config has an objective as text": _set("config.yaml", "objectives.helpful", "x"),
    "config has a weight of text": _set("config.yaml", "objectives.helpful.weight", "x"),
    "config has scorers as a list": _set("config.yaml", "objectives.helpful.scorers", [1]),
    "config has too few weights": _set("config.yaml", "solver.weights", [1.0]),
    "config has a solver of text": _set("config.yaml", "solver", "pama"),
    "config has a seed of text": _set("config.yaml", "seed", "x"),
    "config has a seed of 10^400": _set("config.yaml", "seed", 10**400),
    "config has a stage of text": _set("config.yaml", "stage", "align"),
    "config has data as a list": _set("config.yaml", "data", [1]),
    "config has steps of text": _set("config.yaml", "training.steps", "many"),
    "config has a world that there is not": _set("config.yaml", "data.world", {"num_entities": -1}),
    "config has a world of another class": _set("config.yaml", "data.world", {"_target_": 1, "num_entities": "x"}),
    "config has a program that there is not": _set("config.yaml", "objectives.helpful.scorers.factworld.program", "x"),
    "config has keys of two types": _set("config.yaml", "model.config", {1: 1, "a": 1}),
    "metrics have garbage": _append("metrics.jsonl", b"\x00\xff garbage"),
    "metrics have a line of no JSON": _append("metrics.jsonl", "step 3"),
    "metrics have a line that is a list": _append("metrics.jsonl", "[1, 2]"),
    "metrics have a line that is a number": _append("metrics.jsonl", "3"),
    "metrics have an empty line": _append("metrics.jsonl", ""),
    "metrics have a row without a step": _append("metrics.jsonl", '{"kl/response": 1.0}'),
    "metrics have a step of text": _append("metrics.jsonl", '{"step": "x"}'),
    "metrics have a step of 10^30": _append("metrics.jsonl", '{"step": 1' + "0" * 30 + "}"),
    "metrics have a value of text": _append("metrics.jsonl", '{"step": 3, "kl/response": "x"}'),
    "metrics have a value of NaN": _append("metrics.jsonl", '{"step": 3, "kl/response": NaN}'),
    "metrics are nested": _append("metrics.jsonl", "[" * 100_000),
    "metrics are a folder": _instead("metrics.jsonl", Path.mkdir),
    "metrics are a pipe": _instead("metrics.jsonl", os.mkfifo),
    "metrics are a link to themselves": _instead("metrics.jsonl", _loop),
    "generations have garbage": _append("generations.jsonl", b"\xff"),
    "generations have a prompt of numbers": _append("generations.jsonl", '{"step": 3, "prompt": 1, "response": 2}'),
    "generations have half a character": _append(
        "generations.jsonl", '{"step": 60, "split": "test", "prompt": "\\ud800", "response": "x"}'
    ),
    "generations are a pipe": _instead("generations.jsonl", os.mkfifo),
    "status is a folder": _instead("status.json", Path.mkdir),
    "status is a list": _text("status.json", "[]"),
    "status is cut": _cut("status.json"),
    "status is a pipe": _instead("status.json", os.mkfifo),
    "status has a step of text": _set("status.json", "step", "x"),
    "status lacks the state": _set("status.json", "state", ...),
}
# What is odd but can be read, so that the run is shown as ever.
HARMLESS: dict[str, Callable[[Path], None]] = {
    "nothing": lambda folder: None,
    "environment is a list": _text("environment.json", "[]"),
    "environment is a pipe": _instead("environment.json", os.mkfifo),
    "environment has a command of numbers": _set("environment.json", "command", [1]),
    "environment has no command": _set("environment.json", "command", []),
    "environment has a git of text": _set("environment.json", "git", "x"),
    "the lock is a pipe": _instead(".lock", os.mkfifo),
    "metrics end in half a line": lambda folder: _half_a_line(folder / "metrics.jsonl"),
    "there are no metrics": lambda folder: (folder / "metrics.jsonl").unlink(),
    "there is no status": lambda folder: (folder / "status.json").unlink(),
    "a link leads up": lambda folder: (folder / "up").symlink_to("..", target_is_directory=True),
    "a link leads to itself": lambda folder: _loop(folder / "itself"),
    "test generations lack scores": _append(
        "generations.jsonl", '{"step": 60, "split": "test", "prompt": "q", "response": "a"}'
    ),
    "an interpolation": _set("config.yaml", "objectives.helpful.description", "${oc.env:SECRET}"),
    "a file of another kind": lambda folder: os.mkfifo(folder / "pipe"),
    "policy is missing": lambda folder: shutil.rmtree(folder / "policy", ignore_errors=True),
}
ODD_NAMES = [
    "[red]",
    "[bold",
    "a\nb",
    "\x1b[31mred",
    "é",
    "'quoted' \"twice\"",
    "<script>",
    "-rf",
    "caf\udce9",
    "=1+1",
    "a,b",
]
