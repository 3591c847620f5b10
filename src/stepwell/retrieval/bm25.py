"""BM25: the first negatives, and the baseline that every dense retriever must face."""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Self

import bm25s
import numpy as np
from bm25s.stopwords import STOPWORDS_EN_PLUS
from numpy.typing import NDArray

from stepwell.collection import Collection
from stepwell.display import say
from stepwell.distributed import in_shares
from stepwell.errors import CollectionError, RunError
from stepwell.files import cache, made_once
from stepwell.retrieval.run import Floats, Found, Run

K1, B = 1.2, 0.6
"""Saturation of repeated words and strength of length normalisation: of five settings the best nDCG@10 over
3,471 training queries of Wikipedia with NQ questions, SciFact and Cranfield together, by less than a point."""

FORMAT = 1  # of a kept index; raised when words are cut otherwise, so that old ones are not taken for new ones
_WORD = re.compile(r"[^\W_]+")
_STOPWORDS = frozenset(STOPWORDS_EN_PLUS)
_BLOCK = 10_000  # passages whose words are in memory at once


class BM25Index:
    """An inverted index over the passages of one collection.

    Words are runs of letters and digits in lower case: names in code fall apart at underscores. English
    function words are left out and plurals become singular. Each was measured to help, on training queries;
    other languages are indexed all the same.
    """

    def __init__(self, engine: bm25s.BM25) -> None:
        self._engine = engine  # its rows are the collection's passage rows

    @classmethod
    def build(cls, collection: Collection) -> Self:
        """Index all passages of a collection; one without any word is refused."""
        vocabulary: dict[str, int] = {}
        passages: list[NDArray[np.int32]] = []
        for start in range(0, collection.n_passages, _BLOCK):
            for text in collection.passages_slice(start, start + _BLOCK):
                ids = [vocabulary.setdefault(word, len(vocabulary)) for word in words_of(text)]
                passages.append(np.array(ids, dtype=np.int32))
        if not vocabulary:
            raise CollectionError(
                f"No passage of {collection.name} has a word in it: BM25 finds nothing and gives no first "
                "negatives. Look at the texts in its corpus file."
            )
        engine = bm25s.BM25(method="lucene", k1=K1, b=B, backend="numpy")
        engine.index((passages, vocabulary), create_empty_token=False, show_progress=False)
        return cls(engine)

    def save(self, directory: Path) -> None:
        """Write the index as plain NumPy arrays and JSON."""
        self._engine.save(directory, show_progress=False, allow_pickle=False)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Memory-map what :meth:`save` wrote; a directory without a whole index is refused."""
        try:
            return cls(bm25s.BM25.load(directory, mmap=True, allow_pickle=False, show_progress=False))
        except (OSError, ValueError, TypeError, EOFError) as error:
            raise RunError(
                f"{directory} holds no whole BM25 index ({error}). Delete it: it is built again when needed."
            ) from error

    def search(self, texts: Sequence[str], depth: int) -> Found:
        """Return rows and scores (Q, min(depth, N)) of the best passages with a word of a text, equal ones by row."""
        k = min(depth, int(self._engine.scores["num_docs"]))
        rows = np.full((len(texts), k), -1, dtype=np.int32)
        scores = np.full((len(texts), k), -np.inf, dtype=np.float32)
        known = self._engine.vocab_dict
        for at, text in enumerate(texts):
            ids = [known[word] for word in words_of(text) if word in known]
            if ids:
                best, found = _top(self._engine.get_scores_from_ids(ids), k)
                rows[at, : len(best)], scores[at, : len(best)] = best, found
        return rows, scores

    def run(self, collection: Collection, query_rows: NDArray[np.int32], depth: int) -> Run:
        """Retrieve lists of at most ``depth`` passages for query rows (Q,); processes take shares of them."""
        rows = np.asarray(query_rows, dtype=np.int32)
        found = in_shares(len(rows), lambda items: self.search(collection.query_texts(rows[items]), depth))
        return Run(rows, *found)


def bm25_of(collection: Collection) -> BM25Index:
    """Return the BM25 index of a collection, from the cache where it is."""

    def make(folder: Path) -> None:
        say(f"Building the BM25 index of {collection.n_passages:,} passages, once.")
        BM25Index.build(collection).save(folder)

    name = f"{collection.texts_fingerprint[:16]}-{FORMAT}-{K1:g}-{B:g}"
    return BM25Index.load(made_once(cache() / "bm25" / name, make))


def _top(scores: Floats, k: int) -> tuple[NDArray[np.int64], Floats]:
    """Return the rows and scores of the ``k`` best positive scores (N,), equal ones by row."""
    rows = np.flatnonzero(scores > 0)
    if len(rows) > k:
        rows = rows[scores[rows] >= np.partition(scores[rows], -k)[-k]]  # not below the k-th best
    rows = rows[np.argsort(-scores[rows], kind="stable")][:k]
    return rows, scores[rows]


def words_of(text: str) -> list[str]:
    """Return the words of a text as they are indexed: lower case, singular, without function words."""
    return [singular(word) for word in _WORD.findall(text.lower()) if word not in _STOPWORDS]


@lru_cache(maxsize=1 << 18)
def singular(word: str) -> str:
    """Turn a plural into its singular (S stemmer: Harman, How effective is suffixing?, JASIS 1991).

    >>> [singular(word) for word in ("queries", "passages", "class", "corpus", "gas")]
    ['query', 'passage', 'class', 'corpus', 'gas']
    """
    if len(word) > 4 and word.endswith("ies") and word[-4] not in "ae":
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("es") and word[-3] not in "aeo":
        return word[:-1]
    if len(word) > 3 and word.endswith("s") and word[-2] not in "us":
        return word[:-1]
    return word
