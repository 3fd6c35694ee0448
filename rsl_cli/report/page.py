"""The report as one page of HTML, with images beside it and nothing from elsewhere."""

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from rsl_cli.report.runs import StudyRuns
from rsl_cli.report.tables import LiftSummary, loss_figure, summary_cells

CAPTIONS = {
    "isochrones": "Loss against the number of parameters at several times, medians and seeds: how far the clock, and "
    "how far the lift, brings it down. Green: where the limits for t to infinity lie.",
    "loss_vs_params": "Final loss against the number of parameters. Every seed is a point.",
    "loss_vs_lift": "The same losses against the lift degree.",
    "trajectories": "Loss while training, one line per run.",
    "success": "Share of seeds that reach a target loss, with exact intervals.",
    "learning_number": "Least lift that reaches a target: with some seed, and with a share of 1 - delta of the seeds.",
    "bound": "Training loss L(t) of the gradient flow, and its bound. "
    "It is sqrt(L(t)) <= se + (1/(s0 - se)^2 + 4 t/kappa)^(-1/2) for s = sqrt(L) and se = sqrt(eps). Each seed has its "
    "own bound: kappa is the largest kappa(theta, eps) at its "
    "start and at the measured points of its path, and at each time the least bound over all eps counts. Between the "
    "measured points kappa is not known, so a curve above its bound would show that too few were measured, or an "
    "error.",
    "decay": "4 t L(t) on training data. For eps -> 0 and large t the bound is L(t) <= kappa / (4 t), so the height at "
    "which a curve is level estimates kappa; a falling curve decays faster than 1/t, a rising one has not reached that "
    "law.",
    "kappa": "Tangent approximation number at the random start: the squared length of the shortest step whose linear "
    "prediction has a training loss of at most eps. Median and quartiles over seeds, side by side for legibility. "
    "Above, how many of the seeds have no such step at all, kappa = infinity; medians that are infinite are not drawn. "
    "That kappa falls with n is what makes large lifts train.",
    "inside": "Assumption A1: with high probability a whole ball around the start lies in A(kappa, eps), where "
    "kappa(theta, eps) <= kappa. Markers: share of seeds all of whose random probes at distance R lie inside, "
    "with exact 95 % intervals. Finitely many probes can miss a bad point, so this share is an upper estimate. Dotted: "
    "share of all single probes; those of one seed are not independent and get no interval. The eps drawn is that "
    "whose shares change most, each kappa a rounded quartile of the finite values; verdict.json has all eps.",
    "length": "Distance from the start along the flow against the bound on the path's length, with kappa as in the "
    "bound on the loss; each point is a sample of a run's trajectory. The shaded half is excluded.",
    "coverage": "Copies that cover a vertex of a witness: their in-edges match the witness's in bijection with weights "
    "within eta, recursively. The theory's counting argument needs their number to be proportional to n, that is, "
    "their share to be constant.",
    "drift": "How far training moved the law of each group of weights: Wasserstein distance between start and end, "
    "or Kolmogorov-Smirnov distance for groups that all start at one value. Median and quartiles over seeds.",
}

