"""Exact search side by side: `python benchmarks/search.py [--sizes 15000 100000 1000000] [--out search.json]`.

numpy, torch, FAISS's IndexFlatIP (as it comes, and with its switch to matrix products set to every batch), usearch's
exact search and stepwell, each in a process of its own with the same vectors and as many threads. Rounds go A B A B
...; all have to find the same passages (ties aside). Vectors are made up, in clusters as texts are, unless some are
given; FAISS and usearch are left out where they are not installed. Memory is what a process holds at most beyond its
imports, without what is mapped from files.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

WIDTH, BLOCK = 384, 50_000
ALONE = 16  # queries that a round times one by one, for batches of 1

# -- contenders: each gets the passages (N, D) and threads, and gives what searches (queries, k) -> rows (Q, k) ----


def with_stepwell(passages, threads):
    from stepwell.retrieval.search import top_k

    return lambda queries, k: top_k(queries, passages, k)[0]


def with_numpy(passages, threads):
    def search(queries, k):
        scores = queries @ passages.T
        rows = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(scores, rows, 1), axis=1)
        return np.take_along_axis(rows, order, 1)

    return search


def with_torch(passages, threads):
    import torch

    torch.set_num_threads(threads)
    held = torch.from_numpy(np.array(passages))
    return lambda queries, k: torch.topk(torch.from_numpy(queries) @ held.T, k, dim=1).indices.numpy()


def with_faiss(passages, threads):
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatIP(passages.shape[1])
    for start in range(0, len(passages), BLOCK):
        index.add(np.ascontiguousarray(passages[start : start + BLOCK]))
    return lambda queries, k: index.search(queries, k)[1]


def with_faiss_products(passages, threads):
    import faiss

    faiss.cvar.distance_compute_blas_threshold = 2  # queries from which it multiplies matrices, or their numbers
    return with_faiss(passages, threads)


def with_usearch(passages, threads):
    from usearch.index import search

    def exact(queries, k):
        return np.atleast_2d(search(passages, queries, k, "ip", exact=True, threads=threads).keys)

    return exact


CONTENDERS: dict[str, tuple[Callable, str | None]] = {
    "stepwell": (with_stepwell, None),
    "numpy": (with_numpy, None),
    "torch": (with_torch, None),
    "faiss IndexFlatIP": (with_faiss, "faiss"),
    "faiss IndexFlatIP, matrix products": (with_faiss_products, "faiss"),
    "usearch exact": (with_usearch, "usearch"),
}


# -- a contender's process -----------------------------------------------------------------------------------------


class Peak:
    """Follows the memory of this process, without what is mapped from files: ``with Peak() as peak: ...``."""

    def __enter__(self):
        self.bytes, self._stop = own_memory(), threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        return self

    def _follow(self):
        while not self._stop.wait(0.002):
            self.bytes = max(self.bytes, own_memory())

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


def own_memory():
    now = psutil.Process().memory_info()
    return now.rss - getattr(now, "shared", 0)


def work(options):
    """Answer requests, a line each: {batch, k, watch} -> {seconds, memory}; rows go to a file."""
    passages = np.load(options.folder / "passages.npy", mmap_mode="r")[: options.size]
    queries = np.load(options.folder / "queries.npy")
    make = CONTENDERS[options.work][0]
    make(np.array(passages[:100]), options.threads)(queries[:1], 1)  # imports
    before = own_memory()
    search = make(passages, options.threads)
    print("ready", flush=True)
    for line in sys.stdin:
        batch, k, watch = json.loads(line)
        parts = [queries[i : i + 1] for i in range(ALONE)] if batch == 1 else [queries[:batch]]
        memory = None
        if watch:
            with Peak() as peak:
                search(parts[0], k)
            memory = peak.bytes - before
        start = time.perf_counter()
        rows = [search(part, k) for part in parts]
        seconds = (time.perf_counter() - start) / len(parts)
        np.save(options.folder / "rows.npy", np.concatenate(rows))
        print(json.dumps({"seconds": seconds, "memory": memory}), flush=True)


class Worker:
    """The process of a contender."""

    def __init__(self, name, size, options):
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        command = [sys.executable, __file__, "--work", name, "--size", str(size), "--folder", str(options.folder)]
        self.process = subprocess.Popen(
            [*command, "--threads", str(options.threads)],
            env={**os.environ, **dict.fromkeys(names, str(options.threads))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._line()
        self.folder = options.folder

    def _line(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a contender ended with status {self.process.wait()}; its error is above")
        return line

    def ask(self, batch, k, watch=False):
        """Return what a search took, and the rows it found."""
        self.process.stdin.write(json.dumps([batch, k, watch]) + "\n")
        self.process.stdin.flush()
        return json.loads(self._line()), np.load(self.folder / "rows.npy")

    def close(self):
        self.process.stdin.close()
        self.process.wait()


# -- the comparison ------------------------------------------------------------------------------------------------


def make_vectors(folder, n, batch):
    """Write ``n`` passages and ``batch`` queries, of length 1, in clusters of a few hundred passages."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((max(1, n // 300), WIDTH), dtype=np.float32)

    def some(count):
        vectors = centers[rng.integers(len(centers), size=count)] + rng.standard_normal(
            (count, WIDTH), dtype=np.float32
        )
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    passages = np.lib.format.open_memmap(folder / "passages.npy", "w+", np.float32, (n, WIDTH))
    for start in range(0, n, BLOCK):
        passages[start : start + BLOCK] = some(min(BLOCK, n - start))
    passages.flush()
    np.save(folder / "queries.npy", some(max(batch, ALONE)))


