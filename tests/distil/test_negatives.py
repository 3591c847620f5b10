"""Mining: which passages become candidates, and what is said about the others."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from stepwell.collection import Qrels, open_collection
from stepwell.distil.candidates import Candidates, Draw
from stepwell.distil.negatives import mine
from stepwell.errors import StepwellError
from stepwell.recipe import Mining
from stepwell.retrieval.run import Run

PLAIN = {"near_duplicate": None, "positives": 1}


class Texts:
    """As much of a collection as mining uses."""

    fingerprint, name = "c011", "texts"

    def __init__(self, n_passages=100, n_queries=10, texts=None):
        self.texts = texts or [f"passage number {row} about thing{row}" for row in range(n_passages)]
        self.passage_ids = [f"p{row}" for row in range(len(self.texts))]
        self.query_ids = [f"query {row}" for row in range(n_queries)]

    def passage_texts(self, rows):
        return [self.texts[row] for row in rows]

    def query_texts(self, rows):
        return [f"what about {row}?" for row in rows]


def run_of(lists: dict[int, list[int]], scores: dict[int, list[float]] | None = None) -> Run:
    depth = max(len(passages) for passages in lists.values())
    ranked = np.full((len(lists), depth), -1, np.int32)
    values = np.full((len(lists), depth), -np.inf, np.float32)
    for row, (query, passages) in enumerate(lists.items()):
        ranked[row, : len(passages)] = passages
        values[row, : len(passages)] = scores[query] if scores else np.arange(len(passages), 0, -1)
    return Run(np.array(list(lists), np.int32), ranked, values)


def qrels_of(*rows: tuple[int, int, int]) -> Qrels:
    queries, passages, grades = np.array(rows, np.int32).T
    return Qrels(queries, passages, grades)


def mined(run, qrels, collection=None, *, k=4, seed=13, denoise_scores=None, **settings):
    return mine(run, qrels, collection or Texts(), Mining(**{**PLAIN, **settings}), k, seed, denoise_scores)


class Known:
    """Answers to queries, looked for in texts."""

    def __init__(self, texts, **answers):
        self.all, self.texts = {int(name[1:]): found for name, found in answers.items()}, texts

    def answers(self, query):
        return self.all.get(query, [])

    def bodies(self, rows):
        return [self.texts[row] for row in rows]


class TestAnswers:
    TEXTS = ("It is Paris.", "PARIS, again", "Parisian", "Rome", "Oslo", "Bern", "a text on Paris", "Kyiv")

    def mined(self, lists, *, texts=None, k=4, **settings):
        """Mine for query 0, which wants Paris, and query 1, without answers; passage 0 is the positive of both."""
        texts = texts or self.TEXTS
        known = Known(texts, q0=["Paris"])
        qrels = replace(qrels_of((0, 0, 1), (1, 0, 1)), answers=known)
        return mined(run_of(lists), qrels, Texts(texts=texts), k=k, **settings)

    def test_what_holds_an_answer_is_no_negative_wherever_it_would_come_from(self):
        found, report = self.mined({0: [1, 2, 0], 1: [1, 2, 0]}, k=6, sampling="hardest")
        assert found.passages[0, :2].tolist() == [0, 2]  # the beginning of a word is no answer
        assert sorted(found.passages[0, 2:].tolist()) == [3, 4, 5, 7]  # by chance: all others but 6
        assert found.passages[1, :3].tolist() == [0, 1, 2]  # a query without answers
        assert report.dropped["holds an answer"] == 1
        (example,) = report.examples
        assert (example.reason, example.positive, example.dropped) == (
            "holds an answer",
            "It is Paris.",
            "PARIS, again",
        )

    def test_not_from_below_the_window_either(self):
        found, report = self.mined({0: [2, 0, 1, 3]}, k=3, last=1, sampling="hardest")
        assert found.passages.tolist() == [[0, 2, 3]]
        assert report.dropped["holds an answer"] == 0  # only the window is counted
        assert report.negatives["from the ranks below"] == 1

    def test_a_place_stays_empty_where_everything_holds_an_answer(self):
        found, report = self.mined({0: [1, 0]}, texts=["Paris is it"] * 40, k=3)
        assert found.passages.tolist() == [[0, -1, -1]]
        assert report.negatives["places left empty"] == 2

    @pytest.mark.parametrize("rare", range(100, 1000, 300))
    def test_one_in_a_thousand_without_an_answer_is_found_by_chance(self, rare):
        texts = ["Paris is it"] * 1000
        texts[rare] = "Rome"
        found, _ = self.mined({0: [1, 0]}, texts=texts, k=2)
        assert found.passages.tolist() == [[0, rare]]

    def test_turned_off_nothing_is_dropped_for_it_and_nothing_said(self):
        found, report = self.mined({0: [1, 2, 0, 6]}, sampling="hardest", answers=False)
        assert found.passages.tolist() == [[0, 1, 2, 6]]
        assert "holds an answer" not in report.dropped

    def test_without_answers_the_candidates_are_the_same_whatever_the_key_says(self):
        lists, qrels = {0: [9, 5, 7, 8, 6], 1: [1, 2]}, qrels_of((0, 7, 1), (1, 2, 1))
        (first, report), (second, _) = (mined(run_of(lists), qrels, k=8, answers=key) for key in (None, False))
        assert first.passages.tolist() == second.passages.tolist()
        assert "holds an answer" not in report.dropped
        # as they were before answers were looked for
        assert first.passages.tolist() == [[7, 8, 5, 9, 6, 63, 58, 13], [2, 1, 85, 82, 39, 95, 42, 63]]
        few, _ = mined(run_of(lists), qrels, Texts(9), k=8)
        assert few.passages.tolist() == [[7, 8, 5, 9, 6, 3, 1, 0], [2, 1, 4, 7, 5, 8, 6, 0]]

    def test_mined_in_dprs_files(self, tmp_path):
        """What DPR calls a negative of "what is the capital of france" is what holds no answer, titles apart."""
        record = {
            "question": "what is the capital of france",
            "answers": ["Paris"],
            "positive_ctxs": [{"passage_id": "1"}],
            "hard_negative_ctxs": [],
        }
        texts = {
            "1": ("The capital of France is Paris.", "France"),
            "2": ("Paris is the capital and largest city of France.", "Capitals"),
            "3": ("The capital of France was Vichy once, in fact.", "Paris"),
            "4": ("The capital of Norway is Oslo.", "Norway"),
        }
        lines = [f"{id}\t{text}\t{title}\n" for id, (text, title) in texts.items()]
        (tmp_path / "psgs_w100.tsv").write_text("id\ttext\ttitle\n" + "".join(lines))
        (tmp_path / "biencoder-nq-train.json").write_text(json.dumps([record]))
        collection = open_collection(tmp_path)
        found, report = mined(run_of({0: [1, 2, 0, 3]}), collection.qrels("train"), collection, k=4, near_duplicate=0.9)
        assert [collection.passage_ids[row] for row in found.passages[0, :1]] == ["1"]
        assert {collection.passage_ids[row] for row in found.passages[0, 1:] if row >= 0} == {"3", "4"}
        (example,) = report.examples
        assert example.dropped == "Capitals Paris is the capital and largest city of France."


class TestPositives:
    def test_hardest_takes_the_ranks_in_order_behind_the_positive(self):
        candidates, report = mined(run_of({0: [9, 5, 7, 8, 6]}), qrels_of((0, 7, 1)), sampling="hardest")
        assert candidates.passages.tolist() == [[7, 9, 5, 8]]
        assert candidates.grades.tolist() == [[1, 0, 0, 0]]
        assert candidates.positives.tolist() == [[True, False, False, False]]
        assert report.dropped["a positive of the query"] == 1

    def test_several_positives_best_grade_first_and_none_of_the_others_a_negative(self):
        qrels = qrels_of((0, 1, 1), (0, 2, 3), (0, 3, 2), (0, 4, 1), (0, 5, 0))
        candidates, _ = mined(run_of({0: [1, 2, 3, 4, 5, 6, 7]}), qrels, k=6, positives=2, sampling="hardest")
        assert candidates.passages[0, :5].tolist() == [2, 3, 5, 6, 7]  # judged with grade 0: a good negative
        assert candidates.grades.tolist() == [[3, 2, 0, 0, 0, 0]]
        assert not {1, 4} & set(candidates.passages[0].tolist())

    @pytest.mark.parametrize(("k", "half"), [(2, 1), (3, 1), (8, 4)])
    @pytest.mark.parametrize("pool", [None, 12])
    def test_an_epoch_takes_half_of_k_and_all_kept_positives_get_their_turn(self, k, half, pool):
        qrels = qrels_of(*((0, row, 1) for row in range(20)), (1, 7, 1))
        run = run_of({0: list(range(10, 60)), 1: list(range(50))})
        candidates, report = mined(run, qrels, k=k, positives=6, pool=pool)
        kept = max(pool or k, k)
        assert candidates.positives.sum(axis=1).tolist() == [6, 1]
        assert (candidates.passages >= 0).sum(axis=1).tolist() == [kept - half + 6, kept]
        assert report.negatives["places left empty"] == 0
        seen = set()
        for epoch in range(40):
            columns = Draw(k, 1).columns(candidates, np.array([0, 1]), epoch)
            assert np.take_along_axis(candidates.positives, columns, axis=1).sum(axis=1).tolist() == [half, 1]
            drawn = np.take_along_axis(candidates.passages, columns, axis=1)
            assert (drawn >= 0).all() and all(len(set(row)) == k for row in drawn.tolist())
            seen |= set(drawn[0].tolist()) & set(range(20))
        assert len(seen) == 6

    def test_all_positives_get_their_turn_over_seeds(self):
        qrels = qrels_of((0, 1, 1), (0, 2, 1), (0, 3, 1))
        run = run_of({0: list(range(30))})
        assert {int(mined(run, qrels, seed=seed)[0].passages[0, 0]) for seed in range(30)} == {1, 2, 3}

    def test_queries_without_a_positive_are_left_out_and_counted(self):
        run = run_of({3: [1, 2], 0: [1, 2], 2: [1, 2]})
        candidates, report = mined(run, qrels_of((3, 9, 1), (2, 9, 0)))
        assert candidates.queries.tolist() == [3]
        assert report.without_positives == 2
        empty, report = mined(run, qrels_of((9, 9, 1)))
        assert empty.passages.shape == (0, 4)
        assert (report.queries, report.without_positives) == (0, 3)
        report.table().text()

    def test_a_query_that_was_asked_and_has_no_positive_is_none_of_them(self):
        qrels = Qrels(
            np.array([3], np.int32), np.array([9], np.int32), np.array([1], np.int32), np.array([2], np.int32)
        )
        candidates, report = mined(run_of({3: [1, 2], 2: [1, 2]}), qrels)
        assert candidates.queries.tolist() == [3] and report.without_positives == 1


class TestDenoise:
    @pytest.mark.parametrize(
        ("positives", "kept", "dropped"), [({50: 5.0, 51: 1.0}, [1, 3], 1), ({50: np.nan}, [2, 1], 0)]
    )
    def test_the_bar_is_the_best_positives_and_without_a_score_there_is_none(self, positives, kept, dropped):
        scores = {**positives, 2: 4.5, 1: 3.0, 3: 0.0}

        def teacher(queries, passages):
            return np.array([scores.get(int(passage), 0.0) for passage in passages], np.float32)

        candidates, report = mined(
            run_of({0: [2, 1, 3, 4]}),
            qrels_of(*((0, passage, 1) for passage in positives)),
            k=len(positives) + 2,
            positives=2,
            sampling="hardest",
            denoise=1.0,
            denoise_scores=teacher,
        )
        assert candidates.passages[0, len(positives) :].tolist() == kept
        assert report.dropped["scored like a positive by the teacher"] == dropped


class TestWindow:
    def test_negatives_come_from_the_window_alone(self):
        run = run_of({query: list(range(50)) for query in range(10)})
        qrels = qrels_of(*((query, 99, 1) for query in range(10)))
        candidates, report = mined(run, qrels, first=11, last=20, k=6)
        assert set(candidates.passages[:, 1:].ravel().tolist()) <= set(range(10, 20))
        assert report.ranked == 100
        assert report.negatives["from the window"] == 50

    def test_a_pool_is_wider_than_k(self):
        candidates, _ = mined(run_of({0: list(range(50))}), qrels_of((0, 99, 1)), k=4, pool=20)
        assert candidates.passages.shape == (1, 20)
        assert len(set(candidates.passages[0].tolist())) == 20

    def test_short_lists_are_filled_from_below_and_then_by_chance(self):
        run = run_of({0: [10, 11, 12, 13]})
        candidates, report = mined(run, qrels_of((0, 99, 1), (0, 12, 1)), last=2, k=6, sampling="hardest")
        got = candidates.passages[0].tolist()
        assert got[0] in (99, 12)
        assert got[1:4] == [10, 11, 13]
        assert not set(got[4:]) & {10, 11, 12, 13, 99}
        assert list(report.negatives.values()) == [2, 1, 2, 0]

    def test_ranks_before_the_window_do_not_come_back_by_chance(self):
        run = run_of({0: [0, 1, 2, 3]})
        candidates, _ = mined(run, qrels_of((0, 9, 1)), Texts(10), first=3, last=4, k=10)
        assert candidates.passages[0, 1:3].tolist() in ([2, 3], [3, 2])
        assert set(candidates.passages[0].tolist()) == {9, 2, 3, 4, 5, 6, 7, 8, -1}

    def test_a_collection_that_is_too_small_leaves_places_empty(self):
        candidates, report = mined(run_of({0: [1]}), qrels_of((0, 0, 1)), Texts(3), k=6)
        assert candidates.passages.tolist() == [[0, 1, 2, -1, -1, -1]]
        assert report.negatives["places left empty"] == 3

    def test_a_window_below_the_run_and_an_empty_list_are_filled(self):
        run = run_of({0: [1, 2, 3], 1: []})
        candidates, report = mined(run, qrels_of((0, 0, 1), (1, 5, 1)), first=10, last=20, sampling="simans")
        assert report.negatives["by chance"] == 6
        assert (candidates.passages >= 0).all()


class TestFilters:
    TEXTS = (
        "The quick brown fox jumps over the lazy dog",
        "the QUICK brown fox: jumps over the lazy dog!",
        "The quick brown fox jumps over the lazy cat",
        "Nothing of the kind",
        "",
        "",
    )

    def near(self, threshold, positive=0):
        run = run_of({0: [1, 2, 3, 4]})
        return mined(
            run, qrels_of((0, positive, 1)), Texts(texts=self.TEXTS), sampling="hardest", near_duplicate=threshold
        )

    def test_near_duplicates_of_a_positive_go(self):
        candidates, report = self.near(0.9)
        assert candidates.passages.tolist() == [[0, 2, 3, 4]]
        assert report.dropped["near-duplicate of a positive"] == 1
        (example,) = report.examples
        assert (example.positive, example.dropped) == self.TEXTS[:2]
        assert example.query == "what about 0?"

    @pytest.mark.parametrize(("threshold", "dropped"), [(7 / 9 - 1e-9, 2), (7 / 9 + 1e-9, 1), (1.0, 1)])
    def test_overlap_is_jaccard(self, threshold, dropped):  # 7 words in common of 9 in all
        assert self.near(threshold)[1].dropped["near-duplicate of a positive"] == dropped

    def test_dropped_passages_do_not_come_back_by_chance(self):
        candidates, _ = self.near(0.5)
        assert candidates.passages.tolist() in ([[0, 3, 4, 5]], [[0, 3, 5, 4]])

    def test_an_empty_passage_is_no_stumbling_block(self):
        assert self.near(0.9, positive=5)[1].dropped["near-duplicate of a positive"] == 1  # the other empty one

    def test_each_query_is_compared_with_all_of_its_own_positives(self):
        texts = Texts(texts=["a b c", "d e f", "a b c.", "d e f.", "x"])
        run = run_of({0: [2, 3, 4], 1: [2, 3, 4]})
        candidates, _ = mined(
            run, qrels_of((0, 0, 1), (0, 1, 1), (1, 1, 1)), texts, k=2, near_duplicate=0.9, sampling="hardest"
        )
        assert candidates.passages[:, 1].tolist() == [4, 2]

    def test_margin_drops_what_scores_like_the_best_ranked_positive(self):
        run = run_of({0: [1, 2, 3, 4, 5], 1: [1, 2, 3, 4, 5]}, {query: [9.0, 7.5, 7.0, 5.0, 4.0] for query in (0, 1)})
        qrels = qrels_of((0, 3, 1), (0, 5, 1), (1, 8, 1))
        candidates, report = mined(run, qrels, k=3, margin=1.0, sampling="hardest")
        assert candidates.passages[0, 1] == 4  # the others score more than 7.0 - 1.0
        assert candidates.passages[1, 1:].tolist() == [1, 2]  # the positive is not in this list: no filter
        assert report.dropped["scored like a positive by the miner"] == 2

    def test_denoise_drops_what_the_teacher_takes_for_a_positive_and_asks_for_little(self):
        asked = []
        scores = {50: 5.0, 1: 4.5, 2: 3.9, 3: 6.0, 4: np.nan, 5: 0.0, 6: 0.0, 7: 0.0}

        def teacher(queries, passages):
            assert queries.shape == passages.shape
            asked.extend(passages.tolist())
            return np.array([scores[passage] for passage in passages.tolist()], np.float32)

        candidates, report = mined(
            run_of({0: [1, 2, 3, 4, 5, 6, 7]}),
            qrels_of((0, 50, 1)),
            sampling="hardest",
            denoise=1.0,
            denoise_scores=teacher,
        )
        assert candidates.passages.tolist() == [[50, 2, 4, 5]]
        assert asked == [50, 1, 2, 3, 4, 5]  # not 6 and 7, and nothing twice
        assert report.dropped["scored like a positive by the teacher"] == 2

    def test_denoise_without_a_teacher_says_so(self):
        candidates, report = mined(run_of({0: [1, 2, 3]}), qrels_of((0, 50, 1)), denoise=1.0)
        assert sorted(candidates.passages[0].tolist()) == [1, 2, 3, 50]
        assert "not applied" in report.notes[0]


class TestSampling:
    MANY = 400

    def draw(self, sampling, scores=None):
        run = run_of({q: list(range(20)) for q in range(self.MANY)}, scores)
        qrels = qrels_of(*((q, 10, 1) for q in range(self.MANY)))
        candidates, _ = mined(run, qrels, Texts(n_queries=self.MANY), k=2, sampling=sampling)
        return np.bincount(candidates.passages[:, 1], minlength=20)

    def test_random_is_even(self):
        counts = self.draw("random")
        assert counts[10] == 0
        assert np.delete(counts, 10).min() > 5
        assert counts.max() < 45

    def test_simans_is_near_the_positive_on_any_scale(self):
        for scale in (0.01, 30.0):
            falling = list(np.linspace(scale, 0, 20))
            counts = self.draw("simans", dict.fromkeys(range(self.MANY), falling))
            # p = exp(-d^2) is a normal curve of 0.71 standard deviations of the scores, here 4.1 ranks
            assert counts[2:19].sum() > 0.9 * self.MANY
            assert counts[6:15].sum() > 0.6 * self.MANY

    def test_simans_follows_its_formula(self):
        # Two passages beside the positive, at 0 and 2 standard deviations: odds are 1 : exp(-4).
        n = 2000
        scores = np.array([2.0, 2.0, 0.0]) / np.std([2.0, 2.0, 0.0])
        away = float(scores[0] - scores[2])
        run = run_of({q: [0, 1, 2] for q in range(n)}, {q: list(scores) for q in range(n)})
        qrels = qrels_of(*((q, 0, 1) for q in range(n)))
        candidates, _ = mined(run, qrels, Texts(n_queries=n), k=2, sampling="simans")
        share = (candidates.passages[:, 1] == 2).mean()
        expected = np.exp(-(away**2)) / (1 + np.exp(-(away**2)))
        assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / n)

    @pytest.mark.parametrize("sampling", ["random", "simans", "hardest"])
    def test_a_query_does_not_depend_on_the_others(self, sampling):
        lists = {query: list(range(query, query + 30 - query)) for query in range(10)}
        qrels = qrels_of(*((query, 99, 1) for query in range(10)), *((query, 98, 1) for query in range(10)))
        whole, _ = mined(run_of(lists), qrels, sampling=sampling, k=40, last=20)
        backwards = dict(list(lists.items())[:2:-1])
        depth = run_of(lists)
        part, _ = mined(depth.select(np.array(list(backwards))), qrels, sampling=sampling, k=40, last=20)
        np.testing.assert_array_equal(part.passages, whole.passages[whole.queries > 2][::-1])

    def test_seeds_differ_and_repeat(self):
        run, qrels = run_of({0: list(range(50))}), qrels_of((0, 99, 1))
        one, again, other = (mined(run, qrels, k=9, seed=seed)[0].passages for seed in (1, 1, 2))
        np.testing.assert_array_equal(one, again)
        assert (one != other).any()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_law_candidates_are_distinct_and_no_negative_is_a_positive(data):
    n = data.draw(st.integers(1, 12), "passages")
    qrels_rows = data.draw(
        st.dictionaries(st.tuples(st.integers(0, 3), st.integers(0, n - 1)), st.integers(0, 2), min_size=1)
    )
    lists = {q: data.draw(st.permutations(range(n)))[: data.draw(st.integers(0, n))] for q in range(4)}
    first = data.draw(st.integers(1, 5))
    rules = {
        "first": first,
        "last": first + data.draw(st.integers(0, 6)),
        "sampling": data.draw(st.sampled_from(["random", "hardest", "simans"])),
        "positives": data.draw(st.integers(1, 3)),
        "margin": data.draw(st.sampled_from([None, 0.0, 1.5])),
        "near_duplicate": data.draw(st.sampled_from([None, 0.5])),
        "denoise": 0.0,
    }
    qrels = qrels_of(*((q, p, g) for (q, p), g in qrels_rows.items()))

    def teacher(queries, passages):
        return np.asarray((queries * 7 + passages * 5) % 11, np.float32)

    candidates, report = mined(
        run_of(lists), qrels, Texts(n), k=data.draw(st.integers(2, 9)), denoise_scores=teacher, **rules
    )
    for query, passages, grades in zip(candidates.queries, candidates.passages, candidates.grades, strict=True):
        real = passages >= 0
        assert len(set(passages[real].tolist())) == real.sum()
        assert not (np.diff(real.astype(int)) > 0).any()  # no gap before a passage
        assert grades[0] > 0
        assert (np.diff(grades) <= 0).all()
        for passage, grade in zip(passages[real].tolist(), grades[real].tolist(), strict=True):
            assert grade == max(qrels_rows.get((int(query), passage), 0), 0)
        assert (grades[~real] == 0).all()
    negatives = (candidates.passages >= 0) & ~candidates.positives
    assert sum(report.negatives.values()) - report.negatives["places left empty"] == negatives.sum()
    json.dumps(report.to_json())
    assert report.table().text()


class TestFiles:
    def test_there_and_back(self, tmp_path):
        candidates, _ = mined(run_of({3: [1, 2], 1: [5]}), qrels_of((3, 0, 2), (1, 0, 1)), Texts(3), k=5)
        candidates.save(tmp_path / "candidates.parquet", Texts())
        again = Candidates.load(tmp_path / "candidates.parquet", Texts())
        for name in ("queries", "passages", "grades"):
            np.testing.assert_array_equal(getattr(again, name), getattr(candidates, name))
            assert getattr(again, name).dtype == np.int32

    def test_candidates_of_nobody(self, tmp_path):
        none = Candidates(np.zeros(0, np.int32), np.zeros((0, 4), np.int32), np.zeros((0, 4), np.int32))
        none.save(tmp_path / "candidates.parquet", Texts())
        assert Candidates.load(tmp_path / "candidates.parquet", Texts()).passages.shape == (0, 4)

    def test_another_collection_is_refused(self, tmp_path):
        candidates, _ = mined(run_of({0: [1, 2]}), qrels_of((0, 0, 1)))
        candidates.save(tmp_path / "candidates.parquet", Texts())
        other = Texts()
        other.fingerprint = "other"
        with pytest.raises(StepwellError, match="another collection"):
            Candidates.load(tmp_path / "candidates.parquet", other)

    def test_shapes_must_fit(self):
        with pytest.raises(ValueError, match="do not belong together"):
            Candidates(np.zeros(1, np.int32), np.zeros((1, 4), np.int32), np.zeros((1, 5), np.int32))


def test_mines_a_real_collection(tmp_path):
    texts = ["cats purr at night", "cats purr at night!", "dogs bark", "cows moo", "hens cluck"]
    lines = [json.dumps({"_id": f"p{row}", "title": "", "text": text}) for row, text in enumerate(texts)]
    (tmp_path / "b/qrels").mkdir(parents=True)
    (tmp_path / "b/corpus.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "b/queries.jsonl").write_text(json.dumps({"_id": "q", "text": "what do cats do"}) + "\n")
    (tmp_path / "b/qrels/train.tsv").write_text("query-id\tcorpus-id\tscore\nq\tp0\t1\n")
    collection = open_collection(tmp_path / "b", tmp_path / "cache")
    candidates, report = mine(run_of({0: [1, 0, 2, 3]}), collection.qrels("train"), collection, Mining(), 4, 1)
    assert set(candidates.passages[0].tolist()) == {0, 2, 3, 4}
    assert report.examples[0].dropped == "cats purr at night!"
