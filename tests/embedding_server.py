"""An OpenAI-compatible ``/v1/embeddings`` on this machine, which can be told to misbehave."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

Step = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


def made_up(texts: list[str], width: int = 8) -> np.ndarray:
    """Return a vector of each text, the same wherever it is made."""
    seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") for text in texts]
    return np.stack([np.random.default_rng(seed).standard_normal(width) for seed in seeds]).astype(np.float32)


class EmbeddingServer:
    """Answers with ``embed``, after the steps in ``play``: each spoils one request."""

    def __init__(self, embed: Callable[[list[str]], np.ndarray] = made_up) -> None:
        self.embed = embed
        self.play: list[Step | None] = []  # None answers as usual
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.answered: Counter[str] = Counter()  # how often each text got its vector
        self.lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    server.requests.append((dict(self.headers), body))
                    step = server.play.pop(0) if server.play else None
                if step is not None:
                    step(self, body)
                    return
                answer(self, body, server.embed(body["input"]))
                with server.lock:
                    server.answered.update(body["input"])

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1/embeddings"

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def send(handler: BaseHTTPRequestHandler, data: bytes, status: int = 200, **headers: str) -> None:
    """Send an answer."""
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(data)


def answer(handler: BaseHTTPRequestHandler, body: dict[str, Any], vectors: Any) -> None:
    """Send vectors as OpenAI does, in another order."""
    rows = [{"object": "embedding", "index": i, "embedding": list(map(float, v))} for i, v in enumerate(vectors)]
    tokens = sum(len(text.split()) for text in body["input"])
    content = {"object": "list", "data": rows[::-1], "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
    send(handler, json.dumps(content).encode())


def status(code: int, data: bytes = b"", **headers: str) -> Step:
    """Return a step that answers with a status."""
    return lambda handler, body: send(handler, data, code, **headers)


def spoiled(change: Callable[[list[list[float]]], Any]) -> Step:
    """Return a step that answers with vectors as ``change`` leaves them."""
    return lambda handler, body: answer(handler, body, change(made_up(body["input"]).tolist()))


def cut_off(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    """Break the connection in the middle of an answer."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    handler.wfile.write(b'{"data": [')
