"""The table of families: its rows are what finished runs say, and its page what the rows say."""

import shlex

import pytest
from benchmarks.families import page, table
from benchmarks.families.plan import EXPERTS, FAMILIES, PREFERENCES, expert_jobs, family_jobs, mixing_jobs, runs_of

from commands import composed
from pama_exp.assembly.task import build_world
from pama_exp.config import schema
from records import write_run

COMMON = ["experiment=study", "objectives=[helpful,concise]"]


def row(family, seed, share, points=None):
    values = dict.fromkeys(table.COLUMNS[2:], 1.0) | {"share": share}
    return table.Row(family, seed, values, points or {p: (p, round(1 - p, 6)) for p in PREFERENCES})


@pytest.mark.parametrize("job", [*expert_jobs(1), *family_jobs(1)], ids=lambda job: job.name)
def test_every_run_of_the_plan_is_a_command_that_composes(job):
    config = schema.typed(composed(*job.overrides, "cache_dir=unused"))
    assert config.seed == 1
    assert config.reward == "learned"


def test_what_is_mixed_is_made_of_the_experts_of_the_seed():
    for job in mixing_jobs(3, "there"):
        section = getattr(schema.typed(composed(*job.overrides, "cache_dir=unused")), job.block)
        assert section.runs == [f"there/{name}-s3" for name in EXPERTS]
        assert {share / section.grid for share in range(section.grid + 1)} >= set(PREFERENCES)


def test_every_family_stands_at_the_same_five_preferences():
    for name, family in FAMILIES.items():
        assert len(family.runs) in (0, 1, len(PREFERENCES)), name
        assert runs_of(name)
        for command in family.runs.values():
            words = shlex.split(" ".join(command))
            assert any(word.startswith("solver.weights=") for word in words) or "conditioning.grid=10" in words


def test_rows_are_read_from_finished_runs_alone(tmp_path):
    points = {p: {"helpful": p, "concise": 1 - p} for p in PREFERENCES}
    for share in PREFERENCES[:-1]:
        weights = f"solver.weights=[{share},{round(1 - share, 3)}]"
        write_run(tmp_path / f"each-{share}-s1", *COMMON, "solver=linear", weights, "seed=1", after=points[share])
    assert table.read_rows(tmp_path, [1]) == []  # the fifth is missing
    weights = "solver.weights=[0.9,0.1]"
    write_run(tmp_path / "each-0.9-s1", *COMMON, "solver=linear", weights, "seed=1", after=points[0.9])
    (found,) = table.read_rows(tmp_path, [1, 2])
    assert (found.family, found.seed) == ("each", 1)
    assert found.points == {p: (p, 1 - p) for p in PREFERENCES}
    assert found.values["prompts"] == 5 * 100
    # The area that the five dominate from the origin, as a staircase, over the true front's.
    area = sum((p - q) * (1 - p) for p, q in zip(PREFERENCES, (0.0, *PREFERENCES), strict=False))
    world = build_world(schema.typed(composed(*COMMON, "cache_dir=unused")).data)
    true = world.true_hypervolume(("helpful", "concise"), "test")
    assert found.values["share"] == pytest.approx(area / true)


def test_of_a_grid_only_the_five_preferences_count(tmp_path):
    many = [
        {
            "preference": {"helpful": n / 10, "concise": 1 - n / 10},
            "objectives": {k: {"gold": v, "proxy": v} for k, v in (("helpful", n / 10), ("concise", 1 - n / 10))},
            "true_hypervolume_share": 0.5,
            "true_front": {},
        }
        for n in range(11)
    ]
    told = ["solver=linear", "conditioning=embedding", "conditioning.grid=10", "seed=2"]
    write_run(tmp_path / "conditioned-s2", *COMMON, *told, after={"helpful": 0.5, "concise": 0.5}, points=many)
    (found,) = table.read_rows(tmp_path, [2])
    assert found.family == "conditioned"
    assert sorted(found.points) == sorted(PREFERENCES)


def test_rows_survive_their_files_and_new_ones_replace_old(tmp_path):
    rows = table.merged([row("each", 1, 0.5), row("mod", 1, 0.4)], [row("each", 1, 0.6), row("each", 2, 0.7)])
    assert [(one.family, one.seed, one.values["share"]) for one in rows] == [
        ("each", 1, 0.6),
        ("each", 2, 0.7),
        ("mod", 1, 0.4),
    ]
    table.save(tmp_path, rows)
    assert table.load(tmp_path) == rows


def test_the_page_says_who_is_better_worse_or_not_told_apart_and_of_how_many_seeds():
    shares = {"each": (0.6, 0.61, 0.62, 0.6), "soup": (0.7, 0.72, 0.71, 0.7), "mod": (0.5, 0.52, 0.5, 0.51)}
    shares["modpo"] = (0.7, 0.5, 0.62, 0.6)
    rows = [row(name, seed, share) for name, values in shares.items() for seed, share in enumerate(values)]
    rows.append(row("mo-odpo", 0, 0.6))
    made = page.sections(rows)
    said = dict(line[2:].split(": ", 1) for line in made["verdict"].splitlines())
    assert said[FAMILIES["soup"].label] == "better."
    assert said[FAMILIES["mod"].label].startswith("not better: worse")
    assert said[FAMILIES["modpo"].label].startswith("not better: the two are not told apart")
    assert "fewer than 3 seeds" in said[FAMILIES["mo-odpo"].label]
    assert made["state"].startswith("Run with 4 seeds (0, 1, 2, 3)")
    assert f"{FAMILIES['mo-odpo'].label}: 1" in made["state"]
    line = next(one for one in made["fronts"].splitlines() if FAMILIES["soup"].label in one)
    assert "70.8 % [69.2, 72.3]" in line  # mean ± t₃ s/√4 of the four, by hand
    assert "+10.0 [" in line
    text = "a <!-- families:state -->old<!-- /families:state --> b"
    assert page.filled(text, made).count("Run with 4 seeds") == 1
    assert page.sections([])["state"] == "Nothing has been run yet."
