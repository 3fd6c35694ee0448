"""The gallery's studies, run again, and their verdicts held against those committed.

``python scripts/reproduce.py`` runs all that ``scripts/gallery.yaml`` lists, ``python scripts/reproduce.py degree`` one
of them: each is a few lines ``rsl run experiment=NAME ...``, whose studies go to ``results/`` and are finished, not
redone, when they are there. A figure and a table of them are written to ``results/gallery/NAME``. ``--keep`` makes what
was found the committed reference: figure, table, verdicts, and the studies themselves, packed.
"""

import argparse
import io
import json
import math
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rsl_cli.configuration import compose_line
from rsl_cli.report import Verdict, canvas, figure, judge
from rsl_cli.report.canvas import DASHES, GREY, Drawing
from rsl_cli.report.read import read_runs
from rsl_cli.report.runs import LOSS_NAMES, StudyRuns, Which
from rsl_cli.report.words import figure_of
from rsl_cli.stats import clopper_pearson, cochran_armitage, quantile
from rsl_cli.study.integrity import seal
from rsl_cli.study.studies import open_study
from rsl_cli.study.trained import run_network

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "results" / "reference" / "gallery"
ALPHA = 0.05
TABLE = ROOT / "scripts" / "gallery.yaml"
COLOURS = (*(colour for colour, _ in canvas.SERIES), GREY, "#000000", "#8c510a", "#7a8500")
MARKERS = (*(marker for _, marker in canvas.SERIES), "X", "*", "<", ">")


Claims = dict[str, dict[str, str]]
"""Of each study its ``verdict`` and ``headline``; ``success`` and its ``p_value`` where shares are counted; and what
the ``coordinates`` say, where they were checked."""


@dataclass(frozen=True)
class Item:
    """One of the gallery.

    Args:
        name: of its section.
        lines: what is asked for beside the experiment, one line for each study or multirun.
        epsilon: training loss that counts as a success; None: shares are not drawn.
        names: what to call the studies in figure and table; their own names where it has none.
        experiment: its experiment; the one of its name, if left out.
        figures: of its studies' reports, to be shown beside its own, as ``study/figure``.
        joined: two vertices; successes are counted by their connected copies, too.
        by_params: whether shares are drawn against P, too, where studies differ in it at equal n.
    """

    name: str
    lines: tuple[str, ...]
    epsilon: float | None = None
    names: Mapping[str, str] | None = None
    experiment: str = ""
    figures: tuple[str, ...] = ()
    joined: tuple[str, ...] = ()
    by_params: bool = False

    def words(self, line: str) -> list[str]:
        """A line's words for ``rsl run``."""
        return [f"experiment={self.experiment or self.name}", *shlex.split(line)]

    @cached_property
    def studies(self) -> list[str]:
        """The names of its studies, in the order of the lines."""
        found = [str(one.config["study"]) for line in self.lines for one in compose_line(self.words(line))]
        return list(dict.fromkeys(found))

    def called(self, study: str) -> str:
        """What a study is called in figure and table."""
        return (self.names or {}).get(study, study.removeprefix(f"{self.name}_"))


@cache
def gallery() -> dict[str, Item]:
    """All that the table lists, by name; the same objects always, which compose their lines once."""
    table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    lists = ("lines", "figures", "joined")
    return {
        name: Item(name, **{key: tuple(entry.pop(key, ())) for key in lists}, **entry) for name, entry in table.items()
    }


