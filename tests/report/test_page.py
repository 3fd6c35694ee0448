"""The page in a real browser: what one does with it, at every width, in the dark, on paper, from another folder."""

import io
import math
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import altair as alt
import matplotlib.image
import numpy as np
import pytest
from fake_study import make_study, params_of
from jsonschema.exceptions import ValidationError
from matplotlib.figure import Figure

from rsl_cli.report import canvas, figure, write_comparison, write_report
from rsl_cli.report.charts import losses_chart
from rsl_cli.report.diagnostics import DiagnosticTables, Rows, read_diagnostics
from rsl_cli.report.evidence import Evidence
from rsl_cli.report.figures import SHIPPED, drawings
from rsl_cli.report.plots import law_span
from rsl_cli.report.read import read_runs
from rsl_cli.report.words import figure_of, group_symbol, remedy_of, short_ticks, symbols
from rsl_cli.stats import Law
from rsl_cli.study.files import write_json
from rsl_cli.study.store import StudyStore

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
SIZE = 3_000_000


def falling(params: int, lift: int) -> float:
    return 50 / params**1.1


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyStore:
    store = make_study(
        tmp_path_factory.mktemp("results") / "mlp_<b>&$x$",
        falling,
        lifts=(16, 32, 64),
        seeds=4,
        flow=True,
        measured=True,
        samples=3000,
        failed=[(64, 1)],
        change=lambda lift, seed: {"stop_reason": "time"} if lift > 16 else {},
    )
    write_json(store.study_file, {**store.read_study(), "line": ["base=mlp", "study=mine's"]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canvas, "render", lambda drawing, formats: dict.fromkeys(formats, b""))  # The page holds none.
        write_report(store, formats=("png",))
    return store


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        # The sandbox needs a user that is not root; the pages opened are our own.
        found = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield found
        found.close()


def opened(browser: Any, path: Path, width: int = 1400, **more: Any) -> tuple[Any, list[str]]:
    """The page when all is drawn; what it complained of, and whatever it asked for besides itself."""
    page = browser.new_context(viewport={"width": width, "height": 900}, **more).new_page()
    trouble: list[str] = []
    page.on("console", lambda message: trouble.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda request: trouble.append(request.url) if request.url != path.as_uri() else None)
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-drawn=yes]")
    return page, trouble


@pytest.fixture(scope="module")
def wide(browser: Any, study: StudyStore, tmp_path_factory: pytest.TempPathFactory) -> Any:
    # As mailed: alone, in another folder.
    copy = tmp_path_factory.mktemp("mailed") / "report of a study.html"
    shutil.copy(study.report_dir / "index.html", copy)
    page, trouble = opened(browser, copy)
    assert trouble == []
    return page


def opacities(page: Any, chart: str) -> set[float]:
    marks = page.locator(f"[data-chart={chart}] .mark-symbol path").all()
    return {round(float(mark.get_attribute("opacity") or 1), 2) for mark in marks}


@in_browser
def test_every_figure_is_drawn_and_told_in_words(wide: Any) -> None:
    charts = wide.locator("[data-chart]").all()
    assert len(charts) >= 11
    for chart in charts:
        assert chart.locator("svg").count() == 1
        words = chart.locator("[aria-label]").first.get_attribute("aria-label")
        assert words.endswith(".") and "?" in words
    assert wide.locator("h1").inner_text().isupper() is False
    assert wide.locator("h1 b").inner_text().rstrip(":").isupper()


@in_browser
def test_hovering_names_the_run_and_its_values(wide: Any) -> None:
    wide.locator("[data-chart=loss_vs_params] .mark-symbol path[aria-label*=n00032-s002]").last.hover(force=True)
    tip = wide.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    assert re.search(r"n00032-s002[\s\S]*training loss[\s\S]*held-out loss", tip.inner_text())


