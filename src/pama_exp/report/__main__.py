"""`python -m pama_exp.report FOLDER… [--output FOLDER] [--open] [--wandb PROJECT]`."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path

from pama_exp.errors import UserError
from pama_exp.report.page import write_report
from pama_exp.safety.failing import guarded
from pama_exp.tracking.console import note, print_error
from pama_exp.tracking.run_wandb import log_report


def main(arguments: list[str] | None = None, prog: str = "python -m pama_exp.report") -> int:
    """Write the report; 2 for the user's mistakes."""
    parser = argparse.ArgumentParser(prog, description="One page about finished and other runs.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a run, or a folder that holds runs")
    parser.add_argument("--output", type=Path, default=Path("report"), help="where to write (default: report)")
    parser.add_argument("--open", action="store_true", help="show it in the browser")
    parser.add_argument("--wandb", metavar="PROJECT", help="keep the report in this W&B project too, as an artifact")
    given = parser.parse_args(arguments)
    try:
        page = write_report(given.folders, given.output)
    except UserError as error:
        print_error(error)
        return 2
    note(f"Report: {page}")
    if given.wandb is not None:
        log_report(page, given.wandb)
    if given.open:
        webbrowser.open(page.resolve().as_uri())
    return 0


if __name__ == "__main__":
    guarded(main, "report")
