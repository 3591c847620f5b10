"""Relevance by answers: a passage is right when it holds an answer to the query, as DPR counts it.

Open-domain question answering has no complete judgements, but answers in words. Passage and answer are normalised
to Unicode NFD and cut into tokens: runs of letters, digits and marks, and every other visible character alone. An
answer is found when its tokens stand in the passage one after the other, in lower case. The title is not searched.

Source: Karpukhin et al., Dense Passage Retrieval for Open-Domain Question Answering, EMNLP 2020; the rule is that of
its published evaluation.
"""

import unicodedata
from collections.abc import Iterable

import numpy as np
import regex

from stepwell.collection import Qrels
from stepwell.retrieval.run import Run

_TOKEN = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")
_END = "\0"  # a control character, which no token holds


def tokens(text: str) -> list[str]:
    """Return the tokens of a text, in lower case.

    >>> tokens("The U.S. won 3-1!")
    ['the', 'u', '.', 's', '.', 'won', '3', '-', '1', '!']
    """
    return [token.lower() for token in _TOKEN.findall(unicodedata.normalize("NFD", text))]


def has_answer(passage: str, answers: Iterable[str]) -> bool:
    """Return whether any answer stands in a passage; one without any token stands everywhere (readers leave it out).

    >>> has_answer("She sang in São Paulo.", ["Rio", "são paulo"]), has_answer("A sparrow.", ["row"])
    (True, False)
    """
    row, *wanted = (_END + "".join(token + _END for token in tokens(text)) for text in (passage, *answers))
    return any(answer in row for answer in wanted)


def judge(run: Run, qrels: Qrels) -> Qrels:
    """Return judgements of what a run found for the queries of ``qrels``: 1 for a passage with an answer, no other."""
    known = qrels.answers
    if known is None:
        raise ValueError("these queries have no answers")
    pairs: list[tuple[int, int]] = []
    wanted = set(qrels.query_rows.tolist())
    for query, ranked in zip(run.queries.tolist(), run.passages, strict=True):
        if query in wanted:
            answers, rows = known.answers(query), ranked[ranked >= 0]
            found = [has_answer(body, answers) for body in known.bodies(rows)]
            pairs += [(query, row) for row, right in zip(rows.tolist(), found, strict=True) if right]
    columns = np.array(pairs, dtype=np.int32).reshape(-1, 2)
    return Qrels(columns[:, 0], columns[:, 1], np.ones(len(columns), np.int32), asked=qrels.query_rows)
