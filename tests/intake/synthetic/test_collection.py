"""Passages without queries become a collection whose synthetic queries train and steer, and never test."""

import json

import pytest

from stepwell.collection import check_directory, open_collection, resolve_splits
from stepwell.collection.readers.folder import Folder
from stepwell.errors import StepwellError
from stepwell.intake.synthetic.collection import RealQueries, SyntheticOptions, make_collection
from stepwell.recipe import CollectionSection

THINGS = ("violin", "glacier", "engine", "harvest", "comet", "castle", "enzyme", "market", "sail", "river")


@pytest.fixture
def docs(tmp_path):
    home = tmp_path / "docs"
    home.mkdir()
    for name in THINGS:
        text = (
            f"# The {name}\n\n## How a {name} is kept\n\nNobody should leave a {name} out in the rain. "
            f"Every {name} needs a dry place and somebody who looks after it twice a week or more often.\n"
        )
        (home / f"{name}.md").write_text(text)
    return Folder(home)


def lines(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def judged(folder, split):
    return [tuple(line.split("\t")) for line in (folder / "qrels" / f"{split}.tsv").read_text().splitlines()[1:]]


class Asks:
    """A generator that asks about the last word, and counts how often it is called."""

    def __init__(self, until=None):
        self.calls, self.until = 0, until

    def ask(self, texts, queries, seed):
        if self.calls == self.until:
            raise KeyboardInterrupt
        self.calls += 1
        return [[f"who keeps the {text.split()[1]} dry, {number}" for number in range(queries)] for text in texts]


def test_the_collection_is_whole_marked_and_without_a_test(docs, tmp_path):
    report = make_collection(docs, tmp_path / "made")
    assert check_directory(tmp_path / "made") == []
    queries = lines(tmp_path / "made", "queries.jsonl")
    assert {query["metadata"]["origin"] for query in queries} == {"heading", "first sentence"}
    assert all(query["metadata"]["synthetic"] is True for query in queries)
    assert sorted(path.name for path in (tmp_path / "made" / "qrels").iterdir()) == ["dev.tsv", "train.tsv"]
    assert report.kept == {"heading": 10, "first sentence": 10}
    assert (report.train, report.dev) == (10, 10)
    assert not (tmp_path / "made.part").exists()


def test_no_passage_holds_what_is_asked_of_it(docs, tmp_path):
    make_collection(docs, tmp_path / "made")
    texts = {text["_id"]: f"{text['title']} {text['text']}" for text in lines(tmp_path / "made", "corpus.jsonl")}
    asked = {query["_id"]: query["text"] for query in lines(tmp_path / "made", "queries.jsonl")}
    pairs = judged(tmp_path / "made", "train") + judged(tmp_path / "made", "dev")
    assert len(pairs) == 20
    assert not [pair for pair in pairs if asked[pair[0]].lower() in texts[pair[1]].lower()]


def test_what_does_not_come_back_is_dropped_and_its_passage_is_whole_again(docs, tmp_path):
    # BM25 knows no word of the sentence but from this passage, and there it is taken out: nothing is found.
    (docs.home / "a.md").write_text("Zither zither zither zither. " + "Words that are about nothing much at all. " * 3)
    report = make_collection(Folder(docs.home), tmp_path / "made")
    texts = {text["_id"]: text for text in lines(tmp_path / "made", "corpus.jsonl")}
    assert texts["a.md#1"]["text"].startswith("Zither zither zither zither. Words")
    assert report.dropped == {"the passage does not come back in the first 10": 1}
    assert report.examples["the passage does not come back in the first 10"] == ["Zither zither zither zither."]
    assert "sentence:a.md#1" not in {query["_id"] for query in lines(tmp_path / "made", "queries.jsonl")}
    assert sum(report.proposed.values()) == sum(report.dropped.values()) + sum(report.kept.values())


def test_the_splits_of_a_run_have_no_test(docs, tmp_path):
    make_collection(docs, tmp_path / "made")
    opened = open_collection(tmp_path / "made")
    splits = resolve_splits(opened, CollectionSection(path="made"))
    assert not splits.tested
    assert splits.test.query_rows.tolist() == splits.dev.query_rows.tolist()
    assert splits.synthetic == {"train": 10, "dev": 10}
    assert "no real queries to test on" in splits.notes[-1]


def test_real_queries_test_and_nothing_else(docs, tmp_path):
    file = tmp_path / "real.csv"
    file.write_text(
        "query,passage\nwhere to put my engine,engine.md\nis rain bad,sail.md#1\nIs rain  bad,comet.md#1\n"
        "nobody should leave a castle out in the rain.,castle.md#1\n"
    )
    report = make_collection(docs, tmp_path / "made", real=RealQueries(file))
    assert judged(tmp_path / "made", "test") == [
        ("real:1", "engine.md#1", "1"),
        ("real:2", "sail.md#1", "1"),
        ("real:2", "comet.md#1", "1"),
        ("real:4", "castle.md#1", "1"),
    ]
    assert report.dropped["a query that people asked"] == 1
    splits = resolve_splits(open_collection(tmp_path / "made"), CollectionSection(path="made"))
    assert splits.tested
    assert len(splits.test.query_rows) == 3
    assert check_directory(tmp_path / "made") == []


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("query,passage\nwhat,nowhere.md\n", "real.csv:2: there is no passage 'nowhere.md'"),
        ("a,b\n1,2\n", "needs the columns query and passage, and there are a, b"),
        ("query,passage\n", "holds no query"),
    ],
)
def test_a_bad_file_of_real_queries_is_told_and_nothing_is_made(docs, tmp_path, content, match):
    (tmp_path / "real.csv").write_text(content)
    with pytest.raises(StepwellError, match=match):
        make_collection(docs, tmp_path / "made", real=RealQueries(tmp_path / "real.csv"))
    assert not (tmp_path / "made").exists()


