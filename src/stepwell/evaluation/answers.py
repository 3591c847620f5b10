"""Relevance by answers: a passage is right when it holds an answer to the query, as DPR counts it.

Open-domain question answering has no complete judgements, but answers in words. Passage and answer are normalised
to Unicode NFD and cut into tokens: runs of letters, digits and marks, and every other visible character alone. An
answer is found when its tokens stand in the passage one after the other, in lower case. The title is not searched.

Source: Karpukhin et al., Dense Passage Retrieval for Open-Domain Question Answering, EMNLP 2020; the rule is that of
its published evaluation.
"""

import re
import unicodedata
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import regex
from numpy.typing import NDArray

from stepwell.collection import Qrels
from stepwell.collection.qrels import Answers
from stepwell.display import SILENT, Progress
from stepwell.retrieval.run import Run

AT_ONCE = 1 << 13
"""Passages that are read at once: bounds the texts in memory."""

_TOKEN = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")
_PLAIN_TOKEN = re.compile(r"[A-Za-z0-9]+|[!-~]")  # the same of ASCII, four times as fast
_SIGMAS = "σς"  # which of the two a capital letter becomes depends on what stands around it
_END = "\0"  # a control character, which no token holds


def tokens(text: str) -> list[str]:
    """Return the tokens of a text, in lower case.

    >>> tokens("The U.S. won 3-1!")
    ['the', 'u', '.', 's', '.', 'won', '3', '-', '1', '!']
    """
    return [token.lower() for token in _cut(text)]


def _cut(text: str) -> list[str]:
    return _PLAIN_TOKEN.findall(text) if text.isascii() else _TOKEN.findall(unicodedata.normalize("NFD", text))


def has_answer(passage: str, answers: Iterable[str]) -> bool:
    """Return whether any answer stands in a passage; one without any token stands everywhere (readers leave it out).

    >>> has_answer("She sang in São Paulo.", ["Rio", "são paulo"]), has_answer("A sparrow.", ["row"])
    (True, False)
    """
    row = _row(passage)
    return any(_row(answer) in row for answer in answers)


def _row(text: str) -> str:
    """Return the tokens of a text as one string, in which those of an answer are found one after the other."""
    return _END.join(("", *_cut(text), "")).lower()


def holding(
    known: Answers, queries: NDArray[np.int32], passages: NDArray[np.int32], progress: Progress = SILENT
) -> NDArray[np.bool_]:
    """Return which passages (B,) hold an answer of their query (B,); where a query has no answers, none does.

    A passage is read once, however many queries ask for it, and cut into tokens only where an answer's longest token
    stands in it. Nothing of it is kept.
    """
    wanted = {query: [(_longest(one), _row(one)) for one in known.answers(query)] for query in set(queries.tolist())}
    order = np.argsort(passages, kind="stable")
    there, begins = np.unique(passages[order], return_index=True)
    edges = np.append(begins, len(order))  # where in `order` the pairs of each passage begin and end
    found = np.zeros(len(passages), dtype=np.bool_)
    progress.start(len(there), "passages searched for answers")
    for begin in range(0, len(there), AT_ONCE):
        rows, ends = there[begin : begin + AT_ONCE], edges[begin : begin + AT_ONCE + 1].tolist()
        for body, (first, last) in zip(known.bodies(rows), pairwise(ends), strict=True):
            items = order[first:last]
            text, row = unicodedata.normalize("NFD", body).lower(), ""
            for item, query in zip(items.tolist(), queries[items].tolist(), strict=True):
                for token, answer in wanted[query]:
                    if token in text:
                        row = row or _row(body)
                        found[item] |= answer in row
        progress.advance(len(rows))
    return found


def _longest(answer: str) -> str:
    """Return a token without which no lower-case text holds the answer; empty where that can't be said."""
    return max((token for token in tokens(answer) if not set(token) & set(_SIGMAS)), key=len, default="")


def judge(run: Run, qrels: Qrels) -> Qrels:
    """Return judgements of what a run found for the queries of ``qrels``: 1 for a passage with an answer, no other."""
    known = qrels.answers
    if known is None:
        raise ValueError("these queries have no answers")
    asked = np.isin(run.queries, qrels.query_rows)
    row, column = np.nonzero(asked[:, None] & (run.passages >= 0))
    queries, passages = run.queries[row], run.passages[row, column]
    right = holding(known, queries, passages)
    return Qrels(queries[right], passages[right], np.ones(right.sum(), np.int32), asked=qrels.query_rows)
