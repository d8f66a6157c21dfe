"""What the documents tell the user to type composes, and what they link to is there."""

import re
import shlex
from xml.etree import ElementTree

import pytest

from commands import ROOT
from pama_exp.cli import command_line, family
from pama_exp.cli.help_text import EXAMPLES
from pama_exp.config import resolvers
from pama_exp.sweeping import search_path

DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "benchmarks" / "README.md",
    ROOT / "examples" / "real_text" / "README.md",
]
TEXT = "\n".join(path.read_text() for path in (*DOCUMENTS, ROOT / "conf" / "config.yaml"))
COMMANDS = sorted(
    {line.split("#")[0].split("`")[0].strip() for line in re.findall(r"(?<![/ ])python run\.py[^\n|`…]*", TEXT)}
    | {f"python run.py {words}" for words in EXAMPLES}
)
# In blocks of commands, where a line that ends in a backslash goes on, and at the beginning of a piece of code.
BLOCKS = "\n".join(re.findall(r"^```sh\n(.*?)^```", TEXT, re.M | re.S)).replace("\\\n", " ")
FAMILY = sorted(
    {line.split("  #")[0].strip() for line in re.findall(r"^(pama-exp(?: [^\n]*)?)$", BLOCKS, re.M)}
    | {line.strip() for line in re.findall(r"`(pama-exp [^`\n…]*)`", TEXT)}
)
PLAIN = ("--multirun", "--help", "--cfg", "job")
OWN = re.compile(r"solver=worst|solver\.sharpness|objectives=\[concise,loud\]")  # what the page has the reader write


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes(command):
    check_words(shlex.split(command)[2:])


@pytest.mark.parametrize("command", FAMILY)
def test_every_command_of_the_family_composes_or_is_one(command):
    words = shlex.split(command)[1:]
    if words and words[0] in family.COMMANDS:
        return
    if "--config-dir" in words:
        at = words.index("--config-dir")
        words = [word for word in words[:at] + words[at + 2 :] if not OWN.search(word)]
    check_words(words)


def check_words(words):
    given = [word for word in words if word not in PLAIN]
    read = command_line.as_hydra_reads(given, given)
    resolvers.register()
    search_path.register()
    command_line.check_command_line(read, multirun="--multirun" in words)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(document):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("picture", sorted((ROOT / "docs").rglob("*.svg")), ids=lambda path: path.name)
def test_every_drawing_is_whole(picture):
    ElementTree.parse(picture)
