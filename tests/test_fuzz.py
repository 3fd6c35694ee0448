"""Command lines and files drawn to be wrong: one line, the right exit status, nothing left behind, soon.

A sample is drawn here; ``python tests/test_fuzz.py 200`` draws so many, and prints each seed that is answered wrongly.
"""

import contextlib
import io
import random
import sys
import tempfile
import time
from pathlib import Path

import pytest

from rsl_cli.cli import main
from rsl_cli.configuration import config_directory, known_keys
from rsl_cli.errors import RslError
from rsl_cli.study import api

SECONDS = 5.0
VALUES = (
    *("", "null", "~", "nan", "inf", "-inf", "-1", "0", "1e308", "1e-320", "9" * 400, "1" + "0" * 30, "0x10", "1_000"),
    *(
        "true",
        "[]",
        "{}",
        "[[[]]]",
        "{a: 1}",
        "[1,2,x]",
        "1..",
        "..1",
        "5..1",
        "1..1e9",
        "1..16777216@9",
        "a b",
        "é\u202e",
    ),
    *(
        "'",
        '"',
        "${x}",
        "${oc.env:NOPE}",
        "$(rm)",
        "../../x",
        "/dev/full",
        "/dev/null",
        "a\nb",
        "a\tb",
        "\ud800",
        "???",
    ),
    *("2024-01-01", "!!python/object:os.system", "&a [*a]", "x" * 5000, "%s%n", "0.1.2", "1e", "+-3", "é" * 200),
)
COMMANDS = ("report", "list", "verify", "export", "show", "nothing", "-", "--", "")


class AcceptedError(RslError):
    """The line would have begun a study."""

    exit_status = 0


def begin(*_, **__):
    raise AcceptedError("accepted")


def hostile_line(draw: random.Random, folder: Path) -> list[str]:
    """A command line, mostly wrong in one or two words."""
    results = f"results_dir={folder / 'r'}"
    if draw.random() < 0.25:
        words = [draw.choice(VALUES) for _ in range(draw.randint(0, 2))]
        return [draw.choice(COMMANDS), *[word.replace("\0", "") for word in words], results]
    keys = [key for key in known_keys() if not key.startswith(("results_dir", "hydra"))]
    words = [f"{draw.choice(keys)}={draw.choice(VALUES)}" for _ in range(draw.randint(1, 2))]
    fixed = ["dataset.samples=64", "lift=4", "seeds=1", "theory=none", "executor=local"]
    return ["run", *[word for word in fixed if draw.random() < 0.8], *words, results]


def hostile_file(draw: random.Random, folder: Path) -> list[str]:
    """A line that reads a base graph or a table of which some bytes are others."""
    table = draw.random() < 0.5
    text = b"a,b,y\n" + b"1,2,3\n4,5.5,6\n" * 20
    if not table:
        text = draw.choice(sorted((config_directory() / "base").glob("*.yaml"))).read_bytes()
    content = bytearray(text)
    for _ in range(draw.randint(1, 12)):
        at = draw.randrange(len(content))
        match draw.randrange(4):
            case 0:
                content[at] = draw.randrange(256)
            case 1:
                del content[at : at + draw.randint(1, 40)]
            case 2:
                content[at:at] = draw.choice(VALUES).encode("utf-8", "surrogatepass")
            case _:
                content[at:at] = content[at : at + draw.randint(1, 200)]
        content = content or bytearray(b"x")
    (folder / "base").mkdir(exist_ok=True)
    (folder / "table.csv").write_bytes(content)
    (folder / "base" / "own.yaml").write_bytes(content)
    words = ["dataset=csv", f"dataset.path={folder / 'table.csv'}", "dataset.target=y"]
    if not table:
        words = ["base=own", "--config-dir", str(folder), "dataset.samples=64"]
    return ["run", *words, "lift=4", "seeds=1", "theory=none", "executor=local", f"results_dir={folder / 'r'}"]


def answer(line: list[str], folder: Path) -> str | None:
    """What is wrong with the answer to a line; None if nothing is."""
    out, err, began = io.StringIO(), io.StringIO(), time.process_time()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(line)
    except SystemExit as leave:
        status = leave.code
    took, said = time.process_time() - began, err.getvalue()
    if status not in (0, 1, 2):
        return f"status {status}: {said[:300]}"
    if "Traceback" in said or took > SECONDS:
        return f"{took:.1f} s: {said[:300]}"
    usage = said.startswith("usage:")
    if status == 2 and not usage and said.count("\n") != 1:
        return f"{said.count(chr(10))} lines: {said[:300]}"
    return f"left behind: {sorted(folder.rglob('*'))[:3]}" if (folder / "r").exists() else None


@pytest.mark.parametrize("seed", range(40))
def test_hostile_input_is_answered_in_a_line(tmp_path, monkeypatch, seed):
    monkeypatch.setattr(api, "register", begin)
    draw = random.Random(seed)
    line = draw.choice([hostile_line, hostile_file])(draw, tmp_path)
    assert answer(line, tmp_path) is None, line


if __name__ == "__main__":
    api.register = begin
    wrong = 0
    for number in range(int(sys.argv[1])):
        with tempfile.TemporaryDirectory() as place:
            chosen = random.Random(number)
            asked = chosen.choice([hostile_line, hostile_file])(chosen, Path(place))
            fault = answer(asked, Path(place))
            if fault:
                wrong += 1
                print(f"seed {number}: {[word[:60] for word in asked]}: {fault}", flush=True)
    print(f"{wrong} of {sys.argv[1]} answered wrongly, seeds 0..{int(sys.argv[1]) - 1}")
