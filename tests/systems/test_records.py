"""What stages leave: every record is read as it was written, and says in a line what was found."""

import json
from dataclasses import asdict

import pytest

from stepwell.distil.negatives import Example, MiningReport
from stepwell.distil.training import TrainingLog
from stepwell.evaluation.comparison import Comparison, Row
from stepwell.systems import records
from stepwell.systems.records import (
    Choice,
    Decision,
    Headroom,
    Manifest,
    Mining,
    Outcome,
    Overlap,
    Promotion,
    Rate,
    Record,
    Results,
    ScoreFacts,
    Selection,
    SentTexts,
    Strongest,
    SystemTable,
    TakenScores,
    TakenVectors,
    TeacherScores,
    Training,
    Updates,
)
from stepwell.teachers.spread import histogram, spread

SCORES = [[3.0, 1.0], [10.0, 12.0]]
REPORT = MiningReport(
    2, 0, 3, 40, {"known positive": 3, "empty": 0}, {"ranked": 4}, (Example("r", "q", "p", "d"),), ("A note.",)
)
ROW = Row("a", {"R@5": 0.5}, {"R@5": (0.4, 0.6)})
ALL = (
    Headroom(True, "nDCG@10", 0.25, 0.5, 0.25, 60, interval=(0.125, 0.375)),
    Promotion(True, "rung-2", "nDCG@10", 0.25, 0.5, 0.0001, (0.125, 0.375), 0.0625, 60),
    Selection(True, "top", 4, 2, 1, [1], [{"student": "2-3", "teacher": "1", "queries": 1}]),
    Outcome(2, 1, 2, 0, 1, 1, 1),
    ScoreFacts([], spread(SCORES), 0, 0),
    TakenScores("0", 3, 4, 1),
    TeacherScores(histogram(SCORES)),
    TeacherScores(None),
    Mining(REPORT),
    Training(TrainingLog(2, [2.0, 1.0], {"soft": [2.0, 1.0]}, 1.5, 8, 80, 90, 800, 16, 0.5)),
    Updates(True, 7, {"rung-1": 7}),
    SystemTable.of({"a": "rung-1.test"}, Comparison("a", ("R@5",), 6, 0.95, (ROW,))),
    Rate(True, "contrastive@2", "R@5", {"contrastive@1": (0.001, 0.25), "contrastive@2": (0.003, 0.5)}),
    Strongest(True, "de", "R@5", {"de": 0.5, "ce": 0.25}, 8),
    Manifest(name="rung-1", kind="distil", key="0", inputs={"start": "1"}, finished="2026-01-01", seconds=1.25),
    Results(collection={"path": "c", "fingerprint": "0"}, final="start", stages={}, asymmetric=None),
    Overlap("de", 6, "test", {"ladder": {"R@10": (0.5, 0.25, 0.75), "R@100": (0.75, 0.5, 1.0)}}),
    SentTexts(12, 3, 480),
    TakenVectors(60, 2),
)


def test_every_record_is_here():
    kinds = {value for value in vars(records).values() if isinstance(value, type) and issubclass(value, Record)}
    assert kinds - {Record, Decision, Choice} == {type(record) for record in ALL}


@pytest.mark.parametrize("record", ALL, ids=lambda record: type(record).__name__)
def test_a_record_is_read_as_it_was_written(record, tmp_path):
    record.save(tmp_path)
    read = type(record).load(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [record.file]
    assert json.dumps(read.to_json(), sort_keys=True) == json.dumps(record.to_json(), sort_keys=True)
    assert type(record) is SystemTable or read == record


def test_a_file_is_the_content_alone_and_its_keys_are_in_order(tmp_path):
    Mining(REPORT).save(tmp_path)
    text = json.dumps(REPORT.to_json(), indent=1, sort_keys=True)
    assert (tmp_path / "report.json").read_text() == text


def test_a_file_of_another_version_is_read(tmp_path):
    facts = asdict(ALL[0]) | {"of another version": 1}
    del facts["forced"]
    (tmp_path / "decision.json").write_text(json.dumps(facts))
    assert Headroom.load(tmp_path) == ALL[0] and Decision.load(tmp_path) == Decision(True)


@pytest.mark.parametrize("content", ["", "[]", "3", "null", "{}", '{"go": true}'])
def test_a_damaged_file_is_a_value_error(content, tmp_path):
    (tmp_path / "decision.json").write_text(content)
    with pytest.raises(ValueError, match=r"\w"):
        Promotion.load(tmp_path)


def test_lines_say_what_was_decided():
    assert Headroom(False, "R@5", 0.5, 0.25, -0.25, 8).line("synthetic dev") == (
        "R@5 on 8 synthetic dev queries: student 0.500, teacher 0.250, headroom -0.250; no headroom: the rung is left "
        "out (force: true would climb it all the same)"
    )
    assert Headroom(True, "R@5", 0.5, 0.25, -0.25, 8, True).line().endswith("; no headroom, but the recipe says force")
    assert Headroom(True, "R@5", 0.5).line().endswith("its headroom is not known; climb")
    assert ALL[0].line().endswith("teacher 0.500, headroom +0.250 [+0.125, +0.375]; climb")
    assert ALL[1].line() == (
        "nDCG@10 on dev 0.250 -> 0.500, +0.250 [+0.125, +0.375], p < 0.001; rung-2 goes on (60 queries miss a true "
        "loss below 0.062 more often than one time in five)"
    )
    assert Promotion(True, "rung-2", "R@5", 0.25, 0.5, 0.25).line() == (
        "R@5 on dev 0.250 -> 0.500, +0.250, p = 0.250; rung-2 goes on"
    )
    assert Promotion(False, "start", "R@5", 0.5).line() == "the rung was left out; start goes on"
    assert ALL[3].line().endswith("1 that were right are broken; right in all 1 -> 1")
    assert ALL[4].line() == "standard deviation within a query 1.00; scores from 1.0 to 12.0"
    assert ALL[5].line() == "4 scores; 1 of them are of texts that the collection has not"
    assert ALL[12].line() == "R@5 on dev by learning rate: 0.001 0.250, 0.003 0.500; 0.003 is taken"
    assert ALL[13].line() == "R@5 on 8 dev queries: de 0.500, ce 0.250; de is the strongest"
    assert Strongest(True, "ce", "R@5").line().endswith("the last one, ce, is taken")
    assert ALL[-2].line() == "12 texts sent in 3 requests, 480 tokens by the server's count"
    assert ALL[-1].line() == "60 vectors; 2 of them are of texts that the collection has not"
    assert "2 steps" in Training(ALL[9].log).line() and Training(TrainingLog()).line() is None


def test_mining_says_what_it_dropped():
    assert Mining(REPORT).lines(1) == [
        "2 queries (1 of the training queries are synthetic), 3 positives; negatives ranked 4",
        "dropped of 40 passages: known positive 3",
        "A note.",
        "r: q | dropped: d",
    ]
