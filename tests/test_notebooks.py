"""Every notebook runs from its first cell to its last, at a tiny size, and what it shows can be shown."""

import ast
import json
from pathlib import Path

import matplotlib as mpl
import pytest

from commands import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def run_notebook(path: Path, parameters: str) -> list[str]:
    """Run the code cells in one namespace, as a kernel would; returns the HTML of what they show.

    Args:
        path: of the notebook. Of magics `%%writefile` is known.
        parameters: in place of the cell with the tag of that name.
    """
    names: dict[str, object] = {"__name__": "__main__"}
    shown = []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        if "parameters" in cell["metadata"].get("tags", []):
            source = parameters
        if source.startswith("%%writefile "):
            first, _, text = source.partition("\n")
            Path(first.split()[1]).write_text(text)
            continue
        tree = ast.parse(source)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, path.name, "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), path.name, "eval"), names)
            shown.append(value._repr_html_() if hasattr(value, "_repr_html_") else repr(value))
    return shown


@pytest.fixture
def here(tmp_path, monkeypatch):
    mpl.use("Agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def tiny(cache):
    return f'size = ["debug=fast", "model=micro", "reward=gold", "cache_dir={cache}"]\nseeds = (0, 1)\n'


@pytest.mark.slow("runs the whole notebook")
def test_first_front(here, shared_cache):
    front, run, comparison, told = run_notebook(ROOT / "notebooks" / "first_front.ipynb", tiny(shared_cache))
    assert "<polyline" in front
    assert "pama, seed 0, complete" in run
    assert "helpful" in run
    assert "linear" in comparison
    assert told.count("<circle") == 5  # preferences in steps of a quarter


@pytest.mark.slow("runs the whole notebook")
def test_own_solver(here, shared_cache):
    _, comparison, ranked = run_notebook(ROOT / "notebooks" / "own_solver.ipynb", tiny(shared_cache))
    assert "worst" in comparison
    places = ast.literal_eval(ranked)
    assert sorted(label for _, label, _ in places) == ["linear", "pama", "worst"]
    shares = [float(share.rstrip("%")) for *_, share in places]
    assert shares == sorted(shares, reverse=True)


def test_reading_runs(here, shared_cache):
    files, *_, answers, bill = run_notebook(ROOT / "notebooks" / "reading_runs.ipynb", tiny(shared_cache))
    assert "metrics.csv" in files
    assert "<table" in answers
    assert "backwards" in bill


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs_and_begin_with_what_they_are(path):
    notebook = json.loads(path.read_text())
    assert notebook["nbformat"] == 4
    assert notebook["cells"][0]["source"][0].startswith("# ")
    assert all(not cell.get("outputs") for cell in notebook["cells"])
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])


def test_every_notebook_is_run():
    assert [path.stem for path in NOTEBOOKS] == ["first_front", "own_solver", "reading_runs"]
