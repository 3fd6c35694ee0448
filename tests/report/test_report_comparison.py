import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from fake_study import make_study

from rsl_cli.errors import ConfigError, StoreError
from rsl_cli.report import write_comparison
from rsl_cli.report.comparison import compared_name, differing
from rsl_cli.study.store import StudyStore

pytestmark = pytest.mark.drawn
DIVERGED = {"train_loss": None, "test_loss": None, "stop_reason": "diverged"}


def study(root: Path, name: str, change: Callable[[int, int], dict[str, Any]] | None = None, **more: Any) -> StudyStore:
    return make_study(
        root / name,
        lambda params, lift: 50 / params**1.1,
        lifts=(16, 32, 64),
        seeds=3,
        trajectories=False,
        change=change or (lambda lift, seed: {}),
        **more,
    )


def figure(stores: list[StudyStore], folder: Path, form: str) -> bytes:
    return write_comparison(stores, folder, formats=(form,)).with_suffix(f".{form}").read_bytes()


def test_the_figure_is_whole_and_always_the_same(tmp_path: Path) -> None:
    early = study(tmp_path, "adam", lambda lift, seed: {"stop_reason": "budget", "log_slope": -0.3})
    flow = study(tmp_path, "a_study_whose_name_is_rather_long_and_holds_$x_0$", flow=True, samples=500)
    bad = study(tmp_path, "sgd", lambda lift, seed: DIVERGED if lift == 64 else {"test_loss": 0.0} if seed else {})
    for stores in ([early], [flow, early], [flow, bad, early]):
        content = figure(stores, tmp_path, "png")
        image = matplotlib.image.imread(io.BytesIO(content), format="png")
        assert np.all(image[[0, -1]] == 1)
        assert np.all(image[:, [0, -1]] == 1)
        assert figure(stores, tmp_path, "png") == content


def test_a_comparison_is_named_after_its_studies(tmp_path: Path) -> None:
    one, two = study(tmp_path, "one"), study(tmp_path, "two")
    assert write_comparison([one, two], tmp_path) == tmp_path / "comparison_one_vs_two.html"
    assert {path.name for path in tmp_path.glob("comparison*")} == {
        f"comparison_one_vs_two.{form}" for form in ("html", "pdf", "png")
    }
    other = study(tmp_path / "elsewhere", "two")
    third = write_comparison([one, other], tmp_path, formats=("png",))
    assert re.fullmatch(r"comparison_one_vs_two_[0-9a-f]{8}\.html", third.name)
    long = [study(tmp_path, f"{letter * 60}") for letter in "ab"]
    assert len(compared_name(long)) == 80 and compared_name(long) != compared_name(long[::-1])


def test_studies_are_named_by_what_they_differ_in_and_early_runs_counted(tmp_path: Path) -> None:
    adam = study(tmp_path, "wide", lambda lift, seed: {"stop_reason": "stalled"} if lift == 64 else {})
    flow = study(tmp_path, "stiff", flow=True)
    text = figure([adam, flow], tmp_path, "svg").decode()
    for words in ("wide", "trainer: adam", "stiff", "trainer: flow", "under-trained (3)", "held-out loss"):
        assert f"<!-- {words}" in text
    assert "<!-- lift" not in text and "trainer.lr" not in text
    for degree in (2, 8):
        sparse = study(tmp_path, f"degree_{degree}", lifting={"kind": "random", "in_degree": degree})
        assert f"<!-- lifting.in_degree: {degree} -->" in figure([adam, sparse], tmp_path, "svg").decode()


def test_keys_that_differ() -> None:
    def of(**config: Any) -> dict[str, Any]:
        return {"config": {"base": {"name": "mlp"}, "trainer": {"name": "adam", "lr": 0.1}, "study": "s", **config}}

    assert differing([of(), of(study="t", device="cuda")]) == [{}, {}]
    assert differing([of(), of(trainer={"name": "adam", "lr": 0.2})]) == [{"trainer.lr": "0.1"}, {"trainer.lr": "0.2"}]
    assert differing([of(), of(trainer={"name": "flow"})]) == [{"trainer": "adam"}, {"trainer": "flow"}]
    assert differing([of(), of(lift="4..8")]) == [{}, {}]
    flow = {"name": "flow"}
    assert differing([of(), of(trainer={**flow, "rtol": 0.1}), of(trainer={**flow, "rtol": 0.2})]) == [
        {"trainer": "adam"},
        {"trainer": "flow", "trainer.rtol": "0.1"},
        {"trainer": "flow", "trainer.rtol": "0.2"},
    ]
    assert differing([of(), of(lifting={"in_degree": 4})]) == [{"lifting.in_degree": "-"}, {"lifting.in_degree": "4"}]


def test_the_page_holds_a_line_for_each_study(tmp_path: Path) -> None:
    stores = [study(tmp_path, "<b>one"), study(tmp_path, "two", flow=True)]
    text = write_comparison(stores, tmp_path).read_text()
    assert len(text.encode()) < 3_000_000 and "<b>one" not in text
    assert re.search(r"<td class=\"text\">&lt;b&gt;one</td><td>adam</td><td>[a-z]+</td>", text)
    assert re.search(r"<td class=\"text\">two</td><td>flow</td><td>[a-z]+</td>", text)


def test_without_held_out_data_everywhere_the_training_loss_is_shown(tmp_path: Path) -> None:
    stores = [study(tmp_path, "a"), study(tmp_path, "b", held_out=False)]
    assert "<!-- training loss" in figure(stores, tmp_path, "svg").decode()


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    one = study(tmp_path, "one")
    with pytest.raises(ConfigError, match="figure format 'gif' is not known; accepted: png, pdf, svg"):
        write_comparison([one], tmp_path, formats=("gif",))
    with pytest.raises(ConfigError, match="got 0 studies to compare, expected 1 to 6"):
        write_comparison([], tmp_path)
    with pytest.raises(ConfigError, match="cannot share an axis: cross-entropy, nats, half mean squared error"):
        write_comparison([one, study(tmp_path, "two", classification=True)], tmp_path)
    with pytest.raises(ConfigError, match="nothing to compare"):
        write_comparison([study(tmp_path, "three", lambda lift, seed: DIVERGED)], tmp_path)
    with pytest.raises(StoreError, match="no study at"):
        write_comparison([one, StudyStore(tmp_path / "none")], tmp_path)
    assert not list(tmp_path.glob("comparison*"))
