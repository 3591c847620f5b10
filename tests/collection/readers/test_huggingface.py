"""Data sets of Hugging Face, written by ``datasets`` itself, in the shapes of BEIR and of tuples."""

from __future__ import annotations

import json
import sys

import pytest

from stepwell.collection import check_directory, open_collection, source, store
from stepwell.errors import StepwellError
from stepwell.recipe import CollectionSection
from stepwell.retrieval.run import Run

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _by_itself(tmp_path_factory, monkeypatch):
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))


def tiny_parts(tiny_path):
    """Return corpus, queries and qrels of the tiny collection as data sets."""
    parts = {}
    for part in ("corpus", "queries"):
        lines = (tiny_path / f"{part}.jsonl").read_text().splitlines()
        parts[part] = datasets.Dataset.from_list([json.loads(line) for line in lines])
    splits = {}
    for file in sorted((tiny_path / "qrels").iterdir()):
        lines = [line.split("\t") for line in file.read_text().splitlines()[1:]]
        rows = [{"query-id": q, "corpus-id": p, "score": int(grade)} for q, p, grade in lines]
        splits[file.stem] = datasets.Dataset.from_list(rows)
    return parts | {"qrels": datasets.DatasetDict(splits)}


@pytest.mark.parametrize("name", ["qrels", "default"])
def test_the_shape_of_beir_is_read_as_the_same_collection(tiny_path, tmp_path, name):
    for part, data in tiny_parts(tiny_path).items():
        data.save_to_disk(tmp_path / (name if part == "qrels" else part))
    collection = open_collection(tmp_path)
    assert collection.fingerprint == open_collection(tiny_path).fingerprint
    assert check_directory(tmp_path) == []
    assert open_collection(f"hf:{tmp_path}").fingerprint == collection.fingerprint


def test_the_layout_of_the_hub_is_read_from_a_directory(tiny_path, tmp_path):
    configs = []
    for part, data in tiny_parts(tiny_path).items():
        splits = data if part == "qrels" else {"train": data}
        for split, rows in splits.items():
            (tmp_path / part).mkdir(exist_ok=True)
            rows.to_parquet(tmp_path / part / f"{split}.parquet")
        files = "".join(f"\n  - split: {split}\n    path: {part}/{split}.parquet" for split in splits)
        configs.append(f"- config_name: {part}\n  data_files:{files}")
    (tmp_path / "README.md").write_text("---\nconfigs:\n" + "\n".join(configs) + "\n---\n")
    collection = open_collection(f"hf:{tmp_path}")
    assert collection.splits == ("dev", "test", "train")
    assert collection.fingerprint == open_collection(tiny_path).fingerprint


TRIPLES = [
    {"anchor": "apples", "positive": "red apples", "negative": "blue plums"},
    {"anchor": "pears", "positive": "green pears", "negative": "red apples"},
    {"anchor": "apples", "positive": "red apples", "negative": "green pears"},
    {"anchor": "apples", "positive": "more apples", "negative": "green pears"},
]


def test_triplets_become_passages_queries_and_judgements_without_repeats(tmp_path):
    splits = {"train": TRIPLES[:3], "dev": TRIPLES[3:]}
    rows = {name: datasets.Dataset.from_list(split) for name, split in splits.items()}
    datasets.DatasetDict(rows).save_to_disk(tmp_path)
    collection = open_collection(tmp_path)
    assert collection.passage_texts() == ["red apples", "blue plums", "green pears", "more apples"]
    assert collection.query_texts() == ["apples", "pears"]
    assert set(collection.splits) == {"train", "dev"}
    assert collection.qrels("train").positives(0).tolist() == [0]
    assert collection.qrels("dev").positives(0).tolist() == [3]
    negatives = Run.given(collection, "train")
    assert negatives.passages.tolist() == [[1, 2], [0, -1]]


def test_ids_of_tuples_are_made_of_the_texts(tmp_path):
    datasets.Dataset.from_list(TRIPLES).save_to_disk(tmp_path / "a")
    datasets.Dataset.from_list(TRIPLES[::-1]).save_to_disk(tmp_path / "b")
    a, b = (open_collection(tmp_path / name) for name in "ab")
    named = [dict(zip(c.passage_ids, c.passage_texts(), strict=True)) for c in (a, b)]
    assert named[0] == named[1] and a.passage_texts() != b.passage_texts()
    assert a.splits == ("train",)