@in_browser
def test_a_lift_and_a_seed_are_followed_through_every_figure(wide: Any) -> None:
    assert min(opacities(wide, "loss_vs_params")) > 0.5
    wide.click("[data-lift='32']")
    for chart in ("loss_vs_params", "success", "drift", "kappa"):
        wide.wait_for_function(f"document.querySelector('[data-chart={chart}] .mark-symbol path[opacity=\"0.06\"]')")
    assert wide.locator("#runs tbody tr").count() == 4
    wide.select_option("#seed", "2")
    assert wide.locator("#runs tbody tr").count() == 1
    wide.keyboard.press("Escape")
    wide.wait_for_function("!document.querySelector('[data-chart=loss_vs_params] .mark-symbol path[opacity=\"0.06\"]')")
    wide.locator("[data-chart=loss_vs_params] .mark-symbol path[aria-label*=n00016-s003]").last.click(force=True)
    assert wide.locator("#runs tbody tr").all_inner_texts()[0].startswith("n00016-s003")
    wide.keyboard.press("Escape")
    assert wide.locator("#runs tbody tr").count() == 12


@in_browser
def test_the_slider_moves_through_time(wide: Any) -> None:
    path = "[data-chart=isochrones] .mark-line path[stroke='var(--accent)']"
    last, shown = wide.locator(path).get_attribute("d"), wide.locator("#at-shown").inner_text()
    assert shown == "t = 10⁶"
    wide.locator("#at").fill("6")
    wide.wait_for_function(f"document.querySelector(\"{path}\").getAttribute('d') !== '{last}'")
    assert wide.locator("#at-shown").inner_text() == "t = 1000"


@in_browser
def test_names_of_times_stay_apart(browser: Any, study: StudyStore) -> None:
    page, _ = opened(browser, study.report_dir / "index.html")
    texts = (
        "[...document.querySelectorAll('[data-chart=isochrones] .mark-text text')]"
        ".filter((text) => text.textContent.startsWith('t = '))"
    )
    boxes = f"{texts}.map((text) => text.getBoundingClientRect()).map((box) => [box.y, box.y + box.height])"
    last = int(page.locator("#at").get_attribute("max"))
    for view in ("test", "train"):
        page.click(f"[data-value={view}]")
        for at in range(last + 1):
            page.locator("#at").fill(str(at))
            page.evaluate("Promise.all(Object.values(views).map((view) => view.runAsync())).then(() => 0)")
            found = sorted(page.evaluate(boxes))
            assert found and all(low[1] <= high[0] + 2 for low, high in pairwise(found)), (view, at)
    assert len(found) > 2
    page.click("[data-value=linear]")
    page.wait_for_function(f"{texts}.length === 1")


@in_browser
def test_losses_and_scales_are_switched(wide: Any) -> None:
    title = "[data-chart=trajectories] .role-axis-title text"
    assert "held-out loss" in wide.locator(title).all_text_contents()
    wide.click("[data-value=train]")
    wide.wait_for_function(
        f"[...document.querySelectorAll(\"{title}\")].some((text) => text.textContent === 'training loss')"
    )
    label = "[data-chart=trajectories] .role-axis-label text"
    assert "10⁻⁵" in wide.locator(label).all_text_contents()
    wide.click("[data-value=linear]")
    wide.wait_for_function(
        f"[...document.querySelectorAll(\"{label}\")].every((text) => !text.textContent.startsWith('10⁻'))"
    )
    wide.click("[data-key=size][data-value=lift]")
    wide.wait_for_function(
        "[...document.querySelectorAll('[data-chart=loss_vs_params] .role-axis-title text')]"
        ".some((text) => text.textContent === 'lift degree n')"
    )


@in_browser
def test_the_table_sorts_and_filters(wide: Any) -> None:
    column = wide.locator("#runs th[data-column=test] button")
    column.click()
    wide.locator("#runs th[aria-sort=ascending][data-column=test]").wait_for()
    runs = "[...document.querySelectorAll('#runs tbody tr')].map((row) => row.cells[0].textContent)"
    losses = "tables.runs.filter((row) => row.test !== null).sort((a, b) => a.test - b.test).map((row) => row.run)"
    assert wide.evaluate(runs)[:-1] == wide.evaluate(losses)
    assert wide.evaluate(runs)[-1] == "n00064-s001"
    column.click()
    assert wide.evaluate(runs)[:-1] == wide.evaluate(losses)[::-1]
    wide.fill("#filter", "failed")
    assert wide.evaluate(runs) == ["n00064-s001"]
    wide.fill("#filter", "")
    wide.select_option("#status", "time")
    assert wide.locator("#runs tbody tr").count() == 7
    wide.select_option("#status", "")
    table = wide.locator("#runs").bounding_box()
    assert table["x"] + table["width"] <= 1400


