"""Names are the user's, or a stranger's: they decide no path, no markup and no formula."""

import csv
import re

import pytest
import yaml
from omegaconf import OmegaConf

from commands import composed
from pama_exp.comparison import compare, load_runs
from pama_exp.comparison.pictures import draw
from pama_exp.comparison.write import write
from pama_exp.config import resolvers
from pama_exp.config.naming import markdown_text, slug
from pama_exp.policy.export import Card, write_card
from pama_exp.report import write_report
from pama_exp.runs import listing, show
from pama_exp.safety.failing import prepare_streams
from pama_exp.storage.csv_table import cell
from pama_exp.tracking.console import summary
from pama_exp.tracking.plots import curves_plot, front_plot
from records import write_run

HOSTILE = [
    "../../escaped",
    "/tmp/absolute",
    "..",
    ".",
    "",
    "nul\0byte",
    "x" * 5000,
    "CON",
    "<script>alert(1)</script>",
    "\"quoted\" 'twice'",
    "$\\frac$",
    "$",
    "[/red]",
    "a|b",
    "=HYPERLINK(1)",
    "naïve 名前",
    "two\nlines",
    "__proto__",
    "lone \ud800 surrogate",
]
NAMED = [name[:24] or "empty" for name in map(ascii, HOSTILE)]


@pytest.mark.parametrize("name", ["helpful", "opt-1.3b", "Qwen2.5-0.5B", "mgda_ub", "a" * 100])
def test_ordinary_names_stay_as_they_are(name):
    assert slug(name) == name
    assert slug("concise", name)[:40] == f"concise+{name}"[:40]


@pytest.mark.parametrize("name", HOSTILE, ids=NAMED)
def test_a_slug_is_one_short_part_of_a_path(name):
    for made in (slug(name), slug(name, "concise")):
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._+-]*", made)
        assert len(made) <= 110
        assert made != ".."


def test_different_names_have_different_slugs():
    names = [*HOSTILE, "a/b", "a-b", "a:b", "x" * 5001]
    assert len({slug(name) for name in names}) == len(names)
    assert slug("a+b") != slug("a", "b")


@pytest.mark.parametrize(
    "names",
    [HOSTILE[i : min(i + 5, len(HOSTILE) - 1)] for i in range(0, len(HOSTILE) - 1, 5)],
    ids=lambda n: ascii(n[0]),
)
def test_reports_and_comparisons_write_inside_their_output_only(names, tmp_path):
    for folder, objectives in (("one", names), ("two", ("helpful", "concise"))):
        record = write_run(tmp_path / "runs" / folder, "solver=linear", after=dict.fromkeys(objectives, 0.5))
        path = record.folder / "config.yaml"
        config = yaml.safe_load(path.read_text())
        node = next(iter(config["objectives"].values()))
        config["objectives"] = dict.fromkeys(objectives, node)
        config["model"]["name"] = config["solver"]["name"] = names[0]
        path.write_text(yaml.safe_dump(config))
        record.log_metrics(1, {f"reward/{one}/mean": 0.5 for one in objectives} | {"kl/response": 0.1})
    before = set(tmp_path.rglob("*"))
    inside = tmp_path / "deep" / "down" / "report"
    page = write_report([tmp_path / "runs"], inside)
    runs = load_runs([tmp_path / "runs" / "one"])
    (tmp_path / "deep" / "compared").mkdir()
    write(compare(runs), tmp_path / "deep" / "compared")
    draw(compare(runs), tmp_path / "deep" / "compared")
    listing(runs)
    show(runs[0])
    new = set(tmp_path.rglob("*")) - before
    assert {path.relative_to(tmp_path).parts[0] for path in new} == {"deep"}
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"down", "compared"}
    assert len([path for path in inside.iterdir() if path.is_dir()]) == 2
    text = page.read_text()
    assert "<script>alert" not in text
    for table in (tmp_path / "deep").rglob("*.csv"):
        with table.open(newline="") as file:
            assert not [c for row in csv.reader(file) for c in row if c.startswith(("=", "@", "\t", "\r"))]
    for written in (tmp_path / "deep").rglob("*.md"):
        assert "<script>" not in written.read_text()


@pytest.mark.parametrize("name", HOSTILE[4:], ids=NAMED[4:])
def test_pictures_cards_and_the_summary_take_any_name(name, tmp_path, capsys):
    names = [name, "concise"]
    front_plot(tmp_path / "front.png", None, [0.1, 0.2], [0.3, 0.4], names, f"{name}: gold")
    curves_plot(tmp_path / "curves.png", [{"step": 1, f"reward/{name}/mean": 0.5}], names)
    means = {"before": {"gold": 0.1, "proxy": 0.2}, "after": {"gold": 0.3, "proxy": 0.4}}
    prepare_streams()
    summary({"objectives": dict.fromkeys(names, means), "reward_models": {name: {"held_out_accuracy": 0.5}}})
    card = Card(
        name, False, name, dict.fromkeys(names, name), name, {}, dict.fromkeys(names, means), None, ["run", name]
    )
    write_card(tmp_path, card, adapter_only=False)
    before_command, _, _ = (tmp_path / "README.md").read_text().partition("```sh")
    assert "<script>" not in before_command
    assert sum(line.startswith("| ") for line in before_command.splitlines()) == 3
    assert "concise" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/absolute", "a/b", "x" * 300, "nul\0byte"])
def test_a_run_folder_is_one_folder_below_runs(name):
    config = composed("solver=linear")
    OmegaConf.update(config, "model.name", name)
    OmegaConf.update(config, "solver.name", name, force_add=True)
    made = resolvers._run_folder(_root_=config)
    assert re.fullmatch(r"runs/[A-Za-z0-9_][A-Za-z0-9._+-]{1,250}", made)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3+cmd|x", "'-2+3+cmd|x"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\tx", "'\tx"),
        ("\rx", "'\rx"),
        ("-0.25", "-0.25"),
        ("+1e-05", "+1e-05"),
        ("-inf", "-inf"),
        ("-0.25 [-0.31, 0.19]", "-0.25 [-0.31, 0.19]"),
        ("-3.1 % [-4.0, -2.2]", "-3.1 % [-4.0, -2.2]"),
        ("–", "–"),
        ("helpful", "helpful"),
        (-0.25, -0.25),
        (None, None),
    ],
)
def test_text_is_no_formula_and_numbers_are_numbers(value, written):
    assert cell(value) == written


def test_markdown_text_ends_neither_cell_nor_line_and_links_nowhere():
    assert markdown_text("a|b\n# c [d](e) <f> `g`") == "a\\|b # c [d]\\(e) &lt;f&gt; \\`g\\`"
