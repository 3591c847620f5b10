"""How an index is made and searched."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self, get_args
from urllib.parse import urlsplit

from stepwell.errors import StepwellError

Kind = Literal["exact", "usearch", "faiss", "milvus", "milvus-hnsw"]
Precision = Literal["fp32", "fp16", "int8", "binary"]

PRECISIONS: dict[Kind, tuple[Precision, ...]] = {
    "exact": ("fp32", "fp16", "int8", "binary"),
    "usearch": ("fp32", "fp16", "int8", "binary"),
    "milvus": ("fp32", "fp16"),
    "milvus-hnsw": ("fp32", "fp16"),
}
"""Number types that the vectors of each kind can be kept in; a string of FAISS says its own."""
RESCORE_BINARY, RESCORE_PQ = 4, 10


@dataclass(frozen=True)
class IndexSettings:
    """How an index is made and searched.

    Parameters
    ----------
    kind
        ``exact``: every passage is looked at. ``usearch``, ``milvus-hnsw``: a graph (HNSW, Malkov and Yashunin 2016).
        ``milvus``: exact search by Milvus. ``faiss``: what the string ``faiss`` says.
    precision
        Number type of the vectors that are searched; fp32 when None.
    dimension
        Leading numbers of a vector that are kept (Matryoshka, arXiv 2205.13147); all when None. Vectors of a cosine
        model are normalised again.
    rescore
        So many times the passages asked for are looked up, scored with the query in fp32 against the vectors of
        ``rescore_with``, and the best of them kept. 0: the first scores count. None: 4 for binary, 10 for a string
        with product quantisation (PQ), 0 else.
    rescore_with
        Number type of those vectors; they stay on disk, and only what is scored is read. int8 when None.
    effort
        Candidates that a graph looks at in a search (efSearch), and inverted lists that FAISS reads (nprobe).
    uri
        Address of a Milvus cluster; None: Milvus Lite, in the index's own folder.
    faiss
        FAISS's factory string, as ``HNSW16,SQfp16`` or ``IVF1024,PQ48``; the kind is ``faiss`` then.
    """

    kind: Kind = "exact"
    precision: Precision | None = None
    dimension: int | None = None
    rescore: int | None = None
    rescore_with: Precision | None = None
    effort: int = 64
    uri: str | None = None
    faiss: str | None = None

    def __post_init__(self) -> None:
        _one_of("kind", self.kind, get_args(Kind))
        if self.rescore_with is not None:
            _one_of("precision to score again with", self.rescore_with, get_args(Precision))
        if min(self.rescore or 0, self.effort - 1) < 0 or (self.dimension is not None and self.dimension < 1):
            raise StepwellError(
                f"an index of {self.dimension} dimensions, effort {self.effort} and rescore {self.rescore} can't be: "
                "dimensions and effort start at 1, and rescore at 0 (none)."
            )
        if self.faiss is not None or self.kind == "faiss":
            self._check_faiss()
        elif self.precision is not None:
            _one_of(f"precision with the kind {self.kind}", self.precision, PRECISIONS[self.kind])
        if self.uri is not None:
            self._check_uri(self.uri)

    def _check_faiss(self) -> None:
        if self.faiss is None:
            raise StepwellError("an index of FAISS needs its factory string: --faiss HNSW16,SQfp16, for example.")
        if self.kind not in ("exact", "faiss"):
            raise StepwellError(f"the string {self.faiss!r} is for FAISS, not for the kind {self.kind}: leave one out.")
        if self.precision is not None:
            raise StepwellError(
                f"FAISS keeps codes of its own, as its string {self.faiss!r} says, not {self.precision}: leave the "
                "precision out, and give the one to score again with (--rescore-with)."
            )
        object.__setattr__(self, "kind", "faiss")

    def _check_uri(self, uri: str) -> None:
        if not self.kind.startswith("milvus"):
            raise StepwellError(f"an address is for the kinds milvus and milvus-hnsw, not for {self.kind}.")
        parts = urlsplit(uri)
        if parts.scheme not in ("http", "https", "tcp") or not parts.hostname or parts.username or parts.password:
            raise StepwellError(
                "the address of a Milvus cluster is http://HOST:PORT or https://HOST:PORT, without a name or password "
                "in it, as it is kept in the index: a token belongs into the environment variable "
                "STEPWELL_MILVUS_TOKEN."
            )

    def resolve(self, width: int) -> Self:
        """Return the settings for vectors of ``width`` numbers, with nothing left open."""
        dimension = width if self.dimension is None else self.dimension
        if dimension > width:
            raise StepwellError(f"the model's vectors have {width} dimensions, so none can be cut to {dimension}.")
        precision = None if self.kind == "faiss" else self.precision or "fp32"
        rescore = self.rescore
        if rescore is None:
            rescore = RESCORE_BINARY if precision == "binary" or self.rescore_with else 0
            rescore = RESCORE_PQ if "PQ" in (self.faiss or "") else rescore
        again = (self.rescore_with or "int8") if rescore else None
        if again == precision and self.kind == "exact" and precision != "binary":
            rescore, again = 0, None  # these are their own scores already
        return replace(self, precision=precision, dimension=dimension, rescore=rescore, rescore_with=again)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values, without a string of FAISS where there is none: older indexes have no such key."""
        return {name: value for name, value in asdict(self).items() if name != "faiss" or value is not None}


def quantised(passages: int, width: int) -> str:
    """Return FAISS's string for the fewest bytes that still find most: inverted lists, a byte for 8 numbers (IVF-PQ).

    >>> quantised(15_782, 384)
    'IVF404,PQ48x8np'
    """
    lists = max(1, min(round(4 * passages**0.5), passages // 39))
    code = next(size for size in range(max(1, width // 8), 0, -1) if width % size == 0)
    return f"IVF{lists},PQ{code}x8np"  # np: no polysemous training, which is slow and of no use here


def of_manifest(settings: dict[str, Any], passages: int) -> IndexSettings:
    """Return the settings that an index's manifest holds; older ones named two kinds of FAISS instead of its string."""
    kind = settings.get("kind")
    if kind not in ("faiss-hnsw", "faiss-ivfpq"):
        return IndexSettings(**settings)
    string = quantised(passages, int(settings["dimension"]))
    if kind == "faiss-hnsw":
        string = "HNSW16," + {"fp32": "Flat", "fp16": "SQfp16", "int8": "SQ8"}[settings["precision"]]
    return IndexSettings(**settings | {"kind": "faiss", "precision": None, "faiss": string})


def _one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise StepwellError(f"there is no {what} {value!r}: it is one of {', '.join(known)}.")
