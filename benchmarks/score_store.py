"""Size and speed of the score store: `python benchmarks/score_store.py [--pairs 50_000_000]`.

Builds a store of so many pairs (100 passages a query) in a temporary folder, the way a ladder does (many
additions, merged on the way), then opens it in a process of its own and looks up batches of 128 pairs:
8 queries x 16 candidates, cold (after the system was asked to forget the files, each block checked against
its checksum for the first time) and warm.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from stepwell.teachers.store import ScoreStore

DEPTH = 100  # passages a query
PASSAGES = 8_000_000
FINGERPRINTS = ("7ea0" * 16, "c011" * 16)


def passages_of(queries):
    """Return the passages of queries (Q,), spread over the collection: (Q, DEPTH)."""
    return (queries[:, None].astype(np.int64) * 7919 + np.arange(DEPTH) * (PASSAGES // DEPTH)) % PASSAGES


def build(root, pairs, additions):
    store = ScoreStore.open(root, *FINGERPRINTS)
    order = np.random.default_rng(0).permutation(pairs // DEPTH)
    start, slowest = time.perf_counter(), 0.0
    for queries in np.array_split(order, additions):
        passages = passages_of(queries)
        began = time.perf_counter()
        store.add(np.repeat(queries, DEPTH), passages.ravel(), (passages % 1000 / 100).ravel())
        slowest = max(slowest, time.perf_counter() - began)
    took = time.perf_counter() - start
    files = list(store.directory.glob("*.arrow"))
    size = sum(path.stat().st_size for path in files)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux gives kilobytes
    print(f"built          {len(store):,} pairs, {additions} additions, {took:.0f} s, slowest {slowest:.1f} s")
    print(f"on disk        {size / 1e6:,.0f} MB, {size / len(store):.2f} bytes a pair, {len(files)} files")
    print(f"peak memory    {peak:,.0f} MB of the builder (mapped files included)")


def forget(root):
    """Ask the system to drop the files from its cache (Linux; elsewhere cold is only unchecked)."""
    for path in root.rglob("*.arrow"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def look_up(root, pairs):
    process, rng = psutil.Process(), np.random.default_rng(1)
    forget(root)
    before, start = process.memory_info().rss, time.perf_counter()
    store = ScoreStore.open(root, *FINGERPRINTS)
    took = time.perf_counter() - start
    grown = process.memory_info().rss - before
    print(f"opened         {took * 1000:.0f} ms; RSS {before / 1e6:.0f} MB + {grown / 1e6:.1f} MB")
    batches = []
    for _ in range(400):
        queries = rng.integers(0, pairs // DEPTH, size=8)
        batches.append((queries[:, None], passages_of(queries)[:, rng.choice(DEPTH, 16, replace=False)]))
    for name in ("cold", "warm", "warm again"):
        times = []
        for queries, passages in batches:
            start = time.perf_counter()
            found = store.lookup(queries, passages)
            times.append((time.perf_counter() - start) / found.size * 1e6)
            assert np.allclose(found, passages % 1000 / 100)
        middle, high = np.percentile(times, [50, 95])
        print(f"{name:14} {middle:.1f} microseconds a pair (median batch; 95th percentile {high:.1f})")
    print(f"RSS then       {process.memory_info().rss / 1e6:.0f} MB (mapped pages included)")
    queries = np.sort(rng.choice(pairs // DEPTH, min(10_000, pairs // DEPTH), replace=False))
    start = time.perf_counter()
    found = store.lookup(queries[:, None], passages_of(queries))
    print(f"one large      {found.size:,} pairs in {time.perf_counter() - start:.2f} s")
    print(f"RSS at the end {process.memory_info().rss / 1e6:.0f} MB (mapped pages included)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=50_000_000)
    parser.add_argument("--additions", type=int, default=250)
    parser.add_argument("--look-up", type=Path, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.look_up:
        look_up(told.look_up, told.pairs)
    else:
        with tempfile.TemporaryDirectory() as folder:
            build(Path(folder), told.pairs, told.additions)
            subprocess.run([sys.executable, __file__, "--pairs", str(told.pairs), "--look-up", folder], check=True)
