"""The league: what it plans, what it reads of a run, how it ranks, and that its page says what its table says."""

import csv
import json
import re
from statistics import fmean

import numpy as np
import pytest
from benchmarks.league.__main__ import main
from benchmarks.league.advice import CHOICES
from benchmarks.league.claims import read, table
from benchmarks.league.enter import stranger
from benchmarks.league.page import filled, publish, sections
from benchmarks.league.plan import GROUPED, SETTINGS, Cell, cells, entries, job, shipped
from benchmarks.league.rank import blocks, improvement, interquartile_mean, leads, rank_intervals, standings
from benchmarks.league.table import Row, load, merged, read_run, save, version
from scipy import stats

from commands import ROOT, composed
from pama_exp.assembly.method import build_estimator, build_solver
from pama_exp.config import schema
from pama_exp.errors import UserError

RESULTS, PAGE = ROOT / "benchmarks" / "results" / "league", ROOT / "docs" / "league.md"


def row(entry, seed, share, n=5, reward="gold", protocol="reward", **values):
    usual = dict.fromkeys(("igd_plus", "epsilon", "regret", "least_gain", "mean_gain", "kl"), 0.5)
    usual |= {"step_seconds": 0.1, "backwards_per_prompt": 2.0}
    return Row(Cell(n, reward, protocol, entry, seed), usual | {"share": share} | values)


def test_every_shipped_solver_is_an_entry_under_an_estimator_that_it_takes():
    names = {path.stem for path in (ROOT / "conf" / "solver").glob("*.yaml")}
    assert set(shipped()) == names <= set(entries())
    assert shipped()["gdpo"] == ("solver=gdpo", *GROUPED)
    assert shipped()["pama"] == ("solver=pama",)
    assert shipped()["dynamic-hv"] == ("solver=dynamic-hv", "training.evaluate_every=10")
    counted = re.search(r"any of (\d+) solvers", (ROOT / "README.md").read_text())
    assert counted is not None
    assert int(counted[1]) == len(names)


@pytest.mark.parametrize("entry", [*SETTINGS, "gdpo", "dynamic-hv"])
def test_an_entrys_settings_make_a_solver(entry):
    overrides = job(Cell(3, "gold", "reward", entry, 0), entries()).overrides
    config = schema.typed(composed(*overrides, "output=unused", "cache_dir=unused"))
    assert len(build_solver(config, build_estimator(config.advantage)).weights) == 3


def test_a_league_cut_short_is_one_of_fewer_seeds():
    planned = cells(["linear", "pama"], [2, 5], ["gold"], ["reward"], [0, 1])
    assert len(planned) == len({cell.name for cell in planned}) == 8
    assert [cell.seed for cell in planned] == sorted(cell.seed for cell in planned)
    assert {cell.entry for cell in planned[:4]} == {"linear", "pama"}


def test_a_run_becomes_a_row(tmp_path):
    after = {"helpful": 0.6, "concise": 0.5}
    result = {
        "true_hypervolume_share": {"before": 0.2, "after": 0.45},
        "true_front": {"after": {"igd_plus": 0.1, "epsilon": 0.2, "regret": 0.3}},
        "objectives": {
            name: {"before": {"gold": 0.4, "proxy": 1.0}, "after": {"gold": mean, "proxy": 2.0}}
            for name, mean in after.items()
        },
        "calibration": {name: {"gold": {"mean": 0.4, "deviation": 0.25}} for name in after},
        "bill": {"backwards": 600, "prompts": 300},
    }
    steps = [
        {"step": s, "kl/response": s / 10, "time/step": 0.2, "advantage/kl_share/helpful": s / 9, "advantage/kl_share/concise": 0}
        for s in range(1, 10)
    ]  # fmt: skip
    assert read_run(tmp_path, Cell(2, "gold", "reward", "pama", 0)) is None
    (tmp_path / "result.json").write_text(json.dumps(result))
    (tmp_path / "metrics.jsonl").write_text("\n".join(json.dumps(step) for step in [{"step": 0, "eval/x": 1}, *steps]))
    found = read_run(tmp_path, Cell(2, "gold", "reward", "pama", 0))
    assert found["share"] == 0.45
    assert found["least_gain"] == pytest.approx(0.4)
    assert found["mean_gain"] == pytest.approx(0.6)
    assert found["kl"] == pytest.approx(0.7)  # of the last five steps
    assert found["backwards_per_prompt"] == 2.0
    assert found["kl_share/helpful"] == pytest.approx(8 / 9)
    with pytest.raises(KeyError):
        found["after/humor"]


def test_rows_are_kept_merged_and_named_by_what_they_say(tmp_path):
    old = [row("pama", 0, 0.1), row("linear", 0, 0.2)]
    both = merged(old, [row("pama", 0, 0.3), row("pama", 1, 0.4)])
    assert [(r.cell.entry, r.cell.seed, r["share"]) for r in both] == [
        ("linear", 0, 0.2), ("pama", 0, 0.3), ("pama", 1, 0.4)
    ]  # fmt: skip
    save(tmp_path / "runs.csv", both)
    again = load(tmp_path / "runs.csv")
    assert [r.cell for r in again] == [r.cell for r in both]
    assert version(again) == version(both) != version(old)
    assert load(tmp_path / "none.csv") == []


