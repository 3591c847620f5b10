"""Milvus: exact at full effort, a load that resumes, what is told. Runs on Milvus Lite, where that is installed."""

import multiprocessing
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from common import unit_vectors
from stepwell.display import SILENT, Progress
from stepwell.errors import StepwellError
from stepwell.indexes import milvus as module
from stepwell.indexes.milvus import MilvusIndex
from stepwell.indexes.settings import IndexSettings
from stepwell.indexes.vector_index import make, read
from stepwell.retrieval.search import top_k

COUNT, WIDTH = 300, 8


PASSAGES, QUERIES = unit_vectors(COUNT, 0, WIDTH), unit_vectors(9, 1, WIDTH)
FLAT = IndexSettings("milvus").resolve(WIDTH)


@pytest.fixture
def lite(monkeypatch):
    pytest.importorskip("pymilvus")
    pytest.importorskip("milvus_lite")
    monkeypatch.setattr(module, "BATCH_ROWS", 50)
    monkeypatch.setattr(module, "QUERIES", 4)


def load(index, blocks=(PASSAGES,), progress=SILENT):
    index.load(iter(blocks), COUNT, progress)


@pytest.mark.usefixtures("lite")
@pytest.mark.parametrize("kind", ["milvus", "milvus-hnsw"])
def test_results_are_those_of_exact_search_at_full_effort_also_when_moved(kind, tmp_path):
    settings = IndexSettings(kind, effort=COUNT).resolve(WIDTH)
    index = make(settings, PASSAGES, True, tmp_path / "a", "test")
    exact = top_k(QUERIES, PASSAGES, 10)

    def same(index):
        rows, scores = index.search(QUERIES, 10)
        assert np.array_equal(rows, exact[0])
        assert scores == pytest.approx(exact[1], abs=1e-5)
        index.close()

    same(index)
    (tmp_path / "a").rename(tmp_path / "b")
    same(read(settings, True, tmp_path / "b", "test", COUNT))


@pytest.mark.usefixtures("lite")
def test_vectors_that_are_not_of_length_1_are_ranked_by_inner_product(tmp_path):
    passages = PASSAGES * np.linspace(0.1, 3, COUNT, dtype=np.float32)[:, None]
    index = make(FLAT, passages, False, tmp_path, "test")
    assert np.array_equal(index.search(QUERIES, 10)[0], top_k(QUERIES, passages, 10)[0])
    index.close()


def interrupted(folder, stop_after):
    """Load, and die without a word in the middle of it."""
    module.BATCH_ROWS = 50
    done = []

    def show(share, note):
        done.append(share)
        if len(done) == stop_after:
            os._exit(9)

    MilvusIndex(FLAT, folder, "test").load(iter([PASSAGES]), COUNT, Progress(show))


@pytest.mark.usefixtures("lite")
def test_a_killed_load_goes_on_without_holes_or_doubles(tmp_path, monkeypatch):
    killed = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn").Process(
        target=interrupted, args=(tmp_path, 3)
    )
    killed.start()
    killed.join()
    assert killed.exitcode == 9
    index = MilvusIndex(FLAT, tmp_path, "test")
    with pytest.raises(StepwellError, match=r"holds 1?\d0 vectors, where the index has 300"):
        index.check(COUNT)
    index._client.upsert("test", [{"row": 160 + i, "vector": PASSAGES[160 + i]} for i in range(7)])  # part of a batch
    sent = []
    upsert = index._client.upsert
    monkeypatch.setattr(
        index._client, "upsert", lambda name, rows: (sent.extend(row["row"] for row in rows), upsert(name, rows))
    )
    load(index)
    assert sorted(sent) == list(range(150, 300))  # what was whole is not sent again
    load(index)
    assert len(sent) == 150
    assert np.array_equal(index.search(QUERIES, 10)[0], top_k(QUERIES, PASSAGES, 10)[0])
    index.close()


@pytest.mark.usefixtures("lite")
def test_a_collection_that_was_changed_or_is_gone_is_told(tmp_path):
    make(FLAT, PASSAGES, True, tmp_path, "test").close()
    index = MilvusIndex(FLAT, tmp_path, "test")
    index._client.delete("test", filter="row == 5")
    index._client.upsert("test", [{"row": 1000, "vector": PASSAGES[5]}])  # the number is right, the rows are not
    index.close()
    for name, words in (("test", "holds 300|changed"), ("other", "is not there")):
        with pytest.raises(StepwellError, match=words):
            read(FLAT, True, tmp_path, name, COUNT)


@pytest.mark.usefixtures("lite")
def test_lite_refuses_fp16_and_a_second_process(tmp_path):
    half = MilvusIndex(IndexSettings("milvus", "fp16").resolve(WIDTH), tmp_path, "test")
    with pytest.raises(StepwellError, match="fp32 alone"):
        load(half)
    half.close()


class Cluster:
    """What is asked of a cluster, without one."""

    def __init__(self, uri, token):
        self.uri, self.token, self.rows = uri, token, {}

    def has_collection(self, name):
        return bool(self.rows)

    def load_collection(self, name):
        pass

    def query(self, name, filter, output_fields):
        low, _, high = filter.removeprefix("row >= ").partition(" and row < ")
        return [{"count(*)": sum(int(low) <= row < int(high or 1 << 40) for row in self.rows)}]

    def search(self, name, data, limit, search_params, output_fields):
        assert search_params == {"metric_type": "IP", "params": {"ef": 64}}
        matrix = np.stack([self.rows[row] for row in sorted(self.rows)])
        scores = np.stack(data) @ matrix.T
        return [
            [{"row": int(row), "distance": float(line[row])} for row in np.argsort(-line, kind="stable")[:limit]]
            for line in scores
        ]


def test_a_cluster_is_given_the_token_of_the_environment_and_searched_in_fp16(tmp_path, monkeypatch):
    made = []

    def connect(uri, token):
        made.append(Cluster(uri, token))
        return made[-1]

    exceptions = SimpleNamespace(MilvusException=ConnectionError)
    package = SimpleNamespace(exceptions=exceptions, MilvusClient=connect)
    monkeypatch.setattr(module, "package", lambda name, extra: package)
    monkeypatch.setenv("STEPWELL_MILVUS_TOKEN", "a:b")
    settings = IndexSettings("milvus-hnsw", "fp16", uri="http://db:19530").resolve(WIDTH)
    index = MilvusIndex(settings, tmp_path, "test")
    assert (made[0].uri, made[0].token) == ("http://db:19530", "a:b")
    made[0].rows = dict(enumerate(PASSAGES.astype(np.float16)))
    index.check(COUNT)
    rows, scores = index.search(QUERIES, 2)
    assert scores == pytest.approx(np.take_along_axis(QUERIES @ PASSAGES.T, rows, axis=1), abs=1e-2)
    assert not (tmp_path / module.FILE).exists()


@pytest.mark.parametrize("missing", ["pymilvus", "milvus_lite"])
def test_a_missing_package_is_named_with_its_extra(missing, tmp_path, monkeypatch):
    if missing == "milvus_lite":
        pytest.importorskip("pymilvus")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(StepwellError, match=rf"{missing}.*pip install 'stepwell\[milvus\]'"):
        MilvusIndex(FLAT, tmp_path, "test")
