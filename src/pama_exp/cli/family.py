"""The command family: `pama-exp [override]…` runs, `pama-exp COMMAND …` looks at what there is and what has run.

Nothing heavy is imported before it is known what for, so that help comes at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

from pama_exp.errors import UserError
from pama_exp.safety import failing, import_path


@dataclass(frozen=True)
class Command:
    """A word that may follow `pama-exp`: where its function `(arguments, prog) -> exit status` is, and what it does."""

    module: str
    function: str
    help: str

    def load(self) -> Callable[[list[str], str], int]:
        """The function."""
        found: Callable[[list[str], str], int] = getattr(import_module(self.module), self.function)
        return found


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
    """Do what the command line says. Exit status 2 for the user's mistakes."""
    words = sys.argv[1:]
    if "PAMA_EXP_WORKER" not in os.environ:
        if words and words[0] in COMMANDS:
            command, prog = COMMANDS[words[0]], f"{called()} {words[0]}"
            failing.guarded(lambda: _status(lambda: command.load()(words[1:], prog)), words[0])
        near = get_close_matches(words[0], COMMANDS, n=1, cutoff=0.75) if words and "=" not in words[0] else []
        if near:
            sys.stderr.write(f"Unknown command '{words[0]}'.\nDid you mean '{near[0]}'? {called()} --help lists all.\n")
            sys.exit(2)
        if _asks_for_help(words):
            from pama_exp.cli import help_text

            failing.guarded(lambda: _status(lambda: help_text.main(words)), "The help")
    from pama_exp.cli import app

    app.main()


def called() -> str:
    """How the command was typed: `pama-exp`, `python run.py` or `python -m pama_exp`."""
    name = Path(sys.argv[0]).name
    return {"run.py": "python run.py", "__main__.py": "python -m pama_exp"}.get(name, "pama-exp")


def _asks_for_help(words: list[str]) -> bool:
    """Whether help is asked for, but for that on a solver, which reads the solver's code."""
    return bool({"--help", "-h"} & set(words)) and not any(word.startswith("solver=") for word in words)


def _status(work: Callable[[], int]) -> int:
    """The exit status of the work; 2 for the user's mistakes, in two lines."""
    try:
        import_path.add_current_folder()
        return work()
    except UserError as error:
        sys.stderr.write(f"{error.message}\n{error.hint}\n")
        return 2