@pytest.mark.parametrize("count", [4, 8, 40])
def test_the_interquartile_mean_is_scipys_where_the_quarters_are_whole(count):
    values = np.random.default_rng(0).normal(size=count)
    assert interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25))
    assert interquartile_mean([3.0]) == 3.0
    assert interquartile_mean([0.0, 1.0]) == 0.5


def test_improvement_counts_pairs_and_halves_ties():
    assert improvement([1, 2, 3], [2, 2]) == pytest.approx((0 + 0.5 + 1) / 3)


def test_ranks_are_certain_where_runs_do_not_overlap_and_wide_where_they_do():
    clear = [np.array([3.0, 3.1, 3.2]), np.array([2.0, 2.1, 2.2]), np.array([1.0, 1.1, 1.2])]
    assert rank_intervals(clear) == [(1, 1), (2, 2), (3, 3)]
    assert rank_intervals([np.array([0.0, 9.0, 4.0]), np.array([5.0, 4.0, 3.0])]) == [(1, 2), (1, 2)]
    assert rank_intervals([np.array([1.0]), np.array([0.0, 0.0, 0.0])])[0] is None


def test_standings_rank_by_mean_and_test_against_linear():
    block = blocks(
        [row("linear", s, 0.10 + s / 100) for s in range(4)]
        + [row("better", s, 0.30 + s / 90) for s in range(4)]
        + [row("alone", 0, 0.20)]
    )["reward", 5, "gold"]
    first, second, third = standings(block)
    assert [first.entry, second.entry, third.entry] == ["better", "alone", "linear"]
    assert first.p < 0.001
    assert first.improvement == 1.0
    assert (second.p, second.share, second.ranks, second.deviation) == (None, None, None, None)
    differences = [0.20 + s / 90 - s / 100 for s in range(4)]
    assert first.p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    assert first.share == pytest.approx(stats.t.interval(0.95, 3, *_mean_and_error([0.30 + s / 90 for s in range(4)])))


def _mean_and_error(values):
    return float(np.mean(values)), float(stats.sem(values))


def test_the_lead_is_measured_on_the_cells_that_both_have():
    rows = [row("linear", 0, 0.25, n=2), row("linear", 0, 0.00032), row("mine", 0, 0.36, n=2), row("mine", 0, 0.07776)]
    (lead,) = leads(blocks([*rows, row("mine", 1, 1.0, n=2), row("mine", 0, 1.0, protocol="once")]))
    assert (lead.entry, lead.cells) == ("mine", 2)
    assert lead.iqm == pytest.approx((0.6 - 0.5 + 0.6 - 0.2) / 2)
    assert lead.least == pytest.approx(0.1)


def test_the_page_keeps_what_is_written_by_hand_and_says_not_run(tmp_path):
    document = tmp_path / "league.md"
    names = ("state", "coverage", "5-gold", "2-learned", "kl")
    marks = "\n".join(f"<!-- league:{name} -->\nold\n<!-- /league:{name} -->" for name in names)
    document.write_text(f"By hand.\n{marks}\n<!-- league:other -->\nkept\n<!-- /league:other -->\n")
    publish([row("linear", 0, 0.1), row("pama", 0, 0.2)], {"linear": (), "pama": (), "never": ()}, tmp_path, document)
    text = document.read_text()
    assert text.startswith("By hand.")
    assert "\nold\n" not in text
    assert "kept" in text
    assert "**2 of 144 cells**" in text
    assert f"| never |{' not run |' * 6}" in text
    assert "| pama | not run | not run | not run | not run | 20.0 % (1) | not run |" in text
    assert "<!-- league:2-learned -->\nnot run.\n" in text
    assert json.loads((tmp_path / "standings.json").read_text())["rows"] == 2


def test_the_published_page_is_what_the_published_rows_make():
    rows = load(RESULTS / "runs.csv")
    assert filled(PAGE.read_text(), sections(rows, entries())) == PAGE.read_text()
    assert version(rows) in PAGE.read_text()


