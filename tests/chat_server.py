"""A chat endpoint on this machine, which answers as it is told to."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from stepwell.intake.synthetic.chat import KINDS


class ChatServer:
    """Asks three things about the last word of a text; ``play`` says what it does first, then it answers well.

    A play is a status, with an answer where one is given, or ``late`` (none in time), ``broken`` (half of one) or
    ``kill`` (the process that asks gets SIGKILL, after its answer).
    """

    def __init__(self) -> None:
        self.requests: list[tuple[dict, dict]] = []
        self.answered: Counter[str] = Counter()  # by what was asked: answers that arrived
        self.play: list[object] = []
        self.says = lambda text, kind, number: "\n".join(
            f"{one + 1}. who may leave the {text.split()[-1]} alone, {kind} {one}" for one in range(number)
        )
        self.kill = lambda: None  # ends the process that asks
        self.lock, self.end = threading.Lock(), threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    server.requests.append((dict(self.headers), body))
                    play = server.play.pop(0) if server.play else None
                self.answer(body, play)

            def answer(self, body: dict, play: object) -> None:
                status, data = 200, None
                if isinstance(play, tuple):
                    status, data = play
                if play == "late":
                    server.end.wait(20)
                    return
                data = server.completion(body) if data is None else data
                self.send_response(status)
                if status == 429:
                    self.send_header("Retry-After", "7")
                if status == 302:
                    self.send_header("Location", "http://elsewhere.example/v1")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2] if play == "broken" else data)
                if status == 200 and play in (None, "kill"):
                    with server.lock:
                        server.answered[json.dumps(body, sort_keys=True)] += 1
                if play == "kill":
                    server.kill()

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def completion(self, body: dict) -> bytes:
        [message] = body["messages"]
        asked = r"Text:\n(.*)\n\nWrite (\d+) of these: (.*)\. One a line"
        text, number, kind = re.match(asked, message["content"], re.DOTALL).groups()
        [name] = [name for name, words in KINDS.items() if words == kind]
        content = self.says(" ".join(text.split()), name, int(number))
        return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()

    def close(self) -> None:
        self.end.set()
        self.http.shutdown()
        self.http.server_close()
