"""Runs on disk: what identifies a study, where it lies, who computes it; the shipped executors are registered here."""

import sys
from types import ModuleType
from typing import Any

from rsl_cli.study import executors as executors


class _CallableModule(ModuleType):
    """``rsl_cli.study(base="mlp")`` is promised beside the package of the same name; both are this module."""

    def __call__(self, *words: str, **keys: Any) -> Any:
        import rsl_cli

        return rsl_cli.Study.of(*words, **keys)


sys.modules[__name__].__class__ = _CallableModule
