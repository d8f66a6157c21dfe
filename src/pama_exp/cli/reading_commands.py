"""`pama-exp runs`, `show`, `diff`, `compare`, `import` and `export`: commands that read runs.

The modules that read runs import torch. They are imported after the arguments have been parsed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pama_exp.safety.arguments import Parser, folder


def runs(arguments: list[str], prog: str) -> int:
    """Print a line for every run under a folder."""
    parser = Parser(prog, description="Every run under ROOT, finished or not, a line each.")
    parser.add_argument("root", nargs="?", type=folder, default=Path("runs"), metavar="ROOT", help="default: runs")
    args = parser.parse_args(arguments)
    from pama_exp.comparison import load_runs
    from pama_exp.runs import listing

    listing(load_runs([args.root]))
    return 0


def show(arguments: list[str], prog: str) -> int:
    """Print the state, the result and the command of one run."""
    parser = Parser(prog, description="One run: its state, its result, the command that made it.")
    parser.add_argument("run", metavar="RUN", help="a run's folder")
    args = parser.parse_args(arguments)
    return _read("show", args.run)


def diff(arguments: list[str], prog: str) -> int:
    """Print the differences of two runs."""
    parser = Parser(prog, description="What two runs' configurations and results differ in.")
    parser.add_argument("first", metavar="A", help="a run's folder")
    parser.add_argument("second", metavar="B", help="another's")
    args = parser.parse_args(arguments)
    return _read("diff", args.first, args.second)


def import_folder(arguments: list[str], prog: str) -> int:
    """Write the record of a policy that was trained elsewhere."""
    parser = Parser(prog, description="A run's record made of a policy, its generations and scores from elsewhere.")
    parser.add_argument("folder", type=folder, metavar="FOLDER", help="what was made elsewhere: docs/integrations.md")
    parser.add_argument("run", type=folder, metavar="RUN", help="the new run's folder")
    args = parser.parse_args(arguments)
    return _read("import", args.folder, args.run)


def export(arguments: list[str], prog: str) -> int:
    """Write scripts that continue a run in another library."""
    parser = Parser(prog, description="Scripts that go on with a run in TRL or verl.")
    parser.add_argument("--to", choices=("trl", "verl"), required=True, help="which library the scripts are for")
    parser.add_argument("run", metavar="RUN", help="a run's folder")
    parser.add_argument("folder", type=folder, metavar="FOLDER", help="where the scripts are written")
    args = parser.parse_args(arguments)
    return _read("export", args.to, args.run, args.folder)


def compare(arguments: list[str], prog: str) -> int:
    """Run `stage=compare`: tables, intervals, paired tests, fronts and pictures."""
    parser = Parser(
        prog, description="Runs side by side, seed by seed: tables, intervals, paired tests, fronts and pictures."
    )
    parser.add_argument(
        "folders", nargs="*", default=["runs"], metavar="FOLDER", help="a run, or a folder of runs (default: runs)"
    )
    parser.add_argument("--baseline", metavar="SOLVER", help="whom the others are tested against (default: linear)")
    parser.add_argument("--output", metavar="FOLDER", help="where to write (default: a folder under runs)")
    args = parser.parse_args(arguments)
    words = ["stage=compare", f"compare.runs=[{','.join(map(_quoted, args.folders))}]"]
    words += [f"compare.baseline={_quoted(args.baseline)}"] if args.baseline is not None else []
    words += [f"output={_quoted(args.output)}"] if args.output is not None else []
    sys.argv[1:] = words
    from pama_exp.cli import app

    app.main()
    return 0


def _read(*words: str) -> int:
    """Run `python -m pama_exp.runs` with these words; returns the exit status."""
    from pama_exp.runs import main

    return main(list(words))


def _quoted(text: str) -> str:
    """The text quoted as the value of an override."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
