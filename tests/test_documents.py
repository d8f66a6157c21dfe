"""What the documents tell the user to type composes, and what they link to is there."""

import re
import shlex
from xml.etree import ElementTree

import pytest

from commands import FAST, ROOT, run_command
from pama_exp.assembly.method import build_estimator, build_solver
from pama_exp.cli import command_line, family
from pama_exp.cli.help_text import EXAMPLES
from pama_exp.config import resolvers, schema
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
PLAIN = ("--multirun", "--help", "--cfg", "job", "||", "true")
NAMED = re.compile(
    r"^`([\w/]+\.(?:py|yaml))`:\n\n```\w+\n(.*?)^```", re.M | re.S
)  # a file that a page has the reader write


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with the files that the how-to pages have the reader write."""
    folder = tmp_path_factory.mktemp("written")
    for page in (ROOT / "docs" / "how-to").glob("*.md"):
        for name, text in NAMED.findall(page.read_text()):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes(command):
    check_words(shlex.split(command)[2:])


@pytest.mark.parametrize("command", FAMILY)
def test_every_command_of_the_family_composes_or_is_one(command, written):
    words = shlex.split(command)[1:]
    if words and words[0] in family.COMMANDS:
        return
    folder = None
    if "--config-dir" in words:
        at = words.index("--config-dir")
        folder = {"my_conf": written / "my_conf", "conf": ROOT / "examples" / "real_text" / "conf"}[words[at + 1]]
        words = words[:at] + words[at + 2 :]
    check_words(words, folder)


def check_words(words, folder=None):
    given = [word for word in words if word not in PLAIN]
    read = command_line.as_hydra_reads(given, given)
    resolvers.register()
    search_path.register()
    folder = None if folder is None else str(folder)
    for config in command_line.check_command_line(read, folder, multirun="--multirun" in words):
        typed = schema.typed(config)
        if folder is None:  # else its solver may be a class of the reader's own
            build_solver(typed, build_estimator(typed.advantage))  # which refuses what is not defined together


@pytest.mark.slow("whole runs")
@pytest.mark.parametrize("words", [["solver=worst"], ["reward=gold", "objectives=[concise,loud]"]], ids=" ".join)
def test_what_the_how_to_pages_have_the_reader_write_runs(words, written, shared_cache):
    output = [f"output=out-{words[-1][:6]}", f"cache_dir={shared_cache}"]
    done = run_command("--config-dir", "my_conf", *FAST, *words, *output, cwd=written)
    assert done.returncode == 0, done.stderr + done.stdout


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(document):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("picture", sorted((ROOT / "docs").rglob("*.svg")), ids=lambda path: path.name)
def test_every_drawing_is_whole(picture):
    ElementTree.parse(picture)
