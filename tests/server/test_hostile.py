"""Hostile requests over a real socket: each gets a 4xx, and a good request right after still works."""

import json
import socket
import time

import pytest

GOOD = json.dumps({"query": "river", "k": 1}).encode()
JSON = b"Content-Type: application/json\r\n"


def post(body, path=b"/search", head=JSON, method=b"POST"):
    length = b"Content-Length: %d\r\n" % len(body)
    return method + b" " + path + b" HTTP/1.1\r\nHost: localhost\r\n" + head + length + b"\r\n" + body


def get(path, method=b"GET", head=b"Host: localhost\r\n"):
    return method + b" " + path + b" HTTP/1.1\r\n" + head + b"\r\n"


def asked(**values):
    return post(json.dumps(values).encode())


CHUNKED = b"POST /search HTTP/1.1\r\nHost: localhost\r\n" + JSON + b"Transfer-Encoding: chunked\r\n\r\n"

HOSTILE = {
    "a body that says it is huge": (
        b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999999\r\n\r\n",
        413,
    ),
    "a length of a hundred digits": (
        get(b"/search", b"POST", b"Host: localhost\r\nContent-Length: " + b"9" * 100 + b"\r\n"),
        400,
    ),
    "a body that turns out to be huge": (
        CHUNKED + b"4000\r\n" + b"x" * 0x4000 + b"\r\n4000\r\n" + b"x" * 0x4000 + b"\r\n",
        413,
    ),
    "a body just too long": (post(b" " * 20_001), 413),
    "a negative length": (get(b"/search", b"POST", b"Host: localhost\r\nContent-Length: -5\r\n"), 400),
    "two lengths": (get(b"/search", b"POST", b"Host: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n"), 400),
    "length and chunks": (
        get(b"/search", b"POST", b"Host: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        400,
    ),
    "no chunk": (CHUNKED + b"zz\r\n", 400),
    "bad UTF-8": (post(b'{"query": "\xff\xfe"}'), 400),
    "half a surrogate pair": (post(b'{"query": "\\ud800"}'), 400),
    "a zero byte": (post(b"\x00\x01\x02"), 400),
    "no JSON": (post(b"query=river"), 400),
    "JSON that ends early": (post(b'{"query": "river"'), 400),
    "JSON nested deep": (post(b"[" * 9_000 + b"]" * 9_000), 400),
    "JSON nested deep in a field": (post(b'{"query": ' + b"[" * 9_000 + b"]" * 9_000 + b"}"), 400),
    "a list": (post(b"[]"), 422),
    "an empty body": (post(b""), 400),
    "another type of content": (post(GOOD, head=b"Content-Type: text/plain\r\n"), 422),
    "a negative k": (asked(query="river", k=-1), 422),
    "a huge k": (asked(query="river", k=10**30), 422),
    "k is no number": (post(b'{"query": "river", "k": NaN}'), 422),
    "k is a text": (asked(query="river", k="10"), 422),
    "a query of numbers": (asked(query=[1, 2]), 422),
    "a query that is too long": (asked(query="river " * 100), 422),
    "too many queries": (asked(query=["river"] * 1000), 422),
    "a system by a path": (asked(query="river", system="../../etc/passwd"), 422),
    "a path upwards": (get(b"/../../etc/passwd"), 404),
    "a path upwards in code": (get(b"/%2e%2e/%2e%2e/etc/passwd"), 404),
    "an asset by a path": (get(b"/page.js/../../app.py"), 404),
    "a slash too many": (get(b"//search"), 404),
    "a zero byte in a path": (get(b"/page.js%00"), 404),
    "bytes in a path": (get(b"/\xff\xfe"), 400),
    "a long path": (get(b"/" + b"x" * 8_000), 431),
    "many headers": (get(b"/", head=b"Host: localhost\r\n" + b"X: y\r\n" * 2_000), 431),
    "GET where it is POST": (get(b"/search"), 405),
    "DELETE": (get(b"/search", b"DELETE"), 405),
    "TRACE": (get(b"/", b"TRACE"), 405),
    "a method that is none": (get(b"/", b"HACK"), 400),
    "CONNECT": (get(b"example.org:443", b"CONNECT"), 400),
    "a preflight from elsewhere": (
        get(b"/search", b"OPTIONS", b"Host: localhost\r\nOrigin: http://evil.example\r\n"),
        405,
    ),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello tls \r\n\r\n", 400),
    "another host": (get(b"/systems", head=b"Host: evil.example\r\n"), 421),
    "no host": (get(b"/systems", head=b""), 421),
    "a head that never ends": (b"GET / HTTP/1.1\r\nHost: loc", 408),
    "a body that never comes": (b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{", 408),
    "nothing at all": (b"", 408),
}


def exchange(port, sent):
    """Send bytes on a connection of its own; return the answer's status and all of it."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(sent)
        answer = b""
        try:
            while piece := connection.recv(65_536):
                answer += piece
                head, found, body = answer.partition(b"\r\n\r\n")
                if found and b"content-length: " in head.lower():
                    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                    if len(body) >= length:
                        break
        except ConnectionResetError:
            pass  # the server closed with bytes of ours unread
    return int(answer[9:12] or 0), answer


@pytest.mark.parametrize("sent, status", HOSTILE.values(), ids=HOSTILE)
def test_hostile_requests_are_refused_and_harm_nobody(served, sent, status):
    got, answer = exchange(served.port, sent)
    assert got == status, answer[:300]
    assert b"Traceback" not in answer and b'File "' not in answer
    got, answer = exchange(served.port, post(GOOD))
    assert got == 200 and len(json.loads(answer.partition(b"\r\n\r\n")[2])["answers"]) == 1


def test_a_body_that_trickles_is_cut_off(served):
    """Bytes that keep coming don't win more time."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        connection.sendall(b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        connection.settimeout(0.05)
        for _ in range(400):
            try:
                if answer := connection.recv(1000):
                    break
            except TimeoutError:
                connection.sendall(b" ")
    assert answer.startswith(b"HTTP/1.1 408")


def test_idle_slow_clients_hold_up_nobody(served):
    slow = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(30)]
    for connection in slow:
        connection.sendall(b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{")
    assert exchange(served.port, post(GOOD))[0] == 200
    for connection in slow:
        connection.close()


def test_a_client_that_hangs_up_is_forgotten(served):
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(post(GOOD))
    assert exchange(served.port, post(GOOD))[0] == 200


def test_requests_follow_one_another_on_a_connection(served):
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        for _ in range(3):
            connection.sendall(post(GOOD))
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
            time.sleep(0.01)
