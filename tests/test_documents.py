"""What the documents tell the user to type composes, and what they link to is there."""

import re
import shlex
from xml.etree import ElementTree

import pytest

from commands import ROOT
from pama_exp.cli import command_line
from pama_exp.cli.help_text import EXAMPLES
from pama_exp.config import resolvers
from pama_exp.sweeping import search_path

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]
COMMANDS = sorted(
    {
        line.split("#")[0].split("`")[0].strip()
        for d in (*DOCUMENTS, ROOT / "conf" / "config.yaml")
        for line in re.findall(r"python run\.py[^\n|`]*", d.read_text())
    }
    | {f"python run.py {words}" for words in EXAMPLES}
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes(command):
    words = [word for word in shlex.split(command)[2:] if word not in ("--multirun", "--help", "--cfg", "job")]
    read = command_line.as_hydra_reads(words, words)
    resolvers.register()
    search_path.register()
    command_line.check_command_line(read, multirun="--multirun" in command)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("picture", sorted((ROOT / "docs").rglob("*.svg")), ids=lambda path: path.name)
def test_every_drawing_is_whole(picture):
    ElementTree.parse(picture)
