"""What a study says while nothing moves yet."""

import problems

from rsl_cli import progress
from rsl_cli.cli import compose
from rsl_cli.progress import Display
from rsl_cli.study.growth import register
from rsl_cli.study.plan import RunBatch, make_plan
from rsl_cli.study.spec import StudySpec
from rsl_cli.waiting import Waiting


def test_the_silence_before_the_first_run_moves_is_named(tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(progress, "Waiting", lambda text: waited.append(Waiting(text, first=60)) or waited[-1])
    for name, workers, said in (
        ("process", 2, "starting 2 worker processes, which import torch; compiling"),
        ("process", 1, "compiling kernels"),
        ("pilots", 2, "waiting for pilots to take runs"),
    ):
        config = problems.study(results_dir=str(tmp_path), executor={"name": name, "workers": workers})
        spec = StudySpec.from_config(config)
        with Display() as display:
            plan = make_plan(spec)
            display.plan(spec, plan)
            assert waited[-1]._text.startswith(said) and not waited[-1]._over.is_set()
            display.progress(RunBatch(plan.keys[:1]), 0, 1000, 1.0)
            assert waited[-1]._over.is_set()


def test_dense_lifts_are_marked_in_the_plan_and_in_the_study(tmp_path, capsys):
    lifting = {"kind": "random", "in_degree": 4}
    spec = StudySpec.from_config(problems.study(results_dir=str(tmp_path), lifting=lifting, lift=[2, 4, 8], seeds=1))
    with Display() as display:
        display.plan(spec, make_plan(spec))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.split()[0] in ("2", "4", "8")]
    assert [line.endswith("dense, not sparse") for line in lines[:3]] == [True, True, False]
    register(spec)
    more = StudySpec.from_config(problems.study(results_dir=str(tmp_path), lifting=lifting, lift=[3, 16], seeds=1))
    register(more)
    assert more.store.read_study()["plan"]["dense"] == [2, 3, 4]


def test_lifts_too_large_for_kappa_are_named_with_what_measures_them(tmp_path, capsys):
    def planned(**tangent):
        return shown({"tangent": {"epsilons": [1e-2], "probes": 0} | tangent})

    def shown(theory):
        trainer = problems.group("trainer", "flow")
        spec = StudySpec.from_config(problems.study(results_dir=str(tmp_path), trainer=trainer, theory=theory))
        with Display() as display:
            display.plan(spec, make_plan(spec))
        return capsys.readouterr().out

    line = "kappa is not measured from lift 4 on, P being more than 20; theory.tangent.largest=null measures it"
    assert line in planned(largest=20)
    assert "at lift 8, P being more than 50" in planned(largest=50)
    assert "not measured" not in planned(largest=None)

    words = "theory.probes=[{target:ntk,arguments:{largest:null}}]"
    line = f"the tangent kernel's spectrum is not measured from lift 4 on, P being more than 20; '{words}' measures it"
    assert line in shown({"probes": [{"target": "ntk", "arguments": {"largest": 20}}]})
    assert "not measured" not in shown(compose([words]).get("theory"))
