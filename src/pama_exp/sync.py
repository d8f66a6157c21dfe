"""`python -m pama_exp.sync [ROOT] [--upload]`: offline W&B runs listed, and uploaded where there is an account."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pama_exp.errors import UserError
from pama_exp.safety.arguments import Parser, folder
from pama_exp.safety.failing import guarded
from pama_exp.tracking.console import note, print_error
from pama_exp.tracking.offline import offline_runs, upload


def main(arguments: list[str] | None = None, prog: str = "python -m pama_exp.sync") -> int:
    """List the offline runs; with --upload, send those that have not been sent. 2 for the user's mistakes."""
    parser = Parser(prog, description="Offline W&B runs: listed or uploaded.")
    parser.add_argument("root", nargs="?", type=folder, default=Path("runs"), help="where runs are (default: runs)")
    parser.add_argument("--upload", action="store_true", help="upload those that have not been uploaded")
    given = parser.parse_args(arguments)
    try:
        found = offline_runs(given.root)
        table = Table(
            "run", "W&B id", "written", "kB", "state", title=f"{len(found)} offline runs", title_justify="left"
        )
        for run in found:
            size = f"{run.log.stat().st_size / 1024:.0f}"
            table.add_row(escape(run.name), run.run_id, run.written, size, "uploaded" if run.is_uploaded else "offline")
        Console().print(table)
        waiting = [run for run in found if not run.is_uploaded]
        if given.upload:
            for run in waiting:
                upload(run)
                note(f"Uploaded {run.name}.")
        elif waiting:
            note(f"{len(waiting)} not uploaded; --upload sends them.")
    except UserError as error:
        print_error(error)
        return 2
    return 0


if __name__ == "__main__":
    guarded(main, "sync")
