from __future__ import annotations

import gzip
import json
import os
import shutil
from pathlib import Path

import pytest

from stepwell.collection import open_collection, scan, store
from stepwell.errors import StepwellError


@pytest.fixture
def parsed(monkeypatch):
    """Return the list of directories' source files that were parsed, as it grows."""
    calls = []

    def counted(sources, folder, report):
        calls.append(sources)
        return scan.scan(sources, folder, report)

    monkeypatch.setattr(store, "scan", counted)
    return calls


def everything(collection):
    qrels = {split: collection.qrels(split) for split in collection.splits}
    return (
        collection.fingerprint,
        list(collection.passage_ids),
        collection.passage_texts(),
        list(collection.query_ids),
        collection.query_texts(),
        {name: (q.queries.tolist(), q.passages.tolist(), q.grades.tolist()) for name, q in qrels.items()},
    )


def entry(cache: Path) -> Path:
    (folder,) = (path for path in (cache / "collections").iterdir() if path.is_dir())
    return folder


def test_a_second_opening_does_not_parse(tiny_path, tmp_path, parsed):
    first = everything(open_collection(tiny_path, tmp_path))
    assert everything(open_collection(str(tiny_path), tmp_path)) == first
    assert len(parsed) == 1


def test_a_changed_source_file_is_parsed_again(tiny_directory, tmp_path, parsed):
    directory, cache = tiny_directory(), tmp_path / "cache"
    before = open_collection(directory, cache)
    with (directory / "qrels" / "train.tsv").open("a") as file:
        file.write("q0\tp2\t3\n")
    after = open_collection(directory, cache)
    assert len(parsed) == 2 and after.fingerprint != before.fingerprint
    assert after.qrels("train").positives(0).tolist() == [2, 0]
    assert before.passage_texts([0]) == ["all about red apples"]  # the old view goes on
    entry(cache)  # and there is one entry, not two


@pytest.mark.parametrize("file", ["meta.json", "passage.arrow", "passage-index.arrow", "query.arrow", "qrels-0.arrow"])
@pytest.mark.parametrize("damage", ["gone", "cut", "overwritten"])
def test_a_damaged_cache_is_made_again(tiny_path, tmp_path, parsed, file, damage):
    whole = everything(open_collection(tiny_path, tmp_path))
    victim = entry(tmp_path) / file
    content = victim.read_bytes()
    if damage == "gone":
        victim.unlink()
    else:
        victim.write_bytes(content[:-20] if damage == "cut" else content[:-20] + b"?" * 20)
    assert everything(open_collection(tiny_path, tmp_path)) == whole
    assert len(parsed) == 2


def test_what_an_interrupted_opening_left_is_cleared(tiny_path, tmp_path):
    whole = everything(open_collection(tiny_path, tmp_path))
    folder = entry(tmp_path)
    folder.rename(folder.with_name(f"draft-{folder.name}"))
    assert everything(open_collection(tiny_path, tmp_path)) == whole
    assert entry(tmp_path) == folder


def test_a_refused_collection_leaves_nothing_behind(tiny_directory, tmp_path):
    cache = tmp_path / "cache"
    with pytest.raises(StepwellError, match=r"corpus.jsonl:1: is not valid JSON"):
        open_collection(tiny_directory(corpus=["{"]), cache)
    assert not [path for path in (cache / "collections").iterdir() if path.is_dir()]


def test_the_fingerprint_is_of_the_content_not_of_the_place_or_the_packing(tiny_path, tmp_path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(tiny_path, copy)
    for plain in (copy / "corpus.jsonl", copy / "queries.jsonl", copy / "qrels" / "train.tsv"):
        plain.with_name(f"{plain.name}.gz").write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    lines = (copy / "qrels" / "dev.tsv").read_text().splitlines()
    (copy / "qrels" / "dev.tsv").write_text("\n".join([lines[0], *reversed(lines[1:])]))
    assert everything(open_collection(copy, tmp_path / "a")) == everything(open_collection(tiny_path, tmp_path / "b"))


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("corpus.jsonl", '"river 0"', '"river 1"'),
        ("corpus.jsonl", '"river 0", "text": "the', '"river 0 the", "text": "'),  # the same when joined
        ("corpus.jsonl", "doc/001-engine", "doc/001-Engine"),
        ("queries.jsonl", "number 3", "number three"),
        ("qrels/dev.tsv", "\t2\n", "\t1\n"),
    ],
)
def test_the_fingerprint_changes_with_every_part_of_the_content(tiny_path, tmp_path, file, old, new):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_path, copy)
    change(copy / file, old, new)
    for qrels in (copy / "qrels").iterdir():
        qrels.write_text(
            qrels.read_text().replace("doc/001-engine", "doc/001-Engine" if "Engine" in new else "doc/001-engine")
        )
    changed, whole = open_collection(copy, tmp_path / "a"), open_collection(tiny_path, tmp_path / "b")
    assert changed.fingerprint != whole.fingerprint
    assert (changed.texts_fingerprint != whole.texts_fingerprint) == (not file.startswith("qrels"))


def test_batches_of_texts_join_seamlessly(tiny_path, tmp_path, monkeypatch):
    whole = everything(open_collection(tiny_path, tmp_path / "a"))
    monkeypatch.setattr(scan, "BATCH", 7)
    assert everything(open_collection(tiny_path, tmp_path / "b")) == whole


def test_files_that_change_while_they_are_read_are_refused(tiny_directory, tmp_path, monkeypatch):
    directory = tiny_directory()

    def slow(sources, folder, report):
        with (directory / "queries.jsonl").open("a") as file:
            file.write(json.dumps({"_id": "q9", "text": "plums"}) + "\n")
        return scan.scan(sources, folder, report)

    monkeypatch.setattr(store, "scan", slow)
    with pytest.raises(StepwellError, match="changed while they were read"):
        open_collection(directory, tmp_path / "cache")


@pytest.mark.parametrize("reason", [(28, "No space left on device"), (30, "Read-only file system")])
def test_a_full_or_read_only_cache_is_explained(tiny_path, tmp_path, monkeypatch, reason):
    def fails(*_):
        raise OSError(*reason)

    monkeypatch.setattr(store, "scan", fails)
    with pytest.raises(StepwellError, match=f"{reason[1]}.*STEPWELL_CACHE names another place"):
        open_collection(tiny_path, tmp_path)


def test_a_cache_that_is_a_file_is_explained(tiny_path, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StepwellError, match="STEPWELL_CACHE"):
        open_collection(tiny_path, tmp_path / "file")


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("STEPWELL_CACHE", str(tmp_path))
    assert store.default_cache() == tmp_path
    monkeypatch.delenv("STEPWELL_CACHE")
    assert store.default_cache().parts[-2:] == (".cache", "stepwell")
    assert os.environ.get("STEPWELL_CACHE") is None
