"""Exact search by inner product, in blocks: memory stays bounded whatever the corpus.

Selecting costs little beside multiplying: the maxima of chunks of scores are compared with the k-th best score so far,
and only chunks that reach it are looked into. On a CPU that multiplies bf16 faster, bf16 scores find more passages than
were asked for and fp32 scores decide among them; a bound on the rounding proves that nothing better was left out.
"""

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from stepwell import distributed
from stepwell.display import SILENT, Progress
from stepwell.errors import RunError
from stepwell.models.engines import machine as engine
from stepwell.retrieval.run import Floats, Found, Run
from stepwell.retrieval.vectors import Vectors

QUERY_BLOCK, PASSAGE_BLOCK = 1_024, 65_536
HALF_BLOCK = 16_384  # passages that are turned into bf16 at a time: few enough for a CPU's cache
SCORES = 1 << 20  # scores of a block on a CPU: few enough for its cache; a GPU gets 64 times as many
CHUNK = 64  # columns that are looked into together
PAIRS = 4_096  # pairs that are scored again at a time
HALF_FROM = 192  # queries from which on bf16 pays: for fewer, turning the passages takes longer than fp32 products
FEW = 32  # queries up to which the passages stand on the left of the product
SAMPLE = 4_096  # passages whose mean stands for that of all
HALF = 2.0**-8  # largest relative error of a number rounded to bf16 (8 significant bits)


