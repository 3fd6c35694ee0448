import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsl_cli.errors import ConfigError
from rsl_cli.study.sweep import lift_degrees, seed_list


@pytest.mark.parametrize(
    ("value", "degrees"),
    [
        (64, (64,)),
        ("64", (64,)),
        ("16..1024", (16, 32, 64, 128, 256, 512, 1024)),
        ("16..1000", (16, 32, 64, 128, 256, 512)),
        ("3..24", (3, 6, 12, 24)),
        ("16..64@2", (16, 23, 32, 45, 64)),
        ("1..4@4", (1, 2, 3, 4)),
        ([16, 48, 256], (16, 48, 256)),
        (["48", "16", 16], (16, 48)),
        ("16,48,256", (16, 48, 256)),
        ("7..7", (7,)),
    ],
)
def test_sweeps(value, degrees):
    assert lift_degrees(value) == degrees


@pytest.mark.parametrize(
    "value",
    ["1024..16", "0..8", "16...64", "abc", "", "16..", "..16", "-4", 0, -1, 1.5, True, None, [], ["a"], "16..64@0",
     "16..64@", "1,,2", "16..64@2.5", {"a": 1}, 10**9, "1..99999999999"],
)  # fmt: skip
def test_what_is_no_sweep_is_refused_in_one_line_with_the_accepted_forms(value):
    with pytest.raises(ConfigError) as caught:
        lift_degrees(value)
    text = str(caught.value)
    assert text.startswith("lift=") and "\n" not in text and ("16..1024 (doubling)" in text or "1 to 64" in text)


@given(st.integers(1, 500), st.integers(0, 5000), st.integers(1, 8))
def test_ranges_ascend_stay_inside_and_keep_their_ratio(first, extra, per_octave):
    degrees = lift_degrees(f"{first}..{first + extra}@{per_octave}")
    assert degrees[0] == first and degrees[-1] <= first + extra
    assert list(degrees) == sorted(set(degrees))
    assert round(first * 2 ** ((len(degrees) + 40) / per_octave)) >= degrees[-1]


@pytest.mark.parametrize(
    ("value", "seeds"),
    [(5, (0, 1, 2, 3, 4)), ([0, 7], (0, 7)), ("0,7", (0, 7)), ([3], (3,)), ("2", (0, 1)), ([7, 0, 7], (0, 7))],
)
def test_seeds(value, seeds):
    assert seed_list(value) == seeds


@pytest.mark.parametrize("value", [0, -1, [], [-1], "a", 1.5, True, None, [1.5], "0,,1"])
def test_what_are_no_seeds_is_refused(value):
    with pytest.raises(ConfigError, match=r"^seeds=.*accepted: a count from 1"):
        seed_list(value)
