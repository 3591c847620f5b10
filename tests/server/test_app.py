"""The HTTP interface: what is answered, what is refused and how."""

import asyncio

import numpy as np
import pytest
from starlette.testclient import TestClient

from stepwell.server.app import USUAL, make_app
from stepwell.server.engine import TRIM, Engine
from stepwell.server.limits import Limits


def found(client, query, **more):
    answer = client.post("/search", json={"query": query, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()["answers"]


def test_search_gives_titles_scores_and_the_places_of_words(client, systems):
    answer = client.post("/search", json={"query": "the old river", "k": 3}).json()
    hits = systems.by_name["student"].searcher.search("the old river", 3)
    assert answer["system"] == "student" and answer["milliseconds"] > 0
    (only,) = answer["answers"]
    assert only["query"] == "the old river"
    for passage, hit in zip(only["passages"], hits, strict=True):
        assert (passage["rank"], passage["id"]) == (hit.rank, hit.passage_id)
        assert passage["score"] == pytest.approx(hit.score, abs=1e-5)
        assert f"{passage['title']} {passage['text']}" == hit.text and not passage["cut"]
        for part in ("title", "text"):
            words = [passage[part][start:stop].lower() for start, stop in passage[f"{part}_matches"]]
            assert set(words) <= {"old", "river"}
            assert len(words) == sum(word in ("old", "river") for word in passage[part].split())


@pytest.mark.parametrize(("most", "given"), [(3, 3), (20, USUAL)])
def test_without_a_k_it_is_the_usual_one_or_the_most_that_is_allowed(systems, most, given):
    with TestClient(make_app(systems, Limits(k=most)), base_url="http://127.0.0.1") as client:
        assert len(found(client, "river")[0]["passages"]) == given
        assert client.post("/search", json={"query": "river", "k": most + 1}).status_code == 422


def test_a_batch_is_answered_like_its_queries_alone(client):
    queries = ["the old river", "comet", "a bright violin by the castle"]
    for system in ("student", "bm25", "fused", "contrastive", "reranked"):
        together = found(client, queries, system=system)
        for one, query in zip(together, queries, strict=True):
            (alone,) = found(client, query, system=system)
            assert [p["id"] for p in one["passages"]] == [p["id"] for p in alone["passages"]]
            scores = [p["score"] for p in alone["passages"]]
            assert [p["score"] for p in one["passages"]] == pytest.approx(scores, abs=1e-5)


def test_texts_are_cut_where_asked(client):
    (passage,) = found(client, "river", k=1, characters=7)[0]["passages"]
    assert len(passage["text"]) == 7 and passage["cut"]


def test_embed_gives_the_students_vectors(client, systems):
    encoder = systems.encoder
    for side in ("query", "document"):
        answer = client.post("/embed", json={"text": ["old river", "comet"], "side": side}).json()
        expected = encoder.encode(encoder.tokenise(["old river", "comet"], side), side)
        assert answer["dimension"] == 32 and np.allclose(answer["vectors"], expected, atol=1e-6)


def test_systems_are_told_with_their_quality_and_examples(client, systems, limits):
    offer = client.get("/systems").json()
    assert offer["passages"] == 60 and offer["measure"] == "nDCG@10"
    assert [system["name"] for system in offer["systems"]] == list(systems.by_name)
    assert all(0 <= system["quality"] <= 1 for system in offer["systems"])
    assert len(offer["examples"]) == 5 and offer["limits"]["text"] == limits.text


def test_openapi_and_health(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/search", "/embed", "/systems", "/healthz", "/metrics"} == set(paths)
    assert {"200", "413", "422", "503"} <= set(paths["/search"]["post"]["responses"])
    assert client.get("/healthz").json() == {"status": "ok"}


def test_metrics_count(client):
    found(client, ["river", "comet"])
    client.get("/nowhere")
    client.get("/elsewhere")
    text = client.get("/metrics").text
    assert 'stepwell_http_answers_total{path="/search",status="200"} 1.0' in text
    assert 'stepwell_http_answers_total{path="other",status="404"} 2.0' in text
    assert 'stepwell_texts_total{what="student"} 2.0' in text
    assert "stepwell_batch_texts_sum 2.0" in text and "stepwell_queue_texts 0.0" in text


@pytest.mark.parametrize(
    "body, status, words",
    [
        ({}, 422, "query"),
        ({"query": ""}, 422, "query"),
        ({"query": " \n"}, 422, "query"),
        ({"query": "x" * 201}, 422, "at most 200 characters"),
        ({"query": []}, 422, "1 to 8"),
        ({"query": ["x"] * 9}, 422, "1 to 8"),
        ({"query": "x", "k": 0}, 422, "k"),
        ({"query": "x", "k": 21}, 422, "at most 20"),
        ({"query": "x", "system": "nothing"}, 422, "system"),
        ({"query": "x", "surprise": 1}, 422, "surprise"),
    ],
)
def test_what_does_not_fit_is_refused_and_named(client, body, status, words):
    answer = client.post("/search", json=body)
    assert answer.status_code == status and words in answer.json()["error"]


def test_a_token_is_asked_for_where_there_is_data(systems, limits):
    token = "a-token-of-some-length"
    with TestClient(make_app(systems, limits, token), base_url="http://example.org") as client:
        for path in ("/systems", "/metrics", "/openapi.json"):
            assert client.get(path).status_code == 401
            assert client.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
            assert client.get(path, headers={"Authorization": f"Bearer {token}"}).status_code == 200
        refused = client.post("/search", json={"query": "x"})
        assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
        for path in ("/", "/page.js", "/page.css", "/healthz"):
            assert client.get(path).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "localhost:8765", "127.0.0.1:80", "[::1]:8765"])
def test_without_a_token_loopback_names_are_answered(client, host):
    assert client.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:8765", "", "127.0.0.1.nip.io"])
def test_without_a_token_other_names_are_not(client, host):
    assert client.get("/systems", headers={"Host": host}).status_code == 421


def test_every_answer_has_safe_headers(client):
    for answer in (client.get("/"), client.get("/nowhere"), client.post("/search", json={})):
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    page = client.get("/").text
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "") and "https://" not in page