def top_k(queries: Floats, passages: NDArray[Any], k: int, progress: Progress = SILENT) -> Found:
    """Return the ``k`` passages with the largest inner product of each query (Q, D), best first; equal ones by row.

    Passages (N, D) may be memory-mapped; also fp16 or int8, which are multiplied in fp32. All N where there are fewer.

    >>> rows, scores = top_k(np.float32([[1, 2]]), np.float32([[0, 1], [3, 1], [1, 2], [5, 0]]), k=3)
    >>> rows.tolist(), scores.tolist()
    ([[1, 2, 3]], [[5.0, 5.0, 5.0]])
    """
    k = min(k, len(passages))
    device = distributed.state().device
    rows = np.empty((len(queries), k), dtype=np.int32)
    scores = np.empty((len(queries), k), dtype=np.float32)
    for start in range(0, len(queries), QUERY_BLOCK) if k else ():
        block = _tensor(queries[start : start + QUERY_BLOCK]).to(device)
        exact = device.type != "cpu" or len(block) < HALF_FROM or _margin(k) > min(PAIRS, len(passages) // 4)
        half = not exact and engine.precision() is torch.bfloat16
        found = _by_half(block, passages, k) if half else _scan(block, passages, k)[:2]
        rows[start : start + len(block)], scores[start : start + len(block)] = (part.cpu().numpy() for part in found)
        progress.advance(len(block))
    return rows, scores


def retrieve(vectors: Vectors, query_rows: NDArray[np.int32], depth: int, passages: Vectors | None = None) -> Run:
    """Retrieve ``depth`` passages for each of the queries; scores are similarities times the scale.

    Processes take a share of the queries each, and all get the whole run: it is that of one process but for the last
    digits of a score. With ``passages`` from another model (the embedding rung makes the spaces agree) this is the
    asymmetric retriever: queries by the student, passages by the teacher.
    """
    side = passages or vectors

    def search(share: NDArray[np.int64]) -> Found:
        rows = np.empty((len(share), min(depth, len(side.passages))), dtype=np.int32)
        scores = np.empty(rows.shape, dtype=np.float32)
        for start in range(0, len(share), QUERY_BLOCK):  # their vectors may be mapped from a file: not all at once
            block = slice(start, start + QUERY_BLOCK)
            queries = vectors.of_queries(query_rows[share[block]])
            rows[block], scores[block] = top_k(queries, side.passages, depth)
            engine.trim(engine.TRIM)
        return rows, scores

    rows, scores = distributed.in_shares(len(query_rows), search)
    return Run(query_rows.astype(np.int32), rows, scores * np.float32(vectors.scale))


def pair_scores(queries: Floats, passages: NDArray[Any], rows: NDArray[np.int32], bits: int | None = None) -> Floats:
    """Return the inner products of each query with its own passages, shape (Q, m) as ``rows``; -inf where a row is -1.

    Passages are packed bits where it is said how many (``bits``).

    >>> pair_scores(np.float32([[1, 2]]), np.float32([[0, 1], [3, 1]]), np.int32([[1, 0, -1]])).tolist()
    [[5.0, 2.0, -inf]]
    """
    scores = np.empty(rows.shape, dtype=np.float32)
    step = max(1, PAIRS // max(1, rows.shape[1]))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        own = passages[np.maximum(rows[part], 0)]  # (q, m, D)
        own = own if bits is None else np.unpackbits(own, axis=2, count=bits)
        np.einsum("qd,qmd->qm", queries[part], own, out=scores[part])
    scores[rows < 0] = -np.inf
    return scores


def _margin(k: int) -> int:
    """Return how many passages bf16 finds for fp32 to choose from."""
    return 2 * k + 32


@torch.inference_mode()
def _by_half(queries: Tensor, passages: NDArray[Any], k: int) -> tuple[Tensor, Tensor]:
    """Return what :func:`_scan` returns, by bf16: rows (q, k) and fp32 scores (q, k).

    Passages are taken less their mean: all scores of a query lose the same, so their order stays, and what is left is
    shorter, so it is rounded less (in many a space all texts lie close together). A query whose k-th score is not above
    all that bf16 may have left out is searched in fp32.
    """
    center = _tensor(passages[:SAMPLE]).mean(dim=0)  # (D,)
    rows, coarse, longest = _scan(queries, passages, _margin(k), center)
    rows = rows.sort(dim=1).values
    scores = torch.from_numpy(pair_scores(queries.numpy(), passages, rows.numpy()))
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    rows, scores = rows.gather(1, order)[:, :k], scores[:, :k]
    unsure = ~(scores[:, -1] > _reach(queries, center, coarse[:, -1], longest))
    if unsure.any():
        rows[unsure], scores[unsure], _ = _scan(queries[unsure], passages, k)
    return rows, scores


def _reach(queries: Tensor, center: Tensor, coarse: Tensor, longest: float) -> Tensor:
    """Return the most that passages can score in fp32 whose bf16 scores are at most ``coarse``, float64, shape (q,).

    With p a passage less ``center`` c, R the norm of the ``longest`` one, q', p' the vectors rounded to bf16 and
    u = :data:`HALF`: ``|q'p' - qp| <= |q' - q||p| + |q'||p' - p| <= (|q' - q| + u|q'|) R``. Summing D products in fp32
    is off by at most ``D 2^-24`` of the norms' product: once in the scan and once in the fp32 score; another two leave
    room for the fp32 rounding of p and R. Underflow takes no more than the smallest number for each product and value.
    Rounding the sum to bf16 hides at most ``|coarse| u / (1 - u)``. The passage's score is that of p, plus qc.
    """
    width, queries, coarse = len(center), queries.double(), coarse.double()
    rounded = queries.bfloat16().double()
    norm = rounded.norm(dim=1)  # (q,)
    error: Tensor = ((rounded - queries).norm(dim=1) + HALF * norm) * longest
    error += 4 * width * 2.0**-24 * norm * (longest + center.double().norm())
    error += torch.finfo(torch.float32).tiny * width * (1 + norm + longest)
    return queries @ center.double() + coarse + coarse.abs() * HALF / (1 - HALF) + error


@torch.inference_mode()
def _scan(
    queries: Tensor, passages: NDArray[Any], k: int, center: Tensor | None = None
) -> tuple[Tensor, Tensor, float]:
    """Return rows (q, k) and scores (q, k), best first.

    With ``center`` (D,), it is taken from the passages, scores are bf16 products, and the largest norm comes with them.
    """
    best = torch.full((len(queries), 0), -torch.inf, device=queries.device)  # in order of rows, -inf pads
    where = torch.full((len(queries), 0), -1, dtype=torch.int32, device=queries.device)
    floor = best.new_full((len(queries), 1), torch.finfo(torch.float32).min)  # only scores from here on count
    left, longest = queries if center is None else queries.bfloat16(), 0.0
    size = SCORES * (1 if queries.device.type == "cpu" else 64) // len(queries)
    size = max(size, 8 * k)  # large blocks for long lists, which are costly to keep
    size = max(CHUNK, min(size, PASSAGE_BLOCK if center is None else HALF_BLOCK) // CHUNK * CHUNK)
    for offset in range(0, len(passages), size):
        part = _tensor(passages[offset : offset + size]).to(queries.device)  # (n, D)
        if center is not None:
            part = part - center
            longest = max(longest, part.norm(dim=1).max().item())
        scores = _products(left, part.to(left.dtype))  # (q, n)
        values, rows = _largest(scores, k) if offset < k else _reaching(scores, floor)
        best, where = torch.cat([best, values], 1), torch.cat([where, torch.where(rows < 0, -1, rows + offset)], 1)
        if best.shape[1] >= (k if offset < k else 2 * k):
            best, where = _keep(best, where, k)
            floor = best.amin(1, keepdim=True).nextafter(floor.new_tensor(torch.inf))  # an equal of a later row loses
    best, where = _keep(best, where, k)
    best, order = best.sort(dim=1, descending=True, stable=True)
    return where.gather(1, order), best, longest


def _products(queries: Tensor, passages: Tensor) -> Tensor:
    """Return all inner products (q, n) in fp32, in the order of multiplying that is fast for so many queries.

    On a CPU, for a few, passages times queries took half the time of queries times passages (at 15,000 and 100,000
    passages of 384). For one query numpy's BLAS is faster still; but its threads and torch's, which embed the query,
    hold each other up.
    """
    if queries.device.type == "cpu" and len(queries) <= FEW:
        return (passages @ queries.T).T.float().contiguous()
    return (queries @ passages.T).float()


def _tensor(vectors: NDArray[Any]) -> Tensor:
    """Return vectors in fp32, not copied where such are mapped from a file; nothing here writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.ascontiguousarray(vectors)).float()


def _largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the ``k`` largest scores (all equals of the last) and their columns, in order of columns; -inf, -1 pad."""
    if scores.shape[1] <= k:
        return _reaching(scores, scores.new_full((len(scores), 1), torch.finfo(torch.float32).min))
    values, columns = torch.topk(scores, k + 1, dim=1)
    _check(values)
    if not (values[:, k - 1] > values[:, k]).all():
        return _reaching(scores, values[:, k - 1 : k])
    columns, order = columns[:, :k].int().sort(dim=1)
    return values.gather(1, order), columns


def _reaching(scores: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores (q, m) that reach ``floor`` (q, 1) and their columns (q, m), in order; -inf and -1 pad."""
    if missing := -scores.shape[1] % CHUNK:
        scores = pad(scores, (0, missing), value=-torch.inf)
    chunks = scores.view(len(scores), -1, CHUNK)  # (q, c, CHUNK)
    tops = chunks.amax(2)  # (q, c)
    _check(tops)
    query, chunk = (tops >= floor).nonzero(as_tuple=True)
    inside = chunks[query, chunk]  # (h, CHUNK)
    at, column = (inside >= floor[query]).nonzero(as_tuple=True)
    values, query, column = inside[at, column], query[at], chunk[at] * CHUNK + column  # all (n,)
    counts = torch.bincount(query, minlength=len(scores))  # (q,)
    place = torch.arange(len(query), device=query.device) - (counts.cumsum(0) - counts)[query]
    width = int(counts.max())
    best = scores.new_full((len(scores), width), -torch.inf)
    where = torch.full_like(best, -1, dtype=torch.int32)
    best[query, place], where[query, place] = values, column.int()
    return best, where


def _check(largest: Tensor) -> None:
    if largest.isnan().any():
        raise RunError(
            "some vectors hold values that are no numbers, so nothing can be ranked by them: the model that made them "
            "is broken, or ran in a number type with too small a range. Encode again, with STEPWELL_PRECISION=fp32."
        )


def _keep(best: Tensor, where: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the ``k`` largest of each query and their rows, both (q, k), in the order they had; equals: the first."""
    if best.shape[1] <= k:
        return best, where
    last = torch.topk(best, k, dim=1, sorted=False).values.amin(1, keepdim=True)  # (q, 1)
    above, equal = best > last, best == last
    kept = above | (equal & (equal.cumsum(1) <= k - above.sum(1, keepdim=True)))
    return best[kept].view(-1, k), where[kept].view(-1, k)
