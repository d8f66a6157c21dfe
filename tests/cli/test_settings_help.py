"""docs/configuration.md is what the yamls and the types say, and every key of the schema is in it with a meaning."""

import pytest

from commands import ROOT, composed
from pama_exp.cli import completion, settings_help
from pama_exp.config.comments import commented, headline
from pama_exp.config.places import CONF
from pama_exp.config.schema import Config, typed
from pama_exp.errors import UserError

SETTINGS = list(settings_help.settings())


def test_the_page_is_up_to_date():
    """If not: python -m pama_exp.cli.settings_help > docs/configuration.md"""
    assert (ROOT / "docs" / "configuration.md").read_text() == settings_help.page()


def test_every_setting_says_what_it_means_and_what_it_may_be():
    assert [each.key for each in SETTINGS if not each.meaning or not each.kind or not each.default] == []


def test_every_key_of_the_schema_is_there():
    listed = {each.key for each in SETTINGS}
    free = {"stage", "objectives", "solver", "advantage", "data.world", "rollout.engine"}  # by their options
    assert set(completion.keys(Config)) - free <= listed


def test_defaults_are_those_of_the_default_command():
    config = typed(composed("output=nowhere", "cache_dir=nowhere"))
    shown = {each.key: each.default for each in SETTINGS}
    assert shown["training.clip"] == f"`{config.training.clip}`"
    assert shown["training.kl.target"] == "`null`"
    assert shown["model.name"] == f"`{config.model.name}`"
    assert shown["data.world.num_entities"] == f"`{config.data.world['num_entities']}`"
    assert shown["training.learning_rate"] == "`model.learning_rate`, else `3.0e-4`"
    assert shown["reward_model.packing"] == "`false`"


def test_a_wrong_value_is_refused_in_the_words_of_the_reference():
    (clip,) = (each for each in SETTINGS if each.key == "training.clip")
    with pytest.raises(UserError) as refused:
        typed(composed("training.clip=2", "output=nowhere"))
    assert refused.value.hint == f"It is {clip.kind}."


def test_comments_are_read_wherever_yaml_allows_them(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "# @package _global_\n# What it is.\nplain: 1 # one\nquoted: 'a # b' # two\nblock: # three\n  inner: [1, 2] # four\n"
        "flow: {x: 1,\n  y: 2} # five\nbare: null\n"
    )
    found = {each.key: (each.value, each.comment) for each in commented(tmp_path / "a.yaml")}
    assert headline(tmp_path / "a.yaml") == "What it is."
    assert found["plain"] == (1, "one")
    assert found["quoted"] == ("a # b", "two")
    assert found["block"] == ({"inner": [1, 2]}, "three")
    assert found["block.inner"] == ([1, 2], "four")
    assert found["flow"] == ({"x": 1, "y": 2}, "five")
    assert found["bare"] == (None, "")


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_option_says_what_it_is(path):
    assert headline(path)


def test_the_command_line_shows_the_keys_that_hold_a_word(capsys):
    settings_help.main(["kl.coef"], "pama-exp settings")
    assert capsys.readouterr().out.splitlines()[0] == "training.kl.coefficient"
    with pytest.raises(UserError, match=r"training\.clip"):
        settings_help.main(["training.clop"], "pama-exp settings")
