from __future__ import annotations

import numpy as np
import pytest

from stepwell.collection import Collection, open_collection, resolve_splits
from stepwell.errors import StepwellError
from stepwell.recipe import CollectionSection


@pytest.fixture
def collection(tiny_directory):
    """Return a maker of collections: the queries (by number) of each split, all answered by passage 0."""

    def make(texts: dict[int, str] | None = None, **splits: range | list[int]) -> Collection:
        numbers = sorted({number for split in splits.values() for number in split})
        queries = [{"_id": f"q{n}", "text": (texts or {}).get(n, f"question {n}")} for n in numbers]
        qrels = {name: [(f"q{n}", "p0", 1) for n in split] for name, split in splits.items()}
        return open_collection(tiny_directory(queries=queries, **qrels))

    return make


def names(collection, section=None):
    splits = resolve_splits(collection, section or CollectionSection(path="x"))
    parts = (splits.train, splits.dev, splits.test)
    train, dev, test = ({collection.query_ids[row] for row in part.query_rows} for part in parts)
    assert not (train & dev or train & test or dev & test)
    return train, dev, test, splits.notes


def numbered(numbers):
    return {f"q{n}" for n in numbers}


def test_splits_that_are_there_are_taken_as_they_are(collection):
    train, dev, test, notes = names(collection(train=range(9), dev=range(9, 12), test=range(12, 20)))
    assert (train, dev, test) == (numbered(range(9)), numbered(range(9, 12)), numbered(range(12, 20)))
    assert notes == ()


def test_a_lone_dev_split_is_the_test_and_dev_is_carved_off_training(collection):
    train, dev, test, notes = names(collection(train=range(300), dev=range(300, 310)))
    assert test == numbered(range(300, 310))
    assert len(dev) == 30 and train | dev == numbered(range(300))
    assert notes == ("dev: 30 queries carved off train by hash",)


def test_with_training_alone_dev_and_test_are_both_carved(collection):
    train, dev, test, notes = names(collection(train=range(100)))
    assert (len(train), len(dev), len(test)) == (60, 20, 20)  # a tenth, but at least 20
    assert len(notes) == 2
    train, dev, test, _ = names(collection(train=range(9)))
    assert (len(train), len(dev), len(test)) == (3, 3, 3)  # 20 are not to be had


def test_a_dev_that_asks_for_the_passages_of_training_and_a_test_that_does_not_are_told_apart(tiny_directory):
    def notes(of_dev, of_test):
        dev, test = zip(("q8", "q9"), of_dev, (1, 1), strict=True), zip(("q10", "q11"), of_test, (1, 1), strict=True)
        train = [(f"q{n}", f"p{n % 2}", 1) for n in range(8)] + [("q0", "p2", 0)]
        queries = [{"_id": f"q{n}", "text": f"question {n}"} for n in range(12)]
        splits = {"train": train, "dev": list(dev), "test": list(test)}
        return resolve_splits(
            open_collection(tiny_directory(queries=queries, **splits)), CollectionSection(path="x")
        ).notes

    assert notes(("p0", "p1"), ("p0", "p1")) == notes(("p2", "p2"), ("p2", "p0")) == ()
    (said,) = notes(("p0", "p1"), ("p1", "p2"))  # grade 0 asks for nothing
    assert said.startswith("dev: 100% of its queries ask for passages that training queries ask for too, of test 50%")


def test_carving_is_stable_when_other_queries_come(collection):
    before = names(collection(train=range(400)))
    after = names(collection(train=range(420)))
    assert len(before[1] & after[1]) >= 36 and len(before[2] & after[2]) >= 36  # of 40
    assert not (before[1] & after[2] or before[2] & after[1])


def test_a_carved_dev_is_the_same_with_and_without_a_carved_test(collection):
    _, alone, _, _ = names(collection(train=range(300), test=range(300, 310)))
    _, both, _, _ = names(collection(train=range(300)))
    assert alone == both


def test_a_query_in_several_splits_stays_in_the_one_that_proves(collection):
    train, dev, test, notes = names(collection(train=range(10), dev=[8, 9, 10], test=[9, 11]))
    assert (train, dev, test) == (numbered(range(8)), {"q8", "q10"}, {"q9", "q11"})
    assert notes == (
        "dev: 1 query left out, also in test by id or by text",
        "train: 1 query left out, also in test by id or by text",
        "train: 1 query left out, also in dev by id or by text",
    )


def test_a_query_with_the_text_of_a_test_query_does_not_train(collection):
    made = collection(texts={0: "Who  won?", 12: "who won?"}, train=range(5), dev=[10, 11], test=[12])
    assert names(made)[0] == numbered(range(1, 5))


def test_limits_choose_by_hash_and_nest(collection):
    made = collection(train=range(50), dev=range(50, 70), test=range(70, 90))
    small = names(made, CollectionSection(path="x", train_queries=10, dev_queries=5, test_queries=6))
    large = names(made, CollectionSection(path="x", train_queries=20, dev_queries=9, test_queries=7))
    assert [len(part) for part in small[:3]] == [10, 5, 6]
    assert all(few < many for few, many in zip(small[:3], large[:3], strict=True))
    assert "dev: 5 of 20 queries, chosen by hash" in small[3]


