"""The study on a real model: rows of finished runs alone, kept over machines, and tables that can be recomputed."""

import json
from argparse import Namespace
from statistics import fmean, stdev

import pytest
from benchmarks.real_text import __main__ as real_text
from benchmarks.real_text import table
from benchmarks.real_text.table import Row

from records import write_run


def row(method, seed, objective, after, before=0.0, deviation=2.0):
    return Row("a+b", method, seed, objective, before, after, deviation, 1.5, 60.0, 4.0)


# Gains, half of what stands under `after`: PAMA's least is b's, linear's a's.
ROWS = [
    *(row("pama", seed, "a", 3.0 + seed) for seed in range(3)),
    *(row("pama", seed, "b", 2.0 + 0.1 * seed) for seed in range(3)),
    *(row("linear", seed, "a", -1.0 - 0.3 * seed**2) for seed in range(3)),
    *(row("linear", seed, "b", 4.0) for seed in range(3)),
]


def given(folder, **other):
    words = {"model": folder, "prompts": folder, "runs": folder / "runs", "objectives": "a,b", "seeds": 3, "workers": 1}
    return Namespace(**words | {"overrides": []} | other)


def test_rows_are_read_as_they_were_written_and_the_last_of_a_run_counts(tmp_path):
    path = tmp_path / "results" / "runs.csv"
    assert table.load(path) == []
    table.save(path, ROWS)
    assert sorted(table.load(path), key=str) == sorted(ROWS, key=str)
    table.save(path, [*table.load(path), row("pama", 0, "a", 9.0)])
    assert len(table.load(path)) == len(ROWS)
    assert [r.after for r in table.load(path) if (r.method, r.seed, r.objective) == ("pama", 0, "a")] == [9.0]


def test_a_run_that_has_its_rows_is_not_planned_again_but_with_settings_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(real_text, "RESULTS", tmp_path / "runs.csv")
    table.save(real_text.RESULTS, ROWS)
    left = real_text.jobs(given(tmp_path))
    assert sorted(left) == [f"{method}-s{seed}" for method in ("gdpo", "mgda-ub") for seed in range(3)]
    assert len(real_text.jobs(given(tmp_path, objectives="a,b,c"))) == 12
    assert len(real_text.jobs(given(tmp_path, overrides=["training.steps=8"]))) == 12


def test_a_finished_runs_rows_have_its_rewards_their_deviation_the_last_kl_and_the_bill(tmp_path):
    calibration = {
        name: {"proxy": {"mean": 1.0, "deviation": spread}} for name, spread in (("helpful", 0.5), ("concise", 4.0))
    }
    record = write_run(tmp_path / "run", after={"helpful": 0.25, "concise": 1.0}, gold=False, calibration=calibration)
    lines = [{"step": step, "kl/response": 0.5 * step} for step in (1, 2, 3)]
    (record.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    helpful, concise = table.rows_of(record.folder, "pama", 7)
    assert helpful == Row("helpful+concise", "pama", 7, "helpful", 1.0, 1.25, 0.5, 1.5, 9.0, 10**9 / 2**30)
    assert (helpful.gain, concise.gain) == (0.5, 0.25)


def test_an_unfinished_run_has_no_rows(tmp_path):
    assert table.rows_of(tmp_path / "nothing", "pama", 0) == []
    write_run(tmp_path / "running", state="running")
    assert table.rows_of(tmp_path / "running", "pama", 0) == []


def test_the_table_says_least_and_mean_gains_with_students_interval_the_best_first():
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.tables(ROWS).splitlines()]
    assert [line[0] for line in lines[2:]] == ["`pama`", "`linear`"]
    pama, linear = lines[2:]
    assert pama[1] == "3"
    least = [1.0, 1.05, 1.1]
    half = 4.302653 * stdev(least) / 3**0.5  # t of two degrees of freedom
    assert pama[4] == f"{fmean(least):+.2f} [{fmean(least) - half:+.2f}, {fmean(least) + half:+.2f}]"
    assert pama[5].startswith(f"{fmean([(1.5 + 1.0) / 2, (2.0 + 1.05) / 2, (2.5 + 1.1) / 2]):+.2f} ")
    assert linear[4].startswith("-0.75 ")
    assert pama[3].startswith("0 → 2.1 [")
    assert float(pama[6]) < 0.1  # three seeds, all apart
    assert linear[6] == "–"


def test_two_seeds_are_not_tested():
    two = table.tables([row for row in ROWS if row.seed < 2]).splitlines()
    assert [line.strip("| ").split("|")[6].strip() for line in two[2:]] == ["–", "–"]


def test_a_set_of_objectives_has_a_table_of_its_own_and_few_seeds_no_interval():
    alone = [Row("c", "pama", 0, "c", 0.0, 1.0, 1.0, 0.5, 9.0, 1.0)]
    first, second = table.tables([*ROWS, *alone]).split("\n\n")
    assert "`c`" in first
    assert "[" not in first
    assert "`a`" in second
    assert table.tables([]) == "Not run yet."


@pytest.mark.parametrize("missing", ["--model", "--prompts"])
def test_what_is_needed_is_asked_for(missing, monkeypatch, capsys):
    words = [word for option in ("--model", "--prompts") if option != missing for word in (option, "somewhere")]
    monkeypatch.setattr("sys.argv", ["real_text", *words])
    with pytest.raises(SystemExit):
        real_text.main()
    assert "--model and --prompts are needed" in capsys.readouterr().err