def main() -> int:
    """Run, judge, draw, compare; 1 where a verdict is another than the committed one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"all, if left out: {', '.join(gallery())}")
    parser.add_argument("--results-dir", type=Path, default=ROOT / "results")
    parser.add_argument("--keep", action="store_true", help="make what is found the committed reference")
    given, items, same = parser.parse_args(), gallery(), True
    for name in given.names or items:
        if name not in items:
            parser.error(f"no study {name!r}; there are {', '.join(items)}")
    for name in given.names or items:
        item = items[name]
        for line in item.lines:
            words = [*item.words(line), f"results_dir={given.results_dir}"]
            subprocess.run([sys.executable, "-m", "rsl_cli.cli", "run", *words], check=True)
        folder = REFERENCE / name if given.keep else given.results_dir / "gallery" / name
        found = write(item, given.results_dir, folder)
        if given.keep:
            pack([given.results_dir / study for study in found], folder / "studies.tar.xz")
        same &= compare(committed(item), found)
    return 0 if same else 1


def write(item: Item, results: Path, folder: Path) -> Claims:
    """Write an item's figure, table and verdicts.

    Args:
        item: what.
        results: where its studies lie.
        folder: where to write.

    Returns:
        What it says of each study.
    """
    names = item.studies
    verdicts = {name: judge(results / name) for name in names}
    studies = [read_runs(open_study(results / name)) for name in names]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "figure.png").write_bytes(canvas.render(drawing(item, studies), ["png"])["png"])
    for shown in item.figures:
        study, _, name = shown.partition("/")
        figure(open_study(results / study), name).savefig(folder / f"{study}_{name}.png")
    (folder / "table.md").write_text(table(item, studies, verdicts), encoding="utf-8")
    if item.joined:
        (folder / "connected.md").write_text(connected(item, results, studies), encoding="utf-8")
    said = claims(item, studies, verdicts)
    (folder / "verdicts.json").write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return said


def claims(item: Item, studies: Sequence[StudyRuns], verdicts: Mapping[str, Verdict]) -> Claims:
    """What an item says of each of its studies: verdict, headline, and whether the share of success rises with n."""
    said: Claims = {}
    for study in studies:
        one = verdicts[study.name]
        said[study.name] = {"verdict": one.verdict, "headline": one.headline}
        if "coordinates" in one.content:
            said[study.name]["coordinates"] = one.content["coordinates"]["says"]
        if item.epsilon is not None:
            found = list(shares(item, study).values())
            p = cochran_armitage([share.successes for share in found], [share.runs for share in found])
            says = "rises" if p < ALPHA else "none" if not any(share.successes for share in found) else "undecided"
            said[study.name] |= {"success": says, "p_value": f"{p:.1e}"}
    return said


def committed(item: Item) -> Claims:
    """What is committed of each of an item's studies, packed or as a study of its own."""
    path, found = REFERENCE / item.name / "verdicts.json", {}
    for study in item.studies:
        report = REFERENCE.parent / study / "report" / "verdict.json"
        if report.exists():
            found[study] = {"verdict": json.loads(report.read_text(encoding="utf-8"))["verdict"]}
    return found | (json.loads(path.read_text(encoding="utf-8")) if path.exists() else {})


def compare(before: Claims, now: Claims) -> bool:
    """Say of each study whether its verdicts are the committed ones; whether all are."""
    same = True
    for study, said in now.items():
        for key in ("verdict", "success", "coordinates"):
            was = before.get(study, {}).get(key)
            if key in said:
                word = "new" if was is None else "as committed" if was == said[key] else f"committed: {was}"
                print(f"{study}: {key} {said[key]} ({word})")
                same &= was in (None, said[key])
    return same


def pack(studies: Sequence[Path], archive: Path) -> None:
    """Put studies into one file, without what a report makes of them; equal studies give equal files."""
    with tarfile.open(archive, "w:xz", preset=9) as packed:
        for study in studies:
            kept = [study / "study.json", *study.glob("growth/*.json"), *study.glob("runs/**/*")]
            for path in sorted(kept):
                if path.is_file() and not path.name.startswith("resume"):
                    content = (
                        portable(path) if path.suffix == ".json" and "runs" not in path.parts else path.read_bytes()
                    )
                    entry = tarfile.TarInfo(str(path.relative_to(study.parent)))
                    entry.size = len(content)
                    packed.addfile(entry, io.BytesIO(content))


def portable(path: Path) -> bytes:
    """A file that says what was asked for, without where on a machine that was put."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content["config"]["results_dir"] = "results"
    content["line"] = [word for word in content.get("line") or [] if not word.startswith("results_dir=")]
    return seal(content)


def unpack(archive: Path, folder: Path) -> None:
    """Put packed studies into a folder of results."""
    with tarfile.open(archive, "r:xz") as packed:
        packed.extractall(folder, filter="data")


def classifies(studies: Sequence[StudyRuns]) -> bool:
    """Whether studies are of classes, whose errors are compared, since losses of different kinds cannot be."""
    return all(math.isfinite(run.accuracy) for study in studies for run in study.done)


def figures_of(study: StudyRuns, lift: int, which: Which, *, errors: bool) -> list[float]:
    """The losses of a lift's finished runs, or the shares of the held-out samples that they misclassify."""
    done = [run for run in study.at(lift) if run.status == "done"]
    return [1 - run.accuracy if errors else run.loss(which) for run in done]


