import math

import pytest

from rsl_cli.report.terminal import loss_plot


def test_a_power_law_is_a_straight_line_from_corner_to_corner():
    text = loss_plot({2**k: [10.0**-k] for k in range(9)}, width=9, height=9)
    *rows, ruler = text.splitlines()
    marks = [[i for i, sign in enumerate(row[10:]) if sign != " "] for row in rows]
    assert all(row and abs(row[0] - number) <= 1 for number, row in enumerate(marks)), text
    assert rows[0].startswith(" 1.0e+00 |") and rows[-1].startswith(" 1.0e-08 |") and ruler.split()[:2] == ["lift", "1"]


def test_every_run_is_a_mark_of_its_own():
    line = loss_plot({4: [1.0], 8: [1.0]}, width=21, height=3)
    seeds = loss_plot({4: [1.0, 100.0], 8: [1.0, 0.01]}, width=21, height=3)
    blank = [row.count(" ") for row in line.splitlines()]
    assert [blank[0] - row.count(" ") for row in seeds.splitlines()[:3]] != [0, 0, 0]
    assert seeds.splitlines()[0].rstrip()[-1] != "|" and seeds.splitlines()[2][-1] != " "


@pytest.mark.parametrize("losses", [{}, {4: [0.1, 0.2]}, {4: [0.1], 8: [math.nan, math.inf, 0.0]}])
def test_what_is_no_curve_is_not_drawn(losses):
    assert loss_plot(losses) == ""
