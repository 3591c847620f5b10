"""A hosted re-ranker, against a server on this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from stepwell.display import Progress
from stepwell.errors import StepwellError
from stepwell.recipe.teachers import HostedTeacher
from stepwell.teachers.hosted import HostedReranker
from stepwell.teachers.scoring import Stored

QUERIES = ["river", "river", "river", "comet"]
PASSAGES = ["a", "bbb", "cc", "dddd"]


class Server:
    """Scores a document by its length; answers as ``play`` says first, then well."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict, dict]] = []
        self.play: list[tuple[int, object]] = []
        self.shape = lambda results: {"results": results}
        self.lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    server.requests.append((dict(self.headers), body))
                    status, answer = server.play.pop(0) if server.play else (200, None)
                if answer is None:
                    documents = body.get("documents") or body.get("texts")
                    scores = [{"index": i, "relevance_score": float(len(text))} for i, text in enumerate(documents)]
                    answer = server.shape(scores[::-1])  # APIs answer best first
                self.send_response(status)
                if status == 429:
                    self.send_header("Retry-After", "7")
                if status == 302:
                    self.send_header("Location", "http://elsewhere.example/rerank")
                self.end_headers()
                self.wfile.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/rerank"


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def hosted(server, waits=None, **settings):
    chosen = HostedTeacher(kind="http", url=server.url, **settings)
    return HostedReranker(chosen, (waits if waits is not None else []).append)


def test_each_document_gets_its_own_score_and_a_query_its_own_requests(server):
    progress = Progress(lambda share, note: None)
    scores = hosted(server, model="m-1", batch=2, extra={"truncate": True}).scores(QUERIES, PASSAGES, progress)
    assert scores.tolist() == [1, 3, 2, 4] and progress.done == 4
    asked = sorted((body["query"], body["documents"]) for _, body in server.requests)
    assert asked == [("comet", ["dddd"]), ("river", ["a", "bbb"]), ("river", ["cc"])]
    assert all(body["model"] == "m-1" and body["truncate"] is True for _, body in server.requests)
    assert "Authorization" not in server.requests[0][0]


def test_the_answer_of_text_embeddings_inference_is_understood(server):
    server.shape = lambda results: [{"index": r["index"], "score": r["relevance_score"]} for r in results]
    assert hosted(server, documents="texts").scores(QUERIES, PASSAGES).tolist() == [1, 3, 2, 4]


def test_a_busy_server_is_asked_again_later(server):
    server.play = [(429, {}), (503, b"down"), (500, b"")]
    waits: list[float] = []
    assert hosted(server, waits, parallel=1).scores(["q"], ["abc"]).tolist() == [3]
    assert waits == [7, 2, 4]  # what Retry-After asks for, then ever longer
    server.play = [(503, b"down")] * 3
    with pytest.raises(StepwellError, match=r"did not answer in 3 attempts.*HTTP 503, down"):
        hosted(server, retries=2).scores(["q"], ["abc"])


def test_nobody_there_is_said_too(server):
    settings = HostedTeacher(kind="http", url="http://127.0.0.1:9/rerank", retries=1)
    with pytest.raises(StepwellError, match="did not answer in 2 attempts"):
        HostedReranker(settings, lambda seconds: None).scores(["q"], ["p"])


def test_the_key_is_read_from_the_environment_and_shown_nowhere(server, monkeypatch):
    monkeypatch.delenv("RERANK_KEY", raising=False)
    with pytest.raises(StepwellError, match="environment variable RERANK_KEY, which is not set"):
        hosted(server, key="RERANK_KEY")
    monkeypatch.setenv("RERANK_KEY", "s3cret")
    hosted(server, key="RERANK_KEY").scores(["q"], ["p"])
    assert server.requests[0][0]["Authorization"] == "Bearer s3cret"
    server.play = [(401, b"who are you?")]
    with pytest.raises(StepwellError, match=r"HTTP 401, who are you.*Check the key in RERANK_KEY") as error:
        hosted(server, key="RERANK_KEY").scores(["q"], ["p"])
    assert "s3cret" not in str(error.value) and len(server.requests) == 2
    settings = HostedTeacher(kind="http", url=server.url, key="RERANK_KEY")
    assert "s3cret" not in json.dumps(settings.model_dump())


def test_a_redirect_is_not_followed_with_the_key(server, monkeypatch):
    monkeypatch.setenv("RERANK_KEY", "s3cret")
    server.play = [(302, b"")]
    with pytest.raises(StepwellError, match=r"points to http://elsewhere\.example/rerank"):
        hosted(server, key="RERANK_KEY").scores(["q"], ["p"])


@pytest.mark.parametrize(
    "answer", [b"<html>", {"results": [{"index": 0, "relevance_score": 1}]}, {"hits": []}, [{"index": 0}], 7]
)
def test_an_answer_that_is_none_is_refused(server, answer):
    server.play = [(200, answer)]
    with pytest.raises(StepwellError, match="something else than a score for each document"):
        hosted(server).scores(["q", "q"], ["a", "b"])


def test_a_pair_is_paid_for_once_and_what_was_paid_for_survives_an_outage(server, tmp_path):
    settings = HostedTeacher(kind="http", url=server.url, batch=2, parallel=1, retries=0)
    queries, passages = np.int32([0, 1]), np.int32([[0, 1, 2], [1, 3, -1]])

    def scorer():
        client = HostedReranker(settings, lambda seconds: None)
        return lambda q, p, progress: client.scores([QUERIES[i] for i in q], [PASSAGES[i] for i in p], progress)

    teacher = Stored(tmp_path, HostedReranker.fingerprint_of(settings), "77b2", scorer, block=2)
    server.play = [(200, None), (503, b"")]
    with pytest.raises(StepwellError, match="are kept"):
        teacher.score(queries, passages)
    assert len(teacher.store()) == 2
    assert teacher.score(queries, passages).tolist() == [[1, 3, 2], [3, 4, 0]]
    paid = len(server.requests)
    assert teacher.score(queries, passages[:, ::-1]).tolist() == [[2, 3, 1], [0, 4, 3]]
    assert len(server.requests) == paid


def test_another_model_or_field_is_another_teacher_and_the_key_is_not(server):
    def name(**settings):
        return HostedReranker.fingerprint_of(HostedTeacher(kind="http", url=server.url, **settings))

    assert len({name(), name(model="a"), name(extra={"raw_scores": True})}) == 3
    assert name() == name(key="K", batch=3, timeout=5.0, logit=True)
