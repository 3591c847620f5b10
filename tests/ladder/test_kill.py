"""A run that is killed and started again ends with the weights of one that was not.

`benchmarks/kill_resume.py` does this at 25 instants of a longer ladder.
"""

import hashlib
import random
import signal
import time

import pytest

from processes import Program, stepwell

STAGES = 28  # finished ones of the ladder below, without its proof


def start(recipe, out):
    settings = {"STEPWELL_CACHE": str(out.with_suffix(".cache")), "STEPWELL_CHECKPOINT_SECONDS": "0"}
    return Program(stepwell, "-q", "run", str(recipe), "--out", str(out), **settings)


def finish(process):
    done = process.wait()
    assert done.returncode == 0, done.stderr


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


def kill_after(process, out, finished, wait):
    """Send SIGKILL when so many stages are finished and a moment has passed; return the status."""
    while stages(out)[0] < finished:
        assert process.poll() is None, process.wait().stderr
        time.sleep(0.002)
    time.sleep(wait)
    return process.kill().returncode


@pytest.mark.slow
def test_three_kills_in_one_run_change_no_weight(tmp_path, variant):
    recipe = variant(("proof: quick", "proof: none"), ("epochs: 1", "epochs: 2"))
    calm, troubled = tmp_path / "calm", tmp_path / "troubled"
    finish(start(recipe, calm))
    chance = random.Random(5)
    for third in range(3):
        process = start(recipe, troubled)
        finished = chance.randrange(third * STAGES // 3, (third + 1) * STAGES // 3)
        assert kill_after(process, troubled, finished, chance.uniform(0.0, 0.3)) == -signal.SIGKILL
        assert finished <= stages(troubled)[0] < stages(calm)[0]  # it was at work
        assert not (troubled / "results.json").exists()
    finish(start(recipe, troubled))
    assert weights(troubled) == weights(calm)
    assert len(weights(calm)) == 11  # de, ce (body, head, and both after the imitation), four students, base, final
    assert stages(troubled) == stages(calm)
