"""The score store: what was added is there, whatever happened since."""

from __future__ import annotations

import errno
import os
import random
import signal
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest
from hypothesis import given, settings, strategies as st

from stepwell.errors import StepwellError
from stepwell.teachers.segments import BLOCK
from stepwell.teachers.store import ScoreStore

TEACHER, COLLECTION = "7ea0" * 16, "c011" * 16


def open_store(root: Path, teacher=TEACHER, collection=COLLECTION) -> ScoreStore:
    return ScoreStore.open(root, teacher, collection)


def segments(store: ScoreStore) -> list[Path]:
    return sorted(store.directory.glob("*.arrow"))


def some_pairs(n: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    keys = rng.choice(n * 20, size=n, replace=False)
    return ((keys // 1000).astype(np.int32), (keys % 1000).astype(np.int32), rng.normal(size=n).astype(np.float32))


def flip_byte(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)


def offset_of_pair(path: Path, number: int) -> int:
    with pa.memory_map(str(path)) as file:
        batch = pa.ipc.open_file(file).get_batch(0)
        value = batch.column("pair")[number].as_py()
    at = path.read_bytes().find(value.to_bytes(8, "little"))
    # The first pair of a block stands in the index only as base64, so this is the column.
    assert at > 0
    return at


class TestLookup:
    def test_pairs_that_were_never_added_are_nan(self, tmp_path):
        store = open_store(tmp_path)
        assert np.isnan(store.lookup([3, 4], [5, 6])).all()
        assert len(store) == 0

    def test_broadcasts_to_candidates(self, tmp_path):
        store = open_store(tmp_path)
        store.add([1, 1, 2], [10, 11, 10], [0.5, -2.0, 7.0])
        found = store.lookup(np.array([[1], [2]]), np.array([[10, 11, 12], [10, 11, -1]]))
        np.testing.assert_array_equal(found, np.float32([[0.5, -2.0, np.nan], [7.0, np.nan, np.nan]]))
        assert found.dtype == np.float32

    def test_nothing_in_nothing_out(self, tmp_path):
        store = open_store(tmp_path)
        store.add([], [], [])
        assert store.lookup([], []).shape == (0,)
        assert store.lookup(np.zeros((0, 8), int), np.zeros((0, 8), int)).shape == (0, 8)
        assert segments(store) == []

    def test_rows_up_to_the_largest_int32(self, tmp_path):
        top = np.iinfo(np.int32).max
        store = open_store(tmp_path)
        store.add([top, 0, top], [top, top, 0], [1, 2, 3])
        np.testing.assert_array_equal(store.lookup([top, 0, top, 0], [top, top, 0, 0]), [1, 2, 3, np.nan])
        queries, passages = store.missing([top, top], [top, top - 1])
        assert (queries.tolist(), passages.tolist()) == ([top], [top - 1])

    @pytest.mark.parametrize("n", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
    def test_every_pair_is_found_whatever_the_size_of_the_last_block(self, tmp_path, n):
        store = open_store(tmp_path)
        queries = np.arange(n) // 7 * 2
        passages = np.arange(n) % 7 * 3
        store.add(queries, passages, np.arange(n))
        np.testing.assert_array_equal(store.lookup(queries, passages), np.arange(n))
        assert np.isnan(store.lookup(queries, passages + 1)).all()
        assert np.isnan(store.lookup(queries + 1, passages)).all()

    def test_a_second_opening_finds_the_same(self, tmp_path):
        queries, passages, scores = some_pairs(5000)
        open_store(tmp_path).add(queries, passages, scores)
        np.testing.assert_array_equal(open_store(tmp_path).lookup(queries, passages), scores)

    @settings(max_examples=30, deadline=None)
    @given(
        batches=st.lists(
            st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.floats(-50, 50, width=32)), max_size=12),
            max_size=9,
        )
    )
    def test_law_it_is_a_dictionary_that_keeps_the_first_value(self, tmp_path_factory, batches):
        store, expected = open_store(tmp_path_factory.mktemp("store")), {}
        for batch in batches:
            store.add(*([row[i] for row in batch] for i in range(3)))
            for query, passage, score in batch:
                expected.setdefault((query, passage), score)
        queries, passages = np.meshgrid(np.arange(6), np.arange(10), indexing="ij")
        want = [[expected.get((q, p), np.nan) for p in range(10)] for q in range(6)]
        np.testing.assert_array_equal(store.lookup(queries, passages), np.float32(want))
        assert len(store) == len(expected)
        assert len(store.missing(queries, passages)[0]) == 60 - len(expected)


class TestAdd:
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
    def test_a_score_that_is_not_finite_is_refused(self, tmp_path, bad):
        store = open_store(tmp_path)
        with pytest.raises(ValueError, match="1 of 2 scores"), np.errstate(over="ignore"):
            store.add([1, 2], [1, 2], [0.0, bad])
        assert len(store) == 0

    def test_padding_and_crooked_lengths_are_refused(self, tmp_path):
        store = open_store(tmp_path)
        with pytest.raises(ValueError, match="negative"):
            store.add([1], [-1], [0.0])
        with pytest.raises(ValueError, match="2 queries"):
            store.add([1, 2], [1], [0.0])

    def test_missing_names_each_pair_once_in_order_without_padding(self, tmp_path):
        store = open_store(tmp_path)
        store.add([1], [5], [0.0])
        queries, passages = store.missing([[2], [1]], [[9, 3, 3, -1], [5, 4, 4, -1]])
        assert queries.tolist() == [1, 2, 2]
        assert passages.tolist() == [4, 3, 9]

    def test_many_small_additions_become_few_files(self, tmp_path):
        store = open_store(tmp_path)
        for start in range(0, 300, 3):
            store.add([start] * 3, [0, 1, 2], [start, start + 1, start + 2])
        assert len(segments(store)) <= 12
        again = open_store(tmp_path)
        assert len(again) == 300
        np.testing.assert_array_equal(again.lookup(np.arange(0, 300, 3), 1), np.arange(0, 300, 3) + 1)

    def test_two_open_stores_see_and_do_not_repeat_each_other(self, tmp_path):
        one, two = open_store(tmp_path), open_store(tmp_path)
        for n in range(10):  # `one` merges files that `two` has open
            one.add([n], [0], [n])
        assert len(two.missing(np.arange(11), 0)[0]) == 1
        two.add(np.arange(11), np.zeros(11, int), np.full(11, 99.0))
        assert len(two) == 11
        np.testing.assert_array_equal(open_store(tmp_path).lookup(np.arange(11), 0), [*range(10), 99])

    def test_a_full_disk_is_one_sentence_and_loses_nothing(self, tmp_path, monkeypatch):
        store = open_store(tmp_path)
        store.add([1], [1], [1.0])

        def full(_):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(StepwellError, match=r"(?s)can't be written: No space left.*is safe"):
                store.add([2], [2], [2.0])
        np.testing.assert_array_equal(open_store(tmp_path).lookup([1, 2], [1, 2]), [1.0, np.nan])
        assert not list(store.directory.glob("draft-*"))
        store.add([2], [2], [2.0])
        assert len(store) == 2

    def test_what_another_process_is_writing_is_no_segment_yet(self, tmp_path):
        store = open_store(tmp_path)
        store.add([1], [1], [1.0])
        draft = store.directory / "draft-0.arrow"
        draft.write_bytes(b"the beginning of a segm")
        assert len(open_store(tmp_path)) == 1 and draft.exists()  # neither read nor put aside
        store.add([2], [2], [2.0])  # whoever writes holds the lock: it was left by a kill
        assert not draft.exists()

    def test_a_folder_that_cannot_be_made_is_one_sentence(self, tmp_path):
        (tmp_path / "scores").write_text("a file, not a folder")
        with pytest.raises(StepwellError, match="can't be opened"):
            open_store(tmp_path / "scores")


class TestOwner:
    def test_teachers_and_collections_do_not_mix(self, tmp_path):
        open_store(tmp_path).add([1], [1], [1.0])
        assert len(open_store(tmp_path, teacher="b" * 64)) == 0
        assert len(open_store(tmp_path, collection="b" * 64)) == 0
        assert len(open_store(tmp_path)) == 1

    def test_fingerprints_that_begin_alike_are_told_apart(self, tmp_path):
        open_store(tmp_path).add([1], [1], [1.0])
        with pytest.raises(StepwellError, match="taken for each other"):
            open_store(tmp_path, teacher=TEACHER[:16] + "b" * 48)
        assert len(open_store(tmp_path)) == 1

    def test_a_path_is_no_fingerprint(self, tmp_path):
        with pytest.raises(ValueError, match="fingerprint"):
            open_store(tmp_path, teacher="../x")


class TestDamage:
    def fill(self, root: Path):
        queries, passages, scores = some_pairs(4 * BLOCK)
        order = np.lexsort((passages, queries))
        queries, passages, scores = queries[order], passages[order], scores[order]
        store = open_store(root)
        store.add(queries, passages, scores)
        return segments(store)[0], queries, passages, scores

    def test_a_flipped_bit_costs_its_block_and_no_wrong_score(self, tmp_path):
        path, queries, passages, scores = self.fill(tmp_path)
        flip_byte(path, offset_of_pair(path, BLOCK + 5))
        store = open_store(tmp_path)  # maps only: nothing to see yet
        with pytest.warns(UserWarning, match="3,072 of its 4,096 scores are whole"):
            found = store.lookup(queries, passages)
        assert np.isnan(found[BLOCK : 2 * BLOCK]).all()
        np.testing.assert_array_equal(
            np.delete(found, slice(BLOCK, 2 * BLOCK)), np.delete(scores, slice(BLOCK, 2 * BLOCK))
        )
        store.add(*(part[BLOCK : 2 * BLOCK] for part in (queries, passages, scores)))
        with warnings.catch_warnings(action="error"):
            np.testing.assert_array_equal(open_store(tmp_path).lookup(queries, passages), scores)
        assert path.with_suffix(".damaged").exists()

    @pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
    def test_a_file_cut_off_is_put_aside(self, tmp_path, share):
        path, queries, passages, _ = self.fill(tmp_path)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.warns(UserWarning, match=r"can't be read.*computed again"):
            store = open_store(tmp_path)
        assert np.isnan(store.lookup(queries, passages)).all()
        assert path.with_suffix(".damaged").exists()

    def test_no_flipped_byte_anywhere_gives_a_wrong_score(self, tmp_path):
        path, queries, passages, scores = self.fill(tmp_path)
        content = path.read_bytes()
        rng = random.Random(5)
        places = [rng.randrange(len(content)) for _ in range(60)] + [
            rng.randrange(len(content) - 3000, len(content)) for _ in range(60)
        ]
        for n, place in enumerate(places):
            directory = tmp_path / f"flip {n}" / COLLECTION[:16] / TEACHER[:16]
            directory.mkdir(parents=True)
            (directory / path.name).write_bytes(content)
            flip_byte(directory / path.name, place)
            with warnings.catch_warnings(action="ignore"):
                found = open_store(tmp_path / f"flip {n}").lookup(queries, passages)
            there = ~np.isnan(found)
            np.testing.assert_array_equal(found[there], scores[there])

    def test_damage_met_while_merging_is_mended(self, tmp_path):
        path, queries, passages, scores = self.fill(tmp_path)
        flip_byte(path, offset_of_pair(path, 5))
        store = open_store(tmp_path)
        with pytest.warns(UserWarning, match="3,072"):
            for n in range(1, 4):
                store.add(queries + 1000 * n, passages, scores)
        found = store.lookup(queries, passages)
        np.testing.assert_array_equal(found[BLOCK:], scores[BLOCK:])
        assert np.isnan(found[:BLOCK]).all()
        np.testing.assert_array_equal(store.lookup(queries + 3000, passages), scores)


# -- kills. A child adds batch after batch and notes each one that `add` has returned from.

PAIRS = 40  # of a batch


def batch_of(number: int):
    return np.full(PAIRS, number), np.arange(PAIRS), np.arange(PAIRS) + 0.25 * number


def work_until_killed(root: Path, log: Path, first: int, most: int = 10**6) -> None:
    store = open_store(root)
    with log.open("a") as file:
        for number in range(first, first + most):
            store.add(*batch_of(number))
            os.write(file.fileno(), f"{number}\n".encode())


def in_child(work) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child


def check_nothing_lost(root: Path, log: Path) -> int:
    """Check all that was committed; the batch that a kill hit is there whole or not at all."""
    done = [int(line) for line in log.read_text().split()]
    with warnings.catch_warnings(action="error"):
        store = open_store(root)
        for number in done:
            queries, passages, scores = batch_of(number)
            np.testing.assert_array_equal(store.lookup(queries, passages), scores.astype(np.float32))
    assert len(store) in (len(done) * PAIRS, (len(done) + 1) * PAIRS)
    return len(done)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
class TestKill:
    def test_no_kill_at_a_random_instant_loses_a_committed_pair(self, tmp_path):
        rng, log, first = random.Random(1), tmp_path / "log", 0
        log.touch()
        for _ in range(25):
            child = in_child(lambda: work_until_killed(tmp_path, log, first))  # noqa: B023
            before = log.stat().st_size
            while log.stat().st_size == before:  # until it has committed something, however slow the machine
                assert os.waitpid(child, os.WNOHANG) == (0, 0)
                time.sleep(0.001)
            time.sleep(rng.uniform(0.0, 0.08))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            first = check_nothing_lost(tmp_path, log)
            store = open_store(tmp_path)
            if len(store) > first * PAIRS:  # committed, but killed before it could be noted
                with log.open("a") as file:
                    file.write(f"{first}\n")
                first += 1
        assert first >= 25

    def test_no_kill_between_two_steps_on_the_disk_loses_a_committed_pair(self, tmp_path):
        """Stop dead before the n-th fsync, rename or deletion of 9 additions and merges, for each n."""
        for n in range(1, 10_000):
            root, log = tmp_path / str(n), tmp_path / f"log {n}"
            log.touch()
            child = in_child(lambda: die_at_step(n, lambda: work_until_killed(root, log, 0, most=9)))  # noqa: B023
            _, status = os.waitpid(child, 0)
            first = check_nothing_lost(root, log)
            if os.waitstatus_to_exitcode(status) == 0:
                assert first == 9
                break
            work_until_killed(root, tmp_path / "other log", first, most=4)  # and it goes on from there
            assert len(open_store(root)) == (first + 4) * PAIRS
            assert not list(root.rglob("draft-*"))
        assert n > 30


def die_at_step(n: int, work) -> None:
    count = 0

    def stepping(function):
        def step(*args, **kwargs):
            nonlocal count
            count += 1
            if count == n:
                os._exit(9)
            return function(*args, **kwargs)

        return step

    for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink")):
        setattr(owner, name, stepping(getattr(owner, name)))
    work()
