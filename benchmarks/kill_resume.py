"""Kill a run at random instants and go on: `python benchmarks/kill_resume.py [--kills 25] [--behind 5] [--seed 0]`.

A tiny ladder with every kind of stage is run once to its end. Then, again and again in a folder and a cache of
its own, it is started, stopped by SIGKILL at a random instant of its work, and started again to its end. The
sha256 of all weights of all stages, and of the final student, must be those of the run that nobody killed.
Checkpoints are written after every step, so that a kill in a training leaves one to go on from. So many of the kills
as ``--behind`` says come between the end of a training and the rename of its folder: its log must then be that of the
killed run, to the second, or it was trained again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from conftest import TINY_RECIPE, write_model, write_recipe, write_tiny

RECIPE = TINY_RECIPE.replace("epochs: 1", "epochs: 6")  # most of the time goes into trainings, as in a real ladder


def start(recipe, out):
    """Start a run that has a cache of its own, so that no score is found that another run has left."""
    settings = {"STEPWELL_CACHE": str(out.with_suffix(".cache")), "STEPWELL_CHECKPOINT_SECONDS": "0"}
    command = [sys.executable, "-m", "stepwell", "-q", "run", str(recipe), "--out", str(out)]
    return subprocess.Popen(
        command,
        env={**os.environ, **settings, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    _, said = process.communicate()
    if process.returncode:
        sys.exit(f"a run ended with status {process.returncode}:\n{said}")


def at_work(process, out):
    """Wait until the first stage has begun; return the time."""
    while not any((out / "stages").glob("*")):
        if process.poll() is not None:
            finish(process)
        time.sleep(0.005)
    return time.perf_counter()


def weights(out):
    """Return the sha256 of every weights file of a finished run, by its place."""
    files = sorted(out.rglob("*.safetensors"))
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def hit(out, titles):
    """Say which stage a kill found at work, and how far its training had come."""
    partial = next((path for path in (out / "stages").glob("*.partial")), None)
    if partial is None:
        return "between two stages"
    checkpoint = next(iter(partial.rglob("checkpoint.safetensors")), None)
    return titles.get(partial.stem, partial.stem) + (" (from a checkpoint)" if checkpoint else "")


def kill_behind(process, out, number):
    """Kill when the training of a number has left its log; return its folder and log, None when it was too late."""
    seen = set()
    while process.poll() is None:
        new = set((out / "stages").glob("*.partial/training.json")) - seen
        seen |= new
        if new and len(seen) > number:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            left = next(iter(new))
            return (left.parent.stem, left.read_bytes()) if left.exists() else None
        time.sleep(0.0005)
    finish(process)
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--behind", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="stepwell-kill-") as folder:
        root = Path(folder)
        write_tiny(root / "collection")
        model = write_model("bert", root / "model")
        recipe = write_recipe(root / "recipe.yaml", root / "collection", model, RECIPE)
        reference = root / "reference"
        process = start(recipe, reference)
        began = at_work(process, reference)
        while not (reference / "results.json").exists() and process.poll() is None:
            time.sleep(0.005)
        took = time.perf_counter() - began
        finish(process)
        expected = weights(reference)
        manifests = [json.loads(path.read_text()) for path in reference.glob("stages/*/manifest.json")]
        titles = {f"{m['kind']}-{m['key'][:16]}": m["title"] for m in manifests}
        print(
            f"uninterrupted: {len(titles)} stages, {len(expected)} files of weights, {took:.1f} s of work", flush=True
        )
        equal = number = 0
        trainings = len(list(reference.glob("stages/*/training.json")))
        while number < options.behind:
            out = root / f"behind-{number}"
            process = start(recipe, out)
            at_work(process, out)
            found = kill_behind(process, out, chance.randrange(trainings))
            if found is not None:
                number += 1
                finish(start(recipe, out))
                kept = (out / "stages" / found[0] / "training.json").read_bytes() == found[1]
                same = weights(out) == expected and kept
                equal += same
                print(f"{number:>3}  behind  {'equal' if same else 'DIFFERENT':<9}  {titles[found[0]]}", flush=True)
            shutil.rmtree(out)
            shutil.rmtree(out.with_suffix(".cache"))
        while number < options.kills:
            out, instant = root / f"killed-{number}", chance.uniform(0.0, took)
            process = start(recipe, out)
            at_work(process, out)
            time.sleep(instant)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            if process.returncode != -signal.SIGKILL:
                took = min(took, instant)  # the machine is faster now: another instant
            else:
                number += 1
                where = hit(out, titles)
                finish(start(recipe, out))
                same = weights(out) == expected
                equal += same
                print(f"{number:>3}  {instant:6.2f} s  {'equal' if same else 'DIFFERENT':<9}  {where}", flush=True)
            shutil.rmtree(out)
            shutil.rmtree(out.with_suffix(".cache"))
    print(f"{equal} of {options.kills} killed and resumed runs have the weights of the uninterrupted one")
    sys.exit(equal != options.kills)


if __name__ == "__main__":
    main()
