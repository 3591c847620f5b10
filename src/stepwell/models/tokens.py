"""Texts as token ids: tokenised once, kept flat, and padded only batch by batch."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepwell.errors import RunError

Side = Literal["query", "document"]
Rows = NDArray[np.int64]
Features = dict[str, Tensor]

MOST = 1 << 30
"""Tokens at which texts are cut where nothing names a limit."""

BLOCK = 4_096
"""Texts that are tokenised at a time."""

WIDTHS = (8, 16, 64)
"""Of what a rounded length is a multiple: of 8, and from 64 on of 16."""


@dataclass(frozen=True)
class Tokens:
    """Token ids of N texts, without special tokens; in memory or memory-mapped."""

    ids: NDArray[Any]  # all ids behind one another, shape (T,), uint16 where the vocabulary fits and uint32 else
    offsets: Rows  # text i is `ids[offsets[i]:offsets[i + 1]]`, shape (N + 1,), int64
    limit: int  # only the first so many tokens of each text count

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[Any]:
        start = int(self.offsets[row])
        return self.ids[start : min(int(self.offsets[row + 1]), start + self.limit)]

    @property
    def lengths(self) -> Rows:
        """Tokens of every text, shape (N,)."""
        return np.minimum(np.diff(self.offsets), self.limit)

    def lengths_of(self, rows: Rows) -> Rows:
        """Return the tokens of some texts, shape (B,); its cost does not grow with N."""
        return np.minimum(self.kept_of(rows), self.limit)

    def kept_of(self, rows: Rows) -> Rows:
        """Return how many tokens of some texts are kept, also of those that do not count, shape (B,)."""
        sizes: Rows = self.offsets[rows + 1] - self.offsets[rows]
        return sizes

    def cut(self, limit: int) -> Self:
        """Return a view in which at most ``limit`` tokens of a text count."""
        return replace(self, limit=min(limit, self.limit))

    @classmethod
    def build(cls, tokenizer: Any, texts: Sequence[str], limit: int, prompt: str = "") -> Self:
        """Tokenise ``texts`` (with ``prompt`` in front of each), keeping the first ``limit`` tokens of each."""
        blocks = [
            tokenise_block(tokenizer, texts[start : start + BLOCK], limit, prompt)
            for start in range(0, len(texts), BLOCK)
        ]
        ids = np.concatenate([np.zeros(0, id_type(tokenizer)), *(ids for ids, _ in blocks)])
        offsets = np.concatenate([np.zeros(1, np.int64), *(lengths for _, lengths in blocks)]).cumsum()
        return cls(ids, offsets, limit)


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Return a name that two tokenizers share when they cut every text alike, wherever they were loaded from."""
    if own := getattr(tokenizer, "fingerprint", None):
        return str(own)
    if hasattr(tokenizer, "to_str"):  # a static model's, which cuts texts itself
        return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return str(tokenizer.name_or_path)
    facts = json.loads(backend.to_str())
    facts.pop("truncation", None)
    facts.pop("padding", None)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def id_type(tokenizer: Any) -> np.dtype[Any]:
    """Return the smallest number type that holds every id of ``tokenizer``."""
    highest = max(len(tokenizer) - 1, *getattr(tokenizer, "added_tokens_decoder", {}), 0)  # added ids may leave gaps
    return np.dtype(np.uint16 if highest < 1 << 16 else np.uint32)


def tokenise_block(
    tokenizer: Any, texts: Sequence[str], limit: int, prompt: str = ""
) -> tuple[NDArray[Any], NDArray[np.uint32]]:
    """Return the ids of some texts behind one another (T,) and the tokens of each (B,)."""
    prompted = [prompt + text for text in texts]
    encoded = tokenizer(prompted, add_special_tokens=False, truncation=True, max_length=limit, verbose=False)
    lengths = np.fromiter(map(len, encoded["input_ids"]), dtype=np.uint32, count=len(texts))
    flat = itertools.chain.from_iterable(encoded["input_ids"])
    return np.fromiter(flat, dtype=id_type(tokenizer), count=int(lengths.sum())), lengths


Part = list[int] | tuple[Tokens, Rows, Rows]
"""A part of every sequence of a batch: the same special tokens, or so many tokens of each one's text."""


