"""Encoding and scoring on a Ray cluster: workers come and go, and the outcome is that of one process.

The work is cut into the same blocks as in one process. Ray Data hands them to workers, each of which opens
collection and model once, and streams the results back to the process that was started, which alone writes. A worker
that is lost is replaced and its blocks are done again.
"""

import contextlib
import importlib
import logging
import os
import socket
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from stepwell import distributed
from stepwell.collection import Collection, open_collection
from stepwell.display import SILENT, Progress
from stepwell.errors import MissingPackage, StepwellError
from stepwell.models.encoder import Encoder
from stepwell.models.reranker import Reranker
from stepwell.models.tokens import Side
from stepwell.retrieval.vectors import Block, Draft, encode_block
from stepwell.teachers.scoring import Named, block_scorer, blocks
from stepwell.teachers.store import ScoreStore

PATIENCE = 6 * 3600
"""Seconds without any result after which a job is given up: a cluster without room, a block that kills its workers."""


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster, and what a worker takes of it.

    The address is ``auto`` (the cluster that this machine belongs to), ``local`` (one of this machine alone, for the
    time of the job), or ``HOST:PORT``.
    """

    address: str = "auto"
    workers: int | None = None  # at a time, at most; as many as there is room for when None
    cpus: float = 1.0
    gpus: float | None = None  # when None, one where the cluster has any, and then no CPU


class Worker:
    """Opens collection and model once, where it runs, and then does one block after the other.

    A mistake of the user goes back as a result: as an exception Ray would retry it, and tell it in its own way.
    """

    def __init__(
        self,
        place: str,
        model: str,
        wanted: tuple[str, str],  # the fingerprints of collection and model
        tokens: int,  # of a pair, for a cross-encoder
        query_rows: NDArray[np.int32] | None = None,  # that an encoder's blocks are of; None for a cross-encoder
    ) -> None:
        self.mistake = ""
        try:
            collection = open_collection(place)
            opened = Reranker.open(model, tokens) if query_rows is None else Encoder.open(model)
            _check("collection", place, collection.fingerprint, wanted[0])
            _check("model", model, opened.fingerprint, wanted[1])
        except StepwellError as error:
            self.mistake = f"on the worker {socket.gethostname()}: {error}"
            return
        if isinstance(opened, Encoder) and query_rows is not None:
            self.encode = partial(encode_block, opened, collection, query_rows)
        else:
            self.score = block_scorer(opened, collection)

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return an item, of a batch of one, with what was made of it."""
        item: dict[str, Any] = {name: rows[0] for name, rows in batch.items()}
        if self.mistake:
            item = {"mistake": self.mistake}
        elif "side" in item:
            item["vectors"] = self.encode(_block(item))
        else:
            item["scores"] = self.score(item["queries"], item["passages"], SILENT)
        return {name: np.asarray(value)[None] for name, value in item.items()}


def _block(item: Mapping[str, Any]) -> Block:
    return Block(cast(Side, str(item["side"])), int(item["start"]), int(item["stop"]))


def _check(what: str, place: str, found: str, wanted: str) -> None:
    if found != wanted:
        raise StepwellError(
            f"the {what} {place} is not the one that the job was started with (fingerprint {found[:16]}, not "
            f"{wanted[:16]}): results of the two would be mixed. Give every machine the same files and versions."
        )


def encode_on(
    cluster: Cluster, model: str, encoder: Encoder, collection: Collection, draft: Draft, progress: Progress
) -> None:
    """Encode on a cluster what is missing in ``draft``, as :func:`stepwell.retrieval.vectors.write_vectors` does.

    ``model`` is where workers open that of ``encoder``: a directory that they can read, or a hub name.
    """
    todo = []
    for block in draft.blocks():
        if draft.has(block):
            progress.advance(block.stop - block.start)
        else:
            todo.append(block._asdict())
    source = (*_source(collection, model, encoder), 0, draft.query_rows)
    with contextlib.closing(_stream(cluster, source, todo)) as stream:
        for found in stream:
            block = _block(found)
            draft.keep(block, found["vectors"])
            progress.advance(block.stop - block.start)
    draft.finish()


