"""Mining: from a run to candidates, and an account of what was dropped and why.

A query's candidates are some of its positives and, beside them, passages that a retriever ranks high and that
do not answer the query. The last is the hard part: labels are incomplete, so "negatives" of a high rank are
often positives that nobody has labelled (about 70 % of the top ones that RocketQA looked at on MS MARCO; Qu
et al. 2021). Passages that are nearly a positive's text, or that the retriever or a teacher scores like a
positive, can be dropped.
"""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepwell.collection import Collection, Qrels
from stepwell.collection.qrels import pair_keys
from stepwell.display import Table
from stepwell.distil.candidates import Candidates
from stepwell.distil.overlap import near_duplicates
from stepwell.distributed import in_shares
from stepwell.recipe import Mining
from stepwell.retrieval.run import Run

DenoiseScores = Callable[[NDArray[np.int32], NDArray[np.int32]], NDArray[np.float32]]
Flags = NDArray[np.uint8]

OPEN, OUTSIDE, POSITIVE, NEAR_DUPLICATE, MARGIN, DENOISED = range(6)  # what became of a ranked passage
REASONS = {
    POSITIVE: "a positive of the query",
    NEAR_DUPLICATE: "near-duplicate of a positive",
    MARGIN: "scored like a positive by the miner",
    DENOISED: "scored like a positive by the teacher",
}
EXAMPLES = 2  # of each reason, in the report
SHOWN = 160  # characters of a text in an example
SIMANS_A, SIMANS_B = 1.0, 0.0


@dataclass(frozen=True)
class Example:
    """A passage that was dropped, beside the positive that it was taken for."""

    reason: str
    query: str
    positive: str
    dropped: str


