"""What a report calls things: titles and captions of its figures, symbols of weights, numbers as people write them."""

import math
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Caption:
    """What a figure asks, and what it draws."""

    title: str
    text: str


CAPTIONS = {
    "isochrones": Caption(
        "Is it the lift that brings the loss down, or the clock?",
        "Loss against size at several times of training, medians over seeds: how far the clock, and how far the lift, "
        "brings it down. Green: where the limits for t to infinity lie; an arrow says that the clock stopped runs "
        "whose limit may lie anywhere below.",
    ),
    "loss_vs_params": Caption(
        "At which loss does each size end?",
        "Final loss of every seed against the number of parameters, with medians and quartiles. A bar goes down to the "
        "least that a run's limit can be; a run that was stopped while it still fell has an arrow instead.",
    ),
    "loss_vs_lift": Caption("At which loss does each lift end?", "The same losses against the lift degree."),
    "trajectories": Caption("How does the loss fall while training?", "One line per run, coloured by lift."),
    "decay": Caption(
        "Does the loss fall like 1/t?",
        "4 t L(t) on training data. For small ε and large t the bound is L(t) ≤ κ / (4 t), so the height at which a "
        "curve is level estimates κ; a falling curve decays faster than 1/t, a rising one has not reached that law.",
    ),
    "success": Caption(
        "How many of the seeds reach a target?",
        "Share of seeds whose loss is at most ε, with exact 95 % intervals. The theorem says that it tends to 1 as n "
        "grows, for every ε; not that one lift reaches 0: with fewer parameters than target dimensions, most targets "
        "cannot be learned exactly (Yarotsky, NeurIPS 2024).",
    ),
    "learning_number": Caption(
        "From which lift on is a target reached?",
        "The least lift at which some seed reaches the target (approximation number, an upper bound), and the least "
        "from which on a share of 1 − δ of the seeds does (learning number, with its interval).",
    ),
    "bound": Caption(
        "Does the flow stay under its bound?",
        "Training loss L(t) of the gradient flow at the largest lift, or at the one followed, beside its bound, "
        "√L(t) ≤ √ε + 1 / √(1/(√L(0) − √ε)² + 4t/κ). Each seed has its own: κ is the largest κ(θ, ε) at its start and "
        "at the measured points of its path, and at each time the least bound over all ε counts. Between measured "
        "points κ is not known, so a curve above its bound would show that too few were measured, or an error.",
    ),
    "length": Caption(
        "Is the path as short as promised?",
        "Distance from the start along the flow against the bound on the path's length; each point is a sample of a "
        "run's trajectory. Above the diagonal is what the bound excludes.",
    ),
    "kappa": Caption(
        "Does κ at the random start fall with n?",
        "Tangent approximation number κ(θ₀, ε): the squared length of the shortest step whose linear prediction has "
        "a training loss of at most ε. Median and quartiles over seeds; seeds that have no such step, κ = ∞, are "
        "counted. That κ falls with n is what makes large lifts train.",
    ),
    "inside": Caption(
        "Is a whole ball around the start good?",
        "Assumption A1 of the theorem, checked here, not taken for granted: with high probability a whole ball around "
        "the start lies in A(κ, ε). Markers: share of seeds all of whose random probes at distance R lie inside, with "
        "exact 95 % intervals. Finitely many probes can miss a bad point, so this share is an upper estimate.",
    ),
    "coverage": Caption(
        "Do copies that cover the witness grow like n?",
        "Copies whose in-edges match those of a vertex of the witness in bijection, with weights within η, "
        "recursively. The theory's counting argument needs their number to be proportional to n.",
    ),
    "drift": Caption(
        "Do the weights' laws move less, the larger the lift?",
        "How far training moved the law of each group of weights: Wasserstein distance between start and end, or "
        "Kolmogorov-Smirnov distance for groups that all start at one value. Median and quartiles over seeds.",
    ),
    "coordinates": Caption(
        "Do the first steps move every vertex alike, whatever the lift?",
        "The coordinate check: root mean square of the sums that each vertex's activation is given, and of how far the "
        "first steps of training move them, medians over seeds, with the exponent of n. What is level has a learning "
        "rate that serves every lift.",
    ),
    "ntk": Caption(
        "Does the tangent kernel turn towards the targets?",
        "Eigenvalues of the empirical tangent kernel at the start and at the end of training, medians over seeds; and "
        "its alignment with the targets along each run, beside the loss. In the kernel regime it stays what it was.",
    ),
}
"""Every figure of a report, in the order of the page."""

