"""What a report calls things: symbols of weights, numbers as people write them."""

import math
import re

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
