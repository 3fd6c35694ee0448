"""No number depends on how many threads there are, nor on where in a tensor it stands."""

import numpy as np
import pytest
import torch

from rsl_cli.activations import ACTIVATIONS
from rsl_cli.cli import compose
from rsl_cli.diagnostics.krylov import Bidiagonalisation
from rsl_cli.kernels.serial import norm
from rsl_cli.lift import disjoint_union, sample_lift
from rsl_cli.network import LiftedNetwork
from rsl_cli.study.machine import prepare
from rsl_cli.study.spec import StudySpec
from rsl_cli.train.gauss_newton import gauss_newton
from rsl_cli.train.objective import Objective
from rsl_cli.train.replicas import Replicas, Request
from rsl_cli.vertex_maps import Attention

THREADS = (1, 3)


@pytest.fixture
def by_threads():
    """What a computation gives with each number of threads."""
    before = torch.get_num_threads()

    def compute(computation):
        results = []
        for threads in THREADS:
            prepare(threads)
            results.append(computation())
        return results

    yield compute
    prepare(before)


def spec_of(tmp_path, *overrides):
    return StudySpec.from_config(compose([*overrides, "theory=none", f"results_dir={tmp_path}"]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("base", ["cnn", "unet", "attention", "mixer"])
def test_a_pass_over_the_data_changes_no_bit(base, dtype, by_threads, tmp_path):
    spec = spec_of(tmp_path, f"base={base}", "dataset=digits", "lift=8", "trainer=adam")
    objective = Objective(spec.data, spec.loss, dtype=dtype)
    lifts = [sample_lift(spec.base, 8, seed, spec.lifting) for seed in (0, 1)]
    network = LiftedNetwork(disjoint_union(lifts), None, dtype, "mup")
    torch.manual_seed(0)
    with torch.no_grad():  # A readout at zero would hide every layer below it.
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))

    def computation():
        found = objective.evaluate(network)
        objective.backward(network, None)
        gradients = [parameter.grad for parameter in network.parameters()]
        network.zero_grad(set_to_none=True)
        return [found.loss, found.grad_norm, found.test_loss, *gradients]

    one, *more = by_threads(computation)
    for other in more:
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [*ACTIVATIONS, "attention"])
def test_a_number_is_rounded_alike_wherever_it_stands(name, dtype):
    torch.manual_seed(0)
    z = 3 * torch.randn(3, 2, 4, 1, 700, dtype=dtype)
    along = torch.randn(2, 4, 1, 700, dtype=dtype)

    def of(part):
        slots = [t[..., part].contiguous().requires_grad_() for t in z]
        y = Attention()(dict(zip("qkv", slots, strict=True))) if name == "attention" else ACTIVATIONS[name](slots[0])
        y.backward(along[..., part])
        return [y.detach(), *(slot.grad for slot in slots if slot.grad is not None)]

    whole = of(slice(None))
    for length in (1, 3, 7, 13, 31, 65):
        for start in range(0, 200, 19):
            part = slice(start, start + length)
            for alone, beside in zip(of(part), whole, strict=True):
                assert torch.equal(alone, beside[..., part])


def test_norms_of_large_tensors(by_threads):
    x = torch.randn(200_001, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert len(set(by_threads(lambda: norm(x)))) == 1
    assert norm(x) == pytest.approx(np.linalg.norm(x.numpy()), rel=1e-12)


@pytest.mark.parametrize("samples", [16, None])
def test_gauss_newton_solves_change_no_bit(samples, by_threads, tmp_path):
    spec = spec_of(tmp_path, "base=mlp", "dataset.samples=2048", "lift=48", "trainer=flow")
    objective = Objective(spec.data, "mse", dtype=torch.float64)
    network = LiftedNetwork(sample_lift(spec.base, 48, 0, spec.lifting), None, torch.float64)
    vector = np.random.default_rng(0).standard_normal(sum(p.numel() for p in network.parameters()))

    def computation():
        curvature = gauss_newton(network, objective, samples)
        return curvature.solve(10.0, vector), curvature.times(vector)

    one, *more = by_threads(computation)
    for other in more:
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_bounds_on_kappa_change_no_bit(by_threads):
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(3000, 400, dtype=torch.float64, generator=draw) / 50
    b = torch.randn(3000, dtype=torch.float64, generator=draw) / 50
    exact = a.numpy()

    def computation():
        times = [lambda u: torch.from_numpy(exact @ u.numpy()), lambda c: torch.from_numpy(exact.T @ c.numpy())]
        return Bidiagonalisation(b, *times, a.shape[1]).kappa([0.45 * float(b @ b)], 0.01)

    one, *more = by_threads(computation)
    assert all(other == one for other in more)


def test_replicas_of_a_convolutional_base_answer_alike(by_threads, tmp_path):
    spec = spec_of(tmp_path, "base=cnn", "dataset=digits", "loss=mse", "lift=4", "trainer=flow")
    objective = Objective(spec.data, "mse", dtype=torch.float64)
    network = LiftedNetwork(sample_lift(spec.base, 4, 0, spec.lifting), None, torch.float64)
    theta = np.random.default_rng(0).standard_normal(sum(p.numel() for p in network.parameters()))

    def computation():
        answer = Replicas(network, objective).answer({0: Request(theta, 64, True)})[0]
        assert answer.curvature is not None
        return answer.loss, answer.test_loss, answer.gradient, answer.curvature.solve(1.0, theta)

    one, *more = by_threads(computation)
    for other in more:
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
