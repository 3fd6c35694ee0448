"""Figures of a report, each declared once with all its faces: those that every report has, and a user's own.

A user's come by the key ``figures``: functions from a stored study to a matplotlib figure, or each a `ReportFigure`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rsl_cli.errors import RAISED, ConfigError, first_line
from rsl_cli.registry import Registry, load_plugins
from rsl_cli.report import (
    canvas,
    charts,
    check_plots,
    isochrones,
    plots,
    population_plots,
    tangent_plots,
    theory_charts,
    trajectory_plots,
)
from rsl_cli.report.canvas import WIDE, Drawing
from rsl_cli.report.chart_parts import LossAxis, whole
from rsl_cli.report.evidence import Evidence
from rsl_cli.report.tangent import inside_shares, kappa_at_start
from rsl_cli.study.store import StudyStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ReportFigure:
    """A figure of a report, with all its faces.

    Args:
        title: what it asks.
        text: what it draws, for the page's caption.
        draw: fills an empty matplotlib figure, given the title and what the report knows; its size is `canvas.WIDE`,
            unless this sets another; None: there is none.
        chart: a chart of Altair for the page, from what the report knows, or None: nothing on the page; left out: what
            is drawn stands there as an image.
        table: of the page's, without which there is no chart.
        losses: the axis of the chart that the page makes anew for each loss; its table is needed, too.
        timed: whether the page's slider of times stands below it.
        when: whether there is something to draw; left out: always.
    """

    title: str
    text: str
    draw: "Callable[[Figure, str, Evidence], None] | None" = None
    chart: Callable[[Evidence], Any] | None = None
    table: str = ""
    losses: LossAxis | None = None
    timed: bool = False
    when: Callable[[Evidence], object] | None = None

    def drawing(self, found: Evidence) -> Drawing | None:
        """What draws it; None where there is nothing to draw."""
        draw = self.draw
        if draw is None or not (self.when is None or self.when(found)):
            return None
        return (lambda figure: draw(figure, self.title, found)), WIDE

    def specification(self, found: Evidence) -> dict[str, Any] | None:
        """Its chart as Vega-Lite; None where there is none."""
        table = self.losses.table if self.losses else self.table
        if self.chart is None or not found.runs.done or (table and table not in found.data):
            return None
        from altair.utils import schemapi

        # A test holds what is made here against the schema; to do so every time would take half of a second.
        with schemapi.debug_mode(False):
            chart = self.chart(found)
            return None if chart is None else whole(chart, f"{self.title} {self.text}")


Function = Callable[[StudyStore], Any]
"""Reads what it draws (``store.records()``, ``store.trajectory(key)``, ``store.table(key, name)``) and returns a
matplotlib figure, or None where there is nothing to draw."""

FIGURES: Registry[ReportFigure | Function] = Registry("figure")
"""Figures by name; those that every report has first, in its order."""

for _name, _figure in {
    "isochrones": ReportFigure(
        "Is it the lift that brings the loss down, or the clock?",
        "Loss against size at several times of training, medians over seeds: how far the clock, and how far the lift, "
        "brings it down. Green: where the limits for t to infinity lie; an arrow says that the clock stopped runs "
        "whose limit may lie anywhere below.",
        lambda figure, _, found: isochrones.isochrones(figure, found.runs, found.verdict["headline"]),
        lambda found: charts.isochrones_chart(found.runs, found.data),
        losses=charts.ISOCHRONES,
        timed=True,
    ),
    "loss_vs_params": ReportFigure(
        "At which loss does each size end?",
        "Final loss of every seed against the number of parameters, with medians and quartiles. A bar goes down to the "
        "least that a run's limit can be; a run that was stopped while it still fell has an arrow instead.",
        lambda figure, title, found: plots.losses(figure, title, found.runs, found.law, by_lift=False),
        lambda found: charts.losses_chart(found.runs, found.data, plots.law_points(found.runs, found.law)),
        losses=charts.POINTS,
    ),
    "loss_vs_lift": ReportFigure(
        "At which loss does each lift end?",
        "The same losses against the lift degree.",
        lambda figure, title, found: plots.losses(figure, title, found.runs, found.law, by_lift=True),
        lambda found: None,  # The page switches the figure before to the lift.
    ),
    "trajectories": ReportFigure(
        "How does the loss fall while training?",
        "One line per run, coloured by lift.",
        lambda figure, title, found: trajectory_plots.trajectories(figure, title, found.runs),
        lambda found: charts.curves_chart(found.runs, found.data),
        losses=charts.CURVES,
    ),
    "decay": ReportFigure(
        "Does the loss fall like 1/t?",
        "4 t L(t) on training data. For small ε and large t the bound is L(t) ≤ κ / (4 t), so the height at which a "
        "curve is level estimates κ; a falling curve decays faster than 1/t, a rising one has not reached that law.",
        lambda figure, title, found: trajectory_plots.decay(figure, title, found.runs),
        lambda found: charts.decay_chart(found.runs, found.data),
        table="curves",
        when=lambda found: trajectory_plots.flows(found.runs),
    ),
    "success": ReportFigure(
        "How many of the seeds reach a target?",
        "Share of seeds whose loss is at most ε, with exact 95 % intervals. The theorem says that it tends to 1 as n "
        "grows, for every ε; not that one lift reaches 0: with fewer parameters than target dimensions, most targets "
        "cannot be learned exactly (Yarotsky, NeurIPS 2024).",
        lambda figure, title, found: plots.success(figure, title, found.runs, found.delta),
        lambda found: charts.success_chart(found.runs, found.data),
        table="success",
    ),
    "learning_number": ReportFigure(
        "From which lift on is a target reached?",
        "The least lift at which some seed reaches the target (approximation number, an upper bound), and the least "
        "from which on a share of 1 − δ of the seeds does (learning number, with its interval).",
        lambda figure, title, found: plots.learning_number(figure, title, found.runs, found.delta),
        lambda found: charts.learning_chart(found.runs, found.data),
        table="learning",
    ),
    "bound": ReportFigure(
        "Does the flow stay under its bound?",
        "Training loss L(t) of the gradient flow at the largest lift, or at the one followed, beside its bound, "
        "√L(t) ≤ √ε + 1 / √(1/(√L(0) − √ε)² + 4t/κ). Each seed has its own: κ is the largest κ(θ, ε) at its start and "
        "at the measured points of its path, and at each time the least bound over all ε counts. Between measured "
        "points κ is not known, so a curve above its bound would show that too few were measured, or an error.",
        lambda figure, title, found: tangent_plots.bound(figure, title, found.curves),
        lambda found: theory_charts.bound_chart(found.data),
        table="flow",
        when=lambda found: found.curves,
    ),
    "length": ReportFigure(
        "Is the path as short as promised?",
        "Distance from the start along the flow against the bound on the path's length; each point is a sample of a "
        "run's trajectory. Above the diagonal is what the bound excludes.",
        lambda figure, title, found: tangent_plots.length(figure, title, found.runs, found.curves),
        lambda found: theory_charts.length_chart(found.data),
        table="flow",
        when=lambda found: tangent_plots.bounded(found.curves),
    ),
    "kappa": ReportFigure(
        "Does κ at the random start fall with n?",
        "Tangent approximation number κ(θ₀, ε): the squared length of the shortest step whose linear prediction has "
        "a training loss of at most ε. Median and quartiles over seeds; seeds that have no such step, κ = ∞, are "
        "counted. That κ falls with n is what makes large lifts train.",
        lambda figure, title, found: tangent_plots.kappa(figure, title, found.runs, found.diagnostics.tangent),
        lambda found: theory_charts.kappa_chart(found.runs, found.data),
        table="kappa",
        when=lambda found: kappa_at_start(found.diagnostics.tangent),
    ),
    "inside": ReportFigure(
        "Is a whole ball around the start good?",
        "Assumption A1 of the theorem, checked here, not taken for granted: with high probability a whole ball around "
        "the start lies in A(κ, ε). Markers: share of seeds all of whose random probes at distance R lie inside, with "
        "exact 95 % intervals. Finitely many probes can miss a bad point, so this share is an upper estimate.",
        lambda figure, title, found: tangent_plots.inside(figure, title, found.runs, found.diagnostics.tangent),
        lambda found: theory_charts.inside_chart(found.runs, found.data),
        table="inside",
        when=lambda found: inside_shares(found.diagnostics.tangent),
    ),
    "coverage": ReportFigure(
        "Do copies that cover the witness grow like n?",
        "Copies whose in-edges match those of a vertex of the witness in bijection, with weights within η, "
        "recursively. The theory's counting argument needs their number to be proportional to n.",
        lambda figure, title, found: population_plots.coverage(figure, title, found.runs, found.diagnostics.coverage),
        lambda found: theory_charts.coverage_chart(found.runs, found.data),
        table="coverage",
        when=lambda found: len(found.diagnostics.coverage),
    ),
    "drift": ReportFigure(
        "Do the weights' laws move less, the larger the lift?",
        "How far training moved the law of each group of weights: Wasserstein distance between start and end, or "
        "Kolmogorov-Smirnov distance for groups that all start at one value. Median and quartiles over seeds.",
        lambda figure, title, found: population_plots.drift(figure, title, found.runs, found.diagnostics.drift),
        lambda found: theory_charts.drift_chart(found.data),
        table="drift",
        when=lambda found: population_plots.drift_kinds(found.diagnostics.drift),
    ),
    "coordinates": ReportFigure(
        "Do the first steps move every vertex alike, whatever the lift?",
        "The coordinate check: root mean square of the sums that each vertex's activation is given, and of how far the "
        "first steps of training move them, medians over seeds, with the exponent of n. What is level has a learning "
        "rate that serves every lift.",
        lambda figure, title, found: check_plots.coordinates(figure, title, found.runs, found.diagnostics.coordinates),
        lambda found: theory_charts.coordinates_chart(found.runs, found.data),
        table="coordinates",
        when=lambda found: len(found.diagnostics.coordinates),
    ),
    "ntk": ReportFigure(
        "Does the tangent kernel turn towards the targets?",
        "Eigenvalues of the empirical tangent kernel at the start and at the end of training, medians over seeds; and "
        "its alignment with the targets along each run, beside the loss. In the kernel regime it stays what it was.",
        lambda figure, title, found: check_plots.ntk(figure, title, found.runs, found.diagnostics.ntk),
        lambda found: theory_charts.ntk_chart(found.data),
        table="ntk",
        when=lambda found: len(found.diagnostics.ntk),
    ),
}.items():
    FIGURES.add(_name)(_figure)

SHIPPED = {name: figure for name, figure in FIGURES.items() if isinstance(figure, ReportFigure)}
"""Those that every report has, where the study has what they draw."""


@dataclass(frozen=True)
class Made:
    """A figure of one study: what draws it, and its chart on the page, each if there is one."""

    name: str
    figure: ReportFigure
    drawing: "Drawing | Figure | None"
    chart: dict[str, Any] | None


def named_figures(config: Mapping[str, Any]) -> list[str]:
    """The names under a configuration's key ``figures``, each of which stands for a figure.

    Args:
        config: of a study; the modules that it lists as plug-ins are imported first.

    Returns:
        The names as they are written, in their order.

    Raises:
        ConfigError: one is not known, or hides a figure that every report has.
    """
    load_plugins(config.get("plugins"))
    names = _listed(config)
    for name in names:
        part = FIGURES.find(name, "figures")
        if name.rpartition(".")[2] in SHIPPED:
            raise ConfigError(f"figures={name}: every report has a figure of that name; accepted: another name")
        if not callable(part) and not isinstance(part, ReportFigure):
            raise ConfigError(f"figures={name}: accepted: a function of a stored study that gives a matplotlib figure")
    return names


def made_figures(found: Evidence, config: Mapping[str, Any]) -> tuple[list[Made], list[str]]:
    """The figures of a report, those of its configuration's key ``figures`` last, and a line for each that fails."""
    made, undrawn = [_made(name, figure, found) for name, figure in SHIPPED.items()], []
    for name in _listed(config):
        try:
            named_figures({**config, "figures": name})
            made.append(_tried(name, FIGURES.find(name), found))
        except ConfigError as error:  # It keeps no other from its place.
            undrawn.append(str(error))
    return made, undrawn