def test_the_ten_lines_of_advice_hold_in_the_table():
    """Read from the page and looked up in the csv by hand: nothing of the league's own statistics is used."""
    with (RESULTS / "runs.csv").open() as file:
        records = [r for r in csv.DictReader(file) if r["protocol"] == "reward" and r["world"] == "first"]
    part = PAGE.read_text().partition("<!-- league:advice -->")[2].partition("<!-- /league:advice -->")[0]
    lines = re.findall(r"^\d+\. (.*)$", part, re.MULTILINE)
    assert len(lines) == len(CHOICES) == 10
    for line, choice in zip(lines, CHOICES, strict=True):
        _, n, reward = choice.block
        is_confirmed = line.endswith(" From the confirmation.")
        of_block = [r for r in records if (r["n"], r["reward"]) == (str(n), reward)]
        ranked = [r for r in of_block if int(r["seed"]) < 100]
        sure = {r["entry"] for r in ranked if sum(s["entry"] == r["entry"] for s in ranked) >= 3} - {"linear"}
        assert is_confirmed == (not sure and len(ranked) < len(of_block))
        there = [r for r in of_block if (int(r["seed"]) >= 100) == is_confirmed]
        means = {
            entry: {
                column: fmean(float(r[column]) for r in there if r["entry"] == entry)
                for column in ("share", "least_gain", "mean_gain", "backwards_per_prompt")
            }
            for entry in {r["entry"] for r in there}
        }
        fit = {
            entry: m
            for entry, m in means.items()
            if not (choice.level and m["least_gain"] < 0) and not (choice.one_pass and m["backwards_per_prompt"] > 2)
        }
        several = {entry for entry in fit if sum(r["entry"] == entry for r in there) >= 3}
        fit = {entry: m for entry, m in fit.items() if entry in several or not several}
        named = re.search(r"`([\w.-]+)`, (?:mean gain )?([-+]?[\d.]+)", line)
        if len(means) < 2 or not fit:
            assert named is None, line
            continue
        assert named is not None, line
        best = named[1]
        assert fit[best][choice.column] == max(m[choice.column] for m in fit.values())  # there may be several
        digits, factor = (1, 100) if choice.column == "share" else (2, 1)
        assert float(named[2]) == pytest.approx(factor * fit[best][choice.column], abs=10**-digits)


def test_the_verdicts_on_the_papers_claims_follow_from_the_studys_runs():
    verdicts = {claim: verdict for claim, verdict, _ in table()[1]}
    assert verdicts["cost O(n), free of the parameters' number"] == "confirmed"
    runs = read("runs.csv")

    def least(solver, seed):
        (run,) = (r for r in runs if (r["block"], r["group"], r["seed"]) == ("5-learned", solver, str(seed)))
        names = ("helpful", "concise", "harmless", "humor", "polite")
        return min(float(run[f"gold/{name}/after"]) - float(run[f"gold/{name}/before"]) for name in names)

    # Balance is refuted by one block alone: five objectives, learned rewards, even after a correction for twelve tests.
    differences = [least("pama", seed) - least("linear", seed) for seed in range(8)]
    assert 12 * stats.ttest_1samp(differences, 0).pvalue < 0.05
    assert np.mean(differences) < 0
    assert verdicts["balanced"] == "refuted"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--solvers", "linaer"], "--solvers=linaer"),
        (["--solvers", ","], "names nothing"),
        (["--n", "4"], "--n=4"),
        (["--rewards", "golden"], "--rewards=golden"),
        (["--protocols", "twice"], "--protocols=twice"),
        (["--world", "third"], "--world=third"),
        (["--world", "first,second"], "names several"),
        (["--seeds", "a"], "--seeds=a"),
        (["--seeds", "3-1"], "--seeds=3-1"),
        (["enter"], "which solver"),
        (["enter", "nowhere/solver/mine.yaml"], "no such file"),
    ],
)
def test_bad_commands_are_refused_in_two_lines(arguments, said, capsys):
    assert main([*arguments, "--plan"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 2


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("solver/mine.yaml", "weights: null\n", "which class"),
        ("solver/mine.yaml", "a: [\n", "which class"),
        ("solver/pama.yaml", "_target_: a.B\n", "has an entry pama"),
        ("mine.yaml", "_target_: a.B\n", "folder named solver"),
    ],
)
def test_strangers_that_cannot_be_read_are_refused(tmp_path, name, text, said):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        stranger(path, entries())


@pytest.mark.slow("whole runs in processes")
def test_a_stranger_runs_against_the_table_and_gets_its_row_and_rank(tmp_path, shared_cache, monkeypatch, capfd):
    (tmp_path / "my_conf" / "solver").mkdir(parents=True)
    (tmp_path / "my_league_solver.py").write_text(
        "from pama_exp.solvers import Linear\n\n\nclass Mine(Linear):\n    pass\n"
    )
    yaml = tmp_path / "my_conf" / "solver" / "mine.yaml"
    yaml.write_text("# Mine.\n_target_: my_league_solver.Mine\nname: mine\nweights: null\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "results" / "runs.csv", [row("linear", 0, 2.0, n=2), row("pama", 0, -1.0, n=2)])
    before = (tmp_path / "results" / "runs.csv").read_text()
    status = main(
        ["enter", str(yaml), "--n", "2", "--rewards", "gold", "--seeds", "0", "--workers", "1", "--results", "results",
         "--", "debug=fast", "model=micro", f"cache_dir={shared_cache}"]
    )  # fmt: skip
    said = capfd.readouterr()
    assert status == 0, said.err
    assert "N = 2, gold rewards, KL reward: rank 2 of 3" in said.out
    assert "min left" in said.out
    # A stranger's row is no part of the table.
    assert (tmp_path / "results" / "runs.csv").read_text() == before