@dataclass(frozen=True)
class Template:
    """The special tokens that a tokenizer puts around one text or a pair, found by asking it."""

    single: tuple[list[int], list[int]]  # ids before and after a text
    pair: tuple[list[int], list[int], list[int]]  # ids before, between and after two texts
    # Token types of the first and the second text of a pair (both 0 where the model has none).
    types: tuple[int, int] | None
    pad: int
    left: bool

    @classmethod
    def of(cls, tokenizer: Any) -> Self:
        """Read the template off ``tokenizer``."""
        first, second = (tokenizer("a", add_special_tokens=False)["input_ids"] for _ in range(2))
        one = list(tokenizer("a")["input_ids"])
        both = tokenizer("a", "a")
        two = list(both["input_ids"])
        at = _find(one, first)
        start = _find(two, first)
        middle = start + len(first)
        again = middle + _find(two[middle:], second)
        end = again + len(second)
        types = (both["token_type_ids"][start], both["token_type_ids"][again]) if "token_type_ids" in both else None
        return cls(
            single=(one[:at], one[at + len(first) :]),
            pair=(two[:start], two[middle:again], two[end:]),
            types=types,
            pad=tokenizer.pad_token_id or 0,
            left=tokenizer.padding_side == "left",
        )

    @property
    def overhead(self) -> tuple[int, int]:
        """Special tokens that a text and a pair carry."""
        return sum(map(len, self.single)), sum(map(len, self.pair))

    def texts(self, tokens: Tokens, rows: Rows, limit: int, rounded: bool = False) -> Features:
        """Pad the texts ``rows`` to one batch, each of at most ``limit`` tokens, specials included: (B, L).

        L is the longest text's length, ``rounded`` up where the limit leaves room (:func:`round_up`).
        """
        before, after = self.single
        kept = np.minimum(tokens.lengths_of(rows), limit - self.overhead[0])
        return self._pad([before, (tokens, rows, kept), after], None, limit, rounded)

    def pairs(
        self, queries: Tokens, passages: Tokens, query_rows: Rows, passage_rows: Rows, limit: int, rounded: bool = False
    ) -> Features:
        """Pad pairs to one batch of at most ``limit`` tokens each: (B, L), L as for :meth:`texts`."""
        before, between, after = self.pair
        left, right = cut_pairs(queries.kept_of(query_rows), passages.kept_of(passage_rows), limit - self.overhead[1])
        parts: list[Part] = [before, (queries, query_rows, left), between, (passages, passage_rows, right), after]
        borders = len(before) + left + len(between)  # the separator has the first text's type
        return self._pad(parts, borders, limit, rounded)

    def _pad(self, parts: Sequence[Part], borders: Rows | None, limit: int, rounded: bool) -> Features:
        """Write the parts of every sequence behind one another; ``borders`` is where the second text begins."""
        sizes = [np.array([len(part)]) if isinstance(part, list) else part[2] for part in parts]
        total = np.sum(np.broadcast_arrays(*sizes), axis=0)  # (B,)
        longest = int(total.max())
        width = max(longest, min(int(round_up(total).max()), limit)) if rounded else longest
        begin = width - total if self.left else np.zeros_like(total)
        ids = np.full((len(total), width), self.pad, dtype=np.int64)
        column = begin.copy()
        for part, size in zip(parts, sizes, strict=True):
            if isinstance(part, list):
                ids[np.arange(len(total))[:, None], column[:, None] + np.arange(len(part))] = part
            else:
                tokens, rows, _ = part  # the first `size` tokens of each text go into its line, from its column on
                lines = np.repeat(np.arange(len(rows)), size)
                within = np.arange(len(lines)) - np.repeat(np.cumsum(size) - size, size)
                ids[lines, column[lines] + within] = tokens.ids[tokens.offsets[rows][lines] + within]
            column += size
        place = np.arange(width) - begin[:, None]  # (B, L): a token's place in its sequence
        inside = (place >= 0) & (place < total[:, None])
        features = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(inside.astype(np.int64))}
        if self.types is not None:
            first = place < (total if borders is None else borders)[:, None]
            kinds = np.where(inside, np.where(first, self.types[0], self.types[1]), 0)
            features["token_type_ids"] = torch.from_numpy(kinds)
        return features


