"""Several teachers at once, and probabilities taken for logits."""

from __future__ import annotations

import numpy as np
import pytest

from stepwell.display import Progress
from stepwell.errors import StepwellError
from stepwell.teachers.protocol import LogOdds, Several, log_odds, standardised

QUERIES = np.array([0, 1], dtype=np.int32)
CANDIDATES = np.array([[3, 5, 7], [2, 4, -1]], dtype=np.int32)


class Table:
    """A teacher that gives a table."""

    def __init__(self, scores):
        self.scores = np.float32(scores)

    def score(self, queries, candidates, progress=None):
        return self.scores


ONE = Table([[1, 3, 2], [4, 0, 0]])
OTHER = Table([[100, 300, 500], [0, 10, 0]])


def test_the_plain_mean_is_that_of_the_scores():
    assert Several([ONE, OTHER], False).score(QUERIES, CANDIDATES).tolist() == [[50.5, 151.5, 251.0], [2, 5, 0]]


def test_standardised_no_teacher_counts_more_for_its_scale():
    both = Several([ONE, OTHER], True).score(QUERIES, CANDIDATES)
    s = np.sqrt(1.5)  # 1, 3, 2 and 100, 300, 500 become -s, s, 0 and -s, 0, s
    assert both == pytest.approx(np.array([[-s, s / 2, s / 2], [0, 0, 0]]), abs=1e-6)
    scaled = Several([Table([[47, 127, 87], [167, 7, 0]]), OTHER], True).score(QUERIES, CANDIDATES)
    assert scaled == pytest.approx(both, abs=1e-5)


def test_equal_scores_say_nothing_and_make_no_number_up():
    assert standardised(np.float32([[2, 2]]), np.array([[True, True]])).tolist() == [[0, 0]]
    assert standardised(np.float32([[2, 2]]), np.array([[False, False]])).tolist() == [[0, 0]]


def test_a_pair_that_one_has_no_score_of_has_none():
    holes = Table([[np.nan, 3, 2], [4, 0, 0]])
    both = Several([holes, OTHER], True).score(QUERIES, CANDIDATES)
    assert np.isnan(both).tolist() == [[True, False, False], [False, False, False]]
    assert both[0, 1:].tolist() == pytest.approx([0, 0])  # 3, 2 and 300, 500: the two are of opposite minds


def test_each_teachers_own_scores_and_the_progress_over_all():
    told = []

    class Slow(Table):
        def score(self, queries, candidates, progress):
            progress.start(4).advance(2)
            return self.scores

    progress = Progress(lambda share, note: told.append(share))
    tables = Several([Slow(ONE.scores), Slow(OTHER.scores)], True).each(QUERIES, CANDIDATES, progress)
    assert np.array_equal(tables, np.stack([ONE.scores, OTHER.scores])) and told == [0.25, 0.5, 0.75, 1]


def test_probabilities_become_logits():
    assert log_odds(np.float32([0.5, 0.8807971, 1.0, 0.0])) == pytest.approx([0, 2, 15, -15], abs=1e-4)
    teacher = LogOdds(Table([[0.5, np.nan, 0.2], [0.5, 0.5, 0]]), "jina")
    got = teacher.score(QUERIES, CANDIDATES)
    assert np.isnan(got[0, 1]) and got[1, 2] == 0  # unknown stays unknown, padding padding
    with pytest.raises(StepwellError, match=r"'jina'.*1 to 500|'jina'.*0 to 500"):
        LogOdds(OTHER, "jina").score(QUERIES, CANDIDATES)
