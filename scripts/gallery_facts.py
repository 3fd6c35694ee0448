"""The figures that the gallery's text quotes, found again in its committed runs.

``python scripts/gallery_facts.py [NAME ...]`` prints them, each in the words in which ``docs/gallery.md`` has it, and
marks those that the page has otherwise; it exits 1 if there are any. What a table beside the text says is not repeated.
"""

import argparse
import csv
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from gallery_numbers import correlation, fisher, listed, median, medians, number, reached, read, signed
from reproduce import REFERENCE, ROOT, gallery, unpack
from scipy.stats import mannwhitneyu

from rsl_cli.report import judge
from rsl_cli.report.runs import StudyRuns
from rsl_cli.report.tangent import check_inequality, flow_curves
from rsl_cli.stats import clopper_pearson

PAGE = ROOT / "docs" / "gallery.md"


def main() -> int:
    """Print the facts of what is asked for; 1 if the page has one of them otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"all, if left out: {', '.join(gallery())}")
    known = True
    for name in parser.parse_args().names or gallery():
        with tempfile.TemporaryDirectory() as folder:
            for fact in facts(name, Path(folder)):
                there = fact in page()
                print(f"{name}: {fact}{'' if there else '   <- not in the page'}")
                known &= there
    return 0 if known else 1


def page() -> str:
    """The gallery's page, its lines joined."""
    return " ".join(PAGE.read_text(encoding="utf-8").split())


def facts(name: str, folder: Path) -> list[str]:
    """What is to stand in the page of an item of the gallery.

    Args:
        name: of the item.
        folder: where its studies lie, or are unpacked to if they do not.

    Returns:
        Parts of sentences; none of an item whose tables say it all.
    """
    archive = REFERENCE / name / "studies.tar.xz"
    if archive.exists() and not any(folder.iterdir()):
        unpack(archive, folder)
    found = list(FACTS[name](folder)) if name in FACTS else []
    row = f"| `{name}` | {len(gallery()[name].studies)} | {minutes(name):.1f} |"
    return [*found, row, f"| all | | {sum(map(minutes, gallery())):.0f} |"]


def minutes(name: str) -> float:
    """Core minutes that an item's committed runs took: the sum of its table's last column, or of its reports' runs."""
    table = REFERENCE / name / "table.md"
    if table.exists():
        rows = table.read_text(encoding="utf-8").splitlines()[2:]
        return sum(float(row.split("|")[-2]) for row in rows)
    reports = [REFERENCE.parent / study / "report" / "runs.csv" for study in gallery()[name].studies]
    rows = [row for report in reports for row in csv.DictReader(report.read_text(encoding="utf-8").splitlines())]
    return sum(float(row["wall_seconds"]) for row in rows) / 60


def _pac(_: Path) -> Iterator[str]:
    verdict = json.loads((REFERENCE.parent / "pac" / "report" / "verdict.json").read_text(encoding="utf-8"))
    yield f"the verdict is *{verdict['verdict']}*, of the share *{verdict['success_verdict']['verdict']}*"
    shares, found = verdict["success"]["1e-03"], verdict["learning_number"]["1e-03"]
    yield f"is {listed(share[0] for share in shares.values())} of 100 at n = {listed(shares)}"
    yield f"the exact trend test has p = {number(verdict['success_verdict']['p_value'], 1)}"
    yield f"at n = 16 the share is above {math.floor(100 * shares['16'][2]) / 100} with 95 % confidence"
    some = verdict["approximation_number"]["1e-03"]
    yield f"is {found['point']} [{found['low']}, {found['high']}], that of some seed {some}"


