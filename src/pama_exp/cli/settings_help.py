"""The reference of all settings, docs/configuration.md, from the comments in conf/ and the types in the code.

`python -m pama_exp.cli.settings_help > docs/configuration.md` writes the page anew.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from typing import Any, get_type_hints

import yaml

from pama_exp.config import schema
from pama_exp.config.comments import Commented, commented, headline
from pama_exp.config.places import CONF, options
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
# {group: options whose comments take precedence, the default option first}
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
_FREE = {"stage", "solver", "advantage", "objectives", "world", "engine"}  # fields that another section lists


@dataclass(frozen=True)
class Setting:
    """One key: its type and range, its default, and its meaning."""

    key: str
    kind: str
    default: str
    meaning: str

    @property
    def row(self) -> str:
        """A row of a Markdown table."""
        cells = (f"`{self.key}`", self.kind, self.default, self.meaning)
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    @property
    def text(self) -> str:
        """The lines that the command prints."""
        return f"{self.key}\n    {self.kind}; default: {self.default.replace('`', '')}\n    {self.meaning}"


def main(arguments: list[str], prog: str) -> int:
    """`pama-exp settings [WORD]`: print the keys that hold the word."""
    parser = Parser(prog, description="What the keys that hold WORD may be and mean; without it, all.")
    parser.add_argument("word", nargs="?", default="", metavar="WORD", help="such as training.clip, or kl")
    word = parser.parse_args(arguments).word
    everything = list(settings())
    matching = [setting for setting in everything if word in setting.key]
    if not matching:
        raise UserError(f"No setting's key holds '{word}'.", suggest(word, [setting.key for setting in everything]))
    sys.stdout.write("\n".join(setting.text for setting in matching) + "\n")
    return 0


def page() -> str:
    """The text of docs/configuration.md."""
    blocks = [INTRODUCTION]
    for name, group, rows in _sections():
        blocks.append(f"## {name}")
        if group is None:
            kind = _schema_of(name)
            blocks += ["" if kind is schema.Config else " ".join((inspect.getdoc(kind) or "").split())]
        else:
            listed = [f"| `{option}` | {headline(path)} |" for option, path in options(group).items()]
            blocks += ["\n".join(["| option | is |", "|---|---|", *listed]), _MORE.get(group, "")]
        blocks.append(_table(rows))
    return "\n\n".join(block.strip("\n") for block in blocks if block) + "\n"


def settings() -> Iterator[Setting]:
    """Every setting, in the page's order."""
    for _, _, rows in _sections():
        yield from rows


def _sections() -> Iterator[tuple[str, str | None, list[Setting]]]:
    """(heading, group or None, settings) of every section of the page."""
    values = commented(CONF / "config.yaml")
    yield "Of a run", None, _fields(schema.Config, "", values, values)
    for name in _SECTIONS:
        comments = _within(values, name) + (_within(values, "sft") if name == "reward_model" else [])
        yield name, None, _fields(_schema_of(name), f"{name}.", _within(values, name), comments)
    for group, first in _GROUPS.items():
        paths = options(group)
        by_option = {name: commented(paths[name]) for name in dict.fromkeys([*first, *paths])}
        comments = [entry for entries in by_option.values() for entry in entries]
        rows = _fields(_schema_of(group), f"{group}.", by_option[first[0]], comments)
        if group == "data":
            world = _within(by_option[first[0]], "world")
            rows += _parameters("pama_exp.world.FactWorld", world, "data.world.", "")
        yield f"{group}=", group, rows
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


def _fields(kind: type, prefix: str, values: list[Commented], comments: list[Commented]) -> list[Setting]:
    """The settings of a section, without those of the sections in it.

    Args:
        kind: the section's dataclass.
        prefix: its dotted key and a dot.
        values: of the default option. They replace the defaults of the dataclass.
        comments: keys with comments. The first comment of a key that is not empty is its meaning.
    """
    defaults = {entry.key: entry.value for entry in values}
    meaning = {entry.key: entry.comment for entry in reversed(comments) if entry.comment}
    hints = get_type_hints(kind)
    rows = []
    for field in fields(kind):
        if is_dataclass(hints[field.name]) or field.name in _FREE:
            continue
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        allowed = described(with_rule(hints[field.name], field.metadata.get("rule")))
        allowed = allowed.replace(f"of at most {4 * (os.cpu_count() or 1):,}", "of at most four for each core")
        shown = _shown(defaults.get(field.name, default))
        rows.append(Setting(f"{prefix}{field.name}", allowed, shown, meaning.get(field.name, "")))
    return rows


def _parameters(target: str, values: list[Commented], prefix: str, suffix: str) -> list[Setting]:
    """The parameters of the class or function `target` that a yaml sets; `suffix` follows each default."""
    module, _, name = target.rpartition(".")
    types = inspect.signature(getattr(importlib.import_module(module), name), eval_str=True).parameters
    return [
        Setting(f"{prefix}{v.key}", described(types[v.key].annotation), _shown(v.value) + suffix, v.comment)
        for v in values
        if v.key in types
    ]


def _of_targets(group: str, section: str, prefix: str) -> list[Setting]:
    """The settings of every option of a group whose settings are a class's parameters."""
    rows = []
    for name, path in options(group).items():
        values = _within(commented(path), section) if section else commented(path)
        target = next(str(entry.value) for entry in values if entry.key == "_target_")
        rows += _parameters(target, values, prefix, f" with `{group}={name}`")
    return rows


def _of_hydra(group: str) -> Iterator[Setting]:
    for name, path in options(group).items():
        for entry in commented(path):
            if not entry.key.startswith("_") and entry.key != "params":
                kind = "a number or null" if entry.value is None else described(type(entry.value))
                key = f"{group.replace('/', '.')}.{entry.key}"
                yield Setting(key, kind, f"{_shown(entry.value)} with `{group}={name}`", entry.comment)


def _within(entries: list[Commented], section: str) -> list[Commented]:
    """The keys within a section, without its name."""
    prefix = f"{section}."
    return [replace(e, key=e.key.removeprefix(prefix)) for e in entries if e.key.startswith(prefix)]


def _table(rows: list[Setting]) -> str:
    head = ["| key | type | default | meaning |", "|---|---|---|---|"]
    return "\n".join([*head, *(setting.row for setting in rows)] if rows else [])


def _schema_of(name: str) -> Any:
    kind: Any = schema.Config
    for part in [] if name == "Of a run" else name.split("."):
        kind = get_type_hints(kind)[part]
    return kind


def _shown(value: Any) -> str:
    """A default in Markdown: a plain value as it is typed, an interpolation in words."""
    interpolation = re.fullmatch(r"\$\{(\w+\.)?(\w+):?([\w.]*),?(.*)\}", str(value))
    if interpolation is None:
        text = yaml.safe_dump(value, default_flow_style=True, width=1000, sort_keys=False).strip()
        return f"`{text.removesuffix('...').strip()}`"
    what, key, other = interpolation[2], interpolation[3], interpolation[4]
    named = {"select": f"`{key}`, else `{other}`", "env": f"`${key}`, else `~/.cache/pama_exp`"}
    return named.get(what, "named after the configuration")


if __name__ == "__main__":
    sys.stdout.write(page())
