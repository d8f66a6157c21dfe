"""The site builds without a warning and reads nothing from a network; outputs and pictures in it are made, not typed."""

import importlib.util
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from commands import ROOT

SCRIPTS = ROOT / "docs" / "scripts"


def script(name):
    """A script of the documents, as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "-q", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_no_page_loads_anything_from_a_network(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        loads = re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=\"([^\"]*)\"", page.read_text())
        loads += re.findall(r"<link[^>]*rel=\"stylesheet\"[^>]*href=\"([^\"]*)\"", page.read_text())
        assert [each for each in loads if re.match(r"(https?:)?//", each)] == [], page.name


def test_every_link_and_anchor_of_the_built_site_is_there(site):
    pages = [page for page in site.rglob("*.html") if page.name != "404.html"]  # which a server shows from anywhere
    ids = {page: set(re.findall(r"\sid=\"([^\"]+)\"", page.read_text())) for page in pages}
    for page in ids:
        for target in re.findall(r"<a [^>]*href=\"(?!https?:|mailto:|\.\")([^\"]*)\"", page.read_text()):
            path, _, anchor = target.partition("#")
            found = (page.parent / path).resolve() if path else page
            assert found.exists(), (page.name, target)
            assert not anchor or anchor == "__skip" or anchor in ids[found], (page.name, target)
        for picture in re.findall(r"<img[^>]*\ssrc=\"(?!data:)([^\"]*)\"", page.read_text()):
            assert (page.parent / picture).stat().st_size > 0, (page.name, picture)


def test_outputs_are_what_the_commands_print(tmp_path):
    outputs = script("outputs")
    text = "Look.\n\n```sh\necho one > made\ncat made; echo 'Aligning: 3/60 done'\n```\n\n```text\nold\n```\n\n```sh\nnot run\n```\n"
    filled = outputs.filled(text, tmp_path)
    assert "```text\none\n```" in filled
    assert filled.endswith("```sh\nnot run\n```\n")
    assert outputs.filled(filled, tmp_path) == filled
    with pytest.raises(RuntimeError, match="false"):
        outputs.filled("```sh\nfalse\n```\n\n```text\n```\n", tmp_path)


def test_the_familys_commands_are_run_by_their_name(tmp_path):
    said = script("outputs").filled(
        "```sh\npama-exp solvers pcgrd || true\npama-exp --help\n```\n\n```text\n```\n", tmp_path
    )
    assert "pama-exp solvers" in said
    assert "python run.py" not in said


def test_pictures_are_those_that_the_script_draws(tmp_path):
    pictures = script("pictures")
    pictures.main(tmp_path)
    drawn = sorted(path.name for path in tmp_path.glob("*.svg"))
    assert drawn == sorted(path.name for path in (ROOT / "docs" / "pictures").glob("*.svg"))
    for path in tmp_path.glob("*.svg"):
        ElementTree.parse(path)


def test_tutorials_have_no_empty_output():
    for page in (ROOT / "docs" / "tutorials").glob("*.md"):
        assert "```text\n```" not in page.read_text(), page.name
