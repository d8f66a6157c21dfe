"""`python -m pama_exp.runs [ROOT]`, `… show RUN`, `… diff A B`, `… import FOLDER RUN`: runs without a browser."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pama_exp.comparison import Run, load_runs
from pama_exp.comparison.importing import import_run
from pama_exp.comparison.load import damaged, flatten
from pama_exp.config.naming import VOLATILE, shown
from pama_exp.errors import UserError
from pama_exp.report.gather import newest_step, reproduce
from pama_exp.safety.arguments import Parser
from pama_exp.safety.failing import guarded
from pama_exp.tracking.console import note, print_error, summary

_STATES = {"complete": "green", "running": "cyan", "interrupted": "yellow"}
_HELP = """%(prog)s [ROOT]      every run under ROOT (default: runs)
       %(prog)s show RUN    one run: its state, its result, how it was made
       %(prog)s diff A B    what two runs' configurations and results differ in
       %(prog)s export trl|verl RUN FOLDER [--code NAME ...]
                            scripts that go on with a run's objectives and solver there; NAME is a function,
                            class or address of yours that they may use
       %(prog)s import FOLDER RUN    a record in RUN of a policy that was trained and scored elsewhere"""


def main(arguments: list[str] | None = None) -> int:
    """Print what is asked for; 2 for the user's mistakes."""
    parser = Parser("python -m pama_exp.runs", usage=_HELP)
    parser.add_argument("words", nargs="*", metavar="WORD", help="ROOT, or show RUN, diff A B, import FOLDER RUN")
    parser.add_argument("--code", action="extend", nargs="+", default=[], metavar="NAME", help="yours, for export")
    given = parser.parse_args(arguments)
    words = given.words or ["runs"]
    counts = {"show": 2, "diff": 3, "import": 3, "export": 4}
    try:
        if len(words) != counts.get(words[0], 1):
            raise UserError(
                f"'{' '.join(words)}' is not understood.",
                "Give [ROOT], show RUN, diff A B, import FOLDER RUN, or export trl|verl RUN FOLDER.",
            )
        if given.code and words[0] != "export":
            raise UserError("--code is for export alone.", "Leave it out.")
        if words[0] == "show":
            show(one(words[1]))
        elif words[0] == "diff":
            diff(one(words[1]), one(words[2]))
        elif words[0] == "export":
            from pama_exp.assembly.handover import write_scripts  # which imports torch

            for path in write_scripts(one(words[2]), words[1], Path(words[3]), given.code):
                note(f"Written: {shown(path)}")
        elif words[0] == "import":
            note(f"The record is {shown(import_run(Path(words[1]), Path(words[2])).folder)}.")
        else:
            listing(load_runs([Path(words[0])]))
    except UserError as error:
        print_error(error)
        return 2
    return 0


def listing(runs: Sequence[Run]) -> None:
    """A row per run: objectives, solver, seed, step, rewards, share of the true front, state, age."""
    table = Table(title=f"{len(runs)} runs", title_justify="left")
    for column in ("run", "objectives", "solver"):
        table.add_column(column, overflow="fold")
    for column in ("seed", "step", "rewards", "share"):
        table.add_column(column, justify="right")
    table.add_column("state")
    table.add_column("age", justify="right")
    for run in runs:
        share = ((run.result or {}).get("true_hypervolume_share") or {}).get("after")
        table.add_row(
            escape(run.name),
            escape(shown(" + ".join(run.objectives))),
            escape(shown(run.solver if run.stage == "align" else f"{run.stage} {run.solver}")),
            str(run.seed),
            f"{newest_step(run)}/{'?' if run.steps is None else run.steps}",
            " ".join(f"{value:.3f}" for value in rewards(run).values()) or "–",
            "–" if share is None else f"{share:.1%}",
            Text(shown(run.status), style=_STATES.get(run.status, "red")),
            _age(run.folder),
        )
    Console().print(table)
    for line in damaged(runs):
        note(line)


def show(run: Run) -> None:
    """State, command, newest values and, where there is one, the result."""
    console = Console(soft_wrap=True)
    state = "damaged" if run.status == "damaged" else f"{shown(run.status)}, step {newest_step(run)}"
    console.print(f"{shown(run.folder)}\n{state}", highlight=False, markup=False)
    if run.detail:
        console.print(run.detail, highlight=False, markup=False)
    made = reproduce(run.folder)
    console.print(
        f"Made by: {made['command'] or 'not recorded'}\nSource: {made['source']}", highlight=False, markup=False
    )
    if run.result is not None:
        summary({key: value for key, value in run.result.items() if key != "run_dir"})
    elif rewards(run):
        values = ", ".join(f"{shown(name)} {value:.3f}" for name, value in rewards(run).items())
        console.print(f"Newest rewards: {values}", highlight=False, markup=False)


def diff(first: Run, second: Run) -> None:
    """Configuration keys and result values that differ; the latter with their difference."""
    console = Console()
    broken = damaged((first, second))
    if broken:
        raise UserError(broken[0], "Name whole runs.")
    kept = [{k: v for k, v in run.config.items() if k not in VOLATILE} for run in (first, second)]
    _differences(console, "Configuration", *map(flatten, kept))
    results = [
        {k: v for k, v in (run.result or {}).items() if k not in ("run_dir", "config")} for run in (first, second)
    ]
    _differences(console, "Result", *map(flatten, results))


def rewards(run: Run) -> dict[str, float]:
    """Rewards after training, gold where known; of an unfinished run those of its newest evaluation or step."""
    if run.result is not None and run.result.get("objectives"):
        after = {name: mean["after"] for name, mean in run.result["objectives"].items() if mean["after"]}
        return {name: m["proxy"] if m["gold"] is None else m["gold"] for name, m in after.items()}
    kinds = ("eval/gold/{}/mean", "eval/proxy/{}/mean", "reward/{}/mean")
    for kind in kinds:
        for row in reversed(run.metrics):
            found = {name: row.get(kind.format(name)) for name in run.objectives}
            if all(value is not None for value in found.values()):
                return {name: float(value) for name, value in found.items() if value is not None}
    return {}


def _differences(console: Console, title: str, first: dict[str, Any], second: dict[str, Any]) -> None:
    table = Table("key", "A", "B", "B - A", title=title, title_justify="left")
    for key in dict.fromkeys([*first, *second]):
        a, b = first.get(key), second.get(key)
        if a != b:
            numbers = [v for v in (a, b) if isinstance(v, int | float) and not isinstance(v, bool)]
            change = f"{numbers[1] - numbers[0]:+.4g}" if len(numbers) == 2 else ""
            table.add_row(*map(escape, (key, _short(a), _short(b), change)))
    if table.row_count:
        console.print(table)
    else:
        console.print(f"{title}: no difference")


def one(folder: str) -> Run:
    """The run in this folder.

    Raises:
        UserError: if there is none, or several.
    """
    found = load_runs([folder])
    if len(found) > 1:
        raise UserError(f"{folder} holds {len(found)} runs.", f"Name one of them, such as {shown(found[0].folder)}.")
    return found[0]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def _age(folder: Path) -> str:
    try:
        newest = max((p.stat().st_mtime for p in folder.iterdir() if p.is_file()), default=folder.stat().st_mtime)
    except OSError:
        return ""
    seconds = max(0.0, time.time() - newest)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


if __name__ == "__main__":
    guarded(main, "runs")
