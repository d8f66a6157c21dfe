"""A configuration out of another person's record is data: nothing of it runs, is resolved, asked for or sent to."""

import copy
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from commands import FAST, composed
from pama_exp.assembly import imported_config
from pama_exp.assembly.experts import experts_config
from pama_exp.config import schema
from pama_exp.errors import UserError


def config_of(*overrides):
    return schema.typed(composed(*FAST, *overrides, "output=out", "cache_dir=cache"))


@pytest.fixture(scope="module")
def own():
    return config_of("stage=soup")


def changed(config, key, value):
    plain = copy.deepcopy(asdict(config))
    *parents, last = key.split(".")
    node = plain
    for part in parents:
        node = node[part]
    node[last] = value
    return plain


ANY = "objectives.helpful.scorers.any"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("advantage._target_", "os.system", "os.system"),
        ("solver._target_", "builtins.eval", "builtins.eval"),
        ("rollout.engine._target_", "subprocess.run", "subprocess.run"),
        ("data.world", {"_target_": "os.system"}, "os.system"),
        ("model.config", {"a": [{"_target_": "os.system"}]}, "os.system"),
        (ANY, {"_target_": "os.system"}, "os.system"),
        (ANY, {"function": "os:system"}, "os:system"),
        (ANY, {"_target_": "pama_exp.rewards.http.HttpScorer", "url": "http://elsewhere/"}, "http://elsewhere/"),
        (ANY, {"_target_": "pama_exp.rewards.http.HttpScorer", "token_variable": "SECRET"}, "SECRET"),
        (ANY, {"_target_": "pama_exp.rewards.classifier.published", "allow_pickle": True}, "allow_pickle"),
        # of this package, but of another kind, or only imported by it
        ("solver._target_", "pama_exp.rl.estimators.GAE", "GAE"),
        ("advantage._target_", "pama_exp.solvers.weighted.Weighted", "Weighted"),
        ("solver._target_", "pama_exp.hub.repositories.snapshot_download", "snapshot_download"),
        ("solver._target_", "pama_exp.supervised.artifacts.shutil.rmtree", "rmtree"),
        ("solver._target_", "pama_exp.cli.app.main", "app.main"),
        ("solver._target_", "pama_exp_of_another.module.Solver", "pama_exp_of_another"),
        ("solver._target_", ["os.system"], "solver._target_"),
        ("objectives.helpful.description", "${oc.env:HOME}", "interpolation"),
        ("seed", "${oc.env:HOME}", "interpolation"),
        ("model.config", {"a": ["x", {"b": "y${oc.env:HOME}"}]}, "interpolation"),
        ("model.config", {"${oc.env:HOME}": 1}, "interpolation"),
    ],
)
def test_what_is_more_than_data_is_refused(key, value, said, own):
    with pytest.raises(UserError, match="stranger") as caught:
        imported_config.check_config(changed(own, key, value), own, "stranger")
    assert said in caught.value.message
    assert "\n" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    "overrides",
    [
        *(["solver=" + path.stem] for path in sorted((schema.CONF / "solver").glob("*.yaml"))),
        ["advantage=group", "solver=linear"],
        ["rollout=hf"],
        ["objectives=[length,readability,format,sentiment,faithful]"],
    ],
    ids=lambda overrides: " ".join(overrides),
)
def test_what_is_shipped_is_taken(overrides, own):
    imported_config.check_config(asdict(config_of(*overrides)), own, "stranger")


@pytest.mark.parametrize(
    ("key", "value", "mine"),
    [
        ("solver._target_", "mine.Solver", "++solver._target_=mine.Solver"),
        ("advantage._target_", "mine.Estimator", "++advantage._target_=mine.Estimator"),
        (ANY, {"function": "mine:score"}, "++objectives.concise.scorers.any={function: 'mine:score'}"),
    ],
)
def test_what_the_users_own_command_names_is_taken(key, value, mine, own):
    theirs = changed(own, key, value)
    with pytest.raises(UserError):
        imported_config.check_config(theirs, own, "stranger")
    imported_config.check_config(theirs, config_of("stage=soup", mine), "stranger")


def test_a_soup_checks_every_expert_and_allows_no_pickles_on_their_word(own):
    def expert(config):
        return SimpleNamespace(config=config, folder="stranger")

    good, bad = asdict(own), changed(own, "advantage._target_", "os.system")
    with pytest.raises(UserError, match=r"os\.system"):
        experts_config({"helpful": expert(good), "concise": expert(bad)}, own)
    trusting = changed(own, "model.allow_pickle", True)
    with pytest.raises(UserError, match="allow_pickle"):
        experts_config({"helpful": expert(trusting), "concise": expert(good)}, own)
