"""The search: a study that is whole again after any kill, and the front as its result."""

import json
import signal
import subprocess
import time

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from commands import command, environment
from oracles import hypervolume_by_inclusion_exclusion, nondominated
from pama_exp.errors import UserError
from pama_exp.sweeping.pareto_trials import ParetoFront
from pama_exp.sweeping.space import Space
from pama_exp.sweeping.study import Study
from sweeping.toy import TOY, jobs, prepare, ran, sweep_here

DIRECTIONS = {"helpful": "maximize", "concise": "maximize"}


def space(*lines):
    return Space.of(OverridesParser.create().parse_overrides(list(lines)))


def schaffer(values):
    """Two objectives of x in [0, 1] that conflict everywhere (Schaffer 1985), and one setting that only hurts."""
    x, worse = values["x"], float(values["worse"])
    return [1 - x * x - worse, 1 - (1 - x) ** 2 - worse]


SPACE = space("x=interval(0.0,1.0)", "worse=choice(0.0,0.5)", "seed=3")


def study_in(folder, sampler="nsga2", trials=30, directions=DIRECTIONS, where=SPACE):
    return Study(folder, where, directions, sampler, population=6, trials=trials, seed=0)


def run(study, count):
    for trial in study.ask(count):
        study.tell(trial.number, schaffer(trial.params))


def test_the_space_is_what_hydra_s_sweeps_say():
    given = space(
        "a=interval(0.5,2.0)",
        "b=tag(log,interval(1e-5,1e-3))",
        "c=range(1,8,3)",
        "d=range(0.0,1.0,0.25)",
        "e=x,y",
        "f=choice([1,2],[3,4])",
        "g=7",
        "e=z,w",
    )
    assert given.distributions == {
        "a": FloatDistribution(0.5, 2.0),
        "b": FloatDistribution(1e-5, 1e-3, log=True),
        "c": IntDistribution(1, 7, step=3),
        "d": FloatDistribution(0.0, 0.75, step=0.25),
        "e": CategoricalDistribution(("z", "w")),
        "f": CategoricalDistribution(("[1,2]", "[3,4]")),
    }
    assert given.line({"a": 1.5, "b": 1e-4, "c": 4, "d": 0.5, "e": "z", "f": "[1,2]"}) == [
        *("g=7", "a=1.5", "b=0.0001", "c=4", "d=0.5", "e=z", "f=[1,2]")
    ]
    assert len(space("c=range(1,8,3)", "d=range(0.0,1.0,0.25)", "e=x,y").grid()) == 3 * 4 * 2


@pytest.mark.parametrize("sampler", ["nsga2", "tpe", "random"])
def test_a_study_taken_up_again_goes_on_and_does_not_repeat_itself(sampler, tmp_path):
    for _ in range(3):  # three processes, one after the other
        run(study_in(tmp_path, sampler), 4)
    study = study_in(tmp_path, sampler)
    drawn = [trial.params["x"] for trial in study.complete()]
    assert len(drawn) == 12
    assert len(set(drawn[:6])) == 6, "a first generation is drawn, not crossed"
    assert len(study.ask(100)) == 18, "no more than there are to be"
    assert study.ask(1) == []


def test_nsga2_finds_what_random_search_does_not(tmp_path):
    found = {}
    for sampler in ("nsga2", "random"):
        (tmp_path / sampler).mkdir()
        study = study_in(tmp_path / sampler, sampler, trials=90)
        for _ in range(15):
            run(study, 6)
        found[sampler] = np.mean([float(trial.params["worse"]) for trial in study.complete()[30:]])
    assert found["nsga2"] < 0.15 < found["random"], "the setting that only hurts dies out"


def test_a_grid_is_every_combination_once(tmp_path):
    where = space("x=range(0.0,1.0,0.5)", "worse=choice(0.0,0.5)")
    run(study_in(tmp_path, "grid", where=where), 3)
    study = study_in(tmp_path, "grid", where=where)
    run(study, 100)
    assert sorted(tuple(trial.params.values()) for trial in study.complete()) == [
        (x, worse) for x in (0.0, 0.5) for worse in ("0.0", "0.5")
    ]
    assert study.ask(1) == []
    with pytest.raises(UserError, match="grid"):
        study_in(tmp_path, "grid")


def test_a_trial_that_was_asked_for_and_not_told_is_gone_on_with(tmp_path):
    study = study_in(tmp_path)
    run(study, 2)
    [left] = study.ask(1)
    again = study_in(tmp_path)
    assert [(trial.number, trial.params) for trial in again.unfinished()] == [(2, left.params)]
    again.tell(2, None)
    assert again.unfinished() == []
    assert len(again.finished()) == 3
    assert len(again.complete()) == 2, "a failed trial is told as failed"


def test_a_journal_cut_in_the_middle_of_a_line_is_read_and_written_on(tmp_path):
    run(study_in(tmp_path), 3)
    journal = tmp_path / "journal.log"
    journal.write_bytes(journal.read_bytes()[:-7])
    study = study_in(tmp_path)
    assert len(study.complete()) == 2
    assert len(study.unfinished()) == 1, "the third is asked for, and what it was told is lost"
    study.tell(2, [0.1, 0.1])
    run(study, 3)
    assert len(study_in(tmp_path).complete()) == 6