def drawings(found: Evidence) -> dict[str, Drawing]:
    """What draws each figure that every report has, by name, where the study has what it draws."""
    made = {name: figure.drawing(found) for name, figure in SHIPPED.items()}
    return {name: drawing for name, drawing in made.items() if drawing is not None}


def draw_all(figures: Sequence[Made], formats: Sequence[str]) -> dict[str, bytes]:
    """The files of figures in some formats, by name."""
    drawn = {one.name: canvas.render(one.drawing, formats) for one in figures if one.drawing is not None}
    return {f"{name}.{form}": content for name, forms in drawn.items() for form, content in forms.items()}


def check_figure(name: str, figure: ReportFigure | Function, store: StudyStore) -> None:
    """The contract of a figure on a study: it can be drawn, and is the same when it is drawn again.

    Args:
        name: of the figure, for errors.
        figure: whole, or its function.
        store: any study with finished runs.

    Raises:
        ConfigError: what it breaks, in one line.
    """
    found = Evidence.of(store)
    first, second = (_tried(name, figure, found) for _ in range(2))
    if first.chart != second.chart or draw_all([first], ["png"]) != draw_all([second], ["png"]):
        raise ConfigError(f"figure {name}: is another one when drawn again; it must not depend on chance")


def _listed(config: Mapping[str, Any]) -> list[str]:
    given = config.get("figures") or []
    return [given] if isinstance(given, str) else list(given)


