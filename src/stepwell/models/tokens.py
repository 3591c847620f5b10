"""Texts as token ids: tokenised once, kept flat, and padded only batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Features = dict[str, Tensor]


@dataclass(frozen=True)
class Tokens:
    """Token ids of N texts, without special tokens.

    Parameters
    ----------
    ids
        All ids behind one another, shape (T,), int32.
    offsets
        Text i is ``ids[offsets[i]:offsets[i + 1]]``, shape (N + 1,), int64.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        return self.ids[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens a text, shape (N,)."""
        return np.diff(self.offsets)

    @classmethod
    def build(cls, tokenizer: Any, texts: Sequence[str], limit: int, prompt: str = "") -> Tokens:
        """Tokenise ``texts`` (with ``prompt`` in front of each), keeping the first ``limit`` tokens of each."""
        parts: list[NDArray[np.int32]] = []
        for start in range(0, len(texts), 4096):
            chunk = [prompt + text for text in texts[start : start + 4096]]
            encoded = tokenizer(chunk, add_special_tokens=False, truncation=True, max_length=limit, verbose=False)
            parts.extend(np.asarray(ids, dtype=np.int32) for ids in encoded["input_ids"])
        offsets = np.zeros(len(parts) + 1, dtype=np.int64)
        np.cumsum([len(part) for part in parts], out=offsets[1:])
        return cls(np.concatenate(parts) if parts else np.zeros(0, np.int32), offsets)


@dataclass(frozen=True)
class Template:
    """The special tokens that a tokenizer puts around one text or a pair, found by asking it.

    Parameters
    ----------
    single
        Ids before and after a text.
    pair
        Ids before, between and after two texts.
    types
        Token types of the first and the second text of a pair (both 0 where the model has none).
    """

    single: tuple[list[int], list[int]]
    pair: tuple[list[int], list[int], list[int]]
    types: tuple[int, int] | None
    pad: int
    left: bool

    @classmethod
    def of(cls, tokenizer: Any) -> Template:
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

    def texts(self, tokens: Tokens, rows: NDArray[Any], limit: int) -> Features:
        """Pad the texts ``rows`` to one batch, each of at most ``limit`` tokens, specials included: (B, L)."""
        before, after = self.single
        keep = limit - self.overhead[0]
        return self._pad([[*before, *tokens[int(row)][:keep].tolist(), *after] for row in rows], None)

    def pairs(
        self,
        queries: Tokens,
        passages: Tokens,
        query_rows: NDArray[Any],
        passage_rows: NDArray[Any],
        limit: int,
    ) -> Features:
        """Pad pairs to one batch of at most ``limit`` tokens each: (B, L).

        The passage is cut; a query loses only what goes beyond half of the pair.
        """
        before, between, after = self.pair
        sequences, borders = [], []
        for query, passage in zip(query_rows, passage_rows, strict=True):
            left = queries[int(query)][: (limit - self.overhead[1]) // 2].tolist()
            right = passages[int(passage)][: limit - self.overhead[1] - len(left)].tolist()
            head = [*before, *left, *between]
            borders.append(len(head))  # the separator between the two has the first text's type
            sequences.append([*head, *right, *after])
        return self._pad(sequences, borders)

    def _pad(self, sequences: list[list[int]], borders: list[int] | None) -> Features:
        length = max(len(sequence) for sequence in sequences)
        ids = np.full((len(sequences), length), self.pad, dtype=np.int64)
        mask = np.zeros_like(ids)
        kinds = np.zeros_like(ids)
        for i, sequence in enumerate(sequences):
            begin = length - len(sequence) if self.left else 0
            ids[i, begin : begin + len(sequence)] = sequence
            mask[i, begin : begin + len(sequence)] = 1
            if self.types is not None:
                border = len(sequence) if borders is None else borders[i]
                kinds[i, begin : begin + border] = self.types[0]
                kinds[i, begin + border : begin + len(sequence)] = self.types[1]
        features = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        if self.types is not None:
            features["token_type_ids"] = torch.from_numpy(kinds)
        return features


def batches_by_length(lengths: NDArray[np.int64], budget: int) -> Iterator[NDArray[np.int64]]:
    """Yield rows in batches of similar length, shortest first, each of at most ``budget`` padded tokens.

    Every row comes exactly once; a row longer than the budget is a batch of its own.
    """
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * int(lengths[order[stop]]) <= budget:
            stop += 1
        yield order[start:stop]
        start = stop


def _find(sequence: list[int], part: list[int]) -> int:
    for start in range(len(sequence) - len(part) + 1):
        if sequence[start : start + len(part)] == part:
            return start
    raise ValueError("the tokenizer changes a text when it adds its special tokens; stepwell can't build its inputs")