def test_a_generator_asks_and_goes_on_where_it_was_stopped(docs, tmp_path, monkeypatch):
    monkeypatch.setattr("stepwell.intake.synthetic.collection.BATCH", 4)
    making = SyntheticOptions(generator="asks", per_passage=1)
    with pytest.raises(KeyboardInterrupt):
        make_collection(docs, tmp_path / "made", making, model=Asks(until=2))
    assert not (tmp_path / "made").exists()
    with (tmp_path / "made.part" / "generated.jsonl").open("a") as file:
        file.write('["half a li')
    rest = Asks()
    report = make_collection(docs, tmp_path / "made", making, model=rest)
    assert rest.calls == 1
    assert report.kept["generated"] == 10
    assert make_collection(docs, tmp_path / "again", making, model=Asks()).to_json() == report.to_json()
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/train.tsv"):
        assert (tmp_path / "made" / name).read_text() == (tmp_path / "again" / name).read_text()
    marks = [query["metadata"] for query in lines(tmp_path / "made", "queries.jsonl")]
    assert {"synthetic": True, "origin": "generated", "generator": "asks"} in marks


def test_other_settings_ask_anew(docs, tmp_path, monkeypatch):
    monkeypatch.setattr("stepwell.intake.synthetic.collection.BATCH", 4)
    with pytest.raises(KeyboardInterrupt):
        make_collection(docs, tmp_path / "made", SyntheticOptions(generator="asks"), model=Asks(until=2))
    asks = Asks()
    make_collection(docs, tmp_path / "made", SyntheticOptions(generator="asks", seed=14), model=asks)
    assert asks.calls == 3


def test_the_encoder_may_judge_too(docs, tmp_path, tiny_model):
    def kept_by(by):
        options = SyntheticOptions(by=by, encoder=str(tiny_model), depth=3)
        return sum(make_collection(docs, tmp_path / by, options).kept.values())

    kept = {by: kept_by(by) for by in ("bm25", "encoder", "either", "both")}
    assert 0 < kept["both"] <= kept["encoder"] < kept["bm25"] <= kept["either"]
    assert kept["both"] + kept["either"] == kept["bm25"] + kept["encoder"]


def test_nothing_is_overwritten(docs, tmp_path):
    (tmp_path / "made").mkdir()
    with pytest.raises(StepwellError, match="is there already"):
        make_collection(docs, tmp_path / "made")
    (tmp_path / "other.part").mkdir()
    (tmp_path / "other.part" / "mine.txt").write_text("mine")
    with pytest.raises(StepwellError, match="files that are not stepwell's"):
        make_collection(docs, tmp_path / "other")
    assert (tmp_path / "other.part" / "mine.txt").read_text() == "mine"


def test_too_little_to_ask_is_said_with_the_reasons(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("hello")
    with pytest.raises(StepwellError, match=r"only 0 queries could be made.*--generator"):
        make_collection(Folder(tmp_path / "docs"), tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["docs"]


def test_of_many_passages_a_share_is_asked(docs, tmp_path):
    report = make_collection(docs, tmp_path / "made", SyntheticOptions(asked=5))
    assert 4 <= sum(report.proposed.values()) < 20
    assert "chosen by hash" in report.notes[0]