@dataclass(frozen=True)
class MiningReport:
    """Counts and examples of one mining."""

    queries: int  # that got candidates
    without_positives: int  # queries of the run that were left out: no passage is labelled as relevant to them
    positives: int  # among the candidates, of all queries
    ranked: int  # passages in the windows of all queries
    dropped: dict[str, int]  # how many of them can't be a negative, for each reason
    negatives: dict[str, int]  # how many came from where, and how many places are empty
    examples: tuple[Example, ...] = ()  # a few dropped passages for each reason that is a judgement
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain dicts, lists, strings and numbers."""
        return asdict(self)

    def table(self) -> Table:
        """Return the counts as a table, with the examples below it."""
        rows: list[list[str | int | None]] = [
            ["queries", self.queries, None],
            ["positives", self.positives, f"{self.positives / max(self.queries, 1):.2f} a query"],
            ["passages in the windows", self.ranked, None],
        ]
        rows += [[f"- {reason}", n, _share(n, self.ranked)] for reason, n in self.dropped.items()]
        total = sum(self.negatives.values())
        rows += [[source, n, _share(n, total)] for source, n in self.negatives.items()]
        notes = list(self.notes)
        if self.without_positives:
            notes.append(f"{self.without_positives:,} queries without a positive were left out.")
        for example in self.examples:
            query, positive, dropped = (
                textwrap.shorten(text, SHOWN, placeholder=" ...")
                for text in (example.query, example.positive, example.dropped)
            )
            notes.append(f"{example.reason}: query: {query} | positive: {positive} | dropped: {dropped}")
        return Table(title="Mining", columns=["", "count", "share"], rows=rows, notes=notes)


def _share(n: int, total: int) -> str:
    return f"{n / total:.1%}" if total else ""


@dataclass(frozen=True)
class _Lists:
    """What is known of Q queries with positives."""

    queries: NDArray[np.int32]  # (Q,)
    ranked: NDArray[np.int32]  # passages (Q, depth)
    scores: NDArray[np.float32]  # (Q, depth)
    known: list[NDArray[np.int32]]  # all positives of each query
    chance: list[np.random.Generator]  # one for each query
    kept: NDArray[np.int64]  # positives (Q,)
    wanted: NDArray[np.int64]  # negatives (Q,)


def mine(
    run: Run,
    qrels: Qrels,
    collection: Collection,
    settings: Mining,
    k: int,
    seed: int,
    denoise_scores: DenoiseScores | None = None,
) -> tuple[Candidates, MiningReport]:
    """Choose K candidates, or ``settings.pool`` where that is more, of every query of a run that has a positive.

    Negatives come from ranks ``settings.first`` to ``settings.last`` of the run, in the order they were drawn (by rank
    when sampling is `hardest`). A list that is too short is filled from the ranks below, in order, and then by chance
    from the collection; never with a positive, nor with anything that was dropped. What a query gets depends on the
    seed, its id and its own list, and not on the other queries. Of several processes all have to call this: they share
    the comparison of texts.

    ``denoise_scores`` gives a teacher's logits of pairs (B,), (B,) -> (B,), NaN where there is none. It is called only
    for the positives and for negatives that would be chosen. Without it, ``settings.denoise`` does nothing.
    """
    labelled = np.isin(run.queries, qrels.queries[qrels.grades > 0])
    queries = run.queries[labelled]
    known = [qrels.positives(int(query)) for query in queries]
    kept = np.minimum([len(positives) for positives in known], settings.positives).astype(np.int64)
    lists = _Lists(
        queries=queries,
        ranked=run.passages[labelled],
        scores=run.scores[labelled],
        known=known,
        chance=[_generator(seed, collection.query_ids[int(query)]) for query in queries],
        kept=kept,
        # An epoch takes half of K positives at the most. Those kept beyond, so that epochs can take others, cost no
        # negative its place.
        wanted=max(settings.pool or k, k) - np.minimum(kept, max(k // 2, 1)),
    )
    chosen = _choose_positives(lists, qrels, k)
    flags, best = _filter(lists, qrels, collection, settings)
    order = _order(lists, best, settings)
    if settings.denoise is not None and denoise_scores is not None:
        _denoise(lists, flags, order, chosen, settings.denoise, denoise_scores)
    negatives = _fill(lists, flags, order, chosen, len(collection.passage_ids), settings.last)

    window = flags[:, settings.first - 1 : settings.last]
    report = MiningReport(
        queries=len(queries),
        without_positives=int((~labelled).sum()),
        positives=int(chosen.positives.sum()),
        ranked=int((window != OUTSIDE).sum()),
        dropped={reason: int((window == flag).sum()) for flag, reason in REASONS.items()},
        negatives=negatives,
        examples=_examples(lists, flags, collection),
        notes=_notes(settings, denoise_scores),
    )
    return chosen, report


def _generator(seed: int, query_id: str) -> np.random.Generator:
    digest = hashlib.blake2b(f"{seed}\0{query_id}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def _choose_positives(lists: _Lists, qrels: Qrels, k: int) -> Candidates:
    """Return candidates (Q, M): positives by grade, chance among equals, and -1 behind."""
    width = int((lists.kept + lists.wanted).max(initial=k))
    passages = np.full((len(lists.queries), width), -1, dtype=np.int32)
    grades = np.zeros(passages.shape, dtype=np.int32)
    pairs = pair_keys(qrels.queries, qrels.passages)
    each = zip(lists.queries, lists.known, lists.chance, lists.kept, strict=True)
    for row, (query, positives, chance, most) in enumerate(each):
        grade = qrels.grades[np.searchsorted(pairs, pair_keys(query, positives))]
        best = np.lexsort((chance.random(len(positives)), -grade))[:most]
        passages[row, : len(best)] = positives[best]
        grades[row, : len(best)] = grade[best]
    return Candidates(lists.queries, passages, grades)


def _filter(lists: _Lists, qrels: Qrels, collection: Collection, settings: Mining) -> tuple[Flags, NDArray[np.float64]]:
    """Return a flag for each ranked passage (Q, depth), and the best positive's score (Q,) or -inf."""
    ranked, scores = lists.ranked, lists.scores
    flags = np.full(ranked.shape, OPEN, dtype=np.uint8)
    flags[ranked < 0] = OUTSIDE
    flags[(flags == OPEN) & qrels.is_positive(lists.queries[:, None], ranked)] = POSITIVE
    best = np.where(flags == POSITIVE, scores, -np.inf).max(axis=1, initial=-np.inf).astype(np.float64)
    flags[:, : settings.first - 1] = OUTSIDE
    if settings.near_duplicate is not None:
        row, column = np.nonzero(flags == OPEN)
        least = settings.near_duplicate

        def compare(items: NDArray[np.int64]) -> tuple[NDArray[np.bool_]]:
            at = row[items], column[items]
            return (near_duplicates(ranked[at], at[0], lists.known, collection, least),)

        (alike,) = in_shares(len(row), compare)
        flags[row[alike], column[alike]] = NEAR_DUPLICATE
    if settings.margin is not None:
        limit = np.where(np.isfinite(best), best - settings.margin, np.inf)
        flags[(flags == OPEN) & (scores > limit[:, None])] = MARGIN
    return flags, best


def _order(lists: _Lists, best: NDArray[np.float64], settings: Mining) -> NDArray[np.intp]:
    """Return the columns (Q, depth) in the order of drawing: those of the window, then the ranks below."""
    order = np.tile(np.arange(lists.ranked.shape[1]), (len(lists.ranked), 1))
    window = slice(settings.first - 1, settings.last)
    width = order[:, window].shape[1]
    if settings.sampling == "hardest" or not order.size:
        return order
    key = np.array([chance.random(width) for chance in lists.chance])  # (Q, W)
    if settings.sampling == "simans":  # the first of -log p - Gumbel noise: a sample without replacement
        key = np.log(-np.log(np.maximum(key, 1e-300))) - _simans(lists.scores, best, window)
    order[:, window] = settings.first - 1 + np.argsort(key, axis=1, kind="stable")
    return order


