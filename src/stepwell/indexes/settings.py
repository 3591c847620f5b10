"""How an index is made and searched."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args
from urllib.parse import urlsplit

from stepwell.errors import StepwellError
from stepwell.indexes import packages

Kind = Literal["exact", "usearch", "faiss-hnsw", "faiss-ivfpq", "milvus", "milvus-hnsw"]
Precision = Literal["fp32", "fp16", "int8", "binary"]
Stored = Literal["fp32", "fp16", "int8", "binary", "pq"]

PRECISIONS: dict[Kind, tuple[Precision, ...]] = {
    "exact": ("fp32", "fp16", "int8", "binary"),
    "usearch": ("fp32", "fp16", "int8", "binary"),
    "faiss-hnsw": ("fp32", "fp16", "int8"),
    "faiss-ivfpq": (),
    "milvus": ("fp32", "fp16"),
    "milvus-hnsw": ("fp32", "fp16"),
}
"""Number types that the vectors of each kind can be kept in."""
STORAGE: dict[Stored, packages.Storage] = {
    "fp32": "f32",
    "fp16": "f16",
    "int8": "i8",
    "binary": "b1",
    "pq": "f32",
}
RESCORE_BINARY, RESCORE_PQ = 4, 10


@dataclass(frozen=True)
class IndexSettings:
    """How an index is made and searched.

    Parameters
    ----------
    kind
        ``exact``: every passage is looked at. ``usearch``, ``faiss-hnsw``, ``milvus-hnsw``: a graph (HNSW).
        ``faiss-ivfpq``: inverted lists of product-quantised vectors. ``milvus``: exact search by Milvus.
    precision
        Number type of the vectors that are searched; fp32 when None. ``faiss-ivfpq`` has codes of its own (``pq``).
    dimension
        Leading numbers of a vector that are kept (Matryoshka, arXiv 2205.13147); all when None. Vectors of a cosine
        model are normalised again.
    rescore
        So many times the passages asked for are looked up, scored with the query in fp32 against the vectors of
        ``rescore_with``, and the best of them kept. 0: the first scores count. None: 4 for binary, 10 for
        ``faiss-ivfpq``, 0 else.
    rescore_with
        Number type of those vectors; they stay on disk, and only what is scored is read. int8 when None.
    effort
        Candidates that a graph looks at in a search; of ``faiss-ivfpq``: lists read.
    uri
        Address of a Milvus cluster; None: Milvus Lite, in the index's own folder.
    """

    kind: Kind = "exact"
    precision: Stored | None = None
    dimension: int | None = None
    rescore: int | None = None
    rescore_with: Precision | None = None
    effort: int = 64
    uri: str | None = None

    def __post_init__(self) -> None:
        _one_of("kind", self.kind, get_args(Kind))
        if self.rescore_with is not None:
            _one_of("precision to score again with", self.rescore_with, get_args(Precision))
        if min(self.rescore or 0, self.effort - 1) < 0 or (self.dimension is not None and self.dimension < 1):
            raise StepwellError(
                f"an index of {self.dimension} dimensions, effort {self.effort} and rescore {self.rescore} can't be: "
                "dimensions and effort start at 1, and rescore at 0 (none)."
            )
        self._check_precision()
        self._check_uri()

    def _check_precision(self) -> None:
        if self.kind == "faiss-ivfpq":
            if self.precision not in (None, "pq"):
                raise StepwellError(
                    f"faiss-ivfpq keeps codes of its own, not {self.precision}: leave the precision out, and give the "
                    "one to score again with (--rescore-with)."
                )
        elif self.precision is not None:
            _one_of(f"precision with the kind {self.kind}", self.precision, PRECISIONS[self.kind])

    def _check_uri(self) -> None:
        if self.uri is None:
            return
        if not self.kind.startswith("milvus"):
            raise StepwellError(f"an address is for the kinds milvus and milvus-hnsw, not for {self.kind}.")
        parts = urlsplit(self.uri)
        if parts.scheme not in ("http", "https", "tcp") or not parts.hostname or parts.username or parts.password:
            raise StepwellError(
                "the address of a Milvus cluster is http://HOST:PORT or https://HOST:PORT, without a name or password "
                "in it, as it is kept in the index: a token belongs into the environment variable "
                "STEPWELL_MILVUS_TOKEN."
            )

    def resolve(self, width: int) -> IndexSettings:
        """Return the settings for vectors of ``width`` numbers, with nothing left open.

        Raises
        ------
        StepwellError
            When more dimensions are asked for than there are, or two vectors a passage where one would do.
        """
        dimension = width if self.dimension is None else self.dimension
        if dimension > width:
            raise StepwellError(f"the model's vectors have {width} dimensions, so none can be cut to {dimension}.")
        precision: Stored = "pq" if self.kind == "faiss-ivfpq" else self.precision or "fp32"
        rescore = self.rescore
        if rescore is None:
            wanted = {"binary": RESCORE_BINARY, "pq": RESCORE_PQ}.get(precision, 0)
            rescore = wanted or (RESCORE_BINARY if self.rescore_with else 0)
        again = (self.rescore_with or "int8") if rescore else None
        if again == precision and self.kind == "exact" and precision != "binary":
            rescore, again = 0, None  # these are their own scores already
        return replace(self, precision=precision, dimension=dimension, rescore=rescore, rescore_with=again)

    def graph(self) -> packages.Settings:
        """Return the settings of the packages' indexes; of a resolved one."""
        assert self.precision is not None and self.dimension is not None
        kinds: dict[str, packages.Kind] = {k: k for k in get_args(packages.Kind)}
        code = next(d for d in range(max(1, self.dimension // 8), 0, -1) if self.dimension % d == 0)
        return packages.Settings(kinds[self.kind], STORAGE[self.precision], effort=self.effort, code=code)


def _one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise StepwellError(f"there is no {what} {value!r}: it is one of {', '.join(known)}.")
