"""A home folder under `output=` in every form, with and without force: nothing in it is lost."""

import os

import pytest

from commands import FAST, composed, run_config
from pama_exp.errors import UserError
from tracking.test_folder import contents, thesis

FORMS = {
    "absolute": lambda home: str(home),
    "relative": lambda home: "../home",
    "with a slash": lambda home: f"{home}/",
    "by way of another": lambda home: f"{home}/policy/..",
    "a tilde": lambda home: "'~'",
    "below a tilde": lambda home: "'~/run'",
    "a link": lambda home: str(link(home.parent / "link", home)),
    "a link with a slash": lambda home: f"{link(home.parent / 'link', home)}/",
    "a link to a link": lambda home: str(link(home.parent / "second", link(home.parent / "link", home))),
    "the current folder": lambda home: inside(home, "."),
    "nothing": lambda home: inside(home, "''"),
    "a blank": lambda home: inside(home, "' '"),
    "its own name from within": lambda home: inside(home, "../home"),
    "what it lies in": lambda home: str(home.parent),
    "its folder of a repository": lambda home: str(home / ".git"),
    "dots": lambda home: inside(home, "./."),
    "the root": lambda home: "/",
}


def link(path, to):
    path.symlink_to(to, target_is_directory=True)
    return path


def inside(home, output):
    os.chdir(home)
    return output


_OTHERS = pytest.mark.slow("what a run does with each form, asked again of what is no run")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["force=true"],
        pytest.param(["stage=compare", "compare.runs=[.]"], marks=_OTHERS),
        pytest.param(["preflight=true"], marks=_OTHERS),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("form", FORMS)
def test_a_home_folder_as_output_loses_nothing(form, words, tmp_path, monkeypatch):
    home = thesis(tmp_path / "home")
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path / "here")
    output = FORMS[form](home)
    before = contents(tmp_path)
    with pytest.raises(UserError, match="output="):
        run_config(composed(*FAST, *words, f"output={output}", f"cache_dir={tmp_path / 'cache'}"))
    assert contents(tmp_path) == before
