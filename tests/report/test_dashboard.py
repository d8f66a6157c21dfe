"""The dashboard from offline records: read back from real W&B runs, sorted by solver, loading nothing."""

import re

import pytest

from commands import run_here
from pama_exp.errors import UserError
from pama_exp.report import dashboard
from records import write_run


@pytest.fixture(scope="module")
def page(tmp_path_factory, shared_cache):
    root = tmp_path_factory.mktemp("dashboard")
    for solver in ("pama", "linear"):
        overrides = [f"solver={solver}", "reward=gold", "logger.mode=offline"]
        run_here(*overrides, output=root / "runs" / solver, cache=shared_cache)
    assert dashboard.main([str(root / "runs"), "--output", str(root / "out")], "pama-exp dashboard") == 0
    return (root / "out" / "index.html").read_text()


def test_it_has_every_section_with_the_solvers_in_order(page):
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles == ["Where the policies end", "Training", "Proxy against gold", "The solver", "Cost", "Generations"]
    shares = re.search(r"Share of the true front.*?</table>", page, re.S)[0]
    assert shares.index("linear") < shares.index("pama")


def test_points_and_curves_are_those_of_the_runs(page):
    first = page.split("<svg")[1]
    assert first.count("<circle") == 2
    assert first.count("<polyline") == 1  # the true front
    for metric in ("reward/helpful/mean", "kl/response", "solver/binding_share/concise", "eval/gold/helpful/mean"):
        assert metric in page
    assert ">48<" in page  # prompts that each run was billed for


def test_it_loads_nothing(page):
    assert not re.search(r"(src|href)=", page)


def test_runs_without_an_offline_record_are_told(tmp_path):
    write_run(tmp_path / "run", after={"helpful": 0.5, "concise": 0.5})
    with pytest.raises(UserError, match="offline W&B record"):
        dashboard.main([str(tmp_path)], "pama-exp dashboard")


def test_runs_of_other_objectives_are_not_mixed(tmp_path):
    write_run(tmp_path / "a", after={"helpful": 0.5, "concise": 0.5})
    write_run(tmp_path / "b", "objectives=[helpful,humor]", after={"helpful": 0.5, "humor": 0.5})
    with pytest.raises(UserError, match="2 sets of objectives"):
        dashboard.main([str(tmp_path)], "pama-exp dashboard")


def test_it_is_written_over_an_earlier_one_and_over_nothing_else(tmp_path, monkeypatch):
    write_run(tmp_path / "runs" / "one", after={"helpful": 0.5, "concise": 0.5})
    monkeypatch.setattr(dashboard, "read_logs", lambda runs: {})
    monkeypatch.setattr(dashboard, "_ends", lambda names, logs: [])
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "index.html").write_text("<title>My thesis</title>")
    (tmp_path / "file").write_text("x")
    words = [str(tmp_path / "runs"), "--output"]
    for name, said in (("thesis", r"such as index\.html"), ("file", "cannot be written"), ("file/in", "cannot be")):
        with pytest.raises(UserError, match=said):
            dashboard.main([*words, str(tmp_path / name)], "pama-exp dashboard")
    assert (tmp_path / "thesis" / "index.html").read_text() == "<title>My thesis</title>"
    for _ in range(2):
        assert dashboard.main([*words, str(tmp_path / "new")], "pama-exp dashboard") == 0


def test_at_wandb_the_objectives_are_the_runs_own(tmp_path, monkeypatch):
    write_run(tmp_path / "run", after={"helpful": 0.5, "concise": 0.5})
    saved = []
    monkeypatch.setattr(dashboard.workspace, "save", lambda project, names: saved.append((project, tuple(names))))
    assert dashboard.main([str(tmp_path), "--project", "team/pama-exp"], "pama-exp dashboard") == 0
    assert saved == [("team/pama-exp", ("helpful", "concise"))]