def compare(size, options, available):
    """Return all figures of one number of passages."""
    from side_by_side import OURS, ratio

    from stepwell.display import say

    passages = np.load(options.folder / "passages.npy", mmap_mode="r")[:size]
    queries = np.load(options.folder / "queries.npy")
    workers = {name: Worker(name, size, options) for name in available}
    figures = []
    for batch in options.batches:
        for k in options.k:
            found = {name: worker.ask(batch, k, watch=True) for name, worker in workers.items()}
            seconds = {name: [] for name in workers}
            for _ in range(options.rounds):
                for name, worker in workers.items():
                    seconds[name].append(worker.ask(batch, k)[0]["seconds"])
            for name, (told, rows) in found.items():
                of = ratio(seconds[name], seconds[OURS])
                line = {"passages": size, "batch": batch, "k": k, "name": name, "seconds": seconds[name]}
                line["ratio"] = dict(zip(("median", "low", "high"), of, strict=True))
                line["memory"] = told["memory"]
                line["lists that differ"] = differing(queries, passages, found[OURS][1], rows)
                figures.append(line)
                say(f"{size:,} passages, batch {batch}, k {k}: {name}, {statistics.median(seconds[name]):.3f} s")
    for worker in workers.values():
        worker.close()
    return figures


def differing(queries, passages, ours, theirs):
    """Return how many lists (Q, k) hold other passages than ours, where that is no tie (fp32's own error)."""
    from stepwell.retrieval.search import pair_scores

    one, two = (pair_scores(queries[: len(rows)], passages, rows.astype(np.int32)) for rows in (ours, theirs))
    alike = np.isclose(-np.sort(-one, axis=1), -np.sort(-two, axis=1), rtol=0, atol=2e-6).all(axis=1)
    unique = np.array([len(set(row)) == len(row) for row in theirs.tolist()])
    return int((~(alike & unique)).sum())


def report(figures, options, left_out):
    """Return the table with all figures."""
    from side_by_side import finish

    from stepwell.models.engines import machine as engine

    rows = []
    for line in figures:
        median = statistics.median(line["seconds"])
        of = line["ratio"]
        told = None if line["name"] == "stepwell" else f"{of['median']:.2f} [{of['low']:.2f}, {of['high']:.2f}]"
        agrees = "yes" if not line["lists that differ"] else f"not {line['lists that differ']} lists"
        speed = f"{1000 * median / line['batch']:.3f}"
        memory = f"{line['memory'] / 1e6:,.0f}"
        rows.append([line["passages"], line["batch"], line["k"], line["name"], speed, told, memory, agrees])
    columns = ["passages", "batch", "k", "contender", "ms/query", "times stepwell's time", "own MB", "agrees"]
    kind = str(engine.precision()).removeprefix("torch.")
    notes = [
        f"Exact search over vectors of {WIDTH if options.vectors is None else 'your'} numbers, {options.threads} "
        f"threads each, medians of {options.rounds} rounds; stepwell scans in {kind} (batches of 1 in float32).",
        "Agrees: the same passages as stepwell's, but for scores that differ by less than 2e-6.",
        *(f"Left out: {name}: not installed." for name in left_out),
    ]
    return finish("search", "Exact search", columns, rows, notes) | {"contenders": figures}


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[15_000, 100_000, 1_000_000], help="Passages.")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 256], help="Queries a call.")
    parser.add_argument("--k", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--vectors", type=Path, help="A folder of your own passages.npy and queries.npy, float32.")
    parser.add_argument("--out", type=Path, help="Write the figures as JSON.")
    for hidden, kind in (("--work", str), ("--size", int), ("--folder", Path)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.work:
        work(options)
        return
    import importlib.util

    import torch
    from side_by_side import publish

    torch.set_num_threads(options.threads)
    missing = [name for name, (_, need) in CONTENDERS.items() if need and importlib.util.find_spec(need) is None]
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        if options.vectors is None:
            make_vectors(options.folder, max(options.sizes), max(options.batches))
        else:
            for name in ("passages.npy", "queries.npy"):
                (options.folder / name).symlink_to((options.vectors / name).resolve())
        available = [name for name in CONTENDERS if name not in missing]
        figures = [line for size in options.sizes for line in compare(size, options, available)]
    publish(report(figures, options, missing), options.out)


if __name__ == "__main__":
    main(sys.argv[1:])