def _clock(_: Path) -> Iterator[str]:
    flow, adam, long = (read(REFERENCE.parent, f"versus_{name}")[0] for name in ("flow", "adam", "adam_long"))
    lifts = [16, 32, 64]
    yield f"{listed(medians(adam, lifts))} at n = {listed(lifts)}, against {listed(medians(flow, lifts))}"
    runs = len(_paired(adam, flow, lifts)[0])
    yield f"(rank correlation {correlation(*_paired(adam, flow, lifts)):.2f} over all {runs} runs)"
    yield f"the correlation is {listed(signed(one, 1) for one in _within(adam, flow))}"
    yield f"stand at {listed(medians(long))}"
    yield f"still {listed(f'{one:.0f}' for one in np.divide(medians(long), medians(flow, lifts)))} times above its end"
    start = median(flow.trajectories[run.name]["test_loss"][0] for run in flow.at(64))
    fallen = [f"{math.log10(start / medians(runs, [64])[0]):.1f}" for runs in (adam, long, flow)]
    yield f"{fallen[0]} and {fallen[1]} of the {fallen[2]} decades"
    paid = [sum(run.wall_seconds for run in runs.done if run.key.lift in lifts) for runs in (long, flow)]
    yield f"{number(paid[0] / paid[1], 1)} of the flow's time"
    yield f"within a lift {listed(signed(one, 1) for one in _within(long, flow))}"
    dense = [run for runs in (flow, adam) for run in runs.done if run.key.lift in runs.dense_lifts]
    yield f"P = {listed(sorted({f'{run.params:.0f}' for run in dense if run.key.seed == 0}, key=float))}"
    yield f"took {sum(run.wall_seconds for run in dense) / 60:.1f} of the core minutes"
    verdicts = [judge(REFERENCE.parent / runs.name) for runs in (flow, adam, long)]
    said = {one for verdict in verdicts for one in (verdict.verdict, verdict.content["without_dense"])}
    yield f"the verdict of all three is *{listed(said)}*, with the dense lifts and without"


def _paired(first: StudyRuns, second: StudyRuns, lifts: Sequence[int]) -> list[list[float]]:
    keys = [run.key for run in first.done if run.key.lift in lifts]
    found = [{(run.key.lift, run.key.seed): run.test_loss for run in runs.done} for runs in (first, second)]
    return [[losses[key.lift, key.seed] for key in keys] for losses in found]


def _within(first: StudyRuns, second: StudyRuns) -> list[float]:
    return [correlation(*_paired(first, second, [lift])) for lift in first.lifts if lift not in first.dense_lifts]


def _witness(_: Path) -> Iterator[str]:
    runs, measured = read(REFERENCE.parent, "witness")
    content, at = judge(REFERENCE.parent / "witness").content, f"at n = {listed(runs.lifts)}"
    yield f"The verdict on its losses is *{content['verdict']}*"
    kappa = [one["median"] for one in content["tangent"]["1e-02"].values()]
    yield f"its median is {listed(number(one, 3 if one > 100 else 2) for one in kappa)} {at}"
    yield f"then {listed(content['tangent']['1e-04'][str(lift)]['median'] for lift in (32, 64))}"
    yield f"for {listed(share[0] for share in content['inside']['1e-03']['2e+01'].values())} of 5 seeds"
    for vertex, words in (("h2", "of h2 within 1.5 of the witness's is"), ("h1", "that of h1")):
        covered = content["coverage"][vertex]["1.5"].values()
        yield f"{words} {number(min(covered), 3)} to {number(max(covered), 3)}"
    checked = check_inequality(measured.tangent)
    yield f"{checked.violations} violations at {checked.checked} checks"
    yield f"with a least slack of {checked.least_slack:.4f}"
    curves = flow_curves(runs, runs.trajectories, measured.tangent)
    ratios = {lift: [one.loss_bound / one.loss for one in curves if one.lift == lift] for lift in runs.lifts}
    over = [median(median(one) for one in found) for found in ratios.values()]
    end = [median(one[-1] for one in found) for found in ratios.values()]
    yield f"{min(over):.0f} to {max(over):.0f} times the loss in the median over time"
    yield f"{float(number(min(end))):,.0f} to {float(number(max(end))):,.0f} times at the end"
    yield f"holds within {100 * max(abs(run.dissipation - 1) for run in runs.done):.0f} %"
    groups = {name: rows for name, rows in measured.drift.by("group").items() if np.isfinite(rows["occupied"]).all()}
    moved = [median(rows["wasserstein"]) for rows in groups["weight_h1__to__h2"].by("lift").values()]
    yield f"{listed(moved)} standard deviations {at}"
    last = [rows.where((rows["lift"] == 64) & (rows["count"] > 100)) for rows in groups.values()]
    yield f"{sum((rows['occupied'] == 1).sum() for rows in last)} of {sum(map(len, last))}"


