"""The page as a reader has it: opened from its file in a real browser, desktop and phone."""

import pytest

from browser import needs_browser, opened
from pama_exp.report import write_report
from synthetic import write_runs, write_whole


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    write_runs(root, 6)
    write_whole(root / "stopped", "solver=pama", "seed=7", state="interrupted", reach=0.5)
    write_whole(root / "other", "objectives=[humor,polite,honest,concise]")
    return write_report([root], tmp_path_factory.mktemp("report"))


def _dots(page, chart=0):
    return page.run(f"return document.querySelectorAll('svg.plot')[{chart}].querySelectorAll('g > path').length")


@needs_browser
@pytest.mark.slow("opens a browser")
@pytest.mark.parametrize("width", [1280, 390])
def test_filters_and_hover_work_with_no_error_and_no_request(page_file, width, tmp_path):
    with opened(page_file, tmp_path / "profile", width, dark=width == 390) as page:
        assert page.run("return document.documentElement.scrollWidth") <= width, "nothing sticks out sideways"
        assert page.run("return document.documentElement.dataset.theme") == ("dark" if width == 390 else "light")
        if width == 390:
            page.click("#filters summary")

        everything = _dots(page)
        page.click("button.chip[data-kind=families]", "mgda")
        assert 0 < _dots(page) < everything
        without = _dots(page)
        page.click("button.chip[data-kind=seeds]", "1")
        assert 0 < _dots(page) < without
        page.click("button.chip[data-kind=objectives]", "concise")
        titles = page.run("return [...document.querySelectorAll('h3')].map((h) => h.textContent)")
        assert "helpful: gold reward" in titles
        assert "concise: gold reward" not in titles
        for kind, text in (("families", "mgda"), ("seeds", "1"), ("objectives", "concise")):
            page.click(f"button.chip[data-kind={kind}]", text)
        assert _dots(page) == everything

        # The pointer over a run's mark says which run it is, and lights it up in the other charts.
        page.run(
            "document.getElementById('filters').firstChild.open = false; document.querySelector('svg.plot').scrollIntoView({block: 'center'})"
        )
        spot = page.run(
            "const box = [...document.querySelectorAll('svg.plot')[0].querySelectorAll('g > path')].filter((p) => p.getAttribute('transform'))"
            "[0].getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]"
        )
        page.hover(*spot)
        said = page.run("const tip = document.getElementById('tip'); return tip.hidden ? '' : tip.textContent")
        assert "seed" in said
        assert "helpful" in said
        lit = "return [...document.querySelectorAll('svg.plot')].filter((s) => s.lastChild.childElementCount).length"
        assert page.run(lit) > 3
        page.hover(1, 1)
        assert page.run("return document.getElementById('tip').hidden")

        # The keyboard goes where the pointer goes.
        page.run("document.querySelectorAll('svg.plot')[2].focus()")
        page.driver.switch_to.active_element.send_keys("\ue014")
        assert "step" in page.run("return document.getElementById('tip').textContent")

        page.click("#theme")
        assert page.run("return document.documentElement.dataset.theme") == ("light" if width == 390 else "dark")
        assert page.console() == []
        assert page.requests() == []


@needs_browser
@pytest.mark.slow("opens a browser")
def test_each_set_of_objectives_is_a_section_and_no_run_is_hidden(page_file, tmp_path):
    with opened(page_file, tmp_path / "profile", 1280) as page:
        assert "2 sets of objectives" in page.run("return document.querySelector('#head .notes').textContent")
        states = page.run("return [...document.querySelectorAll('.badge')].map((b) => b.textContent)")
        assert states.count("complete") == 6
        assert states.count("interrupted") == 1
        answers = page.run("return [...document.querySelectorAll('blockquote')].map((b) => b.textContent)")
        assert {answer.split(" ")[0] for answer in answers} == {"pama-s0", "linear-s0", "mgda-s0"}
        other = page.run(
            "return [...document.querySelectorAll('[role=tab]')].findIndex((t) => t.ariaSelected === 'false')"
        )
        page.run(f"document.querySelectorAll('[role=tab]')[{other}].click()")
        assert "All objectives" in page.run("return [...document.querySelectorAll('h3')].map((h) => h.textContent)")
        page.run("document.querySelector('.run').open = true")
        page.run("return new Promise((done) => requestAnimationFrame(done))")
        command = page.run("return document.querySelector('.run pre').textContent")
        assert command == "python run.py 'objectives=[humor,polite,honest,concise]'"
        assert page.console() == []


@needs_browser
@pytest.mark.slow("opens a browser")
@pytest.mark.timeout(600)
def test_two_hundred_runs_stay_small_and_open(tmp_path):
    from pama_exp.report.gather import gather
    from pama_exp.report.page import render

    write_runs(tmp_path / "runs", 200, solvers=("pama", "linear", "mgda", "mgda-ub"), steps=200)
    page_file = tmp_path / "index.html"
    page_file.write_text(render(gather([tmp_path / "runs"])[0]), encoding="utf-8")
    assert page_file.stat().st_size < 10e6
    with opened(page_file, tmp_path / "profile", 1280) as page:
        assert page.run("return document.querySelectorAll('.run').length") == 200
        assert page.console() == []
