"""What a contributor and a maintainer rely on: one version everywhere, a workflow for every Python, forms that parse."""

import re
import subprocess
import tomllib

import pytest
import yaml

import pama_exp
from commands import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def test_one_version_everywhere():
    assert PROJECT["version"] == pama_exp.__version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == pama_exp.__version__
    assert re.search(rf"^## {re.escape(pama_exp.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.M)


def test_a_release_of_another_version_is_refused_before_anything_is_built():
    done = subprocess.run([ROOT / ".ci" / "release", "v99.0"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "another version than 99.0" in done.stdout


def test_the_workflow_runs_what_developers_run_on_every_supported_python():
    (job,) = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"].values()
    versions = job["strategy"]["matrix"]["python"]
    least, below = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups()
    assert versions == [f"3.{minor}" for minor in range(int(least), int(below))]
    assert ".ci/run" in [step.get("run") for step in job["steps"]]


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_forms_have_what_github_asks_for(form):
    content = yaml.safe_load(form.read_text())
    if form.stem != "config":
        assert content["name"]
        assert content["description"]
        assert len({field["id"] for field in content["body"]}) == len(content["body"])


def test_contributing_names_files_and_tests_that_there_are():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"`((?:src|tests|docs|conf|\.ci)/[\w./-]*)`", text))
    assert {"tests/contracts/test_solvers.py", "tests/conformance.py"} <= named
    assert [name for name in named if "NAME" not in name and not (ROOT / name).exists()] == []


def test_the_constraints_pin_the_builder_of_the_site():
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert {"mkdocs", "mkdocs-material", "mkdocstrings", "mkdocstrings-python"} <= set(pinned)
    assert pinned["torch"] == "2.13.0"
