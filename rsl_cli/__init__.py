"""rsl: convergence studies of random sparse lifts.

The names below are the promised surface; each is imported when it is first used, so that ``import rsl_cli`` is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsl_cli import report, testing
    from rsl_cli.activations import ACTIVATIONS
    from rsl_cli.data import Dataset
    from rsl_cli.data.target import DATASETS
    from rsl_cli.diagnostics.bound import loss_bound
    from rsl_cli.diagnostics.probes import PROBES, FinishedRun, along_path
    from rsl_cli.diagnostics.tangent import tangent_kappa
    from rsl_cli.errors import RslError
    from rsl_cli.graph import BaseGraph
    from rsl_cli.kernels.autograd import Implementation, sparse_product
    from rsl_cli.kernels.stencil import Stencil
    from rsl_cli.laws import LAWS, Law
    from rsl_cli.lift import Lift, LiftUnion, disjoint_union, sample_lift
    from rsl_cli.liftings import LIFTINGS, Lifting
    from rsl_cli.maps import EDGE_MAPS, EdgeMap
    from rsl_cli.module import base_from_module, load_module
    from rsl_cli.network import LiftedNetwork
    from rsl_cli.notebook import Study, load_study
    from rsl_cli.portable import export
    from rsl_cli.report import Verdict, judge
    from rsl_cli.report.figures import FIGURES
    from rsl_cli.study.api import run_study
    from rsl_cli.study.executor import EXECUTORS, Executor
    from rsl_cli.study.executors import Pilots
    from rsl_cli.train.gradient_flow import gradient_flow
    from rsl_cli.train.losses import LOSSES, Loss
    from rsl_cli.train.optimizers import OPTIMIZERS, Optimizer
    from rsl_cli.train.trajectory import Trajectory
    from rsl_cli.vertex_maps import BIASES, COMBINES, NORMS, POOLS, Combine, Stage

    study = Study.of

_HOMES = {
    # graphs and lifts
    "BaseGraph": "graph",
    "Lift": "lift",
    "LiftUnion": "lift",
    "sample_lift": "lift",
    "disjoint_union": "lift",
    "base_from_module": "module",
    "load_module": "module",
    # networks
    "LiftedNetwork": "network",
    "sparse_product": "kernels.autograd",
    "Implementation": "kernels.autograd",
    "export": "portable",
    # training
    "gradient_flow": "train.gradient_flow",
    # theory
    "tangent_kappa": "diagnostics.tangent",
    "loss_bound": "diagnostics.bound",
    # studies
    "Trajectory": "train.trajectory",
    "run_study": "study.api",
    "Study": "notebook",
    "load_study": "notebook",
    "judge": "report",
    "Verdict": "report",
    # parts of a user's own: what they are made of, and where they get a name
    "Stencil": "kernels.stencil",
    "EdgeMap": "maps",
    "Lifting": "liftings",
    "Law": "laws",
    "Combine": "vertex_maps",
    "Stage": "vertex_maps",
    "Loss": "train.losses",
    "Optimizer": "train.optimizers",
    "Dataset": "data.dataset",
    "FinishedRun": "diagnostics.probes",
    "along_path": "diagnostics.probes",
    "EDGE_MAPS": "maps",
    "LIFTINGS": "liftings",
    "LAWS": "laws",
    "BIASES": "vertex_maps",
    "ACTIVATIONS": "activations",
    "COMBINES": "vertex_maps",
    "NORMS": "vertex_maps",
    "POOLS": "vertex_maps",
    "LOSSES": "train.losses",
    "OPTIMIZERS": "train.optimizers",
    "DATASETS": "data.target",
    "PROBES": "diagnostics.probes",
    "FIGURES": "report.figures",
    "Executor": "study.executor",
    "Pilots": "study.executors",
    "EXECUTORS": "study.executor",
    # errors
    "RslError": "errors",
}

__all__ = [
    "ACTIVATIONS",
    "BIASES",
    "COMBINES",
    "DATASETS",
    "EDGE_MAPS",
    "EXECUTORS",
    "FIGURES",
    "LAWS",
    "LIFTINGS",
    "LOSSES",
    "NORMS",
    "OPTIMIZERS",
    "POOLS",
    "PROBES",
    "BaseGraph",
    "Combine",
    "Dataset",
    "EdgeMap",
    "Executor",
    "FinishedRun",
    "Implementation",
    "Law",
    "Lift",
    "LiftUnion",
    "LiftedNetwork",
    "Lifting",
    "Loss",
    "Optimizer",
    "Pilots",
    "RslError",
    "Stage",
    "Stencil",
    "Study",
    "Trajectory",
    "Verdict",
    "along_path",
    "base_from_module",
    "disjoint_union",
    "export",
    "gradient_flow",
    "judge",
    "load_module",
    "load_study",
    "loss_bound",
    "report",
    "run_study",
    "sample_lift",
    "sparse_product",
    "study",
    "tangent_kappa",
    "testing",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name in ("report", "study", "testing"):
        return _imported(name)
    if name not in _HOMES:
        raise AttributeError(f"module 'rsl_cli' has no attribute {name!r}")
    module = _imported(_HOMES[name])
    globals()[name] = value = getattr(module, name)
    return value


def _imported(name: str) -> Any:
    from rsl_cli.garbage import unswept

    with unswept():
        return importlib.import_module(f"rsl_cli.{name}")


def __dir__() -> list[str]:
    """The public names, whether used yet or not."""
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
