"""Texts without labels are read as they stand, once; what can't be read is named with its line."""

import gzip
import json

import pytest

from stepwell.collection import unlabelled
from stepwell.collection.unlabelled import open_unlabelled
from stepwell.errors import StepwellError
from stepwell.files import cache


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STEPWELL_CACHE", str(tmp_path / "cache"))


def written(path, content):
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def texts(path):
    opened = open_unlabelled(path)
    return opened.slice(0, len(opened))


LINES = 'one text\r\n\n  {"text": 2}\none text\ncafé\u2028still one\n'
OBJECTS = '{"_id": "a", "title": "Head", "text": "body"}\n\n{"text": "alone"}\n{"text": " "}\n{"text": "alone"}\n'


@pytest.mark.parametrize("end", ["", ".gz"])
def test_a_line_is_a_text_and_counts_once(tmp_path, end):
    assert texts(written(tmp_path / f"some.txt{end}", LINES)) == ["one text", '{"text": 2}', "café\u2028still one"]


@pytest.mark.parametrize("end", ["", ".gz"])
def test_objects_have_a_text_and_perhaps_a_title(tmp_path, end):
    assert texts(written(tmp_path / f"some.jsonl{end}", OBJECTS)) == ["Head body", "alone"]


def test_any_slice_of_many(tmp_path):
    lines = [f"text number {number}" for number in range(2 * unlabelled.BLOCK + 5)]
    opened = open_unlabelled(written(tmp_path / "many.txt", "\n".join(lines)))
    assert len(opened) == len(lines)
    for start, stop in ((0, 3), (unlabelled.BLOCK - 2, unlabelled.BLOCK + 2), (len(lines) - 2, len(lines) + 9)):
        assert opened.slice(start, stop) == lines[start:stop]


def test_a_file_is_read_once_wherever_it_lies_and_again_when_it_changes(tmp_path, monkeypatch):
    first = open_unlabelled(written(tmp_path / "a.txt", "one\ntwo\n"))
    reads = []
    read = unlabelled.read_lines
    monkeypatch.setattr(unlabelled, "read_lines", lambda *given: reads.append(given) or read(*given))
    assert open_unlabelled(written(tmp_path / "b.txt", "one\ntwo\n")).fingerprint == first.fingerprint
    assert not reads
    assert open_unlabelled(written(tmp_path / "a.txt", "one\nthree\n")).fingerprint != first.fingerprint
    assert len(reads) == 1


def test_lines_and_objects_of_the_same_bytes_are_other_texts(tmp_path):
    assert texts(written(tmp_path / "a.jsonl", '{"text": "x"}\n')) == ["x"]
    assert texts(written(tmp_path / "a.txt", '{"text": "x"}\n')) == ['{"text": "x"}']


def test_a_damaged_cache_is_made_again(tmp_path):
    path = written(tmp_path / "a.txt", "one\ntwo\n")
    open_unlabelled(path)
    (cached,) = (cache() / "unlabelled").glob("*.arrow")
    cached.write_bytes(cached.read_bytes()[:40])
    assert texts(path) == ["one", "two"]


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.jsonl", '{"text": "x"}\n{broken\n', ":2: is not valid JSON"),
        ("a.jsonl", '{"text": "x"}\n"y"\n', ":2: holds a str"),
        ("a.jsonl", '\n{"body": "x"}\n', ":2: the text's 'text' is missing (there are 'body')"),
        ("a.jsonl", json.dumps({"text": "\ud800"}), ":1: the text's 'text' holds half of a surrogate pair"),
        ("a.txt", b"fine\ncaf\xe9\n", ":2: is not UTF-8"),
        ("a.txt", "\n \n", "holds no text"),
        ("a.txt", None, "`more_passages` or `more_queries`"),
    ],
)
def test_what_cant_be_read_is_said_and_nothing_is_kept(tmp_path, name, content, words):
    path = tmp_path / name
    if content is not None:
        written(path, content)
    with pytest.raises(StepwellError) as refused:
        open_unlabelled(path)
    assert str(path) in str(refused.value) and words in str(refused.value)
    assert not list(tmp_path.glob("cache/unlabelled/*.arrow"))