def _made(name: str, part: ReportFigure | Function, found: Evidence) -> Made:
    short = name.rpartition(".")[2]
    if isinstance(part, ReportFigure):
        return Made(short, part, part.drawing(found), part.specification(found))
    return Made(short, ReportFigure(short, ""), part(found.store), None)


def _tried(name: str, part: ReportFigure | Function, found: Evidence) -> Made:
    """A figure that is drawn at once: what fails there is said of it, in one line."""
    if isinstance(part, ReportFigure) and not all(isinstance(t, str) for t in (part.title, part.text, part.table)):
        raise ConfigError(f"figure {name}: its title, text and table are to be texts")
    try:
        made = _made(name, part, found)
        made = replace(made, drawing=None if made.drawing is None else canvas.drawn(made.drawing))
        # What cannot be written shows here, not where half of the report is.
        json.dumps(made.chart, allow_nan=False)
        if made.drawing is not None and hasattr(made.drawing, "savefig"):
            canvas.render(made.drawing, ["png"])
    except RAISED as error:
        raise ConfigError(f"figure {name}: fails with {type(error).__name__}: {first_line(error)}") from error
    if made.drawing is not None and not hasattr(made.drawing, "savefig"):
        given = type(made.drawing).__name__
        raise ConfigError(f"figure {name}: gives a {given}; accepted: a matplotlib figure or None")
    return made