@pytest.mark.parametrize(
    "wrong", [{"sampler": "nsga3"}, {"trials": 0}, {"where": space("x=interval(0.0,1.0)"), "sampler": "grid"}]
)
def test_what_cannot_be_searched_is_refused(wrong, tmp_path):
    with pytest.raises(UserError):
        study_in(tmp_path, **wrong)


@pytest.mark.parametrize("lines", [["x=1"], ["objectives=[a],[b]"]])
def test_a_space_that_is_none_is_refused(lines):
    with pytest.raises(UserError):
        space(*lines)


def test_the_front_is_what_no_trial_beats_and_its_hypervolume_never_falls(tmp_path):
    directions = {"helpful": "maximize", "length": "minimize"}
    study = study_in(tmp_path, "random", directions=directions)
    front = ParetoFront(tmp_path, directions, worst=[0.0, 1.0])
    for trial in study.ask(12):
        helpful, concise = schaffer(trial.params)
        study.tell(trial.number, [helpful, 1 - concise])
    content = front.write(study.complete(), {})
    points = np.array([trial["values"] for trial in content["trials"]]) * [1, -1]
    assert [trial["trial"] for trial in content["front"]] == list(np.flatnonzero(nondominated(points)))
    assert content == json.loads((tmp_path / "front.json").read_text())
    assert (tmp_path / "front.png").stat().st_size > 0
    volumes = content["hypervolumes"]
    assert volumes == sorted(volumes)
    assert volumes[-1] == content["hypervolume"] > 0
    assert np.isclose(volumes[5], hypervolume_by_inclusion_exclusion(points[:6], np.array([0.0, -1.0])))


SEARCH = ["+sweep=search", *TOY, "training.clip=interval(0.1,0.9)", "solver=pama", "training.learning_rate=1e-3"]
SEARCH += ["objectives.concise.weight=1", "training.kl.coefficient=0.1", "hydra.sweeper.trials=3"]


@pytest.mark.slow("a search of whole runs, twice")
def test_killing_a_search_and_calling_it_again_continues_the_study(tmp_path, monkeypatch, capfd):
    prepare(tmp_path, monkeypatch)
    process = subprocess.Popen(command(*SEARCH), cwd=tmp_path, env=environment(), start_new_session=True)
    deadline = time.monotonic() + 200
    while not (found := list(tmp_path.glob("runs/sweeps/*/front.json"))):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)  # one trial is told, the next is asked for or running
    process.wait()
    before = json.loads(found[0].read_text())

    assert sweep_here(*SEARCH, monkeypatch=monkeypatch) == 0
    after = json.loads(found[0].read_text())
    assert [trial["values"] for trial in after["trials"]][: len(before["trials"])] == [
        t["values"] for t in before["trials"]
    ]
    assert sorted(trial["trial"] for trial in after["trials"]) == list(range(3)), "no trial is lost, none is new"
    assert len(ran(tmp_path)) == 3, "none ran twice"
    assert after["hypervolume"] >= before["hypervolume"] > 0
    assert after["hypervolumes"] == sorted(after["hypervolumes"])
    assert after["hypervolumes"][: len(before["hypervolumes"])] == before["hypervolumes"]
    assert len(after["front"]) == 3, "every x is on the front"
    assert all(trial["folder"] for trial in after["trials"])
    assert "The front: 3 of 3 trials" in capfd.readouterr().out
    assert len(jobs(tmp_path)) == 3


@pytest.mark.slow("a search of whole runs")
def test_a_trial_that_crashes_is_told_as_failed(tmp_path, monkeypatch, capfd):
    prepare(tmp_path, monkeypatch)
    (tmp_path / "crash-0.20").touch()
    line = [*SEARCH, "hydra.sweeper.sampler=grid", "training.clip=choice(0.2)"]
    assert sweep_here(*line, monkeypatch=monkeypatch) == 1
    [path] = tmp_path.glob("runs/sweeps/*/front.json")
    assert json.loads(path.read_text())["trials"] == []
    assert "1 trial failed" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["training.clip=interval(0.1,1.5)"], "training.clip=1.5"),
        (["hydra.sweeper.sampler=nsga3"], "Did you mean 'nsga2'"),
        (["hydra.sweeper.batch=0"], "hydra.sweeper.batch=0"),
        (["training.clp=interval(0.1,0.5)"], "Did you mean 'clip'"),
    ],
)
def test_a_search_that_cannot_work_is_refused_before_its_first_job(words, said, tmp_path, monkeypatch, capfd):
    prepare(tmp_path, monkeypatch)
    assert sweep_here(*SEARCH, *words, monkeypatch=monkeypatch) == 2
    shown = capfd.readouterr().err
    assert said in shown
    assert len(shown.strip().splitlines()) == 2
    assert ran(tmp_path) == []