@in_browser
def test_a_phone_the_dark_and_paper(browser: Any, study: StudyStore, tmp_path: Path) -> None:
    path = study.report_dir / "index.html"
    phone, trouble = opened(browser, path, 390)
    assert trouble == [] and phone.evaluate("document.documentElement.scrollWidth") == 390
    assert all(svg.bounding_box()["width"] <= 390 for svg in phone.locator("[data-chart] svg").all())
    dark, _ = opened(browser, path, color_scheme="dark")
    ground, ink = (
        "getComputedStyle(document.body).backgroundColor",
        "getComputedStyle(document.querySelector('.role-axis-label text')).fill",
    )
    assert dark.evaluate(ground) == "rgb(20, 23, 27)" and dark.evaluate(ink) == "rgb(230, 233, 236)"
    dark.emulate_media(media="print", color_scheme="dark")
    assert dark.evaluate(ground) == "rgb(255, 255, 255)" and dark.evaluate(ink) == "rgb(31, 35, 40)"
    assert dark.pdf(path=tmp_path / "page.pdf").startswith(b"%PDF")
    assert not dark.locator("#filter").is_visible() and not dark.locator("[data-file]").first.is_visible()
    # Between the margins of A4, at 96 dots an inch.
    dark.set_viewport_size({"width": 688, "height": 900})
    assert dark.locator("#runs").bounding_box()["width"] <= 688 and "12 of 12" in dark.locator("#count").inner_text()


@in_browser
def test_a_comparison_is_a_page_of_its_own(browser: Any, study: StudyStore, tmp_path: Path) -> None:
    name = "a_name_so_long_that_no_phone_has_room_for_it_on_one_line"
    other = make_study(study.root.parent / name, falling, lifts=(16, 32, 64), seeds=3)
    page, trouble = opened(browser, write_comparison([study, other], tmp_path, formats=()), 390)
    assert trouble == [] and page.evaluate("document.documentElement.scrollWidth") == 390
    page.locator("[data-chart=sizes] .role-legend-symbol path").first.click(force=True)
    page.wait_for_selector("[data-chart=sizes] .mark-symbol.role-mark path[opacity='0.08']")


def test_the_page_is_small_and_says_what_to_paste(study: StudyStore) -> None:
    text = (study.report_dir / "index.html").read_text()
    assert len(text.encode()) < SIZE
    assert "<pre>rsl run base=mlp &#39;study=mine&#39;&#34;&#39;&#34;&#39;s&#39;</pre>" in text
    assert "W(x → h1)" in text or "weight_" not in text


def test_the_page_of_a_large_study_opens(tmp_path: Path) -> None:
    # Ten thousand runs of a plan that has hardly begun are as many lines as those of one that has ended.
    lifts, seeds = (16, 32, 64, 128), 2500
    done = {(lift, seed) for lift in lifts for seed in range(30)}
    absent = [(lift, seed) for lift in lifts for seed in range(seeds) if (lift, seed) not in done]
    store = make_study(tmp_path / "large", falling, lifts=lifts, seeds=seeds, missing=absent)
    write_report(store, formats=())
    text = (store.report_dir / "index.html").read_text()
    assert len(text.encode()) < SIZE
    assert "Of 10,000 runs, about 600 are drawn one by one" in text and "Of 10,000 runs, 5,000 are listed" in text


def test_what_is_said_of_many_seeds_is_said_by_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsl_cli.report.runs.MOST_SHOWN", 2)
    store = make_study(tmp_path / "s", falling, lifts=(16, 32, 64), seeds=4)
    write_report(store, formats=())
    text = (store.report_dir / "index.html").read_text()
    assert "What is told of the way there" in text and "drawn one by one" not in text
    labels = figure(store, "loss_vs_lift").legends[0].get_texts()
    assert any("seeds a lift" in label.get_text() for label in labels)
    assert len(read_runs(store).table("train", lambda run: True).seeds) == 4


