"""Every shipped preset, for Hydra and for W&B: what it composes to, and that both mean the same runs."""

import itertools
import math

import pytest
import wandb.wandb_agent
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from commands import ROOT, composed
from pama_exp.assembly.setup import resolve
from pama_exp.config import resolvers, schema
from pama_exp.errors import UserError
from pama_exp.sweeping import search_path

PRESETS = sorted(path.stem for path in (ROOT / "sweeps" / "sweep").glob("*.yaml"))
WANDB = sorted(path.stem for path in (ROOT / "sweeps" / "wandb").glob("*.yaml"))
SIZES = {
    "baselines": 12,
    "seeds": 5,
    "preferences": 7,
    "model-sizes": 4,
    "objectives-scaling": 10,
    "granularity": 9,
    "ablation-noon": 6,
}


def jobs_of(preset, *words):
    """The jobs' settings, as the default sweeper makes them."""
    params = composed(f"+sweep={preset}", hydra=True).hydra.sweeper.params
    lines = [f"{key}={value}" for key, value in params.items()]
    parsed = OverridesParser.create().parse_overrides([*lines, f"sweep={preset}", *words])
    return BasicSweeper.split_arguments(parsed, None)[0]


def run_folders(lines):
    resolvers.register()
    search_path.register()
    with initialize_config_dir(str(schema.CONF), version_base="1.3"):
        configs = [compose("config", list(line)) for line in lines]
    return [config.output for config in configs], configs


def lines_of(preset):
    return jobs_of(preset) if preset != "search" else [["sweep=search"]]


def agent_commands(name, monkeypatch):
    """The commands that a W&B agent starts for every combination of the file's parameters."""
    content = yaml.safe_load((ROOT / "sweeps" / "wandb" / f"{name}.yaml").read_text())
    started = []
    monkeypatch.setattr(wandb.wandb_agent, "AgentProcess", lambda command, **_: started.append(command) or Ended())
    agent = wandb.wandb_agent.Agent(api=None, queue=None)
    agent._sweep_command = content["command"]
    values = [node.get("values", [node.get("value")]) for node in content["parameters"].values()]
    for number, chosen in enumerate(itertools.product(*values)):
        args = {key: {"value": value} for key, value in zip(content["parameters"], chosen, strict=True)}
        agent._command_run({"run_id": f"r{number}", "program": content["program"], "args": args})
    return started


class Ended:
    last_sigterm_time = None


@pytest.mark.parametrize("preset", PRESETS)
def test_the_first_and_the_last_job_of_a_preset_can_run(preset):
    lines = lines_of(preset)
    assert len(lines) == SIZES.get(preset, len(lines))
    _, configs = run_folders([lines[0], lines[-1]])
    for config in map(schema.typed, configs):
        if config.model.id is None:
            resolve(config)
        else:  # a published model: nothing else is amiss
            with pytest.raises(UserError, match="not in the cache"):
                resolve(config)


@pytest.mark.slow("composes every job of every preset")
@pytest.mark.parametrize("preset", PRESETS)
def test_every_job_of_a_preset_has_a_folder_of_its_own(preset):
    lines = lines_of(preset)
    assert len(set(run_folders(lines)[0])) == len(lines)


def test_a_preset_gives_way_to_debug_and_to_the_command_line():
    assert composed("+sweep=baselines").training.steps == 30
    assert composed("+sweep=baselines", "debug=fast").training.steps == 3
    assert composed("+sweep=baselines", "debug=fast", "training.steps=7").training.steps == 7


@pytest.mark.slow("a process")
@pytest.mark.parametrize("name", [name for name in WANDB if name != "search"])
def test_a_wandb_agent_starts_the_same_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    monkeypatch.setenv("WANDB_RUN_ID", "r")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", "p")
    commands = agent_commands(name, monkeypatch)
    assert len(commands) == SIZES[name]
    assert all(command[:4] == ["/usr/bin/env", "python", "-m", "pama_exp"] for command in commands)
    ours, theirs = jobs_of(name), [command[4:] for command in commands]
    fixed = set(theirs[0]).intersection(*theirs[1:]) - set(ours[0])  # what the preset holds itself
    settings = [sorted(word for word in line if word not in fixed) for line in theirs]
    assert sorted(settings) == sorted(sorted(word for word in line if word != f"sweep={name}") for line in ours)
    assert run_folders([theirs[0], theirs[-1]])[0] == run_folders([ours[0], ours[-1]])[0]


def test_every_preset_has_its_wandb_file():
    assert set(SIZES) | {"search"} <= set(WANDB)


def test_the_searches_draw_from_the_same_space():
    content = yaml.safe_load((ROOT / "sweeps" / "wandb" / "search.yaml").read_text())
    given = dict(content["parameters"])
    preset = composed("+sweep=search", hydra=True)
    assert given.pop("training.steps")["value"] == preset.training.steps
    assert content["run_cap"] == preset.hydra.sweeper.trials
    for key, text in preset.hydra.sweeper.params.items():
        value = OverridesParser.create().parse_override(f"{key}={text}").value()
        node = given.pop(key)
        if "values" in node:
            assert node["values"] == [str(each) for each in value.list]
        else:
            assert math.isclose(node["min"], value.start)
            assert math.isclose(node["max"], value.end)
            assert ("log" in value.tags) == (node.get("distribution") == "log_uniform_values")
    assert not given