def test_queries_without_a_positive_count_in_the_test_and_do_not_train(tiny_directory):
    rows = [("q0", "p0", 0)], [("q1", "p1", 1), ("q2", "p2", 1), ("q0", "p1", 0)]
    queries = [{"_id": f"q{n}", "text": f"question {n}"} for n in range(4)]
    directory = tiny_directory(queries=queries, test=[*rows[0], ("q3", "p1", 1)], train=rows[1])
    splits = resolve_splits(open_collection(directory), CollectionSection(path="x"))
    assert splits.notes[0] == "test: 1 query of test measured as 0, as by trec_eval -c, no passage is relevant to them"
    assert splits.test.query_rows.tolist() == [0, 3]
    assert "train: 1 query of train left out, no passage is relevant to them" in splits.notes
    assert not np.isin(0, splits.train.query_rows) and not np.isin(0, splits.dev.query_rows)


def test_a_test_without_any_positive_is_refused(tiny_directory):
    queries = [{"_id": f"q{n}", "text": f"question {n}"} for n in range(3)]
    rows = {"test": [("q0", "p0", 0)], "dev": [("q1", "p1", 1)], "train": [("q2", "p1", 1)]}
    directory = tiny_directory(queries=queries, **rows)
    with pytest.raises(StepwellError, match="no query with a relevant passage left for test"):
        resolve_splits(open_collection(directory), CollectionSection(path="x"))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"dev": "test"}, r"takes the split 'test' for dev and for test"),
        ({"test": "train"}, r"takes the split 'train' for train and for test"),
        ({"train": "training"}, r"no split 'training'.*dev, test, train"),
    ],
)
def test_a_recipe_that_tests_on_what_it_tunes_or_names_nothing_is_refused(collection, section, message):
    made = collection(train=range(5), dev=range(5, 8), test=range(8, 10))
    if section == {"dev": "test"}:
        section = {"dev": "test", "test": "test"}
    with pytest.raises(StepwellError, match=message):
        names(made, CollectionSection(path="x", **section))


def test_nothing_left_to_train_on_is_an_error(collection):
    with pytest.raises(StepwellError, match="no query with a relevant passage left for train"):
        names(collection(train=[1], dev=[1], test=[2]))


def marked(tiny_directory, synthetic, **splits):
    """Return a collection of 30 queries, of which those numbered in ``synthetic`` are marked."""
    corpus = [{"_id": f"p{i}", "text": f"passage {i}"} for i in range(30)]
    queries = [
        {"_id": f"q{i}", "text": f"query {i}"} | ({"metadata": {"synthetic": True}} if i in synthetic else {})
        for i in range(30)
    ]
    judged = {name: [(f"q{i}", f"p{i}", 1) for i in numbers] for name, numbers in splits.items()}
    return open_collection(tiny_directory(corpus=corpus, queries=queries, **judged))


def ids(collection, qrels):
    return {int(collection.query_ids[row][1:]) for row in qrels.query_rows.tolist()}


def test_marks_are_read_and_survive_the_cache(tiny_directory):
    collection = marked(tiny_directory, {1, 5}, train=range(30))
    for opened in (collection, open_collection(collection.path)):
        assert np.flatnonzero(opened.is_synthetic(range(30))).tolist() == [1, 5]
    assert not open_collection(marked(tiny_directory, set(), train=range(30)).path).is_synthetic(range(30)).any()


def test_a_test_is_carved_off_real_queries_only(tiny_directory):
    collection = marked(tiny_directory, set(range(20)), train=range(30))
    splits = resolve_splits(collection, CollectionSection(path="x"))
    assert splits.tested
    assert ids(collection, splits.test) <= set(range(20, 30))
    assert splits.synthetic["train"] + splits.synthetic["dev"] == 20


def test_without_real_queries_dev_stands_in_for_the_test_and_that_is_said(tiny_directory):
    collection = marked(tiny_directory, set(range(30)), train=range(20), dev=range(20, 30))
    splits = resolve_splits(collection, CollectionSection(path="x"))
    assert not splits.tested
    assert ids(collection, splits.dev) == ids(collection, splits.test) == set(range(20, 30))
    assert splits.synthetic == {"train": 20, "dev": 10}
    assert splits.notes[-1].startswith("There are no real queries")


def test_synthetic_queries_are_left_out_of_a_test(tiny_directory):
    collection = marked(tiny_directory, {0, 1, 29}, train=range(25), test=range(25, 30))
    splits = resolve_splits(collection, CollectionSection(path="x"))
    assert ids(collection, splits.test) == {25, 26, 27, 28}
    assert "test: 1 query of test left out, synthetic" in splits.notes


def test_a_named_test_of_synthetic_queries_is_refused(tiny_directory):
    collection = marked(tiny_directory, set(range(25, 30)), train=range(25), extra=range(25, 30))
    with pytest.raises(StepwellError, match="never test"):
        resolve_splits(collection, CollectionSection(path="x", test="extra"))


def test_no_text_is_both_held_out_and_learned_without_labels(tiny_directory):
    texts = {f"u{n}": f"asked {n % 100}" for n in range(300)} | {"u300": "Question 1"}
    queries = [{"_id": f"q{n}", "text": f"question {n}"} for n in range(30)]
    queries += [{"_id": name, "text": text} for name, text in texts.items()]
    splits = {"train": range(20), "dev": range(20, 25), "test": range(25, 30)}
    qrels = {name: [(f"q{n}", "p0", 1) for n in numbers] for name, numbers in splits.items()}
    collection = open_collection(tiny_directory(queries=queries, **qrels))
    found = resolve_splits(collection, CollectionSection(path="x", unlabelled_queries=True))
    learned, held_out = (collection.query_texts(rows) for rows in (found.unlabelled, found.held_out))
    assert len(held_out) == 20 and {*learned, *held_out} == {f"asked {n}" for n in range(100)}
    assert len(learned) == 80 and not {*learned} & {*held_out}
