"""A run that is killed and started again ends with the weights of one that was not.

`benchmarks/kill_resume.py` does this at 25 instants of a longer ladder.
"""

import hashlib
import os
import signal

import pytest

from processes import Program, finish, stepwell
from stepwell import api
from stepwell.distil import training
from stepwell.ladder.workspace import Workspace


def climb(*arguments):
    """Run the command line without the report at the end, which takes seconds."""
    api._report_at_the_end = lambda folder: None
    stepwell(*arguments)


def stop_at(instant, number, *arguments):
    """Run the command line and send SIGKILL to oneself at the instant's occurrence of that number."""
    owner, name = {"checkpoint": (training.Checkpoint, "save"), "stage": (Workspace, "_finish")}[instant]
    original, count = getattr(owner, name), 0

    def counted(*given):
        nonlocal count
        count += 1
        if instant == "stage" and count == number:  # all of it is done, and nothing is sealed
            os.kill(os.getpid(), signal.SIGKILL)
        original(*given)
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, counted)
    climb(*arguments)


def start(recipe, out, *stop):
    settings = {"STEPWELL_CACHE": str(out.with_suffix(".cache")), "STEPWELL_CHECKPOINT_SECONDS": "0"}
    given = "-q", "run", str(recipe), "--out", str(out)
    return Program(stop_at, *stop, *given, **settings) if stop else Program(climb, *given, **settings)


def stages(out):
    """Return how many stages are finished, and the one that is half done."""
    places = list((out / "stages").glob("*"))
    half = [path.name for path in places if path.suffix == ".partial"]
    return len(places) - len(half), half


def weights(out):
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*.safetensors"))
    }


@pytest.mark.slow
def test_kills_in_trainings_and_between_stages_change_no_weight(tmp_path, variant):
    recipe = variant(("proof: quick", "proof: none"), ("epochs: 1", "epochs: 2"))
    calm, troubled = tmp_path / "calm", tmp_path / "troubled"
    finish([start(recipe, calm)])
    finished = 0
    # In the first training, before the seal of a stage, in an imitation, in the ladder, shortly before the end.
    for stop in (("checkpoint", 3), ("stage", 5), ("checkpoint", 9), ("checkpoint", 30), ("stage", 4)):
        assert start(recipe, troubled, *stop).wait().returncode == -signal.SIGKILL
        before, finished = finished, stages(troubled)[0]
        assert before <= finished < stages(calm)[0] and len(stages(troubled)[1]) == 1
        assert not (troubled / "results.json").exists()
    finish([start(recipe, troubled)])
    assert weights(troubled) == weights(calm)
    assert len(weights(calm)) == 11  # de, ce (body, head, and both after the imitation), four students, base, final
    assert stages(troubled) == stages(calm)
