"""`pama-exp dashboard`: the W&B dashboard that compares solvers, saved there or drawn from offline records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any

from pama_exp.comparison import Run, load_runs, split_by_objectives
from pama_exp.errors import UserError
from pama_exp.report import workspace
from pama_exp.report.page import refuse_foreign
from pama_exp.safety.arguments import Parser, folder
from pama_exp.storage import html_view
from pama_exp.tracking.console import note, phase
from pama_exp.tracking.run_wandb import read_offline

_COSTS = ("seconds", "prompts", "tokens", "reward_calls", "forwards", "backwards")
_TITLE = "<title>Solvers compared: "  # by which an earlier dashboard is known
_TEXTS = 3  # answers shown of each solver
_STYLE = """
:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:72rem;padding:1rem}
section{display:flex;flex-wrap:wrap;gap:1.2rem}section>div{max-width:100%;overflow-x:auto}h2{margin:1.6rem 0 .4rem}
"""
Logs = Mapping[str, Sequence[Mapping[str, Any]]]  # {solver: what W&B's record of each of its runs holds}


def main(arguments: list[str], prog: str) -> int:
    """Save the dashboard of a W&B project, or write the same as a page."""
    parser = Parser(
        prog, description="Runs side by side as a dashboard, sorted by solver: at W&B, or as a page of offline records."
    )
    parser.add_argument("folders", nargs="*", default=["runs"], metavar="FOLDER", help="runs (default: runs)")
    parser.add_argument("--project", metavar="ENTITY/PROJECT", help="save it at W&B, where these runs have been sent")
    parser.add_argument(
        "--output", type=folder, default=Path("dashboard"), help="else where to write (default: dashboard)"
    )
    given = parser.parse_args(arguments)
    parts = split_by_objectives(load_runs(given.folders))
    if len(parts) != 1:
        names = "; ".join(" + ".join(part[0].objectives) for part in parts) or "none"
        raise UserError(
            f"The runs align {len(parts)} sets of objectives ({names}).", "Name folders with runs of the same ones."
        )
    if given.project is not None:
        workspace.save(given.project, parts[0][0].objectives)
        return 0
    path = given.output / "index.html"
    try:
        refuse_foreign(given.output, _TITLE.encode())
        text = page(parts[0][0].objectives, read_logs(parts[0]))
        given.output.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(
            f"{given.output} cannot be written ({error.strerror}).", "Give another --output FOLDER."
        ) from None
    note(f"Dashboard: {path}")
    return 0


def read_logs(runs: Sequence[Run]) -> Logs:
    """The offline records of the runs, by solver in the order of their names.

    Raises:
        UserError: if no run has one.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    kept = [run for run in runs if list(run.folder.glob("wandb/offline-run-*/*.wandb"))]
    if not kept:
        raise UserError(
            "None of the runs has an offline W&B record.", "logger=wandb writes one where there is no account."
        )
    with phase("Reading W&B's records", len(kept)) as told:
        for run in sorted(kept, key=lambda run: (run.solver, run.seed)):
            found.setdefault(run.solver, []).append(read_offline(run.folder))
            told.advance()
    return found


def page(names: Sequence[str], logs: Logs) -> str:
    """The dashboard as one HTML file that loads nothing."""
    sections = {
        "Where the policies end": [*_ends(names, logs), _shares(logs)],
        "Training": _curves(logs, [f"reward/{name}/mean" for name in names] + ["kl/response"]),
        "Proxy against gold": [_paths(logs, f"eval/proxy/{name}/mean", f"eval/gold/{name}/mean") for name in names],
        "The solver": _curves(
            logs, [f"solver/{what}/{name}" for what in ("weight", "binding_share") for name in names]
        ),
        "Cost": [_costs(logs)],
        "Generations": [_texts(logs)],
    }
    count = sum(map(len, logs.values()))
    body = "".join(
        f"<h2>{escape(title)}</h2><section>{''.join(f'<div>{panel}</div>' for panel in panels if panel)}</section>"
        for title, panels in sections.items()
    )
    title = f"Solvers compared: {' and '.join(names)}"  # as _TITLE begins
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{escape(title)}</title>"
        f"<meta name='viewport' content='width=device-width'><style>{_STYLE}</style></head>"
        f"<body><h1>{escape(title)}</h1><p>{count} offline runs, sorted by solver. "
        f"A point is a run; a line is the mean over a solver's runs.</p>{body}</body></html>\n"
    )


