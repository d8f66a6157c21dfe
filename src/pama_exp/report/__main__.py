"""`python -m pama_exp.report FOLDER… [--output FOLDER] [--open] [--wandb PROJECT]`."""

from __future__ import annotations

import webbrowser
from pathlib import Path

from pama_exp.errors import UserError
from pama_exp.report.page import write_report
from pama_exp.safety.arguments import Parser, folder
from pama_exp.safety.failing import guarded
from pama_exp.tracking.console import note, print_error
from pama_exp.tracking.run_wandb import log_report


def main(arguments: list[str] | None = None, prog: str = "python -m pama_exp.report") -> int:
    """Write the report; returns the exit status, 2 for a user's mistake."""
    parser = Parser(prog, description="One page about finished and other runs.")
    parser.add_argument("folders", nargs="+", type=folder, metavar="FOLDER", help="a run, or a folder that holds runs")
    parser.add_argument("--output", type=folder, default=Path("report"), help="where to write (default: report)")
    parser.add_argument("--open", action="store_true", help="show it in the browser")
    parser.add_argument("--wandb", metavar="PROJECT", help="keep the report in this W&B project too, as an artifact")
    args = parser.parse_args(arguments)
    try:
        page = write_report(args.folders, args.output)
    except UserError as error:
        print_error(error)
        return 2
    note(f"Report: {page}")
    if args.wandb is not None:
        log_report(page, args.wandb)
    if args.open:
        webbrowser.open(page.resolve().as_uri())
    return 0


if __name__ == "__main__":
    guarded(main, "report")
