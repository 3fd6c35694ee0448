"""Tables and a plot of what the other benchmarks left in ``results/bench``, written into the manual.

Between the two speed marks stands a line for each benchmark, and one for each integrator; all tables are in
``results/reference/speed.md``, time and memory against n in ``speed.png``. By hand, after the others:
``python scripts/bench_report.py``.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from machine import KEPT, Table, shown

ROOT = Path(__file__).parents[1]
PICTURE, TABLES = (ROOT / "results" / "reference" / name for name in ("speed.png", "speed.md"))
MARKS = ("<!-- speed: made by `make bench` -->", "<!-- end of speed -->")


def main() -> None:
    """Read, draw, write."""
    tables = [Table(**json.loads(path.read_text())) for path in sorted(KEPT.glob("*.json"))]
    if not tables:
        raise SystemExit(f"nothing in {KEPT}; run the benchmarks first: make bench")
    for table in tables:
        if table.name == "memory":
            draw(table)
    limits = KEPT / "limits.txt"
    head = (
        "# Speed\n\nMade by `make bench`: "
        + (limits.read_text().strip() if limits.is_file() else "limits unknown")
        + "."
    )
    TABLES.write_text("\n\n".join([head, *map(markdown, tables)]) + "\n")
    page = ROOT / "docs" / "performance.md"
    before, rest = page.read_text().split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    parts = [ratios(tables), integrators(tables), precision(tables)]
    page.write_text("\n\n".join([before + MARKS[0], *parts, MARKS[1] + after]))
    print(f"{len(tables)} tables in {TABLES}, their sum in {page}, {PICTURE}")


def markdown(table: Table) -> str:
    """A whole table."""
    return f"*{table.title}*\n\n" + lines(table.columns, [[shown(cell) for cell in row] for row in table.rows])


def ratios(tables: list[Table]) -> str:
    """A line for each benchmark that has rivals: what this package takes, and how many times as long they do."""
    rows = []
    for table in tables:
        if "x rsl" in table.columns:
            by = table.columns.index("x rsl")
            (own, *_), *others = sorted(table.rows, key=lambda row: row[by] != 1)
            mine = next(row for row in table.rows if row[by] == 1)
            rivals = ", ".join(f"{row[0]} {shown(row[by])}" for row in others)
            rows.append([table.title.split(";")[0], f"{own}: {shown(mine[1])} {table.columns[1]}", rivals])
    return lines(["what", "takes", "times as long"], rows)


def integrators(tables: list[Table]) -> str:
    """A line for each integrator: gradients + matrices (worst error of the loss)."""
    found = {table.name.split("-")[1]: table for table in tables if table.name.startswith("integrators-")}
    names = [row[0] for row in next(iter(found.values())).rows] if found else []
    rows = [
        [str(name), *(f"{shown(row[2])} + {shown(row[3])} ({shown(row[4])} %)" for row in rows)]
        for name, *rows in zip(names, *(table.rows for table in found.values()), strict=True)
    ]
    return lines(["gradients + matrices to t = 10⁶ (worst error in the loss)", *found], rows)


def precision(tables: list[Table]) -> str:
    """A line for each implicit integrator and tolerance: what it takes, and the error that leaves."""
    found = {table.name.split("-")[1]: table for table in tables if table.name.startswith("precision-")}
    names = [row[:2] for row in next(iter(found.values())).rows] if found else []
    rows = [
        [
            *map(str, name),
            *(f"{shown(row[4])} s, {shown(row[2])} + {shown(row[3])} ({shown(row[5])} %)" for row in rows),
        ]
        for name, *rows in zip(names, *(table.rows for table in found.values()), strict=True)
    ]
    return lines(["work and precision to t = 10⁶, means of some starts", "rtol", *found], rows)


def lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (columns, ["---"] * len(columns), *rows))


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