def shares(item: Item, study: StudyRuns) -> dict[int, Any]:
    """Per lift, the share of its runs that reach the training loss that counts as a success."""
    assert item.epsilon is not None
    losses = {lift: [run.train_loss for run in study.at(lift) if run.status == "done"] for lift in study.lifts}
    return {
        lift: clopper_pearson(sum(loss <= item.epsilon for loss in found), len(found))
        for lift, found in losses.items()
        if found
    }


def exponent(verdict: Verdict) -> str:
    """The last local exponent of the loss in P, with its interval."""
    found = verdict.content.get("local_exponents") or []
    low, high = found[-1]["interval"] if found else (math.nan, math.nan)
    return f"{found[-1]['exponent']:.2g} [{low:.2g}, {high:.2g}]" if found else ""


def table(item: Item, studies: Sequence[StudyRuns], verdicts: Mapping[str, Verdict]) -> str:
    """A table in Markdown: each study's verdict, losses at the ends of its sweep, shares of success."""
    errors = classifies(studies)
    what = "error" if errors else "loss"
    lines = [
        f"| study | verdict | n | P | held-out {what}, median, first and last n | exponent of P over the last step |"
    ]
    if item.epsilon is not None:
        lines[0] += f" share of seeds with training loss ≤ {figure_of(item.epsilon)}, by n |"
    checked = [verdicts[study.name].content.get("coordinates") for study in studies]
    lines[0] += " coordinate check: not steady |" if any(checked) else ""
    flows = any(math.isfinite(run.dissipation) for study in studies for run in study.done)
    lines[0] += " dissipation identity missed by, at worst |" if flows else ""
    lines[0] += " core minutes |"
    lines.append("|" + "---|" * (lines[0].count("|") - 1))
    for study, check in zip(studies, checked, strict=True):
        ends = [study.lifts[0], study.lifts[-1]]
        losses = [quantile(figures_of(study, lift, study.headline, errors=errors), 0.5) for lift in ends]
        params = [_params(study)[0], _params(study)[-1]]
        cells = [
            item.called(study.name),
            verdicts[study.name].verdict,
            " … ".join(map(str, ends)),
            " … ".join(f"{value:.0f}" for value in params),
            " … ".join(figure_of(float(f"{loss:.2g}")) for loss in losses),
            exponent(verdicts[study.name]),
        ]
        if item.epsilon is not None:
            found = shares(item, study)
            cells.append(", ".join(f"{lift}: {one.successes}/{one.runs}" for lift, one in found.items()))
        if any(checked):
            slopes = check["slopes"].items() if check else ()
            moved = [f"{name} n^{slope[0]:.2f}" for name, slope in slopes if slope[3] != "steady"]
            cells.append(f"{check['says'] if check else ''}{': ' if moved else ''}{', '.join(moved)}")
        if flows:
            missed = [abs(run.dissipation - 1) for run in study.done if math.isfinite(run.dissipation)]
            cells.append(f"{100 * max(missed):.0f} %" if missed else "")
        cells.append(figure_of(float(f"{sum(run.wall_seconds for run in study.done) / 60:.2g}")))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def connected(item: Item, results: Path, studies: Sequence[StudyRuns]) -> str:
    """A table in Markdown: successes of each study by m, the lesser number of copies that an edge reads or feeds."""
    assert item.epsilon is not None
    bands = {"m ≤ 6": range(7), "7 and 8": range(7, 9), "9 and more": range(9, 10**9)}
    lines = [f"| study | {' | '.join(bands)} |", "|---|---|---|---|"]
    for study in studies:
        store, found = open_study(results / study.name), []
        for run in study.done:
            (lift,) = run_network(store, run.key).lift.replicas
            ends = [len(np.unique(end)) for end in lift.edges(*item.joined)]
            found.append((min(ends), run.train_loss <= item.epsilon))
        cells = [[success for m, success in found if m in band] for band in bands.values()]
        shown = [f"{sum(cell)}/{len(cell)}" if cell else "" for cell in cells]
        lines.append(f"| {item.called(study.name)} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def drawing(item: Item, studies: Sequence[StudyRuns]) -> Drawing:
    """Losses against the lift and, beside them, shares of success, a colour for each study; or against the rate."""
    if len(studies) > len(COLOURS):
        return (lambda figure: _rates(figure, studies)), canvas.WIDE
    lifts, errors = sorted({lift for study in studies for lift in study.lifts}), classifies(studies)
    count = 1 if item.epsilon is None else 3 if item.by_params else 2
    which: Which = "test" if all(study.headline == "test" for study in studies) else "train"

    def draw(figure: Figure) -> None:
        panels = list(np.atleast_1d(figure.subplots(1, count)))
        values = [
            value for study in studies for n in study.lifts for value in figures_of(study, n, which, errors=errors)
        ]
        what = "held-out share of errors" if errors else f"{LOSS_NAMES[which]} loss"
        none = "\n(0: at the edge)" if min(values, default=1.0) <= 0 else ""
        bottom, _ = canvas.loss_axis(panels[0], values, f"{what}, median and quartiles{none}")
        for axes in panels[:2]:
            canvas.lift_axis(axes, lifts)
        if item.by_params:
            canvas.log_axis(
                panels[2], [params for study in studies for params in _params(study)], "parameters P, median"
            )
        for i, study in enumerate(studies):
            style = {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": DASHES[i % len(DASHES)]}
            groups = {lift: figures_of(study, lift, which, errors=errors) for lift in study.lifts}
            _losses(panels[0], groups, bottom, item.called(study.name), style)
            if item.epsilon is not None:
                shift, found = 2 ** (0.03 * (i - (len(studies) - 1) / 2)), list(shares(item, study).values())
                _shares(panels[1], shift * np.array(study.lifts), found, style)
                if item.by_params:
                    _shares(panels[2], np.array(_params(study)), found, style)
        for axes in panels[1:]:
            axes.set_ylim(-0.04, 1.04)
            axes.set_ylabel(f"share of seeds with L ≤ {figure_of(item.epsilon or 0, tex=True)}, exact 95 % intervals")
        canvas.legend(figure, panels[0], below=True, columns=max(4, 2 * count))

    return draw, (canvas.WIDE[0] * max(count, 2) / 2, canvas.WIDE[1] + 0.4)


def _params(study: StudyRuns) -> list[float]:
    """The median number of parameters of each lift."""
    return [float(np.median([run.params for run in study.at(lift) if run.status == "done"])) for lift in study.lifts]


def _losses(axes: Axes, groups: Mapping[int, list[float]], bottom: float, name: str, style: Mapping[str, Any]) -> None:
    places = [lift for lift, found in groups.items() if found]
    low, middle, high = (
        np.array([_drawable(quantile(groups[lift], q), bottom) for lift in places]) for q in (0.25, 0.5, 0.75)
    )
    axes.plot(places, middle, label=name, **style)
    axes.fill_between(places, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _shares(axes: Axes, places: NDArray[np.float64], found: Sequence[Any], style: Mapping[str, Any]) -> None:
    share = np.array([one.successes / one.runs for one in found])
    errors = [share - [one.low for one in found], [one.high for one in found] - share]
    axes.plot(places, share, **style)
    axes.errorbar(
        *(places, share), yerr=np.clip(errors, 0, 1), fmt="none", ecolor=style["color"], elinewidth=0.8, alpha=0.5
    )


def _rates(figure: Figure, studies: Sequence[StudyRuns]) -> None:
    """Median loss against the learning rate, a colour for each lift, a panel for each parametrization."""
    by_scale: dict[str, list[StudyRuns]] = {}
    for study in studies:
        by_scale.setdefault(str(study.study["config"]["parametrization"]), []).append(study)
    panels = figure.subplots(1, len(by_scale), sharey=True, squeeze=False)[0]
    lifts = sorted({lift for study in studies for lift in study.lifts})
    colours = canvas.lift_colours(lifts)
    losses = [run.loss("test") for study in studies for run in study.with_loss("test")]
    for axes, (scale, swept) in zip(panels, by_scale.items(), strict=True):
        rates = np.array([float(study.study["config"]["trainer"]["learning_rate"]) for study in swept])
        canvas.log_axis(axes, rates, "learning rate")
        canvas.loss_axis(axes, losses, "held-out loss, median over seeds")
        axes.set_title(scale)
        for lift in lifts:
            found = [[run.loss("test") for run in study.at(lift) if run.status == "done"] for study in swept]
            medians = np.array([_drawable(quantile(group, 0.5)) for group in found])
            axes.plot(rates, medians, color=colours[lift], marker="o")
            best = int(np.nanargmin(medians))
            axes.scatter([rates[best]], [medians[best]], s=130, facecolors="none", edgecolors=colours[lift])
        axes.label_outer()
    canvas.lift_bar(figure, list(panels), lifts)


def _drawable(value: float, bottom: float = math.nan) -> float:
    return value if 0 < value < math.inf else bottom if value <= 0 else math.nan


if __name__ == "__main__":
    sys.exit(main())