def _shares(runs: StudyRuns, epsilon: float, lifts: Sequence[int]) -> list[int]:
    return [reached(runs.at(lift), epsilon) for lift in lifts]


def _degree(folder: Path) -> Iterator[str]:
    runs = {name: read(folder, f"degree_{name}")[0] for name in DEGREES}
    full = [*(runs[name].at(16) for name in ("2", "regular_2", "3", "4", "8", "dense")), *map(runs["16"].at, (24, 32))]
    assert all(reached(found, 1e-4) == 20 for found in full)
    yield f"with exactly 1 it is {listed(_shares(runs['regular_1'], 1e-4, [12, 16, 24]))} at n = 12, 16 and 24"
    for name, words in (("1", "at λ = 1 it is"), ("0.5", "at λ = 0.5 it is")):
        share = clopper_pearson(reached(runs[name].at(16), 1e-4), 20)
        yield f"{words} {share.successes} [{100 * share.low:.0f} %, {100 * share.high:.0f} %]"
    yield f"and {listed(_shares(runs['0.5'], 1e-4, [24, 32]), 'and then')} at n = 24 and 32"
    unread = [100 * math.exp(-rate) for rate in (0.5, 1, 2)]
    yield f"{unread[0]:.0f} % at λ = 0.5, {unread[1]:.0f} % at 1, {unread[2]:.0f} % at 2"
    for cases in (
        (("dense", 5), ("3", 6), ("4", 6), ("2", 8), ("regular_2", 8)),
        (("1", 12), ("regular_1", 12), ("3", 8), ("dense", 6), ("4", 8)),
    ):
        found = [runs[name].at(lift) for name, lift in cases]
        params = [median(run.params for run in one) for one in found]
        counts = [reached(one, 1e-4) for one in found]
        said = [f"{one} of 20 {DEGREES[name]} (n = {lift})" for one, (name, lift) in zip(counts, cases, strict=True)]
        yield f"with P from {min(params):.0f} to {max(params):.0f} it is {listed(said)}"
        if cases[-1][0] == "regular_2":
            p = number(fisher(counts[-1], counts[0], 20), 1)
            yield f"({counts[-1]} against {counts[0]}: p = {p} by Fisher's exact test"


def _samples(folder: Path) -> Iterator[str]:
    runs = {n: read(folder, f"samples_{n}")[0] for n in (256, 1024, 4096, 16384, 65536)}
    over = [24, 28, 32, 40]
    params = listed(f"{one:.0f}" for one in medians(runs[256], over, "params"))
    yield f"(P = {params} at n = {listed(over)}): held-out medians are {listed(medians(runs[256], over))}"
    yield f"goes on to {number(medians(runs[256], [40], 'train_loss')[0])}"
    long = read(folder, "samples_256_long")[0]
    yield f"held-out medians are {listed(medians(long))} at n = {listed(long.lifts)}"
    trained = medians(long, of="train_loss")
    yield f"training losses from {number(max(trained), 1)} down to {number(min(trained), 1)}"
    gaps = [median(run.test_loss / run.train_loss for run in long.at(lift)) for lift in long.lifts]
    yield f"{listed(f'{gap:.0f}' for gap in gaps)} times the training loss"
    sides = [run.test_loss for lift in (24, 32) for run in long.at(lift)]
    p = mannwhitneyu([run.test_loss for run in long.at(28)], sides).pvalue
    yield f"(p = {number(float(p), 1)} by ranks against both neighbours)"
    yield f"the held-out median at n = 24 is {listed(medians(one, [24])[0] for one in runs.values())}"
    many = [runs[n] for n in (4096, 16384, 65536)]
    beyond = [medians(one) for one in many]
    gap = max(
        held / trained
        for one, losses in zip(many, beyond, strict=True)
        for held, trained in zip(losses, medians(one, of="train_loss"), strict=True)
    )
    yield f"within {100 * (gap - 1):.0f} % of the training median"
    yield f"at most {max(max(found) / min(found) for found in zip(*beyond, strict=True)):.1f} times apart"
    few = (medians(runs[256], [6])[0], medians(runs[1024], [24])[0])
    yield f"({number(few[0])} with P = 56 and N = 256, {number(few[1])} with P = 225 and N = 1024)"


