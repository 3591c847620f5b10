"""Processes of their own that need no import: a server imports what they share once, and forks each of them."""

from __future__ import annotations

import gc
import os
import resource
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver, get_context
from pathlib import Path
from typing import NamedTuple

import pytest

SHARED = (
    "torch",
    "sentence_transformers",
    "transformers.models.bert.modeling_bert",
    "stepwell.cli",
    "stepwell.api",
    "stepwell.ladder.run",
    "stepwell.reports.page",
    "matplotlib.figure",
)
APART = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}  # both are read when something is imported


class Done(NamedTuple):
    """A process that has ended; the status of a killed one is minus the signal."""

    returncode: int
    stdout: str
    stderr: str


class Program:
    """A function at work in a process of its own, with this one's environment and working directory.

    ``limit``: no file may grow beyond so many bytes, as on a full disk. The other keywords are variables of its
    environment. It is not measured by coverage.
    """

    def __init__(self, work: Callable[..., object], *arguments: object, limit: int | None = None, **environment: str):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in APART.items():
                patch.setenv(name, value)
            context = get_context("forkserver")
            context.set_forkserver_preload(list(SHARED))
            forkserver.ensure_running()
            given = {**os.environ, **environment}
        self._folder = tempfile.TemporaryDirectory()
        self._files = [Path(self._folder.name) / name for name in ("stdout", "stderr")]
        files = [str(file) for file in self._files]
        self._process = context.Process(target=_begin, args=(work, arguments, given, limit, files))
        self._process.start()

    def poll(self) -> int | None:
        """Return its status, or None while it runs."""
        return self._process.exitcode

    def said(self) -> list[str]:
        """Return what it has written on standard output and on standard error."""
        return [file.read_text(encoding="utf-8", errors="replace") if file.exists() else "" for file in self._files]

    def terminate(self, timeout: float = 30) -> Done:
        """Send SIGTERM."""
        self._process.terminate()
        return self.wait(timeout)

    def kill(self) -> Done:
        """Send SIGKILL."""
        self._process.kill()
        return self.wait()

    def wait(self, timeout: float = 600) -> Done:
        """Wait for its end."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        return Done(int(self._process.exitcode or 0), *self.said())


def together(count: int, work: Callable[..., object], *arguments: object, **environment: str) -> list[Program]:
    """Start what ``torchrun`` and ``accelerate launch`` start: processes that know their number and where to meet."""
    if count == 1:
        return [Program(work, *arguments, **environment)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    size = str(count)
    shared = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    own = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    return [Program(work, *arguments, **environment, **shared, **rank) for rank in own]


def finish(programs: Sequence[Program]) -> None:
    """Wait for the end of all; each has to be well."""
    for program in programs:
        done = program.wait(timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]


def stepwell(*arguments: object) -> None:
    """Do what the command line does."""
    from stepwell import cli

    sys.argv = ["stepwell", *map(str, arguments)]
    cli.main()


def _begin(
    work: Callable[..., object],
    arguments: tuple[object, ...],
    environment: Mapping[str, str],
    limit: int | None,
    files: list[str],
) -> None:
    import torch

    from stepwell.ladder import plan

    gc.freeze()  # a search for garbage goes through its own alone
    plan.PROBE_SECONDS = 0.0
    for path, descriptor in zip(files, (1, 2), strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    torch.set_num_threads(1)
    work(*arguments)