def test_charts_obey_the_schema(study: StudyStore) -> None:
    law = [{"params": 209.0, "lift": 16.0, "loss": 0.1}]
    fitted = replace(SHIPPED["loss_vs_params"], chart=lambda found: losses_chart(found.runs, found.data, law))
    figures, found = {**SHIPPED, "loss_vs_params": fitted}, Evidence.of(study)
    specs = [spec for figure in figures.values() if (spec := figure.specification(found)) is not None]
    assert len(specs) == 14
    for spec in specs:
        alt.LayerChart.from_dict(spec)
    with pytest.raises(ValidationError):
        alt.LayerChart.from_dict({**spec, "layer": [{"mark": "smear"}]})


@pytest.mark.drawn
def test_many_groups_of_weights_have_a_line_each(study: StudyStore) -> None:
    runs = read_runs(study)
    drift = read_diagnostics(study, runs).drift
    names = [f"weight_v{i}__to__v{i + 1}" for i in range(26)]
    parts = [{**drift.columns, "group": np.full(len(drift), name)} for name in names]
    many = Rows({key: np.concatenate([part[key] for part in parts]) for key in drift.columns})
    drawing = drawings(Evidence(study, runs, {}, diagnostics=DiagnosticTables(drift=many)))["drift"]
    image = matplotlib.image.imread(io.BytesIO(canvas.render(drawing, ["png"])["png"]))
    assert np.all(image[[0, -1]] == 1) and np.all(image[:, [0, -1]] == 1)
    figure = Figure(figsize=drawing[1], layout="constrained")
    drawing[0](figure)
    figure.draw_without_rendering()
    labels = [label.get_window_extent() for axes in figure.axes[:-1] for label in axes.get_yticklabels()]
    assert len(labels) == 26 and len({label.y0 for label in labels}) == 26
    assert all(low.y1 <= high.y0 for high, low in pairwise(sorted(labels, key=lambda box: -box.y0)))


def test_a_law_is_drawn_where_it_was_fitted_and_met(tmp_path: Path) -> None:
    open_at = {"stop_reason": "time", "log_slope": -0.4}
    store = make_study(
        tmp_path / "s", falling, lifts=(16, 32, 64, 128), change=lambda lift, _: open_at if lift == 128 else {}
    )
    runs = read_runs(store)
    law = Law(1.1, (1.0, 1.2), 50.0, 1.0, None, None, 0.5)
    params, lifts = law_span(runs, law)
    assert lifts.tolist() == [16, 32, 64] and params.tolist() == [params_of(lift) for lift in (16, 32, 64)]
    assert law_span(runs, replace(law, amplitude=500.0))[0].size == 0


def test_numbers_and_symbols_are_written_as_people_do() -> None:
    assert [figure_of(value) for value in (0.1, 500.0, 3e-8, 1e-6, 1e10)] == ["0.1", "500", "3·10⁻⁸", "10⁻⁶", "10¹⁰"]
    assert figure_of(2.5e-7, tex=True) == r"2.5$\cdot$10$^{-7}$"
    assert group_symbol("weight_x__to__h1") == "W(x → h1)" and group_symbol("bias_h1") == "b(h1)"
    assert group_symbol("weight_x__to__h1", tex=True) == r"$W_{x \to h1}$" and group_symbol("scale") == "scale"
    assert symbols("t = 1e+10, p = 3.2e-05: rsl run t_end=1e+10") == "t = 10¹⁰, p = 3.2·10⁻⁵: rsl run t_end=1e+10"
    assert symbols("gradients obey |grad L|^2 = -dL/dt; eps = 1e-08") == "gradients obey |∇L|² = −dL/dt; ε = 10⁻⁸"
    assert group_symbol("weight_n1__to__h1_q_") == "W(n1 → h1[q])"
    assert "h1[q]" in group_symbol("weight_n1__to__h1_q_", tex=True)
    assert short_ticks(math.log10(600), math.log10(2400)) == [700, 1000, 1500, 2000]
    assert short_ticks(math.log10(0.45), math.log10(0.8)) == [0.5, 0.6, 0.7, 0.8]
    assert short_ticks(math.log10(40), math.log10(900)) == [50, 100, 200, 500]
    assert short_ticks(math.log10(4e-4), math.log10(0.08)) == [1e-3, 3e-3, 0.01, 0.03]
    line = "rsl run base=mlp 'horizons={64:{t_end:1e10}}' trainer.t_end=1e+10"
    assert remedy_of(f"Lifts are open: {line}") == ("Lifts are open:", line)
    assert remedy_of("Train: by hand.") == ("Train: by hand.", None)