def _sizes(folder: Path) -> Iterator[str]:
    rising, equal, falling = (_shares(read(folder, f"sizes_{name}")[0], 1e-4, [12, 16]) for name in SIZES)
    yield f"{rising[0]} and {equal[0]} of 20 seeds at n = 12"
    p = fisher(falling[0], rising[0], 20)
    yield f"in {falling[0]} of 20 (against {rising[0]} of 20: p = {p:.3f}, Fisher's exact test)"
    yield f"and in {falling[1]} of 20 at n = 16"


def _laws(folder: Path) -> Iterator[str]:
    drift = read(folder, "laws_uniform_zeros")[1].drift
    moved = drift.where((drift["group"] == "weight_h1__to__h2") & (drift["lift"] == 12))["moved"]
    yield f"h1 → h2 by {number(median(moved))} standard deviations at n = 12"
    names = ("uniform_zeros", "student_zeros", "normal_zeros", "normal_normal")
    found = [_shares(read(folder, f"laws_{name}")[0], 1e-4, [12, 16]) for name in names]
    yield f"in {listed(one[0] for one in found[:3])} of 20 seeds at n = 12, and in all at 16"
    yield f"({found[3][0]} of 20 at n = 12)"
    assert all(one[1] == 20 for one in found)


def _bases(folder: Path) -> Iterator[str]:
    bases = {name: read(folder, f"bases_{name}")[0] for name in ("mlp", "deep", "skip", "gated")}
    assert all(_shares(runs, 1e-4, [16]) == [10] for runs in bases.values())
    assert _shares(bases["skip"], 1e-4, [8]) == _shares(bases["gated"], 1e-4, [8]) == [10]
    mlp = reached(bases["mlp"].at(8), 1e-4)
    yield f"has {mlp} of 10 (against 10 of 10: p = {number(fisher(mlp, 10, 10), 1)}, Fisher's exact test)"
    cases = ((("skip", 6), ("mlp", 8)), (("gated", 8), ("mlp", 12)), (("deep", 8), ("deep", 12)))
    for case in cases:
        yield listed(_at(bases[name], lift) for name, lift in case)
    yield f"by {100 * max(abs(run.dissipation - 1) for run in bases['deep'].done):.0f} % at one point"


def _at(runs: StudyRuns, lift: int) -> str:
    found = runs.at(lift)
    return f"{reached(found, 1e-4)} of {len(found)} at P = {median(run.params for run in found):.0f}"


def _images(folder: Path) -> Iterator[str]:
    runs, _ = read(folder, "bases_cnn")
    at = f"at n = {listed(runs.lifts)}"
    yield f"is {listed(number(one, 3 if one > 0.1 else 2) for one in medians(runs, of='train_loss'))} {at}"
    ratio = [median(run.params / (run.samples * run.outputs) for run in runs.at(lift)) for lift in runs.lifts]
    yield f"(P / (10 N) from {number(ratio[0], 3)} to {number(ratio[-1])})"
    for epsilon, words in ((0.15, "at 0.15 it is {} of 5"), (0.08, "at 0.08 it is {}"), (0.06, "at 0.06 it is {}")):
        yield words.format(listed(_shares(runs, epsilon, runs.lifts)))
    assert not reached(runs.done, 0.02) and all(run.stop_reason == "time" for run in runs.done)
    yield f"the median loss is {listed(medians(runs))}"
    tests = [np.asarray(runs.trajectories[run.name]["test_loss"], dtype=float) for run in runs.done]
    yield f"in {sum(loss[-1] > loss[-2] for loss in tests)} of {len(tests)} runs it was rising again at the end"
    errors = [100 * (1 - accuracy) for accuracy in medians(runs, of="accuracy")]
    yield f"the error is {listed(f'{error:.0f} %' for error in errors)}"
    yield f"{sum(run.saddle for run in runs.at(8))} at n = 8 seem to rest"


def _sequences(folder: Path) -> Iterator[str]:
    runs, _ = read(folder, "bases_attention")
    yield f"{reached(runs.at(3), 0.01)} of 12 seeds"
    assert _shares(runs, 0.01, [4, 6, 8]) == [12, 12, 12]
    late = [[run for run in runs.at(lift) if run.key.seed > 2] for lift in (3, 4)]
    least, above = (f"{reached(some, 0.01)} of {len(some)}" for some in late)
    yield f"it is {least} at n = 3 and {above} above"
    yield f"against P = {listed(f'{one:.0f}' for one in medians(runs, of='params'))}"
    yield f"misses the dissipation identity by {100 * max(abs(run.dissipation - 1) for run in runs.at(4)):.1f} %"


