"""Parametrizations by name: how the readout goes with the degree. It knows no graph, so that a key can list them."""

from collections.abc import Mapping

PARAMETRIZATIONS: Mapping[str, float] = {"standard": 0.0, "ntk": 0.5, "mup": 1.0}
"""The readout is multiplied by ``degree ** -power``: 1, 1/sqrt(n) (kernel regime) or 1/n (mean field).

An edge straight from the input to the output sums no growing fibre, and is never multiplied.
"""
