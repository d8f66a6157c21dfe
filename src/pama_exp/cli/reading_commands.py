"""`pama-exp runs`, `show`, `diff`, `compare`, `import` and `export`: finished and other runs, read.

What reads them brings torch along, and is imported once the arguments are known to be right.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pama_exp.safety.arguments import Parser, folder


def runs(arguments: list[str], prog: str) -> int:
    """A line for every run under a folder."""
    parser = Parser(prog, description="Every run under ROOT, finished or not, a line each.")
    parser.add_argument("root", nargs="?", type=folder, default=Path("runs"), metavar="ROOT", help="default: runs")
    given = parser.parse_args(arguments)
    from pama_exp import runs as looking
    from pama_exp.comparison import load_runs

    looking.listing(load_runs([given.root]))
    return 0


def show(arguments: list[str], prog: str) -> int:
    """State, result and origin of one run."""
    parser = Parser(prog, description="One run: its state, its result, the command that made it.")
    parser.add_argument("run", metavar="RUN", help="a run's folder")
    given = parser.parse_args(arguments)
    from pama_exp import runs as looking

    looking.show(looking.one(given.run))
    return 0


def diff(arguments: list[str], prog: str) -> int:
    """What two runs differ in."""
    parser = Parser(prog, description="What two runs' configurations and results differ in.")
    parser.add_argument("first", metavar="A", help="a run's folder")
    parser.add_argument("second", metavar="B", help="another's")
    given = parser.parse_args(arguments)
    from pama_exp import runs as looking

    looking.diff(looking.one(given.first), looking.one(given.second))
    return 0


def import_folder(arguments: list[str], prog: str) -> int:
    """A record of a policy that was trained elsewhere."""
    parser = Parser(prog, description="A run's record made of a policy, its generations and scores from elsewhere.")
    parser.add_argument("folder", type=folder, metavar="FOLDER", help="what was made elsewhere: docs/integrations.md")
    parser.add_argument("run", type=folder, metavar="RUN", help="the new run's folder")
    args = parser.parse_args(arguments)
    from pama_exp import runs as looking

    return looking.main(["import", str(args.folder), str(args.run)])


def export(arguments: list[str], prog: str) -> int:
    """Scripts that go on with a run elsewhere."""
    parser = Parser(prog, description="Scripts that go on with a run in TRL or verl.")
    parser.add_argument("--to", choices=("trl", "verl"), required=True, help="which library the scripts are for")
    parser.add_argument("run", metavar="RUN", help="a run's folder")
    parser.add_argument("folder", type=folder, metavar="FOLDER", help="where the scripts are written")
    args = parser.parse_args(arguments)
    from pama_exp import runs as looking

    return looking.main(["export", args.to, args.run, str(args.folder)])


def compare(arguments: list[str], prog: str) -> int:
    """`stage=compare`, in the words of a command line: tables, intervals, paired tests, fronts and pictures."""
    parser = Parser(
        prog, description="Runs side by side, seed by seed: tables, intervals, paired tests, fronts and pictures."
    )
    parser.add_argument(
        "folders", nargs="*", default=["runs"], metavar="FOLDER", help="a run, or a folder of runs (default: runs)"
    )
    parser.add_argument("--baseline", metavar="SOLVER", help="whom the others are tested against (default: linear)")
    parser.add_argument("--output", metavar="FOLDER", help="where to write (default: a folder under runs)")
    given = parser.parse_args(arguments)
    words = ["stage=compare", f"compare.runs=[{','.join(map(_quoted, given.folders))}]"]
    words += [f"compare.baseline={_quoted(given.baseline)}"] if given.baseline is not None else []
    words += [f"output={_quoted(given.output)}"] if given.output is not None else []
    sys.argv[1:] = words
    from pama_exp.cli import app

    app.main()
    return 0


def _quoted(text: str) -> str:
    """As an override's value, whatever characters it holds."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
