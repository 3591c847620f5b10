"""The comparison: paired, corrected, and laid out so that it can be read."""

import json
import re

import numpy as np
import pytest

from stepwell.errors import StepwellError
from stepwell.evaluation.comparison import Comparison, compare, wins_and_losses
from stepwell.evaluation.measures import Evaluation
from stepwell.evaluation.significance import bootstrap_interval, holm, paired_test

MEASURES = ("nDCG@10", "RR@10")
QUERIES = 200


def evaluation(seed=0, lift=0.0, queries=QUERIES):
    """Make values of a system that is better by ``lift``, correlated with the others' over the queries."""
    rng, common = np.random.default_rng(seed), np.random.default_rng(99).random(queries)
    values = {m: np.clip(common * 0.8 + 0.1 * rng.random(queries) + lift, 0, 1) for m in MEASURES}
    return Evaluation(np.arange(queries, dtype=np.int32), values)


@pytest.fixture
def systems():
    return {"bm25": evaluation(1, -0.1), "ladder": evaluation(2), "twin": evaluation(3), "weak": evaluation(4, -0.02)}


def test_rows_keep_the_order_given_and_hold_the_means(systems):
    comparison = compare(systems, "ladder", MEASURES)
    assert [row.name for row in comparison.rows] == list(systems)
    for row in comparison.rows:
        for measure in MEASURES:
            assert row.values[measure] == pytest.approx(systems[row.name].mean(measure))
            low, high = row.interval[measure]
            assert low < row.values[measure] < high


def test_differences_are_paired_system_minus_reference(systems):
    row = compare(systems, "ladder", MEASURES, seed=5).row("bm25")
    gaps = systems["bm25"].of("RR@10") - systems["ladder"].of("RR@10")
    assert row.difference["RR@10"] == pytest.approx(gaps.mean())
    assert row.difference_interval["RR@10"] == pytest.approx(bootstrap_interval(gaps, 5))
    low, high = row.difference_interval["RR@10"]
    assert high - low < 0.5 * (row.interval["RR@10"][1] - row.interval["RR@10"][0])


def test_p_values_are_corrected_over_the_systems_for_each_measure(systems):
    comparison = compare(systems, "ladder", MEASURES)
    for measure in MEASURES:
        ours = systems["ladder"].of(measure)
        plain = [paired_test(systems[name].of(measure), ours) for name in ("bm25", "twin", "weak")]
        corrected = [comparison.row(name).p[measure] for name in ("bm25", "twin", "weak")]
        assert corrected == pytest.approx(holm(plain))


def test_the_reference_is_not_compared_with_itself(systems):
    row = compare(systems, "ladder", MEASURES).row("ladder")
    assert row.difference == row.difference_interval == row.p == {}


def test_a_copy_of_the_reference_does_not_differ(systems):
    row = compare({**systems, "copy": systems["ladder"]}, "ladder", MEASURES).row("copy")
    assert row.difference["nDCG@10"] == 0
    assert row.difference_interval["nDCG@10"] == (0, 0)
    assert row.p["nDCG@10"] == 1


def test_the_same_seed_gives_the_same_comparison(systems):
    assert compare(systems, "ladder", MEASURES, seed=3) == compare(systems, "ladder", MEASURES, seed=3)


def test_json_holds_everything(systems):
    comparison = compare(systems, "ladder", MEASURES)
    again = json.loads(json.dumps(comparison.to_json()))
    assert again["reference"] == "ladder"
    assert again["queries"] == QUERIES
    assert again["rows"][0]["p"]["nDCG@10"] == comparison.rows[0].p["nDCG@10"]
    assert again["rows"][0]["interval"]["RR@10"] == list(comparison.rows[0].interval["RR@10"])
    assert Comparison.from_json(again).table() == comparison.table()


def test_the_table_is_aligned_and_explains_its_marks(systems):
    table = compare(systems, "ladder", MEASURES).table("Test")
    title, head, rule, *rows, first_note, second_note = table.text().splitlines()
    assert title == "Test"
    assert head.split("  ")[0] == "system"
    assert set(rule) == {"-"}
    assert len({row.index("[") for row in rows}) == 1
    assert len({row.rindex(".") for row in rows}) == 1
    assert rows[0].count("*") == 2
    assert rows[2].count("*") == 0
    assert table.rows[1][2] is None
    assert "200 queries" in first_note
    assert "95% bootstrap" in first_note
    assert second_note.startswith("* differs from ladder: p < 0.05")
    assert "over 3 systems" in second_note


def test_cells_have_intervals_and_signs(systems):
    table = compare(systems, "ladder", MEASURES).table()
    assert re.fullmatch(r"0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]", table.rows[0][1])
    assert re.fullmatch(r"-0\.\d{3} \[-0\.\d{3}, -0\.\d{3}\]", table.rows[0][2])
    assert table.rows[0][3] == "<0.001*"


def test_one_system_alone_has_no_differences(systems):
    table = compare({"ladder": systems["ladder"]}, "ladder", MEASURES).table()
    assert list(table.columns) == ["system", *MEASURES]
    assert len(table.notes) == 1


def test_systems_over_different_queries_cannot_be_compared(systems):
    with pytest.raises(StepwellError, match="short and ladder were evaluated on different queries: 1 "):
        compare({**systems, "short": evaluation(queries=QUERIES - 1)}, "ladder", MEASURES)


def test_an_unknown_reference_names_the_systems(systems):
    with pytest.raises(StepwellError, match=r"'laddr' is not among the systems \(bm25, ladder"):
        compare(systems, "laddr", MEASURES)


def test_a_measure_that_one_system_lacks_is_named(systems):
    with pytest.raises(StepwellError, match="R@5 was not computed"):
        compare(systems, "ladder", ["nDCG@10", "R@5"])


def test_wins_and_losses_are_the_largest_of_each_and_never_draws():
    queries = np.array([3, 5, 8, 9, 11], np.int32)
    a = Evaluation(queries, {"RR@10": np.array([1.0, 0.2, 0.5, 0.0, 0.7])})
    b = Evaluation(queries, {"RR@10": np.array([0.0, 0.5, 0.5, 1.0, 0.5])})
    wins, losses = wins_and_losses(a, b, "MRR@10", n=2)
    assert wins == [(3, 1.0), (11, pytest.approx(0.2))]
    assert losses == [(9, -1.0), (5, pytest.approx(-0.3))]
    assert wins_and_losses(a, a, "RR@10", n=5) == ([], [])


def test_wins_of_one_are_losses_of_the_other(systems):
    wins, losses = wins_and_losses(systems["ladder"], systems["twin"], "RR@10", n=7)
    other_wins, other_losses = wins_and_losses(systems["twin"], systems["ladder"], "RR@10", n=7)
    assert wins == [(query, -delta) for query, delta in other_losses]
    assert losses == [(query, -delta) for query, delta in other_wins]