def _classes(folder: Path) -> Iterator[str]:
    flow = {loss: read(folder, f"classes_spirals_{loss}_flow")[0] for loss in ("cross_entropy", "mse")}
    adam = {loss: read(folder, f"classes_spirals_{loss}_adam")[0] for loss in ("cross_entropy", "mse")}
    zero = [min(n for n in runs.lifts if median(1 - run.accuracy for run in runs.at(n)) == 0) for runs in flow.values()]
    yield f"from n = {zero[0]} on by cross-entropy and from n = {zero[1]} on by squared loss"
    worst = max(1 - run.accuracy for runs in flow.values() for n in (12, 16, 24) for run in runs.at(n))
    yield f"in no seed more than {4096 * worst:.0f} from n = 12 on"
    for n, digits in ((6, 1), (24, 1)):
        errors = sorted(100 * median(1 - run.accuracy for run in runs.at(n)) for runs in adam.values())
        yield f"{' to '.join(f'{number(error, digits)} %' for error in errors)} at n = {n}"
    yield f"(cross-entropy {number(median(medians(flow['cross_entropy'], of='train_loss')), 1)} at every n)"


def _digits(folder: Path) -> Iterator[str]:
    runs = {
        (loss, trainer): read(folder, f"classes_digits_{loss}_{trainer}")[0]
        for loss in ("cross_entropy", "mse")
        for trainer in ("flow", "adam")
    }
    ratio = [median(run.params / (10 * run.samples) for run in runs["mse", "flow"].at(lift)) for lift in (6, 16)]
    yield f"(P / (10 N) from {ratio[0]:.3f} to {ratio[1]:.3f})"
    for trainer, words in (("flow", "by the flow"), ("adam", "by Adam's 2000 steps")):
        ends = [
            f"{number(100 * (1 - medians(runs[loss, trainer], [lift], 'accuracy')[0]))} %"
            for loss in ("cross_entropy", "mse")
            for lift in (6, 16)
        ]
        yield f"{words} from {ends[0]} to {ends[1]} and from {ends[2]} to {ends[3]}"
    for loss in ("cross_entropy", "mse"):
        for lift in (12, 16):
            flow, adam = ([run.accuracy for run in runs[loss, trainer].at(lift)] for trainer in ("flow", "adam"))
            assert min(flow) > max(adam)
    early = [
        number(medians(runs["mse", trainer], [n], "train_loss")[0]) for n in (6, 8) for trainer in ("flow", "adam")
    ]
    yield f"({early[0]} and {early[1]} at n = 6, {early[2]} and {early[3]} at n = 8)"
    late = [number(medians(runs["cross_entropy", trainer], [6], "train_loss")[0]) for trainer in ("flow", "adam")]
    yield f"({late[0]} and {late[1]} at n = 6)"


def _practice(folder: Path) -> Iterator[str]:
    slopes = {
        name: judge(folder / f"practice_{name}").content["coordinates"]["slopes"]
        for name in ("adam_standard", "adam_ntk", "sgd_ntk", "adam_mup", "sgd_mup")
    }
    exponent, low, high, _ = slopes["adam_standard"]["y change"]
    yield f"grows like n^{exponent:.2f} [{low:.2f}, {high:.2f}]"
    shrinks = [signed(slopes[name]["h1 change"][0]) for name in ("adam_ntk", "sgd_ntk")]
    yield f"shrink like n^{shrinks[0]} by Adam and n^{shrinks[1]} by SGD"
    exponent, low, high, _ = judge(folder / "practice_sgd_standard").content["coordinates"]["slopes"]["y change"]
    yield f"grows like n^{exponent:.2f} [{signed(low)}, {high:.2f}]"
    steady = max(abs(slope[0]) for name in ("adam_mup", "sgd_mup") for slope in slopes[name].values())
    yield f"are within {math.ceil(100 * steady) / 100} of 0"
    mup, standard, ntk = (medians(read(folder, f"practice_adam_{name}")[0]) for name in ("mup", "standard", "ntk"))
    yield f"falls to {number(mup[-1])} with mup"
    yield f"falls to {number(standard[2])} at n = 64 and rises to {number(standard[-1])}"
    yield f"rises from {number(ntk[0])} to {number(ntk[-1])}"


