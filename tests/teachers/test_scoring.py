"""Scoring block by block: what is missing and nothing else, the same for any number of processes and through kills."""

import shutil
import signal

import numpy as np
import pytest
import torch

from blocks_in_processes import PAIRS, work
from common import Killed
from processes import finish, together
from stepwell import distributed
from stepwell.display import Progress
from stepwell.errors import StepwellError
from stepwell.models.build import build_cross_encoder
from stepwell.models.reranker import Reranker
from stepwell.retrieval import vectors
from stepwell.retrieval.vectors import Vectors
from stepwell.teachers import scoring
from stepwell.teachers.scoring import Named, block_scorer, blocks, missing, score_into
from stepwell.teachers.store import ScoreStore


def rows(*values):
    return np.array(values, dtype=np.int32)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(scoring, "BLOCK", 16)
    monkeypatch.setattr(vectors, "BLOCK", 4)


@pytest.fixture(scope="module")
def scorer(tiny_model, tmp_path_factory):
    """Return the directory of a random cross-encoder."""
    folder = tmp_path_factory.mktemp("scorer")
    Reranker(build_cross_encoder(str(tiny_model), 2, 64, 1)).save(folder)
    return folder


@pytest.fixture
def store(tmp_path):
    return ScoreStore.open(tmp_path / "scores", "1f3a", "77b2")


def product(queries, passages, progress):
    """Score a pair as query * 100 + passage."""
    for _ in queries:
        progress.advance(1)
    return (queries * 100 + passages).astype(np.float32)


def test_blocks_hold_all_pairs_in_order():
    found = list(blocks(np.arange(35), np.arange(35) * 2))
    assert [len(q) for q, _ in found] == [16, 16, 3]
    assert np.concatenate([p for _, p in found]).tolist() == list(range(0, 70, 2))


def test_pairs_are_scored_and_told(store):
    progress = Progress(lambda share, note: None)
    score_into(store, product, np.arange(35, dtype=np.int32), rows(*[7] * 35), progress)
    assert store.lookup(np.arange(35), 7).tolist() == [100 * q + 7 for q in range(35)]
    assert progress.done == 35
    score_into(store, product, rows(), rows(), progress)
    assert progress.done == 35 and len(store) == 35


def test_what_was_scored_before_a_kill_stays(store):
    def killed(queries, passages, progress):
        if 32 in queries:
            raise Killed
        return product(queries, passages, progress)

    asked = np.arange(40, dtype=np.int32), rows(*[1] * 40)
    with pytest.raises(Killed):
        score_into(store, killed, *asked)
    todo = missing(store, *asked)
    assert todo[0].tolist() == list(range(32, 40))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_are_refused_by_name_and_what_was_scored_before_stays(store, tiny_collection, bad):
    def broken(queries, passages, progress):
        scores = product(queries, passages, progress)
        scores[np.isin(queries, (33, 35))] = bad
        return scores

    named = Named("ce", tiny_collection)
    asked = np.arange(36, dtype=np.int32), rows(*[1] * 36)
    query, passage = tiny_collection.query_ids[33], tiny_collection.passage_ids[1]
    told = rf"'ce' gives no finite number for 2 of 4 pairs, such as {bad} for the query '{query}' with .* '{passage}'"
    with pytest.raises(StepwellError, match=told):
        score_into(store, broken, *asked, named=named)
    assert missing(store, *asked)[0].tolist() == list(range(32, 36))


def test_each_process_scores_every_so_manieth_block(store, monkeypatch):
    asked = []

    def mine(queries, passages, progress):
        asked.append(queries.tolist())
        return product(queries, passages, progress)

    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    monkeypatch.setattr(distributed, "gather_rows", lambda local: torch.cat([local, local]))
    progress = Progress(lambda share, note: None)
    score_into(store, mine, np.arange(40, dtype=np.int32), rows(*[1] * 40), progress)
    assert asked == [list(range(16, 32))]  # the third block is the other's
    assert progress.done == 40 and len(store) == 0  # the main process writes


def test_processes_agree_on_what_is_missing(store, monkeypatch):
    def another_adds(local):  # and this process sees it before it looks again
        store.add([1], [1], [0.5])
        monkeypatch.setattr(distributed, "gather_rows", lambda local: torch.cat([local, local]))
        return torch.cat([local, local + 1])

    monkeypatch.setattr(distributed, "gather_rows", another_adds)
    assert [part.tolist() for part in missing(store, rows(1, 1, 2), rows(1, 2, 1))] == [[1, 2], [2, 1]]


def test_a_block_is_scored_as_over_all_texts(scorer, tiny_collection):
    reranker = Reranker.open(str(scorer), 56)
    queries, passages = PAIRS[0][:50], PAIRS[1][:50]
    tokens = reranker.tokenise(tiny_collection.query_texts()), reranker.tokenise(tiny_collection.passage_texts())
    progress = Progress(lambda share, note: None)
    found = block_scorer(reranker, tiny_collection)(queries, passages, progress)
    assert np.array_equal(found, reranker.score(*tokens, queries.astype(np.int64), passages.astype(np.int64)))
    assert progress.done == 50


@pytest.fixture(scope="module")
def places(tiny_model, scorer, tiny_path, tmp_path_factory):
    return str(tiny_model), str(scorer), str(tiny_path), str(tmp_path_factory.mktemp("blocks") / "cache")


@pytest.fixture(scope="module")
def calm(places, tmp_path_factory):
    """Return the folder, and the store, of one process that nobody disturbs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "BLOCK", 16)
        patch.setattr(vectors, "BLOCK", 4)
        folder = tmp_path_factory.mktemp("calm") / "vectors"
        return folder, work(*places, folder)


def start(places, folder, processes, stop=None):
    return together(processes, work, *places, folder, stop, STEPWELL_PRECISION="fp32")


def assert_same(folder, calm):
    """Compare vectors byte by byte and scores bit by bit."""
    for name in ("passages.npy", "queries.npy", "query_rows.npy", "vectors.json"):
        assert (folder / name).read_bytes() == (calm[0] / name).read_bytes(), name
    found = ScoreStore.open(folder / "scores", *calm[1].owner)
    assert len(found) == len(calm[1]) == 343
    assert np.array_equal(found.lookup(*PAIRS), calm[1].lookup(*PAIRS))


@pytest.fixture(scope="module")
def killed(places, tmp_path_factory):
    """Return what kill -9 left in the middle of encoding, and of scoring."""
    root = tmp_path_factory.mktemp("killed")
    folder = root / "scoring"
    for stop in ("encoding", "scoring"):
        [process] = start(places, folder, 1, stop)
        assert process.wait(300).returncode == -signal.SIGKILL
        if stop == "encoding":
            assert len(list(folder.glob("shards/passages-*.npy"))) == 5 and not (folder / "passages.npy").exists()
            shutil.copytree(folder, root / "encoding")
    assert Vectors.open(folder).passages.shape == (60, 32)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("during", ["encoding", "scoring"])
def test_killed_and_gone_on_with_to_the_bit(places, calm, killed, tmp_path, during):
    folder = shutil.copytree(killed / during, tmp_path / "again")
    work(*places, folder)
    assert_same(folder, calm)


@pytest.mark.slow
def test_killed_and_gone_on_with_by_two_processes_to_the_bit(places, calm, killed, tmp_path):
    folder = shutil.copytree(killed / "encoding", tmp_path / "again")
    finish(start(places, folder, 2))
    assert_same(folder, calm)
