"""The command family: `pama-exp [override]…` runs, `pama-exp COMMAND …` lists options or reads finished runs.

Each command imports what it needs only when it is called, so that help is printed at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from pama_exp.safety import failing, import_path


@dataclass(frozen=True)
class Command:
    """A word that may follow `pama-exp`: its function `(arguments, prog) -> exit status`, by name, and its help."""

    module: str
    function: str
    help: str

    def load(self) -> Callable[[list[str], str], int]:
        """Import the function."""
        function: Callable[[list[str], str], int] = getattr(import_module(self.module), self.function)
        return function


COMMANDS = {
    "solvers": Command("pama_exp.cli.listing", "solvers", "what solver= may be; with a NAME, its rule, settings, cost"),
    "models": Command("pama_exp.cli.listing", "models", "what model= may be; with a NAME, its yaml"),
    "objectives": Command("pama_exp.cli.listing", "objectives", "what objectives may be; with a NAME, its yaml"),
    "settings": Command("pama_exp.cli.settings_help", "main", "what a key may be, its default and its meaning"),
    "runs": Command("pama_exp.cli.reading_commands", "runs", "every run of a folder, a line each"),
    "show": Command("pama_exp.cli.reading_commands", "show", "one run: its state, its result, the command of it"),
    "diff": Command("pama_exp.cli.reading_commands", "diff", "what two runs differ in, configuration and result"),
    "import": Command("pama_exp.cli.reading_commands", "import_folder", "a record of a policy trained elsewhere"),
    "export": Command("pama_exp.cli.reading_commands", "export", "scripts that go on with a run in TRL or verl"),
    "report": Command("pama_exp.report.__main__", "main", "one page that shows many runs"),
    "compare": Command("pama_exp.cli.reading_commands", "compare", "runs side by side: intervals, tests, fronts"),
    "dashboard": Command(
        "pama_exp.report.dashboard", "main", "the W&B dashboard, saved there or drawn from offline runs"
    ),
    "sync": Command("pama_exp.sync", "main", "offline W&B runs, listed or uploaded"),
    "completion": Command("pama_exp.cli.completion", "main", "a script with which the shell completes all of this"),
}


def main() -> None:
    """Run the command line and exit, with status 2 for a user's mistake."""
    words = sys.argv[1:]
    if "PAMA_EXP_WORKER" not in os.environ:
        if words and words[0] in COMMANDS:
            command, prog = COMMANDS[words[0]], f"{called()} {words[0]}"
            _run(lambda: command.load()(words[1:], prog), words[0])
        near = get_close_matches(words[0], COMMANDS, n=1, cutoff=0.75) if words and "=" not in words[0] else []
        if near:
            sys.stderr.write(f"Unknown command '{words[0]}'.\nDid you mean '{near[0]}'? {called()} --help lists all.\n")
            sys.exit(2)
        if _asks_for_help(words):
            from pama_exp.cli import help_text

            _run(lambda: help_text.main(words), "The help")
    from pama_exp.cli import app

    app.main()


def called() -> str:
    """How the command was typed: `pama-exp`, `python run.py` or `python -m pama_exp`."""
    name = Path(sys.argv[0]).name
    return {"run.py": "python run.py", "__main__.py": "python -m pama_exp"}.get(name, "pama-exp")


def _asks_for_help(words: list[str]) -> bool:
    """Whether the words ask for help other than that on a solver, which imports the solver's code."""
    return bool({"--help", "-h"} & set(words)) and not any(word.startswith("solver=") for word in words)


def _run(command: Callable[[], int], name: str) -> NoReturn:
    def run() -> int:
        import_path.add_current_folder()
        return command()

    failing.guarded(run, name)
