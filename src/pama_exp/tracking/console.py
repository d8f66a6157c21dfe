"""What a person reads: notes, the summary, tables, and errors in two lines."""

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
    """One line."""
    Console(soft_wrap=True).print(escape(text), highlight=False)


def summary(result: Mapping[str, Any]) -> None:
    """The result of a run: before → after per objective, the share of the true front, the bill, where the record is."""
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
    """{kind of reward: what it is called}: off the testbed there is one, and where it is mixed not all are learned."""
    known = [(means["after"] or means["before"] or {}).get("gold") is not None for means in objectives.values()]
    if not any(known):
        return {"proxy": "reward"}
    return {"gold": "gold", "proxy": "learned" if all(known) else "reward"}


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Any table, its numbers to the right."""
    shown = Table(title=escape(title), title_justify="left")
    for index, column in enumerate(header):
        shown.add_column(escape(column), justify="left" if index == 0 else "right")
    for row in rows:
        shown.add_row(*map(escape, row))
    console = Console()
    if not console.is_terminal:  # a file has no edge to wrap at
        console.width = max(console.width, console.measure(shown, options=console.options.update(width=1000)).maximum)
    console.print(shown)


def print_error(error: UserError) -> None:
    """Two lines on standard error."""
    print(f"{error.message}\n{error.hint}", file=sys.stderr)  # noqa: T201


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _change(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return ""
    color, arrow = ("green", "▲") if after > before else ("red", "▼") if after < before else ("white", "=")
    return f"[{color}]{arrow} {abs(after - before):.3f}[/{color}]"