@pytest.mark.parametrize(
    "row",
    [
        {"query": "q", "answer": "yes"},
        {"question": "q", "answer": "yes", "negative_1": "no", "negative_2": "never"},
        {"query": "q", "pos": ["yes", "sure"], "neg": ["no"]},
        {"sentence1": "q", "sentence2": "yes", "label": 1},
    ],
)
def test_tuples_of_every_length_are_read(tmp_path, row):
    datasets.Dataset.from_list([row]).save_to_disk(tmp_path)
    collection = open_collection(tmp_path)
    texts = [text for value in list(row.values())[1:] for text in (value if isinstance(value, list) else [value])]
    assert collection.passage_texts() == [text for text in texts if isinstance(text, str)]
    right = collection.passage_texts(collection.qrels("train").positives(0))
    assert right == (row.get("pos") or ["yes"])


def test_columns_of_other_names_are_named_in_the_recipe(tmp_path):
    datasets.Dataset.from_list([{"ask": "q", "good": "yes", "bad1": "no"}]).save_to_disk(tmp_path)
    message = r"no column for query.text \(there are ask, good, bad1; .*\{query.text: ...\}"
    with pytest.raises(StepwellError, match=message):
        open_collection(tmp_path)
    columns = {"query.text": "ask", "positive": "good", "negatives": "bad"}
    collection = open_collection(CollectionSection(path=str(tmp_path), columns=columns))
    assert collection.passage_texts() == ["yes", "no"]


def test_a_row_without_a_text_is_told_with_its_number(tmp_path):
    rows = [{"anchor": "q", "positive": "yes"}, {"anchor": "r", "positive": None}]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "odd")
    with pytest.raises(StepwellError, match=r"odd/train:2: 'positive' is 'None', and must be a text"):
        open_collection(tmp_path / "odd")


def test_a_second_opening_does_not_need_the_library_and_a_change_is_seen(tmp_path, monkeypatch):
    datasets.Dataset.from_list(TRIPLES).save_to_disk(tmp_path / "set")
    first = open_collection(tmp_path / "set")
    with monkeypatch.context() as patch:
        patch.setattr(store, "scan", None)
        patch.setattr(source, "import_module", None)
        assert open_collection(tmp_path / "set").fingerprint == first.fingerprint
    datasets.Dataset.from_list(TRIPLES[:2]).save_to_disk(tmp_path / "set")
    assert open_collection(tmp_path / "set").n_passages == 3


def test_names_of_the_hub_have_configurations_and_revisions(monkeypatch):
    asked = []

    class Library:
        def get_dataset_config_names(self, name):
            return ["corpus", "queries"] if name == "org/wells" else ["pair", "triplet"]

        def load_dataset(self, name, config, revision):
            asked.append((name, config, revision))
            rows = {"corpus": [{"_id": "p", "text": "a"}], "queries": [{"_id": "q", "text": "b"}]}
            if name == "org/wells-qrels":
                return {"test": datasets.Dataset.from_list([{"query-id": "q", "corpus-id": "p", "score": 1}])}
            return {"train": datasets.Dataset.from_list(rows.get(config, TRIPLES))}

    monkeypatch.setattr(source, "import_module", lambda name: Library())
    wells = open_collection("hf:org/wells@abc")
    assert (wells.name, wells.splits) == ("org/wells@abc", ("test",))
    assert asked == [("org/wells", "corpus", "abc"), ("org/wells", "queries", "abc"), ("org/wells-qrels", None, "abc")]
    assert open_collection("hf:org/nli/triplet").n_passages == 4
    with pytest.raises(StepwellError, match=r"several configurations \(pair, triplet\): .* hf:org/nli/pair"):
        open_collection("hf:org/nli")


def test_a_missing_library_is_told(tmp_path, monkeypatch):
    datasets.Dataset.from_list(TRIPLES).save_to_disk(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(StepwellError, match=r"pip install 'stepwell\[datasets\]'"):
        open_collection(tmp_path)


def test_what_can_not_be_loaded_becomes_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(StepwellError, match=r"can't be read as a data set of Hugging Face \("):
        open_collection(f"hf:{tmp_path / 'empty'}")


def test_judgements_that_are_missing_are_told(tiny_path, tmp_path):
    for part in ("corpus", "queries"):
        tiny_parts(tiny_path)[part].save_to_disk(tmp_path / part)
    with pytest.raises(StepwellError, match="has corpus and queries, and no qrels"):
        open_collection(tmp_path)
