"""What `--help` prints: the commands, the groups with their options, the flags."""

from __future__ import annotations

import itertools
import shutil
import sys
import textwrap
from pathlib import Path

from pama_exp.cli.family import COMMANDS, called
from pama_exp.config.own_options import check_folder
from pama_exp.config.places import CONF, options

_LISTED = {"solver": "solvers", "model": "models", "objectives": "objectives"}  # {group: the command that lists it}
EXAMPLES = {
    "": "the embedded default: no network, GPU or account",
    "solver=linear 'objectives=[helpful,harmless,concise]'": "any option of a group, any objectives",
    "training.steps=100 objectives.concise.weight=0.3": "any key",
    "stage=evaluate": "the SFT policy on unseen prompts",
    "+sweep=baselines hydra.launcher.workers=2": "many runs, and a report",
    "--multirun seed=0,1,2 solver=pama,linear": "a sweep of your own",
    "model=opt-1.3b preflight=true": "what a run needs, before it runs",
}
_FLAGS = {
    "--help solver=NAME": "what a solver is",
    "--cfg job": "every key with its value, and nothing is run",
    "--multirun": "several values for a key (seed=0,1) are a run each",
    "--config-dir FOLDER": "options of your own, in that folder's groups; before the overrides, as every flag",
    "--version": "the version",
    "--hydra-help": "the remaining flags, which are Hydra's",
}


def main(words: list[str]) -> int:
    """Print the help."""
    folders = [word.partition("=")[2] for word in words if word.startswith("--config-dir=")]
    folders += [after for word, after in itertools.pairwise(words) if word == "--config-dir"]
    for folder in folders:
        check_folder(folder)
    sys.stdout.write(text(called(), [Path(folder) for folder in folders], shutil.get_terminal_size((110, 24)).columns))
    return 0


def text(prog: str, folders: list[Path], width: int = 110) -> str:
    """The help.

    Args:
        prog: how the command is typed.
        folders: of the user's options.
        width: characters of a line. A longer word is not broken.
    """
    lines = ["Align a language model to several objectives at once.", ""]
    lines += _table({f"{prog} {words}".rstrip(): what for words, what in EXAMPLES.items()}, width)
    lines += ["", "== Commands =="]
    lines += _table({f"{prog} {name}": command.help for name, command in COMMANDS.items()}, width)
    lines += ["Each says more with --help.", "", "== Groups (group=option) =="]
    for group, names in groups(folders).items():
        typed = f"+{group}" if group == "sweep" else group
        command = f" ({prog} {_LISTED[group]} says what each is)" if group in _LISTED else ""
        lines += textwrap.wrap(f"{typed}{command}: {', '.join(names)}", width, subsequent_indent="    ",
                               break_on_hyphens=False)  # fmt: skip
    lines += ["", "== Flags =="]
    lines += _table(_FLAGS, width)
    lines += ["", f"{prog} settings WORD says what the keys that hold WORD mean."]
    return "\n".join(lines) + "\n"


def groups(folders: list[Path]) -> dict[str, list[str]]:
    """{group: its options}, shipped and in the user's folders, both in alphabetical order."""
    shipped = {folder.name for folder in CONF.iterdir() if folder.is_dir()} - {"hydra"}
    added = {folder.name for root in folders if root.is_dir() for folder in root.iterdir() if folder.is_dir()}
    names = {group: list(options(group, *folders)) for group in sorted({*shipped, "sweep", *added})}
    return {group: listed for group, listed in names.items() if listed}


def _table(rows: dict[str, str], width: int) -> list[str]:
    """Lines of two columns. The second one starts on a new line where the first is too long."""
    first = min(max(map(len, rows)) + 4, width // 2 + 16)
    lines: list[str] = []
    for left, right in rows.items():
        wrapped = textwrap.wrap(right, max(24, width - first)) or [""]
        if len(left) + 4 > first:
            lines.append(f"  {left}")
            left = ""
        lines.append(f"  {left:<{first - 2}}{wrapped[0]}".rstrip())
        lines += [" " * first + line for line in wrapped[1:]]
    return lines
