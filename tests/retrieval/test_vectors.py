"""Vectors are written block by block: an interrupted write goes on, and ends as an uninterrupted one."""

from __future__ import annotations

import json

import numpy as np
import pytest

from common import Killed
from stepwell import distributed
from stepwell.display import Progress
from stepwell.errors import StepwellError
from stepwell.models.encoder import Encoder
from stepwell.retrieval import vectors
from stepwell.retrieval.vectors import Draft, Vectors, encode_block, write_vectors

ROWS = np.array([9, 3, 3, 30], np.int32)


@pytest.fixture(scope="module")
def encoder(tiny_model):
    return Encoder.open(tiny_model)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(vectors, "BLOCK", 16)  # 60 passages: four blocks


@pytest.fixture
def whole(encoder, tiny_collection, tmp_path):
    folder = tmp_path / "whole"
    folder.mkdir()
    write_vectors(encoder, tiny_collection, ROWS, folder)
    return Vectors.open(folder)


class Counting:
    """The encoder, with a count of the texts; killed when block ``last`` is asked for."""

    def __init__(self, encoder, last=None):
        self.encoder, self.last, self.blocks, self.texts = encoder, last, 0, 0

    def __getattr__(self, name):
        return getattr(self.encoder, name)

    def encode(self, tokens, side, rows):
        if self.blocks == self.last:
            raise Killed
        self.blocks, self.texts = self.blocks + 1, self.texts + len(rows)
        return self.encoder.encode(tokens, side, rows)


def test_holds_all_passages_and_the_queries_asked_for(whole, encoder, tiny_collection):
    assert whole.query_rows.tolist() == [3, 9, 30]
    assert whole.scale == 20
    assert whole.passages == pytest.approx(
        encoder.model.encode(tiny_collection.passage_texts(), normalize_embeddings=True), abs=1e-5
    )
    queries = tiny_collection.query_texts([9, 3])
    assert whole.of_queries(np.array([9, 3], np.int32)) == pytest.approx(
        encoder.model.encode(queries, normalize_embeddings=True), abs=1e-5
    )


@pytest.mark.parametrize("last", [0, 1, 3, 4])
def test_an_interrupted_write_goes_on_and_ends_the_same(whole, encoder, tiny_collection, tmp_path, last):
    with pytest.raises(Killed):
        write_vectors(Counting(encoder, last), tiny_collection, ROWS, tmp_path)
    second, progress = Counting(encoder), Progress(lambda share, note: None)
    write_vectors(second, tiny_collection, ROWS, tmp_path, progress)
    assert second.texts == 60 + 3 - min(16 * last, 60)  # what was written is not encoded again
    assert progress.done == 63
    found = Vectors.open(tmp_path)
    assert np.array_equal(found.passages, whole.passages)
    assert np.array_equal(found.queries, whole.queries)


def test_going_on_with_other_processes_encodes_what_they_had_left(
    whole, encoder, tiny_collection, tmp_path, monkeypatch
):
    with monkeypatch.context() as two:  # the first of two processes, whose fellow got nowhere
        two.setattr(distributed, "world_size", lambda: 2)
        with pytest.raises(Killed):
            write_vectors(Counting(encoder, 2), tiny_collection, ROWS, tmp_path)
    second = Counting(encoder)
    write_vectors(second, tiny_collection, ROWS, tmp_path)
    assert second.texts == 60 + 3 - 2 * 16  # blocks 0 and 2 were there
    assert np.array_equal(Vectors.open(tmp_path).passages, whole.passages)


def test_blocks_that_anyone_made_are_taken_and_damaged_ones_made_again(whole, encoder, tiny_collection, tmp_path):
    draft = Draft(encoder, tiny_collection, ROWS, tmp_path)
    every = list(draft.blocks())
    assert every == [
        ("document", 0, 16),
        ("document", 16, 32),
        ("document", 32, 48),
        ("document", 48, 60),
        ("query", 0, 3),
    ]
    for block in (every[4], every[1], every[3]):
        draft.keep(block, encode_block(encoder, tiny_collection, draft.query_rows, block))
    damaged = tmp_path / "shards" / "passages-000001.npy"
    damaged.write_bytes(damaged.read_bytes()[:500])
    assert [draft.has(block) for block in every] == [False, False, False, True, True]
    counting = Counting(encoder)
    write_vectors(counting, tiny_collection, ROWS, tmp_path)
    assert counting.texts == 48
    found = Vectors.open(tmp_path)
    assert np.array_equal(found.passages, whole.passages) and np.array_equal(found.queries, whole.queries)
    assert not (tmp_path / "shards").exists() and not list(tmp_path.glob("*.draft"))


def test_finished_vectors_are_left_alone(whole, encoder, tiny_collection, tmp_path):
    counting = Counting(encoder)
    write_vectors(counting, tiny_collection, ROWS, tmp_path / "whole")
    assert counting.texts == 0


@pytest.mark.parametrize(("rows", "what"), [(ROWS[:0], "passages"), (ROWS, "queries")])
def test_vectors_that_are_no_numbers_are_refused(encoder, tiny_collection, tmp_path, rows, what):
    class Broken(Counting):
        def encode(self, tokens, side, some=None, progress=None):
            found = super().encode(tokens, side, some)
            if side == ("document" if what == "passages" else "query"):
                found[1, 3], found[2] = np.inf, np.nan
            return found

    with pytest.raises(StepwellError, match=rf"vectors of 2 of \d+ {what} .*no numbers.*STEPWELL_PRECISION=fp32"):
        write_vectors(Broken(encoder), tiny_collection, rows, tmp_path)
    assert not (tmp_path / "vectors.json").exists()


def test_no_queries_are_no_vectors(encoder, tiny_collection, tmp_path):
    write_vectors(encoder, tiny_collection, np.zeros(0, np.int32), tmp_path)
    assert Vectors.open(tmp_path).queries.shape == (0, 32)


@pytest.mark.parametrize("row", [0, 4, 31])
def test_a_query_without_a_vector_is_a_key_error(whole, row):
    with pytest.raises(KeyError):
        whole.of_queries(np.array([3, row], np.int32))


def test_scores_are_logits_of_the_own_passages_and_0_for_padding(whole):
    passages = np.array([[5, 59, -1], [0, -1, -1]], np.int32)
    scores = whole.score(np.array([30, 3], np.int32), passages)
    expected = 20 * whole.of_queries(np.array([30, 3], np.int32)) @ whole.passages[[5, 59, 0]].T
    assert scores[0, :2] == pytest.approx(expected[0, :2], abs=1e-4)
    assert scores[1, 0] == pytest.approx(expected[1, 2], abs=1e-4)
    assert scores[passages < 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", ["vectors.json", "passages.npy", "query_rows.npy"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut"])
def test_damaged_files_are_named(encoder, tiny_collection, tmp_path, name, damage):
    write_vectors(encoder, tiny_collection, ROWS, tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    if damage != "missing":
        (tmp_path / name).write_bytes(b"" if damage == "empty" else whole[: len(whole) // 2])
    with pytest.raises(StepwellError, match="missing or damaged"):
        Vectors.open(tmp_path)


def test_facts_say_what_the_vectors_are(whole, tmp_path):
    facts = json.loads((tmp_path / "whole" / "vectors.json").read_text())
    assert facts == {"scale": 20.0, "cosine": True, "dimension": 32}
