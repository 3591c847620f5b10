"""An embeddings API, against a server on this machine: what is refused, what is tried again, what is kept."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import stepwell.teachers.text_vectors as text_vectors
from embedding_server import EmbeddingServer, answer, cut_off, made_up, send, spoiled, status
from stepwell.collection import open_collection
from stepwell.errors import StepwellError
from stepwell.recipe.teachers import EmbeddingsTeacher
from stepwell.retrieval.vectors import Vectors
from stepwell.teachers.embeddings import Embeddings
from stepwell.teachers.kinds import Making
from stepwell.teachers.opening import kind_of
from stepwell.teachers.text_vectors import keys_of

TEXTS = [f"text number {n}" for n in range(10)]
RECORD = 16 + 4 + 4 * 8  # bytes of a key, a checksum and a vector


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("STEPWELL_CACHE", str(tmp_path / "cache"))
    made = EmbeddingServer()
    yield made
    made.close()


def embeddings(server, waits=None, **section):
    section = {"kind": "embeddings-api", "url": server.url, "batch": 4, "parallel": 1, **section}
    return Embeddings(EmbeddingsTeacher.model_validate(section), (waits if waits is not None else []).append)


def fetched(api, texts=TEXTS):
    """Have texts embedded; return what was sent."""
    return api.fetch(lambda: [texts])


def test_each_text_gets_its_own_vector_and_is_sent_once(server):
    api = embeddings(server, model="m", extra={"truncate": True}, parallel=3)
    assert fetched(api, [*TEXTS, *TEXTS[:3]])[:2] == (10, 3)
    want = made_up(TEXTS)
    assert np.allclose(api.read(TEXTS[::-1]), (want / np.linalg.norm(want, axis=1, keepdims=True))[::-1], atol=1e-6)
    assert all(body["model"] == "m" and body["truncate"] is True for _, body in server.requests)
    assert "Authorization" not in server.requests[0][0]
    again = embeddings(server, model="m", extra={"truncate": True}, batch=1, dimensions=3, similarity="dot")
    assert fetched(again) == (0, 0, 0) and np.array_equal(again.read(TEXTS), want[:, :3])
    assert fetched(again, [*TEXTS, "another"])[:2] == (1, 1)
    assert set(server.answered.values()) == {1}
    assert fetched(embeddings(server, model="other"), TEXTS[:2])[0] == 2  # has vectors of its own


def test_a_busy_server_is_asked_again_later(server):
    server.play = [
        status(429, Retry_After="7"),
        status(500, b"oh"),
        cut_off,
        status(503, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT"),
        status(429, Retry_After="nan"),
    ]
    waits: list[float] = []
    assert fetched(embeddings(server, waits), TEXTS[:4]) == (4, 1, 12)
    assert waits == [7, 2, 4, 8, 16]
    server.play = [status(503, b"down")] * 3
    with pytest.raises(StepwellError, match=r"did not answer in 3 attempts.*HTTP 503, down.*The vectors that it gave"):
        fetched(embeddings(server, retries=2))


def test_a_server_that_asks_for_no_wait_at_all_is_not_asked_at_once(server):
    server.play = [status(429, Retry_After="0"), status(429, Retry_After="-5"), status(429, Retry_After="99999")]
    waits: list[float] = []
    fetched(embeddings(server, waits), TEXTS[:4])
    assert waits == [1, 2, 60]


def test_a_count_of_tokens_that_is_none_costs_no_vector(server):
    for usage in ([7], "7", {"total_tokens": "7"}, None):
        rows = [{"index": at, "embedding": [1.0, at]} for at in range(4)]
        server.play = [status(200, json.dumps({"data": rows, "usage": usage}).encode())]
        assert fetched(embeddings(server, model=f"counts {usage}"), TEXTS[:4]) == (4, 1, 0)


def test_however_often_a_server_is_asked_the_wait_has_an_end(server):
    server.play, waits = [status(429)] * 1100, []
    assert fetched(embeddings(server, waits, retries=1100), TEXTS[:4])[0] == 4
    assert len(waits) == 1100 and max(waits) == 60


def test_a_server_that_is_silent_is_left_after_the_timeout(server):
    gate = threading.Event()
    server.play = [lambda handler, body: gate.wait(), lambda handler, body: gate.wait()]
    with pytest.raises(StepwellError, match=r"did not answer in 2 attempts; the last time: .*timed out"):
        fetched(embeddings(server, retries=1, timeout=0.05))
    gate.set()


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (spoiled(lambda vectors: vectors[:-1]), "3 vectors of 4 texts"),
        (spoiled(lambda vectors: [*vectors, vectors[0]]), "5 vectors of 4 texts"),
        (spoiled(lambda vectors: [*vectors[:-1], vectors[-1][:-1]]), "vectors with 7 and 8 numbers"),
        (spoiled(lambda vectors: [[] for _ in vectors]), "vectors with 0 numbers"),
        (spoiled(lambda vectors: [*vectors[:-1], [float("nan"), *vectors[-1][1:]]]), "NaN, .* for text 4 of 4"),
        (spoiled(lambda vectors: [[1e400] * 8, *vectors[1:]]), "NaN, .* for text 1 of 4"),
        (spoiled(lambda vectors: [[0.0] * 8, *vectors[1:]]), "nothing but 0 for text 1 of 4"),
        (status(200, b"<html><body>Sign in</body></html>"), "JSONDecodeError.*<html><body>Sign in"),
        (status(200, b'{"data": [{"index": 0'), "JSONDecodeError"),
        (status(200, b"[" * 100_000), "RecursionError"),
        (status(200, b"[1, 2]"), "something else than a vector for each text"),
        (status(200, b'{"data": [{"index": 0, "embedding": "AAAA"}]}'), "1 vectors of 4 texts"),
        (status(200, b'{"error": "no such model"}'), "no such model"),
    ],
)
def test_an_answer_that_is_none_is_refused_and_nothing_of_it_kept(server, step, says):
    server.play = [step]
    with pytest.raises(StepwellError, match=says):
        fetched(embeddings(server), TEXTS[:4])
    assert len(server.requests) == 1  # another attempt would be paid for too
    assert fetched(embeddings(server), TEXTS[:4])[0] == 4


def test_another_width_than_before_is_refused(server):
    fetched(embeddings(server), TEXTS[:4])
    server.embed = lambda texts: made_up(texts, 5)
    with pytest.raises(StepwellError, match="holds vectors with 8 numbers of this teacher, and now it gives 5"):
        fetched(embeddings(server))
    with pytest.raises(StepwellError, match="has vectors with 8 numbers, and `dimensions: 9`"):
        server.embed, server.requests = made_up, []
        fetched(embeddings(server, dimensions=9, model="m"))
    assert len(server.requests) == 1  # the first of all goes alone


def test_a_vector_that_is_0_where_it_is_cut_is_refused(server):
    server.play = [spoiled(lambda vectors: [[0.0, 0.0, *vectors[0][2:]], *vectors[1:]])]
    api = embeddings(server, dimensions=2)
    fetched(api, TEXTS[:4])
    with pytest.raises(StepwellError, match=r"of 'text number 0' is 0 in its first 2 numbers.*raise `dimensions`"):
        api.read(TEXTS[:4])
    assert np.isfinite(embeddings(server, dimensions=3).read(TEXTS[:4])).all()


def test_a_redirect_is_not_followed(server, monkeypatch):
    monkeypatch.setenv("EMBED_KEY", "s3cret")
    other = EmbeddingServer()
    server.play = [status(302, Location=other.url), status(307, Location=other.url)]
    for _ in range(2):
        with pytest.raises(StepwellError, match=rf"HTTP 30\d.*It points to {other.url}: give the right address"):
            fetched(embeddings(server, api_key_env="EMBED_KEY"))
    other.close()
    assert not other.requests and len(server.requests) == 2


def test_the_key_is_read_from_the_environment_and_shown_nowhere(server, monkeypatch, tmp_path):
    monkeypatch.delenv("EMBED_KEY", raising=False)
    with pytest.raises(StepwellError, match=r"environment variable EMBED_KEY, which is not set.*`api_key_env`"):
        fetched(embeddings(server, api_key_env="EMBED_KEY"))
    monkeypatch.setenv("EMBED_KEY", "s3cret\nX: y")
    with pytest.raises(StepwellError, match="EMBED_KEY holds no key") as error:
        fetched(embeddings(server, api_key_env="EMBED_KEY"))
    assert "s3cret" not in str(error.value) and not server.requests
    monkeypatch.setenv("EMBED_KEY", "s3cret")
    fetched(embeddings(server, api_key_env="EMBED_KEY"))
    assert server.requests[0][0]["Authorization"] == "Bearer s3cret"
    for step, says in {
        status(401, b"who is s3cret?"): r"HTTP 401, who is \*\*\*\?.*Check the key in EMBED_KEY",
        status(200, b"hello s3cret"): r"hello \*\*\*",
        status(500, b"s3cret"): r"HTTP 500, \*\*\*",
        status(302, Location="http://other/s3cret"): r"It points to http://other/\*\*\*",
        status(200, b'{"data": [{"index": 0, "embedding": ["s3cret"]}]}'): r"to float: '\*\*\*'",
    }.items():
        server.play = [step]
        with pytest.raises(StepwellError, match=says) as error:
            fetched(embeddings(server, api_key_env="EMBED_KEY", retries=0), ["new"])
        assert "s3cret" not in str(error.value)
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert files and not any(b"s3cret" in path.read_bytes() for path in files)
    with pytest.raises(ValueError, match="the url holds a name or a password"):
        EmbeddingsTeacher(kind="embeddings-api", url="https://me:s3cret@api.example/v1/embeddings")


def at_most(limit, length=100):
    """Return a step that refuses requests with more texts than ``limit``, or with one longer than ``length``."""

    def step(handler, body):
        if len(body["input"]) > limit or max(map(len, body["input"])) > length:
            send(handler, b"too much", 413 if len(body["input"]) > limit else 400)
        else:
            answer(handler, body, made_up(body["input"]))

    return step


@pytest.mark.parametrize("parallel", [1, 3])
def test_a_request_that_is_too_large_is_sent_in_halves(server, parallel):
    server.play = [at_most(1)] * 40
    api = embeddings(server, parallel=parallel, batch=4)
    assert fetched(api)[:2] == (10, 10)
    assert np.allclose(api.kept.read(keys_of(TEXTS))[0], made_up(TEXTS))


@pytest.mark.parametrize("parallel", [1, 3])
def test_a_text_that_a_server_can_not_take_is_named_and_the_others_are_kept(server, parallel):
    server.play = [at_most(4)] * 40
    texts = [*TEXTS[:6], "long " * 30, *TEXTS[6:]]
    api = embeddings(server, parallel=parallel, batch=4)
    with pytest.raises(StepwellError, match=r"HTTP 400, too much.*to one text alone, with 150 characters: 'long long"):
        fetched(api, texts)
    before = len(server.requests)
    server.play = []
    again = fetched(embeddings(server, batch=4), TEXTS)[0]  # without it
    assert again <= 4 and len(server.requests) - before <= 1


def test_what_was_paid_for_before_an_outage_is_kept(server):
    def later(handler, body):
        server.play = [lambda handler, body: send(handler, b"no", 400)]
        send(handler, json.dumps({"data": [{"index": 0, "embedding": [1.0] * 8}]}).encode())

    server.play = [later]
    with pytest.raises(StepwellError, match="HTTP 400, no"):
        fetched(embeddings(server, batch=1))
    assert fetched(embeddings(server, batch=1))[0] == 9
    sent = [text for _, body in server.requests for text in body["input"]]
    assert sorted(sent) == sorted([*TEXTS, TEXTS[1]])  # the one that was refused again, and no other


def test_others_that_are_under_way_are_kept_when_one_fails(server):
    both, refused = threading.Barrier(2), threading.Event()
    fetched(embeddings(server, batch=1), TEXTS[:1])

    def slow(handler, body):
        both.wait()
        refused.wait()
        send(handler, json.dumps({"data": [{"index": 0, "embedding": [2.0] * 8}]}).encode())

    def wrong(handler, body):
        both.wait()
        send(handler, b"no", 400)
        refused.set()

    server.play = [slow, wrong]
    with pytest.raises(StepwellError, match="HTTP 400"):
        fetched(embeddings(server, batch=1, parallel=2), TEXTS[1:3])
    assert fetched(embeddings(server, batch=1), TEXTS[:3])[0] == 1


def test_what_is_under_way_is_kept_after_ctrl_c_and_no_more_is_sent(server):
    fetched(embeddings(server, batch=1), TEXTS[:1])

    def stopped(handler, body):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        send(handler, json.dumps({"data": [{"index": 0, "embedding": [2.0] * 8}]}).encode())

    server.play = [stopped]
    with pytest.raises(KeyboardInterrupt):
        fetched(embeddings(server, batch=1))
    assert len(server.requests) == 2
    assert fetched(embeddings(server, batch=1), TEXTS[:2])[0] == 0


@pytest.mark.parametrize("cut", [1, 30, 51, 52])
def test_a_kill_in_the_middle_of_writing_loses_that_record_alone(server, cut):
    api = embeddings(server)
    fetched(api, TEXTS[:5])
    file = next(api.kept.folder.glob("*.bin"))
    content = file.read_bytes()
    assert len(content) == 5 * 52
    file.write_bytes(content[:-cut])
    again = embeddings(server)
    assert fetched(again, TEXTS[:5])[0] == 1
    assert file.read_bytes() == content and np.allclose(again.read(TEXTS[:5]), api.read(TEXTS[:5]))


def test_a_damaged_vector_is_asked_for_again(server, capsys):
    api = embeddings(server)
    fetched(api)
    want, file = api.read(TEXTS), next(api.kept.folder.glob("*.bin"))
    content = bytearray(file.read_bytes())
    content[3 * 52 + 25] ^= 1
    file.write_bytes(content)
    again = embeddings(server)
    assert fetched(again)[0] == 1 and np.array_equal(again.read(TEXTS), want)
    assert "1 vectors" in capsys.readouterr().err
    assert fetched(embeddings(server)) == (0, 0, 0)


def test_two_at_once_wait_for_one_another_and_send_nothing_twice(server):
    threads = [threading.Thread(target=fetched, args=(embeddings(server),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(server.answered.values()) == {1} and len(server.answered) == 10


def test_a_key_that_ends_in_zeros_is_found_again(tmp_path, monkeypatch):
    keys = np.array([b"a" * 15 + b"\0", b"a" * 14 + b"\0\0", b"\0" * 16], dtype="S16")
    kept = text_vectors.TextVectors(tmp_path, {})
    with kept.writing():
        kept.add(keys[:2], np.float32([[1, 2], [3, 4]]))
    for store in (kept, text_vectors.TextVectors(tmp_path, {})):
        assert store.has(keys).tolist() == [True, True, False]
        assert store.read(keys[1::-1])[0].tolist() == [[3, 4], [1, 2]]


def test_a_collection_is_embedded_with_prompts_and_billed_before(server, tiny_directory, tmp_path):
    collection, folder = open_collection(tiny_directory()), tmp_path / "stage"
    folder.mkdir()
    section = EmbeddingsTeacher.model_validate(
        {"kind": "embeddings-api", "url": server.url, "prompts": {"query": "q: "}, "price_per_million": 0.5}
    )
    kind, rows = kind_of("api", {"api": section}), np.int32([0, 1])
    bill = kind.bill(kind.lots(collection, rows))
    texts = [*collection.passage_texts(), "q: apples", "q: pears"]
    assert bill[:2] == ("api", server.url) and bill.texts == 5 and bill.characters == sum(map(len, texts))
    assert bill.paid and bill.cost(0.25) == pytest.approx(0.25 * bill.characters * 0.5 / 1e6)
    assert kind.width() is None and not server.requests
    kind.make(Making(folder, collection, kind.settings(), rows))
    found = Vectors.open(folder)
    want = made_up(texts)
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    assert np.allclose(found.passages, want[:3], atol=1e-6)
    assert np.allclose(found.of_queries(rows), want[3:], atol=1e-6)
    assert json.loads((folder / "taken.json").read_text()) == {"texts": 5, "requests": 1, "tokens": 16}
    assert kind.bill(kind.lots(collection, rows)).texts == 0 and kind.width() == 8


def test_what_costs_nothing_is_no_bill_to_agree_to(server):
    def paid(**section):
        return embeddings(server, **section).bill("api", [TEXTS]).paid

    assert paid(api_key_env="EMBED_KEY") and paid(price_per_million=0.1)
    assert not paid() and not paid(api_key_env="EMBED_KEY", price_per_million=0)


def test_extra_fields_do_not_take_the_place_of_the_texts(server):
    with pytest.raises(ValueError, match="`extra` can't hold `input`"):
        embeddings(server, extra={"input": "always this"})


def test_stages_depend_on_the_model_and_not_on_how_it_is_reached():
    def settings(**section):
        section = {"kind": "embeddings-api", "url": "http://localhost:1/v1/embeddings", **section}
        return kind_of("api", {"api": EmbeddingsTeacher.model_validate(section)}).settings()

    how = settings(batch=2, parallel=9, retries=1, timeout=2, api_key_env="K", price_per_million=3)
    assert settings() == how
    others = [settings(model="m"), settings(dimensions=2), settings(prompts={"query": "q"}), settings(extra={"a": 1})]
    assert all(other != how for other in others) and "K" not in json.dumps(how)


FETCH = """\
import sys
from stepwell.recipe.teachers import EmbeddingsTeacher
from stepwell.teachers.embeddings import Embeddings
section = EmbeddingsTeacher(kind="embeddings-api", url=sys.argv[1], batch=4, parallel=1)
print(Embeddings(section).fetch(lambda: [[f"text number {n}" for n in range(10)]]).texts)
"""


def test_a_process_that_is_asked_to_end_keeps_what_is_under_way(server):
    waiting, gate = threading.Event(), threading.Event()

    def block(handler, body):
        waiting.set()
        gate.wait()
        answer(handler, body, made_up(body["input"]))
        server.answered.update(body["input"])

    def process():
        return subprocess.Popen([sys.executable, "-c", FETCH, server.url], stdout=subprocess.PIPE, text=True)

    server.play = [None, block]
    first = process()
    waiting.wait()
    first.terminate()
    time.sleep(0.2)
    gate.set()
    assert first.wait() == 143
    assert len(server.answered) == 8  # of three requests two were answered, and nothing more was sent
    assert process().communicate()[0] == "2\n"
    assert set(server.answered.values()) == {1} and len(server.answered) == 10


def test_a_process_that_is_killed_sends_no_text_again(server, tmp_path):
    waiting, gate = threading.Event(), threading.Event()

    def block(handler, body):
        waiting.set()
        gate.wait()

    def process():
        return subprocess.Popen([sys.executable, "-c", FETCH, server.url], stdout=subprocess.PIPE, text=True)

    server.play = [None, None, block]  # of three requests two are answered
    first = process()
    waiting.wait()
    while not any(file.stat().st_size >= 8 * RECORD for file in (tmp_path / "cache").rglob("vectors-8.bin")):
        time.sleep(0.01)  # the third request leaves while the second answer is written
    first.kill()
    first.wait()
    gate.set()
    assert process().communicate()[0] == "2\n"
    assert set(server.answered.values()) == {1} and len(server.answered) == 10
