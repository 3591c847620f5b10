"""A server under load: the latency of one client, then many at once, and what batching them is worth.

    python benchmarks/serve.py RUN --clients 32 --seconds 60

Starts ``stepwell serve`` on a finished run, an index or a model in a process of its own. One client asks one query at
a time; then many ask, each again as soon as it is answered (closed loop); then one again, and its figures are the means
of both times, since the speed of a machine changes within a minute. Queries are the collection's own, in a fixed
order that repeats as rarely as there are queries. Memory is the server's resident set.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from stepwell.collection import open_collection
from stepwell.display import Table, say, show

HEAD = b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


def start(place: str, collection: str | None, options: list[str]) -> tuple[subprocess.Popen[str], int, float]:
    """Start the server; return its process, its port, and the seconds until it listened."""
    command = [sys.executable, "-m", "stepwell", "serve", place, "--port", "0", "--only", "student", *options]
    command += ["--collection", collection] if collection else []
    began = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
            return process, int(found[1]), time.perf_counter() - began
        print(line, end="", file=sys.stderr)
    raise SystemExit("the server ended before it listened")


async def client(
    port: int, bodies: list[bytes], turns: Any, until: float, note: list[float], errors: list[str]
) -> None:
    """Ask one query after the other on one connection until the time is over."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.perf_counter() < until:
        body = bodies[next(turns) % len(bodies)]
        began = time.perf_counter()
        writer.write(HEAD % len(body) + body)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        note.append(time.perf_counter() - began)
        if not head.startswith(b"HTTP/1.1 200"):
            errors.append(head[:40].decode("latin-1"))
    writer.close()


async def load(
    port: int, bodies: list[bytes], clients: int, seconds: float, watch: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Keep so many clients asking for so long; ``watch`` is called ten times while they do."""
    note, errors, turns = list[float](), list[str](), count()
    began = time.perf_counter()
    each = (client(port, bodies, turns, began + seconds, note, errors) for _ in range(clients))
    watching = asyncio.create_task(_watch(watch, seconds / 10))
    failed = [str(one) for one in await asyncio.gather(*each, return_exceptions=True) if one is not None]
    watching.cancel()
    took = np.array(note)
    return {
        "clients": clients,
        "answers": len(note),
        "errors": len(errors) + len(failed),
        "per second": len(note) / (time.perf_counter() - began),
        "p50 ms": 1000 * float(np.percentile(took, 50)),
        "p99 ms": 1000 * float(np.percentile(took, 99)),
    }


async def _watch(watch: Callable[[], None], every: float) -> None:
    while True:
        await asyncio.sleep(every)
        watch()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("place", help="a finished run, an index or a model")
    parser.add_argument("--collection", help="what a model searches; another place of a run's collection")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="of the load; one client asks for a sixth of it, twice"
    )
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--threads", type=int, help="of the server's forward")
    parser.add_argument("--out", type=Path, help="JSON for the figures")
    args = parser.parse_args(argv)
    facts = Path(args.place) / "results.json"
    place = args.collection or json.loads(facts.read_text(encoding="utf-8"))["collection"]["path"]
    queries = [text for text in open_collection(place).query_texts() if text.strip()]
    bodies = [json.dumps({"query": text[:2_000], "k": args.k}).encode() for text in queries]
    process, port, ready = start(args.place, args.collection, ["--threads", str(args.threads)] if args.threads else [])
    try:
        asyncio.run(load(port, bodies, 1, min(3.0, args.seconds / 3)))  # warm
        asyncio.run(load(port, bodies, args.clients, min(3.0, args.seconds / 3)))
        memory = list[float]()

        def weigh() -> None:
            memory.append(psutil.Process(process.pid).memory_info().rss / 1e6)

        weigh()
        halves = [asyncio.run(load(port, bodies, 1, args.seconds / 6))]
        say(f"one client: {halves[0]['p50 ms']:.1f} ms; now {args.clients} for {args.seconds:g} s")
        many = asyncio.run(load(port, bodies, args.clients, args.seconds, weigh))
        halves.append(asyncio.run(load(port, bodies, 1, args.seconds / 6)))
        alone = {name: sum(half[name] for half in halves) / 2 for name in halves[0]}
        alone |= {name: sum(int(half[name]) for half in halves) for name in ("answers", "errors")} | {"clients": 1}
    finally:
        process.terminate()
        process.wait(30)
    ratios = (many["per second"] / alone["per second"], many["p99 ms"] / alone["p50 ms"])
    table = Table(
        "Serving", list(alone), [list(alone.values()), list(many.values())],
        (
            f"Throughput {ratios[0]:.2f} times that of one client; p99 {ratios[1]:.1f} times its median.",
            f"Listening after {ready:.1f} s. Resident memory, MB: {', '.join(f'{one:.0f}' for one in memory)}.",
            f"Server ended with {process.returncode}.",
        ),
    )  # fmt: skip
    show(table)
    if args.out:
        figures = {"alone": alone, "many": many, "ready": ready, "memory": memory, "ratios": ratios}
        args.out.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