_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ name }}: {{ verdict.verdict }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0.2rem; } h2 { margin-top: 2.2rem; }
.verdict { border-left: 0.5rem solid; padding: 0.6rem 1rem; background: #f6f6f6; }
.verdict strong { font-size: 1.3rem; }
.falls { border-color: #009E73; } .plateaus { border-color: #E69F00; }
.rises { border-color: #D55E00; } .unfinished { border-color: #56B4E9; } .inconclusive { border-color: #666666; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.7rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
.left th, .left td, .remarks { text-align: left; }
.left td { white-space: normal; overflow-wrap: anywhere; vertical-align: top; }
figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; } figcaption { color: #555; font-size: 0.9rem; }
@media print { body { max-width: none; margin: 0; } figure { break-inside: avoid; } }
</style>
</head>
<body>
<h1>{{ name }}</h1>
<p>{{ done }} of {{ planned }} planned runs finished.</p>
<div class="verdict {{ verdict.verdict }}">
<strong>{{ verdict.headline }}</strong>
<ul>{% for reason in verdict.reasons %}
<li>{{ reason }}</li>{% endfor %}
</ul>
</div>

<h2>Losses by lift</h2>
<div class="wide"><table>
<thead><tr>{% for header in headers %}<th{% if header == "remarks" %} class="remarks"{% endif %}>{{ header }}</th>\
{% endfor %}</tr></thead>
<tbody>{% for line in lines %}
<tr>{% for cell in line %}<td{% if headers[loop.index0] == "remarks" %} class="remarks"{% endif %}>{{ cell }}</td>\
{% endfor %}</tr>{% endfor %}
</tbody>
</table></div>
<p>Medians over seeds. P is the number of parameters, N the number of training samples, k the number of outputs; \
a lift with P &gt;= N k is overparametrised and left out of the verdict.</p>
{% if figures %}
<h2>Figures</h2>{% for figure in figures %}
<figure><img src="{{ figure.image }}" alt="{{ figure.alt }}">
<figcaption>{{ figure.caption }}{% for link in figure.links %} <a href="{{ link }}">{{ link }}</a>{% endfor %}\
</figcaption></figure>{% endfor %}
{% endif %}
<h2>Targets</h2>
{% if targets %}
<div class="wide"><table>
<thead><tr><th>target loss</th><th>approximation number, at most</th><th>learning number</th><th>at best</th>\
<th>at worst</th></tr></thead>
<tbody>{% for line in targets %}
<tr>{% for cell in line %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}
</tbody>
</table></div>
<p>Learning number: the least lift from which on at least {{ "%g" % (100 * (1 - verdict.delta)) }} % of the seeds \
reach the target, by their observed share and by the ends of its 95 % interval; \
a dash where no lift of the sweep does.</p>
{% else %}<p>No run has a finite loss.</p>
{% endif %}
<h2>What was run</h2>
<table class="left">{% for key, value in settings %}
<tr><th>{{ key }}</th><td>{{ value }}</td></tr>{% endfor %}
</table>

<h2>Data</h2>
<ul>{% for link in links %}
<li><a href="{{ link }}">{{ link }}</a></li>{% endfor %}
</ul>
</body>
</html>
"""


def render_page(
    runs: StudyRuns, verdict: Mapping[str, Any], summary: Sequence[LiftSummary], files: Sequence[str]
) -> str:
    """Return the page.

    Args:
        runs: the study.
        verdict: content of ``verdict.json``.
        summary: rows of the summary table.
        files: names of the files beside the page, figures and data.

    Returns:
        HTML in which every text of the study is escaped.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    headers, lines = summary_cells(summary)
    return environment.from_string(_TEMPLATE).render(
        name=runs.name,
        verdict=verdict,
        done=len(runs.done),
        planned=len(runs.runs),
        headers=headers,
        lines=lines,
        figures=_figures(files),
        targets=_targets(verdict),
        settings=_settings(runs.study),
        links=[name for name in files if name.rpartition(".")[0] not in CAPTIONS],
    )


def _figures(files: Sequence[str]) -> list[dict[str, Any]]:
    figures = []
    for stem, caption in CAPTIONS.items():
        images = [f"{stem}.{form}" for form in ("png", "svg") if f"{stem}.{form}" in files]
        if images:
            links = [name for name in files if name.rpartition(".")[0] == stem and name != images[0]]
            alt = caption.partition(". ")[0]
            figures.append({"image": images[0], "alt": alt, "caption": caption, "links": links})
    return figures


def _targets(verdict: Mapping[str, Any]) -> list[list[str]]:
    def shown(value: int | None) -> str:
        return "-" if value is None else str(value)

    return [
        [
            loss_figure(float(key)),
            shown(verdict["approximation_number"][key]),
            *(shown(number[end]) for end in ("point", "low", "high")),
        ]
        for key, number in verdict["learning_number"].items()
    ]


def _settings(study: Mapping[str, Any]) -> list[tuple[str, str]]:
    parts = {name: study.get(name) for name in ("config", "versions", "host", "git")}
    return [line for name, value in parts.items() for line in _flat("" if name == "config" else name, value)]


def _flat(prefix: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        return [line for key, item in value.items() for line in _flat(f"{prefix}.{key}" if prefix else str(key), item)]
    return [] if value is None or value == {} else [(prefix or "config", str(value))]
