"""The reference of all solvers, docs/solvers.md, and one entry of it, from their yamls and docstrings.

`python -m pama_exp.cli.solver_help conf/solver > docs/solvers.md` writes the page anew.
"""

from __future__ import annotations

import inspect
import itertools
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pama_exp.config.comments import headline
from pama_exp.config.instantiate import locate
from pama_exp.config.own_options import option

FIELDS = ("Rule", "Cost", "State", "Scale", "Weights", "Stays", "Advantage", "Source", "Use")
INTRODUCTION = """\
# Solvers

Written by `python -m pama_exp.cli.solver_help conf/solver > docs/solvers.md` from the docstrings; `python run.py --help
solver=pcgrad` prints one entry. `solver=NAME` chooses one, `solver.SETTING=VALUE` changes it. `null` weights are the
objectives' own, equal unless changed.

A solver acts at one of three places: on the rewards of a response before advantages are estimated, on the advantages
of each token, or on the losses, by their values or by the Gramian of their gradients. Those that act on rewards or
advantages cost what single-objective PPO costs; so do those that ask for the Gramian, with
`training.gramian.target=advantages`, which gives them the products of the advantages in its place. Notation: N
objectives; rⁱ reward, Aⁱ advantage, Lⁱ clipped surrogate loss, gⁱ its gradient, G the Gramian, w weights, p a
preference.

- **scale**: *equivariant*: a common factor on all rewards scales the update by that factor; *invariant*: a factor on
  any one of them changes nothing; *direction*: it leaves the direction of the update; *neither*: no promise.
  Advantages are taken before whitening, which removes factors for every solver.
- **weights** of the losses, or of the advantages: *simplex*, *non-negative*, or *real*.
- **stays**: *every*: at any Pareto stationary point the update vanishes; *own*: where the method's own optimum is;
  *no*: not in general.

The contract tests hold every entry to its scale, to its weights, and to *every*; *own*, *no* and *neither* are not
tested beyond that all entries descend where gradients agree. All solvers reduce to single-objective PPO with one
objective (those that whiten the sum, such as GDPO, whiten its advantage once more), do not depend on the order of the
objectives (where they draw random numbers: on average), and keep their state in the checkpoint.

Sources are cited by equation or algorithm where the number was known, by the rule's name otherwise; the numbers come
from torchjd's documentation and from memory, and were not compared with the papers. Where a rule here departs from
its source, the entry says so.

torchjd's other methods are left out: GradDrop, ExcessMTL and TrimmedMean need the gradients themselves, MoDo and
SDMGrad two or three independent batches a step, Krum is about adversaries, PCD about one primary objective, and
IMTL-L is UW. `solver=cagrad`, `upgrad` and `dualproj` need `pip install 'pama-exp[solvers]'`.

## Where they end on problems with known answers

From `tests/solvers/test_problems.py`: a narrow normal policy in the plane, 16 answers to one prompt, 100 to 400
updates.
On two quadratics linear ends at the weighted mean of the optima, Tchebycheff where weighted distances are equal,
CAGrad at the minimum of the mean, the Lagrangian at the edge of its target, and the min-norm methods on the segment
between the optima, wherever they meet it. P-GAPO ends at the optimum of the preferred objective, as between the
optima unit gradients are opposite. On Fonseca-Fleming and on √f¹ + √f² = 1, whose fronts bend inwards, with weights
0.3, 0.5 and 0.7:

| method | ends |
|---|---|
| linear | at an end of the front; in between, no weighted sum has a maximum |
| tchebycheff, smooth with μ = 0.01 | inside, in the order of the weights |
| pama, `granularity=batch` | inside, in the order of the preference |
| pama, `granularity=token` | short of the front, and hardly moved by the preference |
| mgda | on the front where it first meets it, whatever the weights |

PAMA by token improves every objective but stops making progress 0.27 and 0.08 away from the Pareto sets, whose
lengths are 2 and 1: near the front hardly any response is better in every objective, and with Noon only those are
reinforced. That is a property of solving at every token, not of the closed form.

For a language model the front of mean rewards over all policies is convex, because policies can be mixed. Bends come
from what a model can learn and from rewards of single responses.
"""


@dataclass(frozen=True)
class Entry:
    """One option of `solver=`: first line and settings of its yaml; summary, fields and arguments of its docstring."""

    name: str
    headline: str
    settings: dict[str, Any]
    summary: str
    fields: dict[str, str]
    arguments: dict[str, str]

    @property
    def text(self) -> str:
        """The entry in Markdown."""
        shown = [f"- **{field.lower()}**: {self.fields[field]}" for field in FIELDS if field in self.fields]
        settings = [
            f"  - `{name}` ({_shown(value)}): {self.arguments.get(name, '')}" for name, value in self.settings.items()
        ]
        return "\n".join(
            [f"### {self.name}", "", self.summary, "", *shown[:1], "- **settings**:", *settings, *shown[1:]]
        )


def entry(path: Path) -> Entry:
    """The entry of a solver's yaml.

    Raises:
        UserError: if it cannot be read, or names no solver.
    """
    settings = option(path)
    documented = inspect.unwrap(locate(settings, str(path)))
    settings.pop("_target_")
    lines = (inspect.getdoc(documented) or "").splitlines()
    blocks = _blocks(lines, r"(\w+): ?(.*)")
    documented_settings = lines[lines.index("Args:") + 1 :] if "Args:" in lines else []
    arguments = _blocks([line[4:] for line in itertools.takewhile(bool, documented_settings)], r"(\w+): (.*)")
    arguments.pop("group_size", None)  # comes from the advantage estimator and is no setting
    shown = {key: value for key, value in settings.items() if key != "name"}
    return Entry(
        path.stem,
        headline(path),
        shown,
        " ".join(lines[: lines.index("")]) if "" in lines else " ".join(lines),
        {key: blocks[key] for key in FIELDS if key in blocks},
        arguments,
    )


def page(folder: Path) -> str:
    """The text of docs/solvers.md: the introduction, a table of all solvers, and their entries."""
    entries = [entry(path) for path in sorted(folder.glob("*.yaml"))]
    rows = [f"| [{e.name}](#{e.name}) | {e.headline} | {e.fields['Cost'].partition('.')[0]} |" for e in entries]
    table = ["## All", "", "| solver | is | cost |", "|---|---|---|", *rows]
    return "\n".join([INTRODUCTION, *table, "", "## One by one", "", "\n\n".join(e.text for e in entries)]) + "\n"


def _blocks(lines: list[str], head: str) -> dict[str, str]:
    """{name: text} of lines `Name: text`, each with the indented lines after it."""
    blocks: dict[str, str] = {}
    current = None
    for line in lines:
        start = re.fullmatch(head, line)
        if start is not None:
            current = start[1]
            blocks[current] = start[2]
        elif current is not None and line.startswith("    "):
            blocks[current] += " " + line.strip()
        else:
            current = None
    return blocks


def _shown(value: Any) -> str:
    return str(yaml.safe_dump(value)).splitlines()[0]


if __name__ == "__main__":
    sys.stdout.write(page(Path(sys.argv[1])))
