"""Ray: workers that are lost change nothing; mistakes on a worker are told as such."""

import importlib
import json
import sys
import threading

import numpy as np
import psutil
import pytest

from stepwell.display import SILENT, Progress
from stepwell.errors import StepwellError
from stepwell.jobs.cluster import Cluster, Worker, encode_on, score_on
from stepwell.models.build import build_cross_encoder
from stepwell.models.encoder import Encoder
from stepwell.models.reranker import Reranker
from stepwell.retrieval import vectors
from stepwell.retrieval.vectors import Block, Draft, Vectors, write_vectors
from stepwell.teachers import scoring
from stepwell.teachers.store import ScoreStore

PAIRS = np.divmod(np.arange(0, 40 * 60, 2, dtype=np.int32), np.int32(60))
"""Query rows and passage rows of 1,200 pairs."""


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(scoring, "BLOCK", 8)  # 150 blocks
    monkeypatch.setattr(vectors, "BLOCK", 1)  # 100 blocks


@pytest.fixture(scope="module")
def teacher(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    Reranker(build_cross_encoder(str(tiny_model), 2, 64, 1)).save(folder)
    return str(folder)


def store_of(reranker, collection, folder):
    return ScoreStore.open(folder, reranker.fingerprint, collection.texts_fingerprint)


def test_without_ray_the_extra_is_named(monkeypatch, tiny_collection, tiny_model, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    encoder = Encoder.open(tiny_model)
    draft = Draft(encoder, tiny_collection, np.arange(3), tmp_path)
    with pytest.raises(StepwellError, match=r"stepwell\[ray\]"):
        encode_on(Cluster(), str(tiny_model), encoder, tiny_collection, draft, SILENT)


def test_what_is_there_needs_no_cluster(monkeypatch, tiny_collection, tiny_model, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    encoder = Encoder.open(tiny_model)
    rows = np.arange(3, dtype=np.int32)
    write_vectors(encoder, tiny_collection, rows, tmp_path)
    draft = Draft(encoder, tiny_collection, rows, tmp_path)
    progress = Progress(lambda share, note: None)
    encode_on(Cluster(), str(tiny_model), encoder, tiny_collection, draft, progress)
    assert progress.done == 63


def test_a_worker_opens_once_and_does_one_item_after_the_other(tiny_collection, tiny_model):
    encoder, rows = Encoder.open(tiny_model), np.array([4, 9, 17], np.int32)
    fingerprints = tiny_collection.fingerprint, encoder.fingerprint
    worker = Worker(str(tiny_collection.path), str(tiny_model), fingerprints, 0, rows)
    for block in (Block("document", 3, 8), Block("query", 1, 3)):
        found = worker({name: np.array([value]) for name, value in block._asdict().items()})
        assert np.array_equal(found["vectors"][0], vectors.encode_block(encoder, tiny_collection, rows, block))
        assert (found["side"][0], found["start"][0], found["stop"][0]) == block


@pytest.mark.parametrize("place", [0, 1])
def test_a_worker_with_other_files_refuses(tiny_collection, tiny_model, teacher, place):
    wanted = [tiny_collection.fingerprint, Reranker.open(teacher, 56).fingerprint]
    wanted[place] = "f" * 64
    worker = Worker(str(tiny_collection.path), teacher, tuple(wanted), 56)
    (mistake,) = worker({"queries": np.array([[0]]), "passages": np.array([[0]])})["mistake"]
    assert ("collection", "model")[place] in mistake and "not the one" in mistake and "f" * 16 in mistake


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """Return a cluster of a head that does no work, and two nodes of one worker each."""
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPWELL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.setenv("STEPWELL_PRECISION", "fp32")
        local = importlib.import_module("ray.cluster_utils").Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        for _ in range(2):
            local.add_node(num_cpus=1)
        yield local
        local.shutdown()


def workers(node):
    """Return the processes of a node that encode or score."""
    roots = [psutil.Process(info.process.pid) for infos in node.all_processes.values() for info in infos]
    below = [child for root in roots for child in root.children(recursive=True)]
    return [process for process in below if "MapWorker" in " ".join(process.cmdline())]


def killing(nodes, kill):
    """Return a progress that has ``kill`` end one of two nodes at work, once, and a list of when it did."""
    shown, killed = [], []

    def show(share, note):
        shown.append(share)
        if not killed and len(shown) > 10:
            at_work = [(node, found[0]) for node in nodes.worker_nodes if (found := workers(node))]
            if len(at_work) == 2:
                killed.append(len(shown))
                kill(*at_work[0])

    return Progress(show), killed


@pytest.mark.slow
def test_a_store_scored_by_two_workers_one_of_them_killed_is_that_of_one_process(
    nodes, tiny_collection, teacher, tmp_path
):
    reranker = Reranker.open(teacher, 56)
    one = store_of(reranker, tiny_collection, tmp_path / "one")
    scoring.score_into(one, scoring.block_scorer(reranker, tiny_collection), *PAIRS)
    two = store_of(reranker, tiny_collection, tmp_path / "two")
    progress, killed = killing(nodes, lambda node, worker: worker.kill())
    score_on(Cluster(nodes.address), teacher, reranker, tiny_collection, two, *PAIRS, progress)
    assert killed and killed[0] < 100 and progress.done == 1200
    assert len(two) == len(one) == 1200
    assert np.array_equal(two.lookup(*PAIRS), one.lookup(*PAIRS))


@pytest.mark.slow
def test_vectors_made_by_two_nodes_one_of_them_lost_are_those_of_one_process(
    nodes, tiny_collection, tiny_model, tmp_path
):
    encoder, rows = Encoder.open(tiny_model), np.arange(40, dtype=np.int32)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    write_vectors(encoder, tiny_collection, rows, tmp_path / "one")
    progress, killed = killing(nodes, lambda node, worker: nodes.remove_node(node, allow_graceful=False))
    draft = Draft(encoder, tiny_collection, rows, tmp_path / "two")
    encode_on(Cluster(nodes.address), str(tiny_model), encoder, tiny_collection, draft, progress)
    assert killed and killed[0] < 80 and progress.done == 100
    for name in ("passages.npy", "queries.npy"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert Vectors.open(tmp_path / "two").passages.shape == (60, 32)
    nodes.add_node(num_cpus=1)


@pytest.mark.slow
def test_what_an_interrupted_job_left_is_gone_on_with_by_one_process(
    nodes, tiny_collection, tiny_model, tmp_path, monkeypatch
):
    encoder, rows, shown, left = Encoder.open(tiny_model), np.arange(40, dtype=np.int32), [], []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()

    def show(share, note):
        shown.append(share)
        if len(shown) == 30:
            raise KeyboardInterrupt

    ray = importlib.import_module("ray")
    shutdown = ray.shutdown

    def disconnect():
        left.extend(thread.name for thread in threading.enumerate())
        shutdown()

    monkeypatch.setattr(ray, "shutdown", disconnect)
    draft = Draft(encoder, tiny_collection, rows, tmp_path / "two")
    with pytest.raises(KeyboardInterrupt):
        encode_on(Cluster(nodes.address), str(tiny_model), encoder, tiny_collection, draft, Progress(show))
    # The threads in which Ray Data fetches results: one that goes on without a connection ends the process.
    assert left and "iter_threaded" not in left
    assert sum(map(draft.has, draft.blocks())) == 30
    for name in ("one", "two"):
        write_vectors(encoder, tiny_collection, rows, tmp_path / name)
    assert (tmp_path / "two" / "passages.npy").read_bytes() == (tmp_path / "one" / "passages.npy").read_bytes()


@pytest.mark.slow
def test_a_mistake_on_a_worker_ends_the_job_with_its_words(nodes, tiny_collection, tiny_model, teacher, tmp_path):
    reranker = Reranker.open(teacher, 56)
    store = ScoreStore.open(tmp_path, "f" * 64, tiny_collection.texts_fingerprint)
    other = Reranker(build_cross_encoder(str(tiny_model), 1, 64, 1))
    with pytest.raises(StepwellError, match=r"on the worker .* the model .* is not the one"):
        score_on(Cluster(nodes.address), teacher, other, tiny_collection, store, *PAIRS, print)
    assert len(store) == 0 and reranker.fingerprint != other.fingerprint


@pytest.mark.slow
def test_no_cluster_is_a_sentence(tiny_collection, teacher, tmp_path):
    pytest.importorskip("ray")
    reranker = Reranker.open(teacher, 56)
    store = store_of(reranker, tiny_collection, tmp_path)
    with pytest.raises(StepwellError, match=r"no Ray cluster at 127\.0\.0\.1:1 "):
        score_on(Cluster("127.0.0.1:1"), teacher, reranker, tiny_collection, store, *PAIRS, print)


@pytest.mark.slow
def test_the_command_line_scores_and_encodes_on_a_cluster(nodes, tiny_collection, tiny_model, teacher, tmp_path):
    from typer.testing import CliRunner

    from stepwell.cli import app

    place, q, p = str(tiny_collection.path), tiny_collection.query_ids, tiny_collection.passage_ids
    lines = [{"query-id": q[a], "corpus-id": p[b]} for a, b in zip(*PAIRS, strict=True)][:30]
    (tmp_path / "pairs").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ray = ["--engine", "ray", "--ray-address", nodes.address, "--ray-workers", "1"]
    score = ["score", place, str(tmp_path / "pairs"), str(tmp_path / "scores.parquet"), "--teacher", teacher]
    done = CliRunner().invoke(app, [*score, *ray], catch_exceptions=False)
    assert done.exit_code == 0 and "Raw logits" in done.stdout and (tmp_path / "scores.parquet").is_file()
    encode = ["encode", place, str(tmp_path / "vectors"), "--model", str(tiny_model)]
    done = CliRunner().invoke(app, [*encode, *ray], catch_exceptions=False)
    assert done.exit_code == 0 and Vectors.open(tmp_path / "vectors").queries.shape == (40, 32)
