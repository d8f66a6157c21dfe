"""`pama-exp solvers`, `models` and `objectives`: what an option may be, from its yaml."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pama_exp.config.comments import headline
from pama_exp.config.own_options import check_folder, option, option_text
from pama_exp.config.places import CONF
from pama_exp.errors import UserError, suggest
from pama_exp.safety.arguments import Parser, folder

_WHERE = {"any": "everywhere", "factworld": "FactWorld", "text": "text"}


def solvers(arguments: list[str], prog: str) -> int:
    """Every solver with a line; one with all that its docstring says."""
    chosen, found = _asked("solver", arguments, prog)
    if chosen is None:
        return _list("solver", {name: [headline(path)] for name, path in found.items()}, ["is"], prog)
    from pama_exp.cli.solver_help import entry

    sys.stdout.write(entry(chosen).text + "\n")
    return 0


def models(arguments: list[str], prog: str) -> int:
    """Every model with its size and licence; one with its yaml."""
    chosen, found = _asked("model", arguments, prog)
    if chosen is not None:
        return _print(chosen)
    rows = {}
    for name, path in found.items():
        settings = option(path)
        size = settings.get("parameters")
        gated = ", gated" if settings.get("gated") else ""
        rows[name] = [_size(size), headline(path), f"{settings.get('licence', '')}{gated}"]
    return _list("model", rows, ["parameters", "is", "licence"], prog)


def objectives(arguments: list[str], prog: str) -> int:
    """Every objective with the data it can be scored on; one with its yaml."""
    chosen, found = _asked("objectives", arguments, prog)
    if chosen is not None:
        return _print(chosen)
    rows = {}
    for name, path in found.items():
        node = option(path).get(name)
        scorers = (node.get("scorers") if isinstance(node, dict) else None) or {}
        rows[name] = [headline(path), ", ".join(_WHERE.get(where, where) for where in scorers)]
    return _list("objective", rows, ["is", "scored on"], prog)


def _asked(group: str, arguments: list[str], prog: str) -> tuple[Path | None, dict[str, Path]]:
    """The option that is asked for, if one is, and all that there are."""
    parser = Parser(prog, description=f"What {group}= may be, or what one of them is.")
    parser.add_argument("name", nargs="?", metavar="NAME", help="one of them")
    parser.add_argument("--config-dir", type=folder, metavar="FOLDER", help="with those of your own in this folder")
    given = parser.parse_args(arguments)
    if given.config_dir is not None:
        check_folder(given.config_dir)
    roots = [CONF, *([given.config_dir] if given.config_dir is not None else [])]
    found = {path.stem: path for root in roots for path in sorted((root / group).glob("*.yaml"))}
    if given.name is not None and given.name not in found:
        raise UserError(f"Unknown {group} '{given.name}'.", suggest(given.name, sorted(found)))
    return (None if given.name is None else found[given.name]), dict(sorted(found.items()))


def _list(kind: str, rows: dict[str, list[str]], columns: list[str], prog: str) -> int:
    table = Table(title=f"{len(rows)} {kind}s", title_justify="left")
    table.add_column(kind, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right" if column == "parameters" else "left")
    for name, cells in rows.items():
        table.add_row(name, *cells)
    console = Console(markup=False)
    if not console.is_terminal:  # a file has no edge to wrap at
        console.width = max(console.width, console.measure(table, options=console.options.update(width=1000)).maximum)
    console.print(table)
    console.print(f"{prog} NAME says more of one.")
    return 0


def _print(path: Path) -> int:
    option(path)
    sys.stdout.write(option_text(path))
    return 0


def _size(parameters: int | None) -> str:
    if parameters is None:
        return "–"
    return f"{parameters / 1e9:.1f} B" if parameters >= 0.9995e9 else f"{parameters / 1e6:.0f} M"
