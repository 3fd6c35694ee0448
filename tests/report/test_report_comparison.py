import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from fake_study import make_study

from rsl_cli.errors import ConfigError, StoreError
from rsl_cli.report import write_comparison
from rsl_cli.study.store import StudyStore

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


def test_the_figure_is_whole_and_always_the_same(tmp_path: Path) -> None:
    early = study(tmp_path, "adam", lambda lift, seed: {"stop_reason": "budget", "log_slope": -0.3})
    flow = study(tmp_path, "a_study_whose_name_is_rather_long_and_holds_$x_0$", flow=True, samples=500)
    bad = study(tmp_path, "sgd", lambda lift, seed: DIVERGED if lift == 64 else {"test_loss": 0.0} if seed else {})
    for stores in ([early], [flow, early], [flow, bad, early]):
        write_comparison(stores, tmp_path / "figure.png")
        content = (tmp_path / "figure.png").read_bytes()
        image = matplotlib.image.imread(io.BytesIO(content), format="png")
        assert np.all(image[[0, -1]] == 1)
        assert np.all(image[:, [0, -1]] == 1)
        write_comparison(stores, tmp_path / "figure.png")
        assert (tmp_path / "figure.png").read_bytes() == content


def test_studies_are_named_with_their_trainers_and_early_runs_counted(tmp_path: Path) -> None:
    adam = study(tmp_path, "wide", lambda lift, seed: {"stop_reason": "stalled"} if lift == 64 else {})
    write_comparison([adam, study(tmp_path, "stiff", flow=True)], tmp_path / "figure.svg")
    text = (tmp_path / "figure.svg").read_text()
    for words in ("wide", "trainer: adam", "stiff", "trainer: flow", "under-trained (3)", "held-out loss"):
        assert f"<!-- {words}" in text


def test_without_held_out_data_everywhere_the_training_loss_is_shown(tmp_path: Path) -> None:
    stores = [study(tmp_path, "a"), study(tmp_path, "b", held_out=False)]
    write_comparison(stores, tmp_path / "figure.svg")
    assert "<!-- training loss" in (tmp_path / "figure.svg").read_text()


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    one = study(tmp_path, "one")
    with pytest.raises(ConfigError, match="figure format 'gif' is not known; accepted: png, pdf, svg"):
        write_comparison([one], tmp_path / "figure.gif")
    with pytest.raises(ConfigError, match="got 0 studies to compare, expected 1 to 6"):
        write_comparison([], tmp_path / "figure.png")
    with pytest.raises(ConfigError, match="cannot share an axis: cross-entropy, nats, half mean squared error"):
        write_comparison([one, study(tmp_path, "two", classification=True)], tmp_path / "figure.png")
    with pytest.raises(ConfigError, match="nothing to compare"):
        write_comparison([study(tmp_path, "three", lambda lift, seed: DIVERGED)], tmp_path / "figure.png")
    with pytest.raises(StoreError, match="no study at"):
        write_comparison([one, StudyStore(tmp_path / "none")], tmp_path / "figure.png")
    assert not list(tmp_path.glob("figure.*"))
