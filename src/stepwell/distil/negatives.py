"""Mining: from a run to candidates, and an account of what was dropped and why.

A query's candidates are some of its positives and, beside them, passages that a retriever ranks high and that
do not answer the query. The last is the hard part: labels are incomplete, so "negatives" of a high rank are
often positives that nobody has labelled (about 70 % of the top ones that RocketQA looked at on MS MARCO; Qu
et al. 2021). Passages that hold an answer to the query, where answers are known, are dropped; those that are nearly a
positive's text, or that the retriever or a teacher scores like a positive, can be.
"""

import hashlib
import re
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stepwell.collection import Collection, Qrels
from stepwell.collection.qrels import pair_keys
from stepwell.display import SILENT, Progress, Table
from stepwell.distil.candidates import Candidates
from stepwell.distributed import in_shares
from stepwell.evaluation.answers import holding
from stepwell.recipe import Mining
from stepwell.retrieval.run import Run

DenoiseScores = Callable[[NDArray[np.int32], NDArray[np.int32]], NDArray[np.float32]]
Flags = NDArray[np.uint8]

OPEN, OUTSIDE, POSITIVE, ANSWER, NEAR_DUPLICATE, MARGIN, DENOISED = range(7)  # what became of a ranked passage
REASONS = {
    POSITIVE: "a positive of the query",
    ANSWER: "holds an answer",
    NEAR_DUPLICATE: "near-duplicate of a positive",
    MARGIN: "scored like a positive by the miner",
    DENOISED: "scored like a positive by the teacher",
}
EXAMPLES = 2  # of each reason, in the report
SHOWN = 160  # characters of a text in an example
SIMANS_A, SIMANS_B = 1.0, 0.0
TURNS = 10  # draws by chance, each of twice as many, where what was drawn holds an answer
AT_ONCE = 1 << 19  # passages compared at once: bounds the texts in memory
WORD = re.compile(r"\w+")


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
            short = {name: textwrap.shorten(text, SHOWN, placeholder=" ...") for name, text in asdict(example).items()}
            notes.append("{reason}: query: {query} | positive: {positive} | dropped: {dropped}".format(**short))
        return Table(title="Mining", columns=["", "count", "share"], rows=rows, notes=notes)


def _share(n: int, total: int) -> str:
    return f"{n / total:.1%}" if total else ""


def mine(
    run: Run,
    qrels: Qrels,
    collection: Collection,
    settings: Mining,
    k: int,
    seed: int,
    denoise_scores: DenoiseScores | None = None,
    progress: Progress = SILENT,
) -> tuple[Candidates, MiningReport]:
    """Choose K candidates, or ``settings.pool`` where that is more, of every query of a run that has a positive.

    Negatives come from ranks ``settings.first`` to ``settings.last`` of the run, in the order they were drawn (by rank
    when sampling is `hardest`). A list that is too short is filled from the ranks below, in order, and then by chance
    from the collection; never with a positive, nor with anything that was dropped, nor with a passage that holds an
    answer, where the queries have answers and ``settings.answers`` is not false. What a query gets depends on the
    seed, its id and its own list, and not on the other queries. Of several processes all have to call this: they share
    the comparison of texts. ``progress`` is that of looking for answers.

    ``denoise_scores`` gives a teacher's logits of pairs (B,), (B,) -> (B,), NaN where there is none. It is called only
    for the positives and for negatives that would be chosen. Without it, ``settings.denoise`` does nothing.
    """
    miner = _Miner(run, qrels, collection, settings, k, seed)
    miner.choose_positives(k)
    miner.drop_answers(progress)
    miner.drop_near_duplicates()
    miner.drop_by_margin()
    miner.put_in_order()
    notes: tuple[str, ...] = ()
    if settings.denoise is not None:
        notes = ("mining.denoise was not applied: no teacher is there to score yet.",)
        if denoise_scores is not None:
            miner.denoise(settings.denoise, denoise_scores)
            notes = ("The teacher was asked only about passages that were about to be chosen.",)
    negatives, window = miner.fill(), miner.flags[:, miner.window]
    report = MiningReport(
        queries=len(miner.queries),
        without_positives=len(run.queries) - len(miner.queries),
        positives=int(miner.chosen.positives.sum()),
        ranked=int((window != OUTSIDE).sum()),
        dropped={
            reason: int((window == flag).sum())
            for flag, reason in REASONS.items()
            if flag != ANSWER or miner.answers is not None
        },
        negatives=negatives,
        examples=miner.examples(),
        notes=notes,
    )
    return miner.chosen, report


