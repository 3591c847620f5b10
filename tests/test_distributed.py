"""Two processes compute what one computes with the same global batch."""

from __future__ import annotations

import atexit
import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from processes import together
from stepwell import distributed

SCRIPT = Path(__file__).with_name("train_in_processes.py")


@pytest.fixture(scope="module")
def one_and_two(tiny_model, tiny_path, tmp_path_factory):
    """Return what one process and two processes found."""
    folder = tmp_path_factory.mktemp("distributed")
    places = str(tiny_model), str(tiny_path), str(folder / "cache")
    for name in ("one", "two"):
        (folder / name).mkdir()
    one = runpy.run_path(str(SCRIPT))["work"](*places, folder / "one")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",  # the launcher that starts several processes, on GPUs or not
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", port]
    done = subprocess.run(
        [*launch, str(SCRIPT), *places, str(folder / "two")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "STEPWELL_PRECISION": "fp32"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return one, json.loads((folder / "two" / "found.json").read_text())


def test_there_are_two_processes_and_rows_come_in_their_order(one_and_two):
    one, two = one_and_two
    assert (one["processes"], one["gathered"]) == (1, [[0.0]])
    assert (two["processes"], two["gathered"]) == (2, [[0.0], [1.0]])


def test_what_is_done_in_shares_comes_back_whole_and_in_order(one_and_two):
    for found in one_and_two:
        assert found["shares"] == [[0, 10, 20, 30, 40], [[0], [0.25], [0.5], [0.75], [1]]]
        assert (found["few"], found["none"]) == ([7], [])


@pytest.mark.parametrize("what", ["bm25", "mined", "searched"])
def test_what_is_found_in_shares_is_what_one_process_finds(one_and_two, what):
    one, two = one_and_two
    assert two[what] == json.loads(json.dumps(one[what]))


def test_the_scores_of_a_shared_search_are_those_of_one_process(one_and_two):
    one, two = one_and_two
    assert two["similarities"] == pytest.approx(one["similarities"], rel=1e-5)


def test_the_shared_mining_had_something_to_drop(one_and_two):
    assert one_and_two[1]["mined"][1]["dropped"]["near-duplicate of a positive"] > 1


@pytest.mark.parametrize("what", ["rung", "rung parts", "embedding", "reranker"])
def test_every_step_has_the_loss_of_one_process(one_and_two, what):
    one, two = one_and_two
    assert len(one[what]) >= 4
    assert two[what] == pytest.approx(one[what], abs=1e-4)


def test_the_student_and_the_projection_end_as_with_one_process(one_and_two):
    one, two = one_and_two
    assert two["weights"] == pytest.approx(one["weights"], rel=1e-3)
    assert two["projection"] == pytest.approx(one["projection"], abs=1e-4)


def test_a_parameter_without_a_gradient_decays_in_no_number_of_processes(one_and_two):
    for found in one_and_two:
        assert found["halves"]["nowhere"] == [[1, 1], [1, 1]]
    one, two = one_and_two
    for name in ("everywhere", "on the last process"):
        assert np.allclose(one["halves"][name], two["halves"][name])
        assert np.max(one["halves"][name]) < 0.8


def test_vectors_written_in_turn_are_those_of_one_process(one_and_two):
    one, two = one_and_two
    assert len(one["vectors"]) == 100
    assert two["vectors"] == pytest.approx(one["vectors"], abs=1e-5)


def wait_for_each_other(late, seconds, fate):
    """Meet, and meet again when process ``late`` has worked alone, or is dead; more than torch waits for."""
    distributed.PATIENCE, distributed.BEAT, distributed.SILENCE = timedelta(seconds=2), 0.2, 3.0
    distributed.barrier()
    if distributed.rank() == late:
        time.sleep(seconds)
        if fate == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fate == "ended":
            atexit._run_exitfuncs()  # as a program's end does, and that of a process of these tests does not
            sys.exit(3)
    distributed.barrier()
    assert distributed.any_says(distributed.rank() == 1)
    sys.stdout.write("met\n")


@pytest.mark.parametrize("late", [0, 1])
def test_who_works_alone_for_longer_than_torch_waits_is_waited_for(late):
    for program in together(2, wait_for_each_other, late, 5, "works"):
        done = program.wait(60)
        assert (done.returncode, done.stdout) == (0, "met\n"), done.stderr


@pytest.mark.parametrize(
    ("late", "fate", "said"),
    [
        (0, "killed", "the first process has ended"),
        (0, "ended", "process has ended|process 0 of 2 has ended"),
        (1, "killed", "process 1 of 2 has given no sign of life for 3 seconds"),
        (1, "ended", "process 1 of 2 has ended"),
    ],
)
def test_who_is_dead_is_not_waited_for(late, fate, said):
    ended = [program.wait(60) for program in together(2, wait_for_each_other, late, 0.5, fate)]
    assert ended[late].returncode == {"killed": -signal.SIGKILL, "ended": 3}[fate]
    other = ended[1 - late]
    assert other.returncode == 1 and re.search(f"RunError: .*({said}).* goes on from what is finished", other.stderr)


def test_one_process_does_nothing_special():
    rows = torch.ones(2, 3, requires_grad=True)
    assert distributed.gather_rows(rows) is rows
    parameter = torch.nn.Parameter(torch.ones(2))
    distributed.sum_gradients([parameter])
    assert parameter.grad is None
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    distributed.barrier()
