"""Run the commands of a tutorial and paste what they print: `python docs/scripts/outputs.py PAGE.md`.

A block of commands that is followed by a `text` block is run, and the text block replaced by its output, without the
lines of progress. Commands run one after the other in one new folder, which `--folder` chooses. A comment
`<!-- picture: PATTERN -->` before an image copies the first file of the folder that fits over it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```sh\n(?P<commands>(?:(?!```).)*)```\n\n```text\n(?P<output>.*?)```\n", re.S)
PICTURE = re.compile(r"<!-- picture: (?P<source>\S+) -->\n!\[[^\]]*\]\((?P<target>[^)]+)\)")
_PROGRESS = re.compile(r"^[^:\n]+(: \d+/\d+ |, \d+ s$)|; Working|\d+ s left$|^Loading|^Reading")


def filled(text: str, folder: Path) -> str:
    """The page with the outputs of its commands, run in this folder.

    Raises:
        RuntimeError: if a command fails.
    """

    def put(match: re.Match[str]) -> str:
        commands = match["commands"]
        return f"```sh\n{commands}```\n\n```text\n{_run(commands, folder)}```\n"

    return BLOCK.sub(put, text)


def pictures(text: str, page: Path, folder: Path) -> None:
    """Copy the pictures that the page shows out of the folder."""
    for match in PICTURE.finditer(text):
        target = page.parent / match["target"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(next(iter(sorted(folder.glob(match["source"])))), target)


def _run(commands: str, folder: Path) -> str:
    """What a shell prints, as a person in that folder would see it."""
    binaries = Path(tempfile.mkdtemp())
    (binaries / "pama-exp").write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "run.py"} "$@"\n')
    (binaries / "pama-exp").chmod(0o755)
    environment = os.environ | {"PATH": f"{binaries}:{os.environ['PATH']}", "COLUMNS": "110", "WANDB_MODE": "offline"}
    done = subprocess.run(
        ["bash", "-ec", commands], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    shutil.rmtree(binaries)
    if done.returncode:
        raise RuntimeError(f"{commands}{done.stdout}{done.stderr}")
    said = done.stdout.replace(f"{folder}/", "").replace(str(Path.home()), "~").replace("python run.py", "pama-exp")
    lines = [line.rstrip() for line in said.splitlines() if not _PROGRESS.search(line)]
    return "\n".join(lines).strip("\n") + "\n"


def main() -> None:
    """Fill the pages named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--folder", type=Path, help="where the commands run (default: a new one)")
    given = parser.parse_args()
    for page in given.pages:
        folder = (given.folder or Path(tempfile.mkdtemp())).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        text = filled(page.read_text(), folder)
        page.write_text(text)
        pictures(text, page, folder)


if __name__ == "__main__":
    main()
