"""Collections of ir-datasets are read through the real library, from a data set registered here, not downloaded."""

import os
import sys
import tempfile
import typing
from pathlib import Path
from typing import NamedTuple

import pytest

from stepwell.collection import check_directory, open_collection, resolve_splits, source, store
from stepwell.collection.readers.formats import find_source
from stepwell.errors import StepwellError
from stepwell.recipe import CollectionSection

os.environ.setdefault("IR_DATASETS_HOME", str(Path(tempfile.gettempdir()) / "stepwell-ir-datasets"))
ir_datasets = pytest.importorskip("ir_datasets")


class Answered(NamedTuple):
    query_id: str
    text: str
    answers: typing.Tuple[str, ...]  # noqa: UP006 (the library compares with this)


class Page(NamedTuple):
    doc_id: str
    url: str
    title: str
    body: str

    def default_text(self):
        return f"{self.title} {self.body}"


class Odd(NamedTuple):
    doc_id: str
    words: int
    part: str

    def default_text(self):
        return f"all of {self.part}"


@pytest.fixture
def registered(tmp_path, monkeypatch):
    """Return a maker of data sets: ``registered(name, docs, queries, qrels)``; files as TSV and TREC qrels."""
    from ir_datasets.datasets.base import Dataset
    from ir_datasets.formats import TrecQrels, TsvDocs, TsvQueries
    from ir_datasets.util import LocalDownload

    registry = ir_datasets.registry
    names = []

    def local(name, lines):
        path = tmp_path / name.replace("/", "-")
        path.write_text("".join("\t".join(map(str, line)) + "\n" for line in lines))
        return LocalDownload(path)

    def make(name, docs, queries=None, qrels=None, doc_cls=ir_datasets.formats.GenericDoc, query_cls=None):
        parts = [TsvDocs(local(f"{name}.docs", docs), doc_cls=doc_cls)]
        if queries is not None:
            kind = {} if query_cls is None else {"query_cls": query_cls}
            parts.append(TsvQueries(local(f"{name}.queries", queries), **kind))
        if qrels is not None:
            parts.append(TrecQrels(local(f"{name}.qrels", qrels), {}))
        registry.register(name, Dataset(*parts))
        names.append(name)

    yield make
    for name in names:
        del registry._registered[name]


DOCS = [("d1", "red apples"), ("d2", "green pears"), ("d3", "blue plums")]


@pytest.fixture
def three(registered):
    """Register passages without judgements, two small splits under the usual names, and one beside them."""
    registered("wells", DOCS)
    registered("wells/train", DOCS, [("q1", "apples"), ("q2", "pears")], [("q1", 0, "d1", 1), ("q2", 0, "d2", 1)])
    registered("wells/test", DOCS, [("q3", "plums")], [("q3", 0, "d3", 2), ("q3", 0, "d1", -1)])
    registered("wells/hard/2019", DOCS, [("q4", "figs"), ("q1", "apples")], [("q4", 0, "d3", 1)])


def test_an_identifier_without_judgements_has_its_usual_parts_as_splits(three):
    collection = open_collection("irds:wells")
    assert (collection.name, collection.splits) == ("wells", ("train", "test"))
    assert collection.passage_texts() == ["red apples", "green pears", "blue plums"]
    assert list(collection.query_ids) == ["q1", "q2", "q3"]
    assert collection.qrels("test").grades.tolist() == [0, 2]  # a grade below 0 is not relevant
    assert {problem.severity for problem in check_directory("irds:wells")} <= {"warning"}
    assert check_directory(Path("irds:wells")) == check_directory("irds:wells")


def test_an_identifier_with_judgements_is_one_split_under_its_last_name(three):
    assert open_collection("irds:wells/hard/2019").splits == ("2019",)


def test_a_recipe_names_other_identifiers_for_its_splits(three):
    section = CollectionSection(path="irds:wells", train="wells/train", test="wells/hard/2019")
    collection = open_collection(section)
    assert set(collection.splits) == {"wells/train", "wells/hard/2019", "test"}
    assert collection.n_queries == 4  # q1 is in two of them
    splits = resolve_splits(collection, section)
    assert [collection.query_ids[row] for row in splits.test.query_rows] == ["q4"]
    assert open_collection(collection.place).fingerprint == collection.fingerprint


def test_a_second_opening_needs_neither_the_library_nor_the_data(three, monkeypatch):
    first = open_collection("irds:wells")
    monkeypatch.setattr(store, "scan", None)
    monkeypatch.setattr(source, "import_module", None)
    assert open_collection("irds:wells").fingerprint == first.fingerprint


def test_documents_with_fields_are_joined_by_default_or_by_a_template(registered):
    pages = [("d1", "http://a.org", "Apples", "are red"), ("d2", "http://b.org", "Pears", "are green")]
    registered("pages/train", pages, [("q1", "apples")], [("q1", 0, "d1", 1)], doc_cls=Page)
    assert open_collection("irds:pages/train").passage_texts() == ["Apples are red", "Pears are green"]
    section = CollectionSection(path="irds:pages/train", template="{url} | {title} | {body}", characters=18)
    assert open_collection(section).passage_texts() == ["http://a.org | App", "http://b.org | Pea"]
    section = CollectionSection(path="irds:pages/train", template="{headline} {text}")
    with pytest.raises(StepwellError, match=r"names \{headline\}, and a passage .* has .*title"):
        open_collection(section)


def test_a_document_without_a_text_is_taken_by_its_own_default(registered):
    registered("odd/train", [("d1", 3, "wells")], [("q1", "x")], [("q1", 0, "d1", 1)], doc_cls=Odd)
    assert open_collection("irds:odd/train").passage_texts() == ["all of wells"]


def test_queries_with_answers_are_judged_by_them(registered):
    registered("nq/train", DOCS, [("q1", "who", "red", "crimson")], [("q1", 0, "d1", 2)], query_cls=Answered)
    qrels = open_collection("irds:nq/train").qrels("train")
    assert qrels.answers.answers(0) == ["red", "crimson"]


def test_the_level_of_trec_dl_is_known_by_the_identifier():
    section = CollectionSection(path="irds:msmarco-passage", test="msmarco-passage/trec-dl-2019/judged")
    source = find_source(section, print)
    assert source.relevant_from("msmarco-passage/trec-dl-2019/judged") == 2
    assert source.relevant_from("train") == 1
    assert set(source.splits) == {"train", "dev", "msmarco-passage/trec-dl-2019/judged"}


def test_an_unknown_identifier_and_a_missing_library_are_told(monkeypatch):
    with pytest.raises(StepwellError, match="knows no collection 'no/such'"):
        open_collection("irds:no/such")
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with pytest.raises(StepwellError, match=r"pip install 'stepwell\[ir-datasets\]'"):
        open_collection("irds:never/opened")


def test_what_the_library_raises_becomes_a_sentence(registered):
    registered("broken/train", [("d1", "a", "too many")], [("q1", "x")], [("q1", 0, "d1", 1)])
    with pytest.raises(StepwellError, match=r"ir-datasets can't read broken/train \(RuntimeError: expected 2 fields"):
        open_collection("irds:broken/train")


def test_an_unknown_passage_is_told_with_the_identifier_and_the_number(registered):
    registered("gap/train", DOCS, [("q1", "x")], [("q1", 0, "d1", 1), ("q1", 0, "d9", 1)])
    with pytest.raises(StepwellError, match=r"gap/train:2: names the passage 'd9', which is not in gap/train"):
        open_collection("irds:gap/train")
