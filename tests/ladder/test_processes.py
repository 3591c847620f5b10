"""A ladder that two processes climb, as `accelerate launch ... -m stepwell run` starts them."""

import numpy as np
import pytest

from processes import finish, stepwell, together
from stepwell.evaluation import Evaluation
from stepwell.files import read_json
from stepwell.ladder.workspace import damage
from stepwell.retrieval.vectors import Vectors


@pytest.mark.slow
def test_two_processes_climb_the_ladder_of_one(tiny_run, tiny_recipe, tiny_collection, tmp_path):
    out = tmp_path / "run"
    finish(together(2, stepwell, "-q", "run", tiny_recipe, "--out", out, STEPWELL_CACHE=str(tmp_path / "cache")))
    one, two = (read_json(folder / "results.json") for folder in (tiny_run, out))
    assert two["stages"] == one["stages"]  # the same keys: what one process left another number of them goes on with
    assert two["comparison"]["trained"] == one["comparison"]["trained"]  # updates and texts of all processes
    assert all(damage(out / place) is None for place in two["stages"].values())
    assert not list((out / "stages").glob("*.partial"))
    for name in ("start", "teacher.de", "rung-1"):
        ours, theirs = (Vectors.open(root / one["stages"][f"{name}.vectors"]) for root in (out, tiny_run))
        assert np.allclose(ours.passages, theirs.passages, atol=1e-3)
    ours, theirs = (
        Evaluation.load(root / one["stages"]["bm25.test"] / "evaluation.parquet", tiny_collection)
        for root in (out, tiny_run)
    )
    assert all(np.array_equal(ours.of(measure), theirs.of(measure)) for measure in theirs.values)
