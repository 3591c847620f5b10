"""Measures equal trec_eval's: with ties, grades, missing queries, short lists."""

from types import SimpleNamespace

import ir_measures
import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings, strategies as st

from stepwell.collection import Qrels
from stepwell.errors import StepwellError
from stepwell.evaluation.measures import DEFAULT_MEASURES, Evaluation, evaluate, measure_name
from stepwell.retrieval.run import Run

PASSAGES = 30
# Ids whose alphabetical order has nothing to do with the rows, as in the wild.
COLLECTION = SimpleNamespace(
    name="tiny",
    fingerprint="f" * 64,
    passage_ids=[f"{'dcba'[row % 4]}-{row * 7 % 31}" for row in range(PASSAGES)],
    query_ids=[f"q/{row}" for row in range(6)],
    find_query=None,  # both are for ids with blanks
    find_passage=None,
)


@st.composite
def runs_and_qrels(draw):
    """Draw graded qrels over six queries, and a run of ragged lists with many ties over some of them."""
    pairs = st.tuples(st.integers(0, 5), st.integers(0, PASSAGES - 1))
    grades = draw(st.dictionaries(pairs, st.integers(0, 3), min_size=1, max_size=40))
    queries = draw(st.lists(st.integers(0, 5), unique=True, min_size=1))
    depth = draw(st.integers(1, 25))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    passages = np.stack([rng.permutation(PASSAGES)[:depth] for _ in queries]).astype(np.int32)
    scores = -np.sort(-rng.integers(-3, 4, passages.shape).astype(np.float32) / 3, axis=1)
    short = np.arange(depth) >= rng.integers(0, depth + 1, (len(queries), 1))
    run = Run(np.array(queries, np.int32), np.where(short, -1, passages), np.where(short, -np.inf, scores))
    return run, Qrels(*np.array([(q, p, g) for (q, p), g in grades.items()], np.int32).T)


def trec_eval(run, qrels, folder):
    """Evaluate with pytrec_eval through a file with ids, as an outsider would."""
    run.to_trec(folder / "run.trec", COLLECTION)
    ranked = pytrec_eval.parse_run((folder / "run.trec").open())
    ids, names = COLLECTION.query_ids, COLLECTION.passage_ids
    judged = {ids[query]: {} for query in qrels.query_rows}
    for query, passage, grade in zip(qrels.queries, qrels.passages, qrels.grades, strict=True):
        if ids[query] in judged:
            judged[ids[query]][names[passage]] = int(grade)
    wanted = {"ndcg_cut_10", "recall_5", "recall_20", "recall_100", "recip_rank", "map"}
    results = pytrec_eval.RelevanceEvaluator(judged, wanted).evaluate(ranked) if judged else {}
    for query in judged:
        results.setdefault(query, dict.fromkeys(wanted, 0.0))  # trec_eval -c
    order = [results[ids[query]] for query in qrels.query_rows]
    table = {name: np.array([result[name] for result in order]) for name in wanted}
    first = table["recip_rank"]
    return {
        "RR": first,
        "RR@10": np.where(first >= 0.1, first, 0),
        "nDCG@10": table["ndcg_cut_10"],
        "R@5": table["recall_5"],
        "R@20": table["recall_20"],
        "R@100": table["recall_100"],
        "AP": table["map"],
    }


@given(runs_and_qrels())
@settings(max_examples=150, deadline=None)
def test_every_measure_equals_trec_evals(tmp_path_factory, drawn):
    run, qrels = drawn
    expected = trec_eval(run, qrels, tmp_path_factory.mktemp("trec"))
    ours = evaluate(run, qrels, [*DEFAULT_MEASURES, "RR", "AP"])
    assert ours.queries.tolist() == qrels.query_rows.tolist()
    for measure, values in expected.items():
        assert ours.of(measure) == pytest.approx(values, abs=1e-9), measure


def one(passages, grades, measures=DEFAULT_MEASURES):
    """Evaluate a ranking for query 0, with grades by passage."""
    run = Run(np.zeros(1, np.int32), np.array([passages], np.int32), -np.arange(len(passages))[None].astype("f4"))
    return evaluate(run, Qrels([0] * len(grades), list(grades), list(grades.values())), measures)


def test_values_known_by_hand():
    found = one([4, 9, 2, 7], {9: 1, 7: 3, 5: 2})
    gain = 1 / np.log2(3) + 3 / np.log2(5)
    ideal = 3 + 2 / np.log2(3) + 1 / np.log2(4)
    assert found.mean("RR@10") == 0.5
    assert found.mean("nDCG@10") == pytest.approx(gain / ideal)
    assert found.mean("R@5") == pytest.approx(2 / 3)


