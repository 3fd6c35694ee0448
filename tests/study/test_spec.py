"""What a study makes of its configuration before anything trains."""

import numpy as np
import problems
import pytest

from rsl_cli.study.spec import StudySpec


def test_images_are_flattened_for_a_base_graph_that_reads_vectors_and_keep_their_numbers():
    config = problems.study(dataset=problems.group("dataset", "digits"))
    flat = StudySpec.from_config(config)
    assert flat.base.input_shape == (64,) and flat.identity["dataset"]["shape"] == "flat"
    config["base"]["edges"][0]["flatten"] = True
    image = StudySpec.from_config(config)
    assert image.base.input_shape == (8, 8) and image.identity["dataset"]["shape"] == "image"
    assert np.array_equal(image.data.flat().x_test, flat.data.x_test)


@pytest.mark.parametrize(
    ("part", "key", "values"),
    [
        ("vertices", "norm", [None, "rms", "layer", {"kind": "rms", "over": "all"}, {"kind": "rms", "eps": 1e-6}]),
        ("vertices", "pool", [None, "max", "avg", "global_avg", "token_avg", {"kind": "max", "size": 4}]),
        ("vertices", "bias", [True, False, "copy", "feature"]),
        ("vertices", "combine", ["sum", "product"]),
        ("edges", "kernel", [3, 5]),
        ("edges", "upsample", [1, 2]),
    ],
)
def test_whatever_changes_the_numbers_changes_the_identity(part, key, values):
    seen = set()
    for value in values:
        base = {
            "vertices": {"x": {"kind": "input"}, "h": {"activation": "tanh"}, "y": {"kind": "output"}},
            "edges": [
                {"source": "x", "target": "h", "map": "conv", "slot": "a"},
                {"source": "x", "target": "h", "map": "conv", "slot": "b"},
                {"source": "h", "target": "y", "map": "linear", "flatten": True},
            ],
        }
        if value is not None:
            for one in [base["vertices"]["h"]] if part == "vertices" else base["edges"][:2]:
                one[key] = value
        config = problems.study(base=base, dataset=problems.group("dataset", "digits"))
        seen.add(StudySpec.from_config(config).run_keys()[0].run_id)
    assert len(seen) == len(values)