def test_an_error_inside_gives_no_traceback(client, systems, monkeypatch):
    def broken(texts, k):
        raise RuntimeError("secret")

    monkeypatch.setattr(systems.by_name["student"].searcher, "search_many", broken)
    answer = client.post("/search", json={"query": "x"})
    assert answer.status_code == 500 and "secret" not in answer.text and "error" in answer.json()
    assert client.post("/search", json={"query": "x", "system": "bm25"}).status_code == 200


def test_concurrent_searches_share_a_forward(systems, limits, monkeypatch):
    searcher = systems.by_name["student"].searcher
    calls, real = [], searcher.search_many
    monkeypatch.setattr(searcher, "search_many", lambda texts, k: calls.append(len(texts)) or real(texts, k))

    async def ask():
        engine = Engine(systems, limits)
        async with engine.quick, engine.slow:
            return await asyncio.gather(*(engine.search("student", [text], 5) for text in ["river", "comet", "sail"]))

    answers = asyncio.run(ask())
    assert calls == [3]
    for (hits,), text in zip(answers, ["river", "comet", "sail"], strict=True):
        assert [hit.passage_id for hit in hits] == [hit.passage_id for hit in real([text], 5)[0]]


def test_a_full_queue_is_a_503_that_says_when_to_try_again(client, monkeypatch):
    monkeypatch.setattr("stepwell.server.batching.Batcher.__len__", lambda self: 0)
    client.app.app.state.engine.quick.queue = 1
    answer = client.post("/search", json={"query": ["x", "y"]})
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    assert client.post("/search", json={"query": "x"}).status_code == 200


def test_freed_memory_is_given_back_now_and_then(client, monkeypatch):
    calls = []
    monkeypatch.setattr("stepwell.server.engine.trim", calls.append)
    found(client, "river")
    assert calls == [TRIM]
