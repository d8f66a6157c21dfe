"""What `--help` prints: the commands, the groups with their options, the flags."""

from __future__ import annotations

import itertools
import shutil
import sys
import textwrap
from pathlib import Path

from pama_exp.cli.family import COMMANDS, called
from pama_exp.config.own_options import check_folder
from pama_exp.config.places import CONF, SWEEPS

_LISTED = {"solver": "solvers", "model": "models", "objectives": "objectives"}  # groups that a command tells of
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
    """Print it."""
    folders = [word.partition("=")[2] for word in words if word.startswith("--config-dir=")]
    folders += [after for word, after in itertools.pairwise(words) if word == "--config-dir"]
    for folder in folders:
        check_folder(folder)
    sys.stdout.write(text(called(), [Path(folder) for folder in folders], shutil.get_terminal_size((110, 24)).columns))
    return 0


def text(prog: str, own: list[Path], width: int = 110) -> str:
    """The help.

    Args:
        prog: how the command is typed.
        own: folders with options of the user's.
        width: characters of a line, as far as words allow.
    """
    lines = ["Align a language model to several objectives at once.", ""]
    lines += _table({f"{prog} {words}".rstrip(): what for words, what in EXAMPLES.items()}, width)
    lines += ["", "== Commands =="]
    lines += _table({f"{prog} {name}": command.help for name, command in COMMANDS.items()}, width)
    lines += ["Each says more with --help.", "", "== Groups (group=option) =="]
    for group, options in groups(own).items():
        typed = f"+{group}" if group == "sweep" else group
        told = f" ({prog} {_LISTED[group]} says what each is)" if group in _LISTED else ""
        lines += textwrap.wrap(f"{typed}{told}: {', '.join(options)}", width, subsequent_indent="    ",
                               break_on_hyphens=False)  # fmt: skip
    lines += ["", "== Flags =="]
    lines += _table(_FLAGS, width)
    lines += ["", f"{prog} settings WORD says what the keys that hold WORD mean."]
    return "\n".join(lines) + "\n"


def groups(own: list[Path]) -> dict[str, list[str]]:
    """{group: its options}, shipped and in folders of the user's, in the order of their names."""
    found: dict[str, set[str]] = {}
    shipped = [folder for folder in CONF.iterdir() if folder.is_dir() and folder.name != "hydra"]
    theirs = [folder for root in own if root.is_dir() for folder in root.iterdir() if folder.is_dir()]
    for folder in (*shipped, SWEEPS / "sweep", *theirs):
        names = {path.stem for path in folder.glob("*.yaml")}
        if names:
            found.setdefault(folder.name, set()).update(names)
    return {group: sorted(found[group]) for group in sorted(found)}


def _table(rows: dict[str, str], width: int) -> list[str]:
    """Two columns; what does not fit beside its first column goes on below."""
    first = min(max(map(len, rows)) + 4, width // 2 + 16)
    lines: list[str] = []
    for left, right in rows.items():
        beside = textwrap.wrap(right, max(24, width - first)) or [""]
        if len(left) + 4 > first:
            lines.append(f"  {left}")
            left = ""
        lines.append(f"  {left:<{first - 2}}{beside[0]}".rstrip())
        lines += [" " * first + more for more in beside[1:]]
    return lines
