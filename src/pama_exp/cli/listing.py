"""`pama-exp solvers`, `models` and `objectives`: the options of a group, or one of them, from their yamls."""

from __future__ import annotations

import sys
from pathlib import Path

from pama_exp.config.comments import headline
from pama_exp.config.own_options import check_folder, option, option_text
from pama_exp.config.places import options
from pama_exp.errors import UserError, suggest
from pama_exp.safety.arguments import Parser, folder
from pama_exp.tracking.console import note, table

_WHERE = {"any": "everywhere", "factworld": "FactWorld", "text": "text"}


def solvers(arguments: list[str], prog: str) -> int:
    """Print every solver in a line; with a name, the entry from its docstring."""
    path, paths = _parsed("solver", arguments, prog)
    if path is None:
        return _print_table("solver", {name: [headline(path)] for name, path in paths.items()}, ["is"], prog)
    from pama_exp.cli.solver_help import entry

    sys.stdout.write(entry(path).text + "\n")
    return 0


def models(arguments: list[str], prog: str) -> int:
    """Print every model with its size and licence; with a name, its yaml."""
    path, paths = _parsed("model", arguments, prog)
    if path is not None:
        return _print(path)
    rows = {}
    for name, path in paths.items():
        settings = option(path)
        gated = ", gated" if settings.get("gated") else ""
        rows[name] = [_size(settings.get("parameters")), headline(path), f"{settings.get('licence', '')}{gated}"]
    return _print_table("model", rows, ["parameters", "is", "licence"], prog)


def objectives(arguments: list[str], prog: str) -> int:
    """Print every objective with the data it can be scored on; with a name, its yaml."""
    path, paths = _parsed("objectives", arguments, prog)
    if path is not None:
        return _print(path)
    rows = {}
    for name, path in paths.items():
        node = option(path).get(name)
        scorers = (node.get("scorers") if isinstance(node, dict) else None) or {}
        rows[name] = [headline(path), ", ".join(_WHERE.get(domain, domain) for domain in scorers)]
    return _print_table("objective", rows, ["is", "scored on"], prog)


def _parsed(group: str, arguments: list[str], prog: str) -> tuple[Path | None, dict[str, Path]]:
    """The yaml of the option that the arguments name, None without one; and those of all options."""
    parser = Parser(prog, description=f"What {group}= may be, or what one of them is.")
    parser.add_argument("name", nargs="?", metavar="NAME", help="one of them")
    parser.add_argument("--config-dir", type=folder, metavar="FOLDER", help="with those of your own in this folder")
    args = parser.parse_args(arguments)
    if args.config_dir is not None:
        check_folder(args.config_dir)
    paths = options(group, *([args.config_dir] if args.config_dir is not None else []))
    if args.name is not None and args.name not in paths:
        raise UserError(f"Unknown {group} '{args.name}'.", suggest(args.name, paths))
    return paths.get(args.name), paths


def _print_table(kind: str, rows: dict[str, list[str]], columns: list[str], prog: str) -> int:
    lines = [(name, *cells) for name, cells in rows.items()]
    table(f"{len(rows)} {kind}s", [kind, *columns], lines, left=("is", "licence", "scored on"))
    note(f"{prog} NAME says more of one.")
    return 0


def _print(path: Path) -> int:
    option(path)
    sys.stdout.write(option_text(path))
    return 0


def _size(parameters: int | None) -> str:
    if parameters is None:
        return "–"
    return f"{parameters / 1e9:.1f} B" if parameters >= 0.9995e9 else f"{parameters / 1e6:.0f} M"
