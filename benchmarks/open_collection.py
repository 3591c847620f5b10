"""Open a synthetic MS MARCO ``collection.tsv`` of any size: time and memory of the first and of the second opening.

``python benchmarks/open_collection.py 8800000`` writes about 3 GB to a temporary folder, opens it (parsing), opens it
again in a fresh process (mapping), looks up ids and goes through all passages, and removes everything.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

WORDS, SENTENCES = 50_000, 10_000
"""Different words, and sentences of 14; four of these are a passage, of MS MARCO's size: 340 bytes a line."""

QUERIES = 1000
LOOK_UPS = 10_000


def write(folder: Path, lines: int, seed: int = 1) -> int:
    """Write the files; return the bytes of the passages."""
    rng = random.Random(seed)
    letters = "etaoinshrdlucmfwypvbgk"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 8))) for _ in range(WORDS)]
    sentences = [" ".join(rng.choices(words, k=14)) for _ in range(SENTENCES)]
    with (folder / "collection.tsv").open("w", encoding="utf-8") as file:
        for start in range(0, lines, 10_000):
            count = min(10_000, lines - start)
            drawn = rng.choices(sentences, k=4 * count)
            file.writelines(f"{start + i}\t{' '.join(drawn[4 * i : 4 * i + 4])}\n" for i in range(count))
    asked = [f"{n}\t{' '.join(rng.choices(words, k=6))}\n" for n in range(QUERIES)]
    (folder / "queries.train.tsv").write_text("".join(asked))
    judged = [f"{n}\t0\t{rng.randrange(lines)}\t1\n" for n in range(QUERIES)]
    (folder / "qrels.train.tsv").write_text("".join(judged))
    return (folder / "collection.tsv").stat().st_size


def memory() -> dict:
    """Return the most that this process held, with the pages of mapped files, and what is its own now, in MB."""
    own = psutil.Process().memory_full_info().uss
    return {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "own_mb": own / 2**20}


def use(folder: Path, cache: Path, walk: bool) -> dict:
    """Open, and when asked to, look up ids and go through all passages."""
    start = time.perf_counter()
    from stepwell.collection import open_collection

    imported, before = time.perf_counter(), time.process_time()
    collection = open_collection(folder, cache)
    found = {"import_s": imported - start, "open_s": time.perf_counter() - imported}
    found |= {"open_cpu_s": time.process_time() - before, "open": memory()}
    if walk:
        start = time.perf_counter()
        names = random.Random(2).choices(range(collection.n_passages), k=LOOK_UPS)
        assert all(collection.passage_row(str(name)) == name for name in names)
        found["look_up_us"] = (time.perf_counter() - start) / LOOK_UPS * 1e6
        start, characters = time.perf_counter(), 0
        for at in range(0, collection.n_passages, 4096):
            characters += sum(map(len, collection.passages_slice(at, at + 4096)))
        found |= {"walk_s": time.perf_counter() - start, "characters": characters, "walk": memory()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lines", type=int, nargs="?", default=100_000)
    parser.add_argument("--folder", type=Path, help="where the files go; a temporary folder when left out")
    parser.add_argument("--use", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.use:
        folder, cache, walk = options.use
        print(json.dumps(use(Path(folder), Path(cache), walk == "walk")))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name) / "marco"
        folder.mkdir()
        size = write(folder, options.lines)
        results = {"lines": options.lines, "bytes": size}
        for step, walk in (("first", "open"), ("second", "open"), ("third", "walk")):
            command = [sys.executable, __file__, "--use", str(folder), str(Path(name) / "cache"), walk]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results[step] = json.loads(done.stdout)
        print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
