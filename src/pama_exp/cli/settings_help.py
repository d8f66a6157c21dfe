"""What every setting is, from the comments of conf/ and the types of the code: docs/configuration.md.

`python -m pama_exp.cli.settings_help > docs/configuration.md` writes the page anew.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from pama_exp.config import schema
from pama_exp.config.comments import Commented, commented, headline
from pama_exp.config.places import CONF, SWEEPS
from pama_exp.config.ranges import described, with_rule
from pama_exp.errors import UserError, suggest
from pama_exp.safety.arguments import Parser

INTRODUCTION = """\
# Configuration reference

Written by `python -m pama_exp.cli.settings_help > docs/configuration.md` from the comments in `conf/` and the types in
the code. Every key below can be given on the command line as `key=value`, or in a yaml of your own.
`pama-exp settings WORD` prints the keys that hold a word. `python run.py --cfg job` prints every value of a command
line.

- A **group** is chosen as a whole: `solver=linear` takes the file `conf/solver/linear.yaml`. Its keys can then be
  changed one by one: `solver.space=reward`.
- `null` is written as `null`, a list as `'objectives=[helpful,concise]'`, true and false as `true` and `false`.
- A wrong key, type or value is refused before any work, with the nearest valid name or the range.
- The default is that of `python run.py`; another option of a group may have another, which its yaml says.
"""
_SECTIONS = (
    "training",
    "training.kl",
    "training.gramian",
    "sft",
    "reward_model",
    "dpo",
    "evaluate",
    "soup",
    "mod",
    "judge",
    "compare",
)
# {group: the options whose yamls are asked first what a key means, the default option before the others}
_GROUPS = {
    "model": ("tiny", "hf"),
    "data": ("factworld", "file", "hub"),
    "adapter": ("none", "lora"),
    "conditioning": ("none", "embedding", "adapter"),
    "trainer": ("cpu",),
    "logger": ("wandb",),
}
_MORE = {
    "model": "[Models](models.md) says what else matters.",
    "data": "[Data](data.md) says how rows become prompts.",
    "objectives": "[Objectives](objectives.md) says what scorers there are.",
    "solver": "[The solver table](solver-table.md) has all on one screen, [Solvers](solvers.md) an entry for each.",
    "stage": "[Settings and the run folder](running.md) says what each leaves behind.",
    "rollout": "[Settings and the run folder](running.md#engines-and-speed) says which engine to take.",
    "experiment": "Values for several groups at once: `experiment=study`.",
    "debug": "A run that only shows that a configuration works: `debug=fast`.",
    "sweep": "Many runs by one word: `+sweep=baselines`. [Sweeps](sweeps.md) says how they run.",
}
_HYDRA = ("hydra/launcher", "hydra/sweeper")
_FREE = {"stage", "solver", "advantage", "objectives", "world", "engine"}  # fields whose keys another section lists


@dataclass(frozen=True)
class Setting:
    """One key: what it may be, what it is unless changed, and what it means."""

    key: str
    kind: str
    default: str
    meaning: str

    @property
    def row(self) -> str:
        """As a row of a table."""
        cells = (f"`{self.key}`", self.kind, self.default, self.meaning)
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    @property
    def text(self) -> str:
        """As the command line shows it."""
        return f"{self.key}\n    {self.kind}; default: {self.default.replace('`', '')}\n    {self.meaning}"


def main(arguments: list[str], prog: str) -> int:
    """`pama-exp settings [WORD]`: the keys that hold the word."""
    parser = Parser(prog, description="What the keys that hold WORD may be and mean; without it, all.")
    parser.add_argument("word", nargs="?", default="", metavar="WORD", help="such as training.clip, or kl")
    word = parser.parse_args(arguments).word
    everything = list(settings())
    found = [setting for setting in everything if word in setting.key]
    if not found:
        raise UserError(f"No setting's key holds '{word}'.", suggest(word, [setting.key for setting in everything]))
    sys.stdout.write("\n".join(setting.text for setting in found) + "\n")
    return 0


def page() -> str:
    """docs/configuration.md."""
    blocks = [INTRODUCTION]
    for name, group, found in _parts():
        blocks.append(f"## {name}")
        if group is None:
            kind = _schema_of(name)
            blocks += ["" if kind is schema.Config else " ".join((inspect.getdoc(kind) or "").split())]
        else:
            blocks += [_options((SWEEPS if group == "sweep" else CONF) / group), _MORE.get(group, "")]
        blocks.append(_table(found))
    return "\n\n".join(block.strip("\n") for block in blocks if block) + "\n"


def settings() -> Iterator[Setting]:
    """Every setting, in the page's order."""
    for _, _, found in _parts():
        yield from found