class _Miner:
    """The ranked lists (Q, depth) of the queries with positives, and what became of each passage in them."""

    chosen: Candidates

    def __init__(self, run: Run, qrels: Qrels, collection: Collection, settings: Mining, k: int, seed: int) -> None:
        labelled = np.isin(run.queries, qrels.queries[qrels.grades > 0])
        self.queries, self.ranked, self.scores = run.queries[labelled], run.passages[labelled], run.scores[labelled]
        self.qrels, self.collection, self.settings = qrels, collection, settings
        self.answers = qrels.answers if settings.answers is not False and qrels.answered else None
        self.window = slice(settings.first - 1, settings.last)
        self.known = [qrels.positives(int(query)) for query in self.queries]
        self.chance = [_generator(seed, collection.query_ids[int(query)]) for query in self.queries]
        counts = [len(positives) for positives in self.known]
        self.kept = np.minimum(counts, settings.positives).astype(np.int64)  # positives (Q,)
        # An epoch takes half of K positives at the most. Those kept beyond, so that epochs can take others, cost no
        # negative its place.
        self.wanted = max(settings.pool or k, k) - np.minimum(self.kept, max(k // 2, 1))  # negatives (Q,)
        self.flags: Flags = np.full(self.ranked.shape, OPEN, dtype=np.uint8)
        self.flags[self.ranked < 0] = OUTSIDE
        right = qrels.is_positive(self.queries[:, None], self.ranked)
        self.flags[(self.flags == OPEN) & right] = POSITIVE
        found = np.where(self.flags == POSITIVE, self.scores, -np.inf)
        self.best = found.max(axis=1, initial=-np.inf).astype(np.float64)  # the best positive's score (Q,) or -inf
        self.flags[:, : settings.first - 1] = OUTSIDE
        self.order = np.tile(np.arange(self.ranked.shape[1]), (len(self.ranked), 1))  # columns, as they are drawn

    def choose_positives(self, k: int) -> None:
        """Begin the candidates (Q, M): positives by grade, chance among equals, and -1 behind."""
        width = int((self.kept + self.wanted).max(initial=k))
        passages = np.full((len(self.queries), width), -1, dtype=np.int32)
        grades = np.zeros(passages.shape, dtype=np.int32)
        pairs = pair_keys(self.qrels.queries, self.qrels.passages)
        each = zip(self.queries, self.known, self.chance, self.kept, strict=True)
        for row, (query, positives, chance, most) in enumerate(each):
            grade = self.qrels.grades[np.searchsorted(pairs, pair_keys(query, positives))]
            best = np.lexsort((chance.random(len(positives)), -grade))[:most]
            passages[row, : len(best)] = positives[best]
            grades[row, : len(best)] = grade[best]
        self.chosen = Candidates(self.queries, passages, grades)

    def drop_answers(self, progress: Progress) -> None:
        """Drop what holds an answer to the query."""
        if (answers := self.answers) is None:
            return
        row, column = np.nonzero(self.flags == OPEN)

        def look(items: NDArray[np.int64]) -> tuple[NDArray[np.bool_]]:
            at = row[items], column[items]
            return (holding(answers, self.queries[at[0]], self.ranked[at], progress),)

        (right,) = in_shares(len(row), look)
        self.flags[row[right], column[right]] = ANSWER

    def drop_near_duplicates(self) -> None:
        """Drop what is nearly the text of a positive."""
        least = self.settings.near_duplicate
        if least is None:
            return
        row, column = np.nonzero(self.flags == OPEN)

        def compare(items: NDArray[np.int64]) -> tuple[NDArray[np.bool_]]:
            at = row[items], column[items]
            return (near_duplicates(self.ranked[at], at[0], self.known, self.collection, least),)

        (alike,) = in_shares(len(row), compare)
        self.flags[row[alike], column[alike]] = NEAR_DUPLICATE

    def drop_by_margin(self) -> None:
        """Drop what the miner scores above the best positive minus the margin."""
        if self.settings.margin is not None:
            limit = np.where(np.isfinite(self.best), self.best - self.settings.margin, np.inf)
            self.flags[(self.flags == OPEN) & (self.scores > limit[:, None])] = MARGIN

    def put_in_order(self) -> None:
        """Set the order of drawing: the columns of the window, then the ranks below."""
        sampling, width = self.settings.sampling, self.order[:, self.window].shape[1]
        if sampling == "hardest" or not self.order.size:
            return
        key = np.array([chance.random(width) for chance in self.chance])  # (Q, W)
        if sampling == "simans":  # the first of -log p - Gumbel noise: a sample without replacement
            key = np.log(-np.log(np.maximum(key, 1e-300))) - self._simans()
        self.order[:, self.window] = self.settings.first - 1 + np.argsort(key, axis=1, kind="stable")

    def _simans(self) -> NDArray[np.float64]:
        """Return log p of the window's passages (Q, W), up to a constant of the query.

        SimANS (Zhou et al. 2022) draws with p ~ exp(-a (s - s_positive - b)^2). Here scores are first divided by
        their standard deviation over the window, so that a = 1, b = 0 suits the scales of BM25 and cosine alike. A
        query whose positives are not in its list takes its best score for s_positive.
        """
        there = np.isfinite(self.scores)[:, self.window]
        finite = np.where(np.isfinite(self.scores), self.scores, 0.0).astype(np.float64)
        aim = np.where(np.isfinite(self.best), self.best, finite[:, 0])[:, None]
        finite = finite[:, self.window]
        count = np.maximum(there.sum(axis=1, keepdims=True), 1)
        mean = finite.sum(axis=1, keepdims=True, where=there) / count
        std = np.sqrt(((finite - mean) ** 2).sum(axis=1, keepdims=True, where=there) / count)
        away = (finite - aim) / np.maximum(std, 1e-9)
        return np.where(there, -SIMANS_A * (away - SIMANS_B) ** 2, -1e300)

    def draw(self) -> tuple[NDArray[np.intp], ...]:
        """Return row, column in the run, and number in the row's draws, of the passages that fill the lists."""
        is_open = np.take_along_axis(self.flags == OPEN, self.order, axis=1)
        number = is_open.cumsum(axis=1)
        row, place = np.nonzero(is_open & (number <= self.wanted[:, None]))
        return row, self.order[row, place], number[row, place] - 1

    def denoise(self, limit: float, score: DenoiseScores) -> None:
        """Drop what the teacher scores above the positive minus ``limit``; only what would be drawn is scored."""
        row, column = np.nonzero(self.chosen.positives)
        bar = np.full(len(self.queries), -np.inf)
        np.fmax.at(bar, row, score(self.queries[row], self.chosen.passages[row, column]))
        bar = np.where(np.isfinite(bar), bar - limit, np.inf)  # (Q,)
        scored = np.zeros(self.flags.shape, dtype=np.bool_)
        while True:  # what is drawn in the place of a dropped passage is scored in the next turn
            row, column, _ = self.draw()
            fresh = ~scored[row, column]
            row, column = row[fresh], column[fresh]
            if not len(row):
                return
            scored[row, column] = True
            dropped = score(self.queries[row], self.ranked[row, column]) > bar[row]
            self.flags[row[dropped], column[dropped]] = DENOISED

    def fill(self) -> dict[str, int]:
        """Put the wanted negatives behind the positives, and return where they came from."""
        row, column, number = self.draw()
        behind = self.chosen.positives.sum(axis=1)
        self.chosen.passages[row, behind[row] + number] = self.ranked[row, column]
        from_below = int((column >= self.settings.last).sum())
        by_chance = empty = 0
        ends = behind + self.wanted
        filled = behind + np.bincount(row, minlength=len(behind))
        for short in np.flatnonzero(filled < ends).tolist():
            gaps = np.arange(filled[short], ends[short])
            drawn = self.by_chance(short, len(gaps))
            self.chosen.passages[short, gaps[: len(drawn)]] = drawn
            by_chance += len(drawn)
            empty += len(gaps) - len(drawn)
        return {
            "from the window": len(row) - from_below,
            "from the ranks below": from_below,
            "by chance": by_chance,
            "places left empty": empty,
        }

    def by_chance(self, row: int, wanted: int) -> NDArray[np.int32]:
        """Return so many passages from anywhere that may be negatives of a query, fewer where no more are found."""
        n_passages, barred = len(self.collection.passage_ids), np.union1d(self.ranked[row], self.known[row])
        found = np.zeros(0, np.int32)
        for turn in range(TURNS):  # one is enough where no answers are known
            short = wanted - len(found)
            most = short << turn
            # So many different passages that, whatever is barred among them, enough are left if there are enough.
            chosen = self.chance[row].choice(n_passages, min(n_passages, most + len(barred)), replace=False)
            drawn = chosen[~np.isin(chosen, barred)][:most].astype(np.int32)
            if self.answers is None:
                return drawn
            barred = np.union1d(barred, drawn)
            right = holding(self.answers, np.full(len(drawn), self.queries[row]), drawn)
            found = np.concatenate([found, drawn[~right][:short]])
            if len(found) == wanted or not len(drawn):
                break
        return found

    def examples(self) -> tuple[Example, ...]:
        """Return the best-ranked dropped passage of a few queries, for each reason that is a judgement, in turn."""
        found = list[tuple[int, Example]]()
        for flag, reason in REASONS.items():
            if flag == POSITIVE:
                continue
            hit = self.flags == flag
            for turn, row in enumerate(np.flatnonzero(hit.any(axis=1))[:EXAMPLES].tolist()):
                passage = int(self.ranked[row, hit[row].argmax()])
                positive, dropped = self.collection.passage_texts([int(self.known[row][0]), passage])
                query = self.collection.query_texts([int(self.queries[row])])[0]
                found.append((turn, Example(reason, query, positive, dropped)))
        return tuple(example for _, example in sorted(found, key=lambda pair: pair[0]))


def _generator(seed: int, query_id: str) -> np.random.Generator:
    digest = hashlib.blake2b(f"{seed}\0{query_id}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


# -- near-duplicate texts: how much two passages' sets of words overlap


def near_duplicates(
    passages: NDArray[np.int32],
    rows: NDArray[np.intp],
    positives: list[NDArray[np.int32]],
    collection: Collection,
    threshold: float,
) -> NDArray[np.bool_]:
    """Return which passages (B,) are nearly the text of a positive of their query.

    ``rows`` (B,), not falling, says to which entry of ``positives`` each belongs; ``threshold`` is the smallest share
    of common words among all words (Jaccard) of a near-duplicate.
    """
    counts = np.array([len(of_query) for of_query in positives], dtype=np.int64)
    found = np.zeros(len(passages), dtype=np.bool_)
    for begin in range(0, len(passages), AT_ONCE):
        row = rows[begin : begin + AT_ONCE]
        which = np.repeat(np.arange(len(row)), counts[row])  # (pairs,)
        left, right = passages[begin + which], np.concatenate([positives[at] for at in row])
        there, at = np.unique(np.concatenate([left, right]), return_inverse=True)
        words = word_sets(collection.passage_texts(there))
        alike = overlap_at_least(words, at[: len(left)], at[len(left) :], threshold)
        found[begin + which[alike]] = True
    return found


def word_sets(texts: Iterable[str]) -> sparse.csr_array:
    """Return which words (lower case) each text has, as ones in an array (texts, words).

    Examples
    --------
    >>> word_sets(["To be or not to be.", "be"]).sum(axis=1)
    array([4, 1])
    """
    number: defaultdict[str, int] = defaultdict()
    number.default_factory = number.__len__  # a new word gets the next number
    columns: list[int] = []
    ends = [0]
    for text in texts:
        columns.extend(map(number.__getitem__, dict.fromkeys(WORD.findall(text.lower()))))
        ends.append(len(columns))
    shape = (len(ends) - 1, max(len(number), 1))
    return sparse.csr_array((np.ones(len(columns), np.int64), columns, ends), shape=shape)


def overlap_at_least(
    words: sparse.csr_array, left: NDArray[np.intp], right: NDArray[np.intp], threshold: float
) -> NDArray[np.bool_]:
    """Return which pairs of rows (B,), (B,) overlap (Jaccard) by the threshold; two empty sets overlap by 1."""
    sizes = np.diff(words.indptr)
    small, large = np.minimum(sizes[left], sizes[right]), np.maximum(sizes[left], sizes[right])
    alike: NDArray[np.bool_] = small >= threshold * large  # else no overlap can be enough: most pairs end here
    for part in np.array_split(np.flatnonzero(alike), 1 + alike.sum() // 50_000):
        common = words[left[part]].multiply(words[right[part]]).sum(axis=1)
        alike[part] = common >= threshold * (small[part] + large[part] - common)
    return alike