def _rates(folder: Path) -> Iterator[str]:
    found = {
        scale: {
            float(path.name.rpartition("_")[2]): dict(
                zip((16, 64, 256), medians(read(folder, path.name)[0]), strict=True)
            )
            for path in folder.glob(f"rates_{scale}_*")
        }
        for scale in ("mup", "standard")
    }
    best = {
        scale: [min(rates, key=lambda rate: rates[rate][n]) for n in (16, 64, 256)] for scale, rates in found.items()
    }
    yield f"is {listed(best['mup'])} at n = 16, 64 and 256"
    yield f"a factor of {found['mup'][0.3][16] / found['mup'][0.1][16]:.1f} apart"
    standard = [found["standard"][rate][n] for rate, n in zip(best["standard"], (16, 64, 256), strict=True)]
    yield f"({listed(standard[1:])})"


def _kernel(folder: Path) -> Iterator[str]:
    runs, measured = read(folder, "kernel_standard")
    start = measured.ntk.where((measured.ntk["lift"] == 32) & (measured.ntk["place"] == "start"))
    beyond = start.where(start["rank"] == 32)
    left = 1 - beyond["target"]
    yield f"{100 * median(left):.0f} % of the target's square lies beyond the kernel's first 32"
    yield f"eigenvalues are below {number(max(beyond['eigenvalue']), 1)}"
    floors = left * beyond["loss"]
    yield f"below {number(median(floors), 1)} (in the best seed {number(min(floors), 1)}) at t = 1e5"
    yield f"where it is {number(median(run.train_loss for run in runs.at(32)))}"
    at = {
        time: measured.ntk.where((measured.ntk["lift"] == 32) & np.isclose(measured.ntk["time"], time))
        for time in (0, 1e3)
    }
    sixteenth = [median(rows.where(rows["rank"] == 16)["eigenvalue"]) for rows in at.values()]
    yield f"eigenvalue has grown from {listed(sixteenth, 'to')}"
    loss = [median(rows.where(rows["rank"] == 1)["loss"]) for rows in at.values()]
    yield f"the loss has fallen {loss[0] / loss[1]:.0f}-fold"
    first = start.where(start["rank"] == 1)
    share = [100 * median(first[name] / scale) for name, scale in (("eigenvalue", first["trace"]), ("target", 1.0))]
    yield f"has {share[0]:.0f} % of the trace and {share[1]:.2f} % of the target's square"
    ends = {name: judge(folder / f"kernel_{name}").content["ntk"] for name in ("standard", "mup")}
    for place, words in (("start", "from"), ("end", "up to")):
        ranks = sorted(ends["standard"][f"{n} {place}"]["effective_rank"] for n in (8, 16, 32))
        yield f"{words} {ranks[0]:.1f} to {ranks[-1]:.1f}"
    yield f"to an alignment of {listed(ends['mup'][f'{n} end']['alignment'] for n in (8, 16, 32))}"


SIZES = ("rising", "equal", "falling")
DEGREES = {
    "0.5": "at λ = 0.5",
    "1": "at λ = 1",
    "regular_1": "with exactly 1",
    "2": "at λ = 2",
    "regular_2": "with exactly 2",
    "3": "at λ = 3",
    "4": "at λ = 4",
    "8": "at λ = 8",
    "16": "at λ = 16",
    "dense": "dense",
}
FACTS: dict[str, Callable[[Path], Iterator[str]]] = {
    "pac": _pac,
    "adam_versus_flow": _clock,
    "witness": _witness,
    "degree": _degree,
    "samples": _samples,
    "bases": _bases,
    "images": _images,
    "sequences": _sequences,
    "sizes": _sizes,
    "laws": _laws,
    "classes": _classes,
    "digits": _digits,
    "practice": _practice,
    "rates": _rates,
    "kernel": _kernel,
}

if __name__ == "__main__":
    sys.exit(main())
