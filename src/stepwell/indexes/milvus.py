"""Milvus behind the same protocol: Lite in a folder of the index, or a cluster at an address.

Milvus keeps the vectors, under the passages' rows as primary keys; ids and texts stay in the index's folder.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepwell.display import SILENT, Progress
from stepwell.errors import RunError, StepwellError
from stepwell.indexes.packages import package
from stepwell.indexes.settings import IndexSettings
from stepwell.retrieval.run import Floats, Found

FILE, EXTRA = "milvus.db", "milvus"
TOKEN = "STEPWELL_MILVUS_TOKEN"
BATCH_BYTES, BATCH_ROWS = 16 << 20, 4_096  # vectors that go into one request; Milvus takes 64 MB
QUERIES = 256  # of a request
GRAPH = {"M": 16, "efConstruction": 128}


class MilvusIndex:
    """The vectors of one index in Milvus: a collection of its own, in a cluster or in Milvus Lite's files."""

    def __init__(self, settings: IndexSettings, folder: Path, name: str) -> None:
        self.settings, self.name = settings, name
        self._file = None if settings.uri else folder / FILE
        self._place = settings.uri or str(self._file)
        pymilvus = package("pymilvus", EXTRA)
        if self._file is not None:
            package("milvus_lite", EXTRA)
        for logged in ("pymilvus", "milvus_lite"):
            logging.getLogger(logged).setLevel(logging.CRITICAL)  # it logs each refusal with its traceback
        try:
            self._client = pymilvus.MilvusClient(self._place, token=os.environ.get(TOKEN, "") if settings.uri else "")
        except pymilvus.exceptions.MilvusException as error:
            what = "Only one process can have these files open; or they are damaged: then build the index again."
            if settings.uri:
                what = f"Is it up, and does {TOKEN} hold its token?"
            raise StepwellError(f"can't open Milvus at {self._place}: {_short(error)}. {what}") from error

    def load(self, blocks: Iterator[Floats], count: int, progress: Progress = SILENT) -> None:
        """Load the passages, ``count`` in all, in order of rows; what is there already stays.

        Milvus itself is asked what it has, batch by batch, and a batch that is not whole is written again under the
        same keys: so a load that was interrupted leaves neither holes nor doubles.
        """
        with self._refusals():
            known = self._client.has_collection(self.name)
            if not known:
                self._create()
            self._client.load_collection(self.name)
            start = 0
            for block in blocks:
                size = max(1, min(BATCH_ROWS, BATCH_BYTES // (4 * block.shape[1])))
                for part in (block[at : at + size] for at in range(0, len(block), size)):
                    stop = start + len(part)
                    if not known or self._count(start, stop) != len(part):
                        rows = [{"row": start + i, "vector": vector} for i, vector in enumerate(self._form(part))]
                        self._client.upsert(self.name, rows)
                    start = stop
                    progress.advance(len(part))
            self._client.flush(self.name)
        self.check(count)

    def check(self, count: int) -> None:
        """Raise StepwellError when Milvus has not exactly the rows from 0 to ``count``."""
        with self._refusals():
            found = -1
            if self._client.has_collection(self.name):
                self._client.load_collection(self.name)
                found = self._count(0, count) if self._count(0, None) == count else self._count(0, None)
        if found != count:
            has = f"holds {found:,} vectors" if found >= 0 else "is not there"
            raise RunError(
                f"the Milvus collection {self.name} at {self._place} {has}, where the index has {count:,} passages: it "
                "was deleted, changed by something else, or not filled. Build the index again, into a new folder."
            )

    def search(self, queries: Floats, k: int) -> Found:
        """Return the ``k`` best passages of queries (Q, D), best first: rows and scores (Q, k); -1 and -inf pad."""
        rows = np.full((len(queries), k), -1, dtype=np.int32)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        effort = {"ef": max(self.settings.effort, k)} if self.settings.kind == "milvus-hnsw" else {}
        how = {"metric_type": "IP", "params": effort}
        with self._refusals():
            for start in range(0, len(queries), QUERIES):
                part = list(self._form(queries[start : start + QUERIES]))
                found = self._client.search(self.name, part, limit=k, search_params=how, output_fields=["row"])
                for at, hits in enumerate(found, start=start):
                    rows[at, : len(hits)] = [hit["row"] for hit in hits]
                    scores[at, : len(hits)] = [hit["distance"] for hit in hits]
        order = np.lexsort((rows, -scores), axis=1)
        return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)

    def close(self) -> None:
        """Let go of the connection, and of the files of Milvus Lite."""
        self._client.close()
        if self._file is not None:
            package("milvus_lite.server_manager", EXTRA).server_manager_instance.release_server(str(self._file))

    def _create(self) -> None:
        types = package("pymilvus", EXTRA).DataType
        half = self.settings.precision == "fp16"
        if half and self._file is not None:
            raise StepwellError("Milvus Lite keeps vectors in fp32 alone: take that, or a cluster with --uri.")
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("row", types.INT64, is_primary=True)
        number = types.FLOAT16_VECTOR if half else types.FLOAT_VECTOR
        schema.add_field("vector", number, dim=self.settings.dimension)
        index = self._client.prepare_index_params()
        kind, params = ("HNSW", GRAPH) if self.settings.kind == "milvus-hnsw" else ("FLAT", {})
        index.add_index("vector", index_type=kind, metric_type="IP", params=params)
        self._client.create_collection(self.name, schema=schema, index_params=index, consistency_level="Strong")

    def _form(self, vectors: Floats) -> NDArray[Any]:
        return vectors.astype(np.float16) if self.settings.precision == "fp16" else vectors

    def _count(self, start: int, stop: int | None) -> int:
        where = f"row >= {start}" + ("" if stop is None else f" and row < {stop}")
        return int(self._client.query(self.name, filter=where, output_fields=["count(*)"])[0]["count(*)"])

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        """Turn what Milvus raises into a StepwellError."""
        try:
            yield
        except package("pymilvus", EXTRA).exceptions.MilvusException as error:
            raise StepwellError(
                f"Milvus at {self._place} refused (collection {self.name}): {_short(error)}. What it has been given "
                "stays there; mend that and run the same command again: it goes on."
            ) from error


def _short(error: Exception) -> str:
    return " ".join(str(getattr(error, "message", error)).split())[:300].rstrip(".")
