"""A short campaign of kills, damage, full disks and bad commands, and the page that a long one makes."""

import json
import os
import subprocess
import sys

import pytest
from benchmarks.reliability import campaign, commands, grammar, page
from benchmarks.reliability.case import Case, Verdict
from benchmarks.reliability.forks import Ended

from commands import ROOT, environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it forks, and reads /proc")
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "reliability.json", ROOT / "docs" / "reliability.md"


def run_campaign(folder, *words):
    """In a process of its own: one with threads, as this one is, does not fork."""
    where = ["--scratch", folder / "scratch", "--results", folder / "results.json", "--document", folder / "page.md"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.reliability", *map(str, where), *words],
        cwd=folder, env=environment(PYTHONPATH=path), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert not done.stderr, done.stderr
    content = json.loads((folder / "results.json").read_text())
    assert content["faults"] == []
    assert done.returncode == 0, done.stdout
    return content, done.stdout


@pytest.mark.slow("a short campaign of whole runs")
@pytest.mark.timeout(900)
def test_runs_that_are_killed_damaged_and_without_room_end_as_they_should(tmp_path):
    some = ["--parts", "kills,events,damage,disk", "--scenarios", "align,evaluate", "--kills", "2", "--events", "4"]
    content, said = run_campaign(tmp_path, *some, "--damages", "8", "--sizes", "1")
    assert content["cases"] == 2 + 4 + 8 + 2
    assert "min left" in said
    _, again = run_campaign(tmp_path, *some, "--damages", "8", "--sizes", "1")
    assert "16 cases, 16 of them done before" in again


@pytest.mark.slow("150 commands")
@pytest.mark.timeout(900)
def test_bad_commands_are_refused_in_two_lines_or_make_sense(tmp_path):
    content, _ = run_campaign(tmp_path, "--parts", "commands", "--commands", "150")
    refused = sum(kinds.get("refused", 0) for kinds in content["parts"]["commands"].values())
    assert refused > 100


# ---- the grammar and what it is judged by ------------------------------------------------------------------------------


def test_a_seed_makes_the_same_commands_and_another_makes_others():
    known = grammar.language()
    first = grammar.commands(known, 300, 0)
    assert first == grammar.commands(known, 300, 0) != grammar.commands(known, 300, 1)
    assert {bad.kind for bad in first} == set(grammar.KINDS)
    assert len({bad.words for bad in first}) > 280


ACCEPTED = 'ACCEPTED {"training": {"steps": 3, "schedule": "linear"}, "solver": {"noon": true}}\n'
JUDGED = [
    (2, "", "One line.\nAnother.\n", False, (), "refused", 0),
    (2, "", "One.\nTwo.\nThree.\n", False, (), "refused", 1),
    (2, "", "", False, (), "refused", 1),
    (2, "", "x" * 301 + "\n", False, (), "refused", 1),
    (2, "", "<class 'int'> is wrong.\n", False, (), "refused", 1),
    (1, "", "It failed unexpectedly: x.\n", False, (), "failed", 2),
    (-11, "", "", False, (), "failed", 1),
    (0, ACCEPTED, "", False, (("training.steps", 3),), "accepted", 0),
    (0, ACCEPTED, "", False, (("training.steps", True),), "accepted", 1),
    (0, ACCEPTED, "", False, (("training.steps", 3.5),), "accepted", 1),
    (0, ACCEPTED, "", False, (("solver.noon", 1),), "accepted", 1),
    (0, ACCEPTED, "", False, (("training.schedule", "linear"), ("solver.noon", True)), "accepted", 0),
]


@pytest.mark.parametrize(("status", "out", "err", "is_wrong", "said", "kind", "faults"), JUDGED)
def test_what_became_of_a_command_is_judged(status, out, err, is_wrong, said, kind, faults):
    bad = grammar.Bad("an odd value", ("seed=1",), is_wrong, said)
    found, wrong = commands.judged(Ended(status, out, err, 0.1), bad)
    assert (found, len(wrong)) == (kind, faults), wrong


# ---- the campaign and its page -----------------------------------------------------------------------------------------


def verdict(name, part="kills", kind="killed", faults=()):
    return Verdict(name, part, "align", "SIGKILL after 1 s", kind, faults)


def test_a_campaign_goes_on_where_it_was_and_outlives_what_it_cannot_judge(tmp_path, capsys):
    def impossible():
        raise OSError("no such place")

    done = []
    cases = [
        Case("a", "kills", "align", lambda: done.append("a") or verdict("a")),
        Case("b", "kills", "align", impossible),
    ]
    first = campaign.work(cases, tmp_path / "cases.jsonl", 1.0)
    assert [len(each.faults) for each in first] == [0, 1]
    assert "not judged: OSError: no such place" in first[1].faults[0]
    assert campaign.work(cases, tmp_path / "cases.jsonl", 1.0) == first
    assert done == ["a"]
    assert "2 cases, 2 of them done before" in capsys.readouterr().out


def test_the_page_has_the_counts_and_keeps_what_is_written_by_hand(tmp_path):
    document = tmp_path / "page.md"
    marks = "\n".join(
        f"<!-- reliability:{name} -->\nold\n<!-- /reliability:{name} -->"
        for name in ("state", "kills", "disk", "faults")
    )
    document.write_text(f"By hand.\n{marks}\nThe end.\n")
    cases = [verdict("a"), verdict("b", kind="killed twice"), verdict("c", faults=("another result",))]
    page.publish(cases, tmp_path / "results.json", document, "a means")
    text = document.read_text()
    assert text.startswith("By hand.")
    assert text.endswith("The end.\n")
    assert "| align | 3 | 1 | 1 | 1 |" in text
    assert "3 kills at random moments" in text
    assert "1 of them ended as they should not have" in text
    assert "another result" in text
    assert "<!-- reliability:disk -->\nNot run.\n" in text


def test_the_published_page_is_what_the_published_results_make():
    made = page.sections(json.loads(RESULTS.read_text()))
    assert page.filled(PAGE.read_text(), made) == PAGE.read_text()
