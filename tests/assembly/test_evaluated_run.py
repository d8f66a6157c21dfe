"""What `stage=evaluate` takes from the run that it evaluates, and what it refuses."""

import pytest
import yaml

from commands import FAST, composed
from pama_exp.assembly.evaluated_run import with_run_settings
from pama_exp.config import schema
from pama_exp.errors import UserError
from records import write_run

THEIRS = ["objectives=[humor,polite]", "reward=gold", "solver=linear", "training.clip=0.3"]


def run_of(folder, *overrides, **changed):
    record = write_run(folder, *FAST, *THEIRS, *overrides)
    (folder / "policy").mkdir()
    config = record.read_config()
    for key, value in changed.items():
        node, *path = config, *key.split("__")
        for part in path[:-1]:
            node = node[part]
        node[path[-1]] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return folder


def evaluated(folder, *overrides, given=()):
    words = ["stage=evaluate", f"evaluate.run={folder}", "output=o", "cache_dir=c", *overrides]
    return with_run_settings(schema.typed(composed(*words)), [*words, *given])


def test_what_is_not_given_is_the_runs(tmp_path):
    config = evaluated(run_of(tmp_path / "run"), "evaluate.prompts=8", "rollout.sampling.temperature=2")
    assert list(config.objectives) == ["humor", "polite"]
    assert (config.model.name, config.reward, config.training.clip) == ("micro", "gold", 0.3)
    assert config.solver["_target_"].endswith("Linear")
    assert (config.stage["name"], config.evaluate.prompts, config.output) == ("evaluate", 8, "o")
    assert config.rollout.sampling.temperature == 2


REFUSED = [
    (["model=small"], {}, "model.config"),
    (["data.world.num_entities=5"], {}, "data.world"),
    (["objectives=[helpful,concise]"], {}, r"objectives=\[humor,polite\]"),
    (["objectives=[polite,humor]"], {}, r"objectives=\[humor,polite\]"),
    (["conditioning=prompt"], {}, "conditioning.name"),
    (["objectives=[humor,polite]", "objectives.humor.direction=minimize"], {}, "objectives.humor.direction"),
    ([], {"advantage___target_": "os.system"}, "os.system"),
    ([], {"solver___target_": "pama_exp.tracking.record.RunRecord"}, "RunRecord"),
    ([], {"rollout__engine___target_": "subprocess.run"}, "subprocess.run"),
    ([], {"objectives__humor__scorers": {"any": {"function": "os:system"}}}, "objectives.humor.scorers"),
    ([], {"objectives__humor__scorers": {"factworld": {"_target_": "os.system"}}}, "objectives.humor.scorers"),
    ([], {"model__licence": "${oc.env:HOME}"}, "model.licence"),
    ([], {"objectives": 3}, "config.yaml is missing or damaged"),
    ([], {"model": None}, "config.yaml is missing or damaged"),
]


@pytest.mark.parametrize(("words", "changed", "said"), REFUSED)
def test_what_contradicts_the_run_or_would_run_its_code_is_refused(words, changed, said, tmp_path):
    with pytest.raises(UserError, match=said):
        evaluated(run_of(tmp_path / "run", **changed), *words)


def test_a_conditioned_policy_keeps_its_conditioning(tmp_path):
    folder = run_of(tmp_path / "run", "conditioning=prompt")
    assert evaluated(folder).conditioning.name == "prompt"
    with pytest.raises(UserError, match=r"Add conditioning=prompt"):
        evaluated(folder, "conditioning=none")
