"""Tables and a plot of what the other benchmarks left in ``results/bench``, written into the README.

Between the README's two speed marks stand the tables; ``results/reference/speed.png`` is time and memory against n. By
hand, after them: ``python scripts/bench_report.py``.
"""

import json
from pathlib import Path

import matplotlib as mpl
from machine import KEPT, Table, shown

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "results" / "reference" / "speed.png"
MARKS = ("<!-- speed: made by `make bench` -->", "<!-- end of speed -->")


def main() -> None:
    """Read, draw, write."""
    tables = [Table(**json.loads(path.read_text())) for path in sorted(KEPT.glob("*.json"))]
    if not tables:
        raise SystemExit(f"nothing in {KEPT}; run the benchmarks first: make bench")
    for table in tables:
        if table.name == "memory":
            draw(table)
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    readme.write_text("\n\n".join([before + MARKS[0], *map(markdown, tables), MARKS[1] + after]))
    print(f"{len(tables)} tables in {readme}, {PICTURE}")


def markdown(table: Table) -> str:
    """A table in the README's language."""
    lines = [table.columns, ["---"] * len(table.columns), *([shown(cell) for cell in row] for row in table.rows)]
    return f"*{table.title}*\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw(table: Table) -> None:
    """Time and memory against n, on logarithmic axes, with the fitted slopes."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    *rows, slopes = table.rows
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, first, unit in zip(axes, (1, 2), ("ms a step", "MiB at the peak"), strict=True):
        for column, name, style in ((first, "rsl", "o-"), (first + 2, "masked dense", "s--")):
            points = [(int(row[0]), float(row[column])) for row in rows if float(row[column]) > 0]
            label = f"{name}, slope {float(slopes[column]):.2f}"
            axis.loglog(*zip(*points, strict=True), style, label=label)
        axis.set_xlabel("lift degree n")
        axis.set_ylabel(unit)
        axis.grid(which="major", alpha=0.3)
        axis.legend(frameon=False)
    figure.suptitle(table.title + "; slopes from n = 1024 on", fontsize=9)
    figure.savefig(PICTURE, dpi=150)


if __name__ == "__main__":
    main()
