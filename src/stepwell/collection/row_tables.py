"""Parquet tables that speak in row numbers: they carry their collection's fingerprint, and another's are refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stepwell.collection.collection import Collection
from stepwell.errors import CollectionError


def write_rows(path: Path, columns: Mapping[str, Any], collection: Collection, **facts: int) -> None:
    """Write columns of one length, and facts about them such as how wide the lists were that they are cut out of."""
    metadata = {"stepwell.collection": collection.fingerprint}
    metadata |= {f"stepwell.{name}": str(value) for name, value in facts.items()}
    pq.write_table(pa.table(dict(columns)).replace_schema_metadata(metadata), path, compression="zstd")


def read_rows(path: Path, collection: Collection | None, what: str) -> pa.Table:
    """Read a table of :func:`write_rows`, ``what`` it holds in words; one of another collection is refused."""
    table = pq.read_table(path)
    own = (table.schema.metadata or {}).get(b"stepwell.collection", b"").decode()
    if collection is not None and own != collection.fingerprint:
        raise CollectionError(
            f"{path} holds {what} over another collection than {collection.name}: its row numbers would name other "
            "texts. Make it again from this collection."
        )
    return table


def read_lists(table: pa.Table, width: str) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Return the queries (Q,) of a table with one row a place in a query's list, and which places (Q, width) it fills.

    ``width`` is the fact that holds it; the rows of a query stand together.
    """
    query = table["query"].to_numpy().astype(np.int32)
    starts = np.flatnonzero(np.r_[True, query[1:] != query[:-1]]) if len(query) else np.zeros(0, np.int64)
    lengths = np.diff(np.r_[starts, len(query)])
    return query[starts], np.arange(int(table.schema.metadata[f"stepwell.{width}".encode()])) < lengths[:, None]