def cut_pairs(
    first: NDArray[np.int64], second: NDArray[np.int64], room: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many tokens of two texts (B,) a pair with ``room`` for both keeps: the longer one is cut.

    It is the rule ``longest_first`` of tokenizers: where both are longer than half, each keeps a half.

    Examples
    --------
    >>> [part.tolist() for part in cut_pairs(np.array([3, 9, 3, 9]), np.array([5, 2, 20, 20]), 11)]
    [[3, 9, 3, 5], [5, 2, 8, 6]]
    """
    short, long = np.minimum(first, second), np.maximum(first, second)
    long = np.minimum(long, np.maximum(short, room - short))
    halved = short + long > room
    short, long = np.where(halved, room // 2, short), np.where(halved, room - room // 2, long)
    swapped = first > second
    return np.where(swapped, long, short), np.where(swapped, short, long)


def _copy_spans(
    tokens: Tokens, rows: NDArray[Any], sizes: NDArray[np.int64], out: NDArray[np.int64], columns: NDArray[np.int64]
) -> None:
    """Copy the first ``sizes`` tokens of each text into its line of ``out`` from its column on."""
    lines = np.repeat(np.arange(len(rows)), sizes)
    within = np.arange(len(lines)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    out[lines, columns[lines] + within] = tokens.ids[tokens.offsets[rows][lines] + within]


def round_up(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return lengths as few others that are no smaller: batches that are cut and padded by these have few shapes.

    An engine makes code for each new shape, and keeps it.

    Examples
    --------
    >>> round_up(np.array([5, 8, 9, 63, 65, 80, 81])).tolist()
    [8, 8, 16, 64, 80, 80, 96]
    """
    fine, coarse, border = WIDTHS
    step = np.where(lengths > border, coarse, fine)
    return -(-lengths // step) * step


def filled(batch: Rows, step: int) -> Rows:
    """Return the rows of a batch, and some of them again up to a multiple of ``step``: batches have fewer shapes.

    Examples
    --------
    >>> filled(np.array([7, 3, 5]), 2).tolist()
    [7, 3, 5, 7]
    """
    return np.resize(batch, -(-len(batch) // step) * step)


def batches_by_length(lengths: Rows, budget: int) -> Iterator[Rows]:
    """Yield rows in batches of similar length, shortest first, each of at most ``budget`` padded tokens or one row."""
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * int(lengths[order[stop]]) <= budget:
            stop += 1
        yield order[start:stop]
        start = stop


def cheapest_batches(lengths: Rows, budget: int, overhead: int) -> list[Rows]:
    """Return rows in batches of similar length that together cost least, shortest first.

    A batch costs its padded tokens and ``overhead`` tokens more, and has at most ``budget`` padded tokens unless it is
    one row. The best cuts of the sorted lengths are found by dynamic programming: for the hundreds of texts of a
    training step, not for a corpus.

    Examples
    --------
    >>> [batch.tolist() for batch in cheapest_batches(np.array([60, 9, 60, 8, 60]), 200, 20)]
    [[3, 1], [0, 2, 4]]
    >>> [batch.tolist() for batch in cheapest_batches(np.array([60, 50]), 200, 20)]
    [[1, 0]]
    """
    order = np.argsort(lengths, kind="stable")
    ordered = lengths[order]
    cost = np.zeros(len(order) + 1, dtype=np.int64)  # of the first i rows
    begin = np.zeros(len(order) + 1, dtype=np.int64)  # where the last batch of the first i rows begins
    for stop in range(1, len(order) + 1):
        length = int(ordered[stop - 1])
        first = max(0, stop - max(1, budget // max(1, length)))
        sizes = stop - np.arange(first, stop)
        total = cost[first:stop] + sizes * length + overhead
        best = int(total.argmin())
        cost[stop], begin[stop] = total[best], first + best
    batches, stop = [], len(order)
    while stop:
        batches.append(order[begin[stop] : stop])
        stop = int(begin[stop])
    return batches[::-1]


def _find(sequence: list[int], part: list[int]) -> int:
    for start in range(len(sequence) - len(part) + 1):
        if sequence[start : start + len(part)] == part:
            return start
    raise RunError("the tokenizer changes a text when it adds its special tokens; stepwell can't build its inputs")