def test_a_positive_at_rank_11_counts_nothing_at_10():
    assert one([*range(10), 20], {20: 1}).mean("MRR@10") == 0


def test_equal_scores_keep_the_order_of_the_run():
    run = Run(np.zeros(1, np.int32), np.array([[3, 1, 2]], np.int32), np.ones((1, 3), np.float32))
    reciprocal = [evaluate(run, Qrels([0], [positive], [1])).mean("RR@10") for positive in (3, 1, 2)]
    assert reciprocal == pytest.approx([1, 1 / 2, 1 / 3])


def test_a_query_that_the_run_lacks_counts_zero_and_one_without_positives_not_at_all():
    run = Run(np.array([0, 1], np.int32), np.array([[1], [1]], np.int32), np.ones((2, 1), np.float32))
    found = evaluate(run, Qrels([0, 1, 2], [1, 1, 1], [1, 0, 1]))
    assert found.queries.tolist() == [0, 2]
    assert found.of("RR@10").tolist() == [1, 0]
    assert found.mean("RR@10") == 0.5


@settings(max_examples=50)
@given(runs_and_qrels())
def test_the_mean_over_all_judged_queries_is_that_of_trec_eval_c(drawn):
    """ir-measures averages as trec_eval -c does: over every query of the qrels, 0 without a list or a positive."""
    run, qrels = drawn
    judged, lists = dict[str, dict[str, int]](), dict[str, dict[str, float]]()
    for query, passage, grade in zip(qrels.queries, qrels.passages, qrels.grades, strict=True):
        judged.setdefault(str(query), {})[str(passage)] = int(grade)
    for query, row in zip(run.queries, run.passages, strict=True):
        lists[str(query)] = {str(passage): float(-place) for place, passage in enumerate(row) if passage >= 0}
    theirs = ir_measures.calc_aggregate([ir_measures.parse_measure(name) for name in DEFAULT_MEASURES], judged, lists)
    ours = evaluate(run, qrels.complete())
    assert len(ours.queries) == len(judged)
    for measure, mean in theirs.items():
        assert ours.mean(str(measure)) == pytest.approx(mean, abs=1e-12)


def test_no_positives_at_all_give_no_queries_and_no_mean():
    run = Run(np.zeros(1, np.int32), np.ones((1, 1), np.int32), np.ones((1, 1), np.float32))
    found = evaluate(run, Qrels([0], [1], [0]))
    assert len(found.queries) == 0
    assert np.isnan(found.mean("nDCG@10"))


def test_aliases_name_the_same_measure():
    assert measure_name("MRR@10") == "RR@10"
    assert one([1], {1: 1}, ["MRR@10"]).mean("RR@10") == 1


@pytest.mark.parametrize("measure", ["nDGC@10", "nDCG@", "", "R@ten", "P(rel=1", "alpha_nDCG@10"])
def test_an_unknown_measure_is_named(measure):
    with pytest.raises(StepwellError, match="There is no measure"):
        one([1], {1: 1}, [measure])


def test_a_measure_that_was_not_computed_is_named():
    with pytest.raises(StepwellError, match=r"nDCG@3 was not computed.*RR@10"):
        one([1], {1: 1}).mean("nDCG@3")


def test_saving_and_loading_keeps_every_bit_and_the_ids(tmp_path):
    import pyarrow.parquet as pq

    found = Evaluation(np.array([1, 4], np.int32), {"RR@10": np.array([1 / 3, 0.1]), "R@5": np.zeros(2)})
    found.save(tmp_path / "dev.parquet", COLLECTION)
    again = Evaluation.load(tmp_path / "dev.parquet", COLLECTION)
    assert again.queries.tolist() == [1, 4]
    assert {name: list(values) for name, values in again.values.items()} == {"RR@10": [1 / 3, 0.1], "R@5": [0, 0]}
    assert pq.read_table(tmp_path / "dev.parquet")["query_id"].to_pylist() == ["q/1", "q/4"]


def test_results_over_another_collection_are_refused(tmp_path):
    one([1], {1: 1}).save(tmp_path / "dev.parquet", COLLECTION)
    other = SimpleNamespace(name="other", fingerprint="0" * 64)
    with pytest.raises(StepwellError, match="another collection than other"):
        Evaluation.load(tmp_path / "dev.parquet", other)
