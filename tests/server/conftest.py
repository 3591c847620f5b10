"""A served run: its systems, opened once, a client inside the process, and a real server on a socket."""

import json
import socket
import threading
import time

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("httptools", reason="the extra `serve` is not installed")

import uvicorn

from stepwell.server.app import make_app
from stepwell.server.limits import Limits
from stepwell.server.protocol import guarded
from stepwell.server.systems import open_systems

LIMITS = Limits(text=200, batch=8, k=20, queue=16, at_once=8, body=20_000, head=4_000, seconds=0.5)
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPWELL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(scope="session")
def systems(tiny_run, cache):
    opened = open_systems(tiny_run)
    for system in opened.by_name.values():
        _ = system.searcher
    return opened


@pytest.fixture(scope="session")
def hostile_systems(tiny_model, cache, tmp_path_factory):
    """Return the systems of a model over passages that try to be markup."""
    home = tmp_path_factory.mktemp("hostile")
    texts = [
        "the old river",
        "a river, a castle \N{GRINNING FACE} and a river",
        HOSTILE + " river",
        "a comet",
        "x" * 300,
    ]
    lines = [
        json.dumps({"_id": f"p{i}\"'><b>", "title": HOSTILE if i == 2 else f"title {i}", "text": text})
        for i, text in enumerate(texts * 3)
    ]
    (home / "corpus.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (home / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": f"river {HOSTILE}"}), encoding="utf-8")
    (home / "qrels").mkdir()
    (home / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\tp0\"'><b>\t1\n", encoding="utf-8")
    return open_systems(tiny_model, str(home))


@pytest.fixture
def client(systems):
    from starlette.testclient import TestClient

    app = make_app(systems, LIMITS)
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as opened:
        yield opened


@pytest.fixture
def limits():
    return LIMITS


class Served:
    """A uvicorn in a thread, as ``stepwell serve`` sets it up."""

    def __init__(self, app, limits):
        self.bound = socket.create_server(("127.0.0.1", 0))
        self.port = self.bound.getsockname()[1]
        config = uvicorn.Config(
            app, http=guarded(limits), ws="none", lifespan="on", access_log=False, log_level="error"
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([self.bound],))
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
            time.sleep(0.01)

    def stop(self):
        self.server.should_exit = True
        self.thread.join(10)


@pytest.fixture(scope="module")
def served(systems):
    running = Served(make_app(systems, LIMITS), LIMITS)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def served_hostile(hostile_systems):
    running = Served(make_app(hostile_systems), Limits())
    yield f"http://127.0.0.1:{running.port}/"
    running.stop()
