"""Near-duplicate texts: how much two passages' sets of words overlap."""

import re
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stepwell.collection import Collection

AT_ONCE = 1 << 19  # passages compared at once: bounds the texts in memory
WORD = re.compile(r"\w+")


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
    starts = np.cumsum(counts) - counts
    flat = np.concatenate([*positives, np.zeros(0, np.int32)])
    found = np.zeros(len(passages), dtype=np.bool_)
    for begin in range(0, len(passages), AT_ONCE):
        row = rows[begin : begin + AT_ONCE]
        which = np.repeat(np.arange(len(row)), counts[row])  # (pairs,)
        nth = np.arange(len(which)) - np.repeat(np.cumsum(counts[row]) - counts[row], counts[row])
        left = passages[begin : begin + AT_ONCE][which]
        right = flat[starts[row][which] + nth]
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