def _parts() -> Iterator[tuple[str, str | None, list[Setting]]]:
    """(heading, group if it is one, settings) of every part of the page."""
    values = commented(CONF / "config.yaml")
    yield "Of a run", None, _fields(schema.Config, "", values, values)
    for name in _SECTIONS:
        said = _within(values, name) + (_within(values, "sft") if name == "reward_model" else [])
        yield name, None, _fields(_schema_of(name), f"{name}.", _within(values, name), said)
    for group, first in _GROUPS.items():
        paths = _paths(CONF / group)
        asked = sorted(paths, key=lambda path: first.index(path.stem) if path.stem in first else len(first))
        said = [each for path in asked for each in commented(path)]
        found = _fields(_schema_of(group), f"{group}.", commented(asked[0]), said)
        if group == "data":
            found += _parameters("pama_exp.world.FactWorld", _within(commented(asked[0]), "world"), "data.world.", "")
        yield f"{group}=", group, found
    helpful = _within(commented(CONF / "objectives" / "helpful.yaml"), "helpful")
    yield "objectives=", "objectives", _fields(schema.ObjectiveConfig, "objectives.NAME.", [], helpful)
    sampling = _within(commented(CONF / "rollout" / "auto.yaml"), "sampling")
    engines = _of_targets("rollout", "engine", "rollout.engine.")
    yield "rollout=", "rollout", _fields(schema.SamplingConfig, "rollout.sampling.", sampling, sampling) + engines
    yield "stage=", "stage", []
    yield "solver=", "solver", []
    yield "advantage=", "advantage", _of_targets("advantage", "", "advantage.")
    for group in ("experiment", "debug", "sweep"):
        yield f"{group}=", group, []
    for group in _HYDRA:
        yield f"{group}=", group, list(_of_hydra(group))


def _fields(kind: type, above: str, values: list[Commented], said: list[Commented]) -> list[Setting]:
    """The fields of a section that are no sections themselves.

    Args:
        kind: the section's dataclass.
        above: its dotted key and a dot.
        values: of the default option, before the dataclass's own.
        said: keys with their comments; the first that says something counts.
    """
    given = {each.key: each.value for each in values}
    meaning = {each.key: each.comment for each in reversed(said) if each.comment}
    hints = get_type_hints(kind)
    found = []
    for one in fields(kind):
        if is_dataclass(hints[one.name]) or one.name in _FREE:
            continue
        made = one.default_factory() if one.default_factory is not MISSING else one.default
        allowed = described(with_rule(hints[one.name], one.metadata.get("rule")))
        allowed = allowed.replace(f"of at most {4 * (os.cpu_count() or 1):,}", "of at most four for each core")
        default = _shown(given.get(one.name, made))
        found.append(Setting(f"{above}{one.name}", allowed, default, meaning.get(one.name, "")))
    return found


def _parameters(target: str, values: list[Commented], above: str, option: str) -> list[Setting]:
    """The parameters of a class or function that a yaml sets."""
    module, _, name = target.rpartition(".")
    kinds = inspect.signature(getattr(importlib.import_module(module), name), eval_str=True).parameters
    return [
        Setting(f"{above}{each.key}", described(kinds[each.key].annotation), _shown(each.value) + option, each.comment)
        for each in values
        if each.key in kinds
    ]


def _of_targets(group: str, section: str, above: str) -> list[Setting]:
    """The settings of every option of a group whose settings are a class's parameters."""
    found = []
    for path in _paths(CONF / group):
        values = _within(commented(path), section) if section else commented(path)
        target = next(str(each.value) for each in values if each.key == "_target_")
        found += _parameters(target, values, above, f" with `{group}={path.stem}`")
    return found


def _of_hydra(group: str) -> Iterator[Setting]:
    for path in _paths(CONF / group):
        for each in commented(path):
            if not each.key.startswith("_") and each.key != "params":
                kind = "a number or null" if each.value is None else described(type(each.value))
                key = f"{group.replace('/', '.')}.{each.key}"
                yield Setting(key, kind, f"{_shown(each.value)} with `{group}={path.stem}`", each.comment)


def _within(found: list[Commented], section: str) -> list[Commented]:
    """The keys within a section, without its name."""
    return [
        Commented(each.key.removeprefix(f"{section}."), each.value, each.comment)
        for each in found
        if each.key.startswith(f"{section}.")
    ]


def _options(folder: Path) -> str:
    rows = [f"| `{path.stem}` | {headline(path)} |" for path in _paths(folder)]
    return "\n".join(["| option | is |", "|---|---|", *rows])


def _table(rows: list[Setting]) -> str:
    return "\n".join(
        ["| key | type | default | meaning |", "|---|---|---|---|", *(each.row for each in rows)] if rows else []
    )


def _paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.yaml"))


def _schema_of(name: str) -> Any:
    kind: Any = schema.Config
    for part in [] if name == "Of a run" else name.split("."):
        kind = get_type_hints(kind)[part]
    return kind


def _shown(value: Any) -> str:
    """A default: plain values as they are typed, those that are taken from elsewhere in words."""
    elsewhere = re.fullmatch(r"\$\{(\w+\.)?(\w+):?([\w.]*),?(.*)\}", str(value))
    if elsewhere is None:
        text = yaml.safe_dump(value, default_flow_style=True, width=1000, sort_keys=False).strip()
        return f"`{text.removesuffix('...').strip()}`"
    what, key, other = elsewhere[2], elsewhere[3], elsewhere[4]
    named = {"select": f"`{key}`, else `{other}`", "env": f"`${key}`, else `~/.cache/pama_exp`"}
    return named.get(what, "named after the configuration")


if __name__ == "__main__":
    sys.stdout.write(page())