_SIGNS = {
    "|grad L|^2 = -dL/dt": "|∇L|² = −dL/dt",
    "-d log L / d log P": "−d log L / d log P",
    "eps = ": "ε = ",
    "P < samples x outputs": "P < samples × outputs",
    "P >= samples x outputs": "P ≥ samples × outputs",
    " over n x ": " over n × ",
    "P^-b": "P⁻ᵇ",
    "P^-d t^-p": "P⁻ᵈ t⁻ᵖ",
    "1 - delta": "1 − δ",
    "Kurdyka-Lojasiewicz": "Kurdyka–Łojasiewicz",
}
"""What terminals may not show, and a page does."""
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def group_symbol(name: str, *, tex: bool = False) -> str:
    """Return a group of weights as mathematics: ``weight_x__to__h1`` is W of x to h1, ``bias_h1`` is b of h1."""
    kind, _, rest = name.partition("_")
    letter = {"weight": "W", "bias": "b"}.get(kind)
    if letter is None or not rest:
        return name
    source, arrow, target = rest.partition("__to__")
    target = re.sub(r"^(\w+)_(\w+?)_$", r"\1[\2]", target)  # A slot's brackets are no part of a parameter's name.
    if tex:
        parts = [_tex(part) for part in ([source, target] if arrow else [source])]
        arrow = r" \to "
        return f"${letter}_{{{arrow.join(parts)}}}$"
    return f"{letter}({source} → {target})" if arrow else f"{letter}({source})"


def figure_of(value: float, *, tex: bool = False) -> str:
    """Return a number for reading: 0.1 and 500 as they are, 3e-08 as 3 times a power of ten.

    Args:
        value: the number.
        tex: whether for matplotlib's mathematics (with its dollars) or for plain text.
    """
    if value == 0 or not math.isfinite(value) or 1e-3 <= abs(value) < 1e4:
        return f"{value:g}" if math.isfinite(value) else ("∞" if value > 0 else "")
    digits, _, exponent = f"{value:.3g}".partition("e") if "e" in f"{value:.3g}" else f"{value:.2e}".partition("e")
    digits = f"{float(digits):g}"
    power = f"10$^{{{int(exponent)}}}$" if tex else f"10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
    times = r"$\cdot$" if tex else "·"
    return power if digits == "1" else f"{digits}{times}{power}"


def short_ticks(low: float, high: float) -> list[float]:
    """Return round numbers to label a short logarithmic axis at, two to six of them where there are so many.

    Args:
        low: logarithm to base 10 of the axis's lower end.
        high: of its upper end.
    """
    ticks: list[float] = []
    for digits in ((1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), range(1, 10), [k / 10 for k in range(10, 100)]):
        decades = range(math.floor(low), math.ceil(high) + 1)
        ticks = [float(f"{digit:g}e{decade}") for decade in decades for digit in digits]
        ticks = [tick for tick in ticks if low <= math.log10(tick) <= high]
        if len(ticks) >= 3:
            break
    return ticks[:: math.ceil(len(ticks) / 6) or 1]


def symbols(text: str) -> str:
    """Return a sentence as a page sets it: powers of ten, and mathematics in its own signs; a command line stays."""
    for plain, sign in _SIGNS.items():
        text = text.replace(plain, sign)
    return re.sub(r"(?<![=\w.])\d(?:\.\d+)?e[+-]?\d+\b", lambda found: figure_of(float(found[0])), text)


def remedy_of(reason: str) -> tuple[str, str | None]:
    """Part a reason from the line to paste at its end, if it has one.

    Args:
        reason: a sentence, perhaps with a command after its last colon.

    Returns:
        The sentence, and the command or None.
    """
    found = re.search(r": (rsl (?:run|report|verify) [^:]*(?::[^ ][^:]*)*)$", reason)
    if found is None or " ... " in found[1]:
        return reason, None
    return f"{reason[: found.start()]}:", found[1]


def _tex(name: str) -> str:
    """A vertex name in mathematics: upright if it is a word, its number left where it is."""
    escaped = name.replace("_", r"\_")
    return rf"\mathrm{{{escaped}}}" if len(name) > 2 else escaped
