"""Printing: notes, the summary of a result, tables, and errors of two lines."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pama_exp.config.naming import shown
from pama_exp.errors import UserError
from pama_exp.tracking.watching import Progress, phase, progress

__all__ = ["Progress", "note", "phase", "print_error", "progress", "summary", "table"]


def note(text: str) -> None:
    """Print a line."""
    Console(soft_wrap=True).print(escape(text), highlight=False)


def summary(result: Mapping[str, Any]) -> None:
    """Print a result: rewards before and after per objective, share of the true front, cost, and the run's folder."""
    console = Console(soft_wrap=True)
    objectives = result.get("objectives") or {}
    if objectives:
        table = Table(title="Unseen prompts, mean rewards", title_justify="left")
        table.add_column("objective")
        kinds = _kinds(objectives)
        for label in kinds.values():
            for column in ("before", "after", "change"):
                table.add_column(f"{label} {column}" if column != "change" else "", justify="right")
        for name, means in objectives.items():
            cells: list[str] = []
            for kind in kinds:
                before, after = ((means[when] or {}).get(kind) for when in ("before", "after"))
                cells += [_number(before), _number(after), _change(before, after)]
            table.add_row(escape(shown(name)), *cells)
        console.print(table)
    share = result.get("true_hypervolume_share") or {}
    if share.get("after") is not None:
        before = f"{share['before']:.1%} → " if share.get("before") is not None else ""
        console.print(f"Share of the true front's hypervolume: {before}{share['after']:.1%}", highlight=False)
    for name, model in (result.get("reward_models") or {}).items():
        console.print(
            f"{shown(name)}: {model['held_out_accuracy']:.1%} of held-out pairs", highlight=False, markup=False
        )
    bill = result.get("bill")
    if bill:
        console.print(
            f"{bill['prompts']} prompts, {bill['tokens']} tokens, {bill['reward_calls']} reward calls, "
            f"{bill['forwards']} forward and {bill['backwards']} backward passes, {bill['seconds']:.0f} s, "
            f"{bill['peak_memory_bytes'] / 2**30:.1f} GiB",
            highlight=False,
        )
    if result.get("run_dir"):
        console.print(f"Record: {shown(result['run_dir'])}", highlight=False, markup=False)


def _kinds(objectives: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """{kind of reward: its heading}. Without any gold reward there is one kind, called reward."""
    known = [(means["after"] or means["before"] or {}).get("gold") is not None for means in objectives.values()]
    if not any(known):
        return {"proxy": "reward"}
    return {"gold": "gold", "proxy": "learned" if all(known) else "reward"}


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = ()) -> None:
    """Print a table. The first column and those in `left` are aligned to the left, numbers to the right."""
    grid = Table(title=escape(title), title_justify="left")
    for index, column in enumerate(header):
        grid.add_column(escape(column), justify="left" if index == 0 or column in left else "right")
    for row in rows:
        grid.add_row(*map(escape, row))
    console = Console()
    if not console.is_terminal:  # a file needs no wrapping
        console.width = max(console.width, console.measure(grid, options=console.options.update(width=1000)).maximum)
    console.print(grid)


def print_error(error: UserError) -> None:
    """Print the error's two lines on standard error."""
    print(error, file=sys.stderr)  # noqa: T201


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _change(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return ""
    color, arrow = ("green", "▲") if after > before else ("red", "▼") if after < before else ("white", "=")
    return f"[{color}]{arrow} {abs(after - before):.3f}[/{color}]"
