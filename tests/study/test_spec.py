"""What a study makes of its configuration before anything trains."""

import numpy as np
import problems

from rsl_cli.study.spec import StudySpec


def test_images_are_flattened_for_a_base_graph_that_reads_vectors_and_keep_their_numbers():
    config = problems.study(dataset=problems.group("dataset", "digits"))
    flat = StudySpec.from_config(config)
    assert flat.base.input_shape == (64,) and flat.identity["dataset"]["shape"] == "flat"
    config["base"]["edges"][0]["flatten"] = True
    image = StudySpec.from_config(config)
    assert image.base.input_shape == (8, 8) and image.identity["dataset"]["shape"] == "image"
    assert np.array_equal(image.data.flat().x_test, flat.data.x_test)