def _ends(names: Sequence[str], logs: Logs) -> list[str]:
    """Operating points, for every pair of objectives; with two objectives the true front too, where it is known."""
    plots = []
    for pair in [(first, second) for i, first in enumerate(names) for second in names[i + 1 :]]:
        every = [run for runs in logs.values() for run in runs]
        front = _points(every[0], pair, "true front") if len(names) == 2 else []
        series = {
            solver: [p for run in runs for p in _points(run, pair, "aligned policy")] for solver, runs in logs.items()
        }
        series |= {"true front": front} if front else {}
        plots.append(html_view.plot(pair, series, lines=["true front"]))
    return plots


def _points(run: Mapping[str, Any], pair: Sequence[str], kind: str) -> list[Sequence[float]]:
    """The rows of a kind in the table `front` of W&B's record, for two objectives."""
    table = run["tables"].get("front", {"columns": [], "data": []})
    at = [i for name in pair for i, column in enumerate(table["columns"]) if column.partition("/")[2] == name]
    return [[float(row[i]) for i in at] for row in table["data"] if row[0] == kind]


def _shares(logs: Logs) -> str:
    rows = []
    for solver, runs in logs.items():
        shares = [
            ((run["summary"].get("result") or {}).get("true_hypervolume_share") or {}).get("after") for run in runs
        ]
        known = [share for share in shares if share is not None]
        rows.append([solver, len(runs), f"{fmean(known):.1%}" if known else None])
    return html_view.table("Share of the true front", ["solver", "runs", "mean share"], rows)


def _curves(logs: Logs, metrics: Sequence[str]) -> list[str]:
    """One plot for each metric: means over a solver's runs by step."""
    plots = []
    for metric in metrics:
        series = {solver: _mean_by_step(runs, metric) for solver, runs in logs.items()}
        shown = {solver: points for solver, points in series.items() if points}
        plots.append(html_view.plot(("step", metric), shown, lines=list(shown), zero=False) if shown else "")
    return plots


def _mean_by_step(runs: Sequence[Mapping[str, Any]], metric: str) -> list[tuple[float, float]]:
    values: dict[float, list[float]] = {}
    for run in runs:
        for row in run["history"]:
            if metric in row and "train/step" in row:
                values.setdefault(float(row["train/step"]), []).append(float(row[metric]))
    return [(step, fmean(found)) for step, found in sorted(values.items())]


def _paths(logs: Logs, proxy: str, gold: str) -> str:
    """Every evaluation as a point; empty where one of both was not measured."""
    series = {
        solver: [(row[proxy], row[gold]) for run in runs for row in run["history"] if proxy in row and gold in row]
        for solver, runs in logs.items()
    }
    shown = {solver: points for solver, points in series.items() if points}
    return html_view.plot((proxy, gold), shown, zero=False) if shown else ""


def _costs(logs: Logs) -> str:
    rows = []
    for solver, runs in logs.items():
        bills = [bill for run in runs if (bill := (run["summary"].get("result") or {}).get("bill"))]
        rows.append([solver, *(f"{fmean(bill[key] for bill in bills):,.0f}" if bills else None for key in _COSTS)])
    return html_view.table("Means over runs", ["solver", *(key.replace("_", " ") for key in _COSTS)], rows)


def _texts(logs: Logs) -> str:
    """The first answers of each solver's newest table."""
    rows = []
    for solver, runs in logs.items():
        found = runs[0]["tables"].get("generations")
        if found is not None:
            at = [found["columns"].index(column) for column in ("prompt", "response")]
            rows += [[solver, *(row[i] for i in at)] for row in found["data"][:_TEXTS]]
    return html_view.table("First answers of each solver", ["solver", "prompt", "response"], rows)