def score_on(
    cluster: Cluster,
    teacher: str,
    reranker: Reranker,
    collection: Collection,
    store: ScoreStore,
    queries: NDArray[np.int32],
    passages: NDArray[np.int32],
    progress: Progress,
) -> None:
    """Score pairs (B,) on a cluster and add them to the store, as :func:`stepwell.teachers.scoring.score_into` does."""
    source = (*_source(collection, teacher, reranker), reranker.limit)
    items = [{"queries": q, "passages": p} for q, p in blocks(queries, passages)]
    with contextlib.closing(_stream(cluster, source, items)) as stream:
        for found in stream:
            Named(teacher, collection).refuse(found["queries"], found["passages"], found["scores"])
            store.add(found["queries"], found["passages"], found["scores"])
            progress.advance(len(found["scores"]))


def _source(collection: Collection, model: str, opened: Encoder | Reranker) -> tuple[str, str, tuple[str, str]]:
    """Return what a worker opens, and what it must be; ``demo`` and hub names mean the same everywhere."""
    place = Path(model).expanduser()
    there = str(place.resolve()) if model != "demo" and place.is_dir() else model
    return collection.place, there, (collection.fingerprint, opened.fingerprint)


def _stream(
    cluster: Cluster, source: tuple[Any, ...], items: Sequence[Mapping[str, Any]]
) -> Generator[dict[str, Any], None, None]:
    """Yield what workers make of the items, as it comes; ``source`` is what each of them opens."""
    if not items:
        return
    with _connected(cluster) as (ray, data):
        there = ray.cluster_resources()
        gpus = cluster.gpus if cluster.gpus is not None else float(there.get("GPU", 0) >= 1)
        room = there.get("GPU", 0) / gpus if gpus else there.get("CPU", 0) / cluster.cpus
        most = cluster.workers or len(items)
        # A worker that dies is started again, and its items are done again, as often as it takes: Ray Data's default.
        dataset = data.from_items(list(items), override_num_blocks=len(items)).map_batches(
            Worker,
            fn_constructor_args=source,
            batch_size=1,
            batch_format="numpy",
            compute=data.ActorPoolStrategy(min_size=1, max_size=most, initial_size=max(1, min(int(room), most))),
            **({"num_gpus": gpus} if gpus else {"num_cpus": cluster.cpus}),
        )
        batches = iter(dataset.iter_batches(batch_size=None, batch_format="numpy"))
        try:
            for batch in batches:
                if "mistake" in batch:
                    raise StepwellError(str(batch["mistake"][0]))
                yield {name: rows[0] for name, rows in batch.items()}
        except StepwellError:
            raise
        except Exception as error:  # whatever Ray makes of it
            reason = " ".join(str(error).split())[-600:]
            raise StepwellError(
                f"the work on the Ray cluster {cluster.address} failed: {reason} What came back before is kept, and "
                "the same command goes on from there; Ray's own logs tell more."
            ) from error
        finally:  # ends Ray Data's threads: one that asks for something after the connection is gone ends the process
            batches.close()


@contextlib.contextmanager
def _connected(cluster: Cluster) -> Iterator[tuple[Any, Any]]:
    """Give ``ray`` and ``ray.data``, connected to the cluster; a connection that was there stays."""
    try:
        ray, data = importlib.import_module("ray"), importlib.import_module("ray.data")
    except ImportError as error:
        raise MissingPackage(
            f"the engine `ray` needs Ray Data, which can't be imported ({error}): pip install 'stepwell[ray]'.",
            "ray",
            "ray",
        ) from error
    if distributed.world_size() > 1:
        raise StepwellError("the engine `ray` starts its workers itself: run it without `accelerate launch`.")
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns that its bars are off
    settings = data.DataContext.get_current()
    settings.enable_progress_bars = settings.print_on_execution_start = False
    settings.execution_no_progress_timeout_s = PATIENCE
    begun = not ray.is_initialized()
    if begun:
        variables = {name: value for name, value in os.environ.items() if name.startswith("STEPWELL_")}
        quiet = {"log_to_driver": False, "logging_level": logging.WARNING}
        host, _, port = cluster.address.removeprefix("ray://").rpartition(":")
        try:
            if host:  # Ray itself would knock for minutes
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(address=cluster.address, runtime_env={"env_vars": variables}, **quiet)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise StepwellError(
                f"there is no Ray cluster at {cluster.address} ({reason}). Start one with `ray "
                "start --head`, name its address, or say `local` to use this machine alone."
            ) from error
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Ray tells of lost workers on standard output
            yield ray, data
    finally:
        if begun:
            ray.shutdown()