def _simans(scores: NDArray[np.float32], best: NDArray[np.float64], window: slice) -> NDArray[np.float64]:
    """Return log p of the window's passages (Q, W), up to a constant of the query.

    SimANS (Zhou et al. 2022) draws with p ~ exp(-a (s - s_positive - b)^2). Here scores are first divided by their
    standard deviation over the window, so that a = 1, b = 0 suits the scales of BM25 and cosine alike. A query whose
    positives are not in its list takes its best score for s_positive.
    """
    there = np.isfinite(scores)[:, window]
    finite = np.where(np.isfinite(scores), scores, 0.0).astype(np.float64)
    aim = np.where(np.isfinite(best), best, finite[:, 0])[:, None]
    finite = finite[:, window]
    count = np.maximum(there.sum(axis=1, keepdims=True), 1)
    mean = finite.sum(axis=1, keepdims=True, where=there) / count
    std = np.sqrt(((finite - mean) ** 2).sum(axis=1, keepdims=True, where=there) / count)
    away = (finite - aim) / np.maximum(std, 1e-9)
    return np.where(there, -SIMANS_A * (away - SIMANS_B) ** 2, -1e300)


def _draw(flags: Flags, order: NDArray[np.intp], wanted: NDArray[np.int64]) -> tuple[NDArray[np.intp], ...]:
    """Return row, column in the run, and number in the row's draws, of the passages that fill the lists."""
    is_open = np.take_along_axis(flags == OPEN, order, axis=1)
    number = is_open.cumsum(axis=1)
    row, place = np.nonzero(is_open & (number <= wanted[:, None]))
    return row, order[row, place], number[row, place] - 1


def _denoise(
    lists: _Lists, flags: Flags, order: NDArray[np.intp], chosen: Candidates, limit: float, score: DenoiseScores
) -> None:
    """Drop what the teacher scores above the positive minus ``limit``; only what would be drawn is scored."""
    row, column = np.nonzero(chosen.positives)
    bar = np.full(len(lists.queries), -np.inf)
    np.fmax.at(bar, row, score(lists.queries[row], chosen.passages[row, column]))
    bar = np.where(np.isfinite(bar), bar - limit, np.inf)  # (Q,)
    scored = np.zeros(flags.shape, dtype=np.bool_)
    while True:  # what is drawn in the place of a dropped passage is scored in the next turn
        row, column, _ = _draw(flags, order, lists.wanted)
        fresh = ~scored[row, column]
        row, column = row[fresh], column[fresh]
        if not len(row):
            return
        scored[row, column] = True
        dropped = score(lists.queries[row], lists.ranked[row, column]) > bar[row]
        flags[row[dropped], column[dropped]] = DENOISED


def _fill(
    lists: _Lists, flags: Flags, order: NDArray[np.intp], chosen: Candidates, n_passages: int, last: int
) -> dict[str, int]:
    """Put the wanted negatives behind the positives, in place, and return where they came from."""
    row, column, number = _draw(flags, order, lists.wanted)
    behind = chosen.positives.sum(axis=1)
    chosen.passages[row, behind[row] + number] = lists.ranked[row, column]
    from_below = int((column >= last).sum())
    by_chance = empty = 0
    ends = behind + lists.wanted
    filled = behind + np.bincount(row, minlength=len(behind))
    for short in np.flatnonzero(filled < ends).tolist():
        gaps = np.arange(filled[short], ends[short])
        barred = np.union1d(lists.ranked[short], lists.known[short])
        # So many different passages that, whatever is barred among them, enough are left if there are enough.
        drawn = lists.chance[short].choice(n_passages, min(n_passages, len(gaps) + len(barred)), replace=False)
        drawn = drawn[~np.isin(drawn, barred)][: len(gaps)]
        chosen.passages[short, gaps[: len(drawn)]] = drawn
        by_chance += len(drawn)
        empty += len(gaps) - len(drawn)
    return {
        "from the window": len(row) - from_below,
        "from the ranks below": from_below,
        "by chance": by_chance,
        "places left empty": empty,
    }


def _examples(lists: _Lists, flags: Flags, collection: Collection) -> tuple[Example, ...]:
    """Return the best-ranked dropped passage of a few queries, for each reason that is a judgement, in turn."""
    found = list[tuple[int, Example]]()
    for flag, reason in REASONS.items():
        if flag == POSITIVE:
            continue
        hit = flags == flag
        for turn, row in enumerate(np.flatnonzero(hit.any(axis=1))[:EXAMPLES].tolist()):
            passage = int(lists.ranked[row, hit[row].argmax()])
            positive, dropped = collection.passage_texts([int(lists.known[row][0]), passage])
            query = collection.query_texts([int(lists.queries[row])])[0]
            found.append((turn, Example(reason, query, positive, dropped)))
    return tuple(example for _, example in sorted(found, key=lambda pair: pair[0]))


def _notes(settings: Mining, denoise_scores: DenoiseScores | None) -> tuple[str, ...]:
    if settings.denoise is None:
        return ()
    if denoise_scores is None:
        return ("mining.denoise was not applied: no teacher is there to score yet.",)
    return ("The teacher was asked only about passages that were about to be chosen.",)
