"""Shards: made in any order, joined into one file, through kills and damage."""

import errno
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from common import Killed
from stepwell.retrieval import shards as module
from stepwell.retrieval.shards import Shards, write_array


def numbers(rows, width=3):
    return np.arange(rows * width, dtype=np.float32).reshape(rows, width)


def fill(shards, values, order=None):
    for number in range(len(shards)) if order is None else order:
        start, stop = shards.bounds(number)
        shards.write(number, values[start:stop])


def joined(shards):
    shards.join()
    return np.load(shards.target, mmap_mode="r")


@settings(max_examples=40)
@given(rows=st.integers(0, 20), block=st.integers(1, 7), chance=st.randoms(use_true_random=False))
def test_shards_made_in_any_order_become_the_array(tmp_path_factory, rows, block, chance):
    shards = Shards(tmp_path_factory.mktemp("shards") / "a.npy", rows, 3, block)
    order = list(range(len(shards)))
    chance.shuffle(order)
    assert [shards.bounds(n) for n in range(len(shards))] == [
        (start, min(start + block, rows)) for start in range(0, rows, block)
    ]
    for number in order:
        assert not shards.has(number)
        fill(shards, numbers(rows), [number])
        assert shards.has(number)
    assert np.array_equal(joined(shards), numbers(rows))
    assert all(map(shards.has, range(len(shards))))  # they are in the file
    assert not list((shards.target.parent / "shards").glob("*"))


@pytest.mark.parametrize("call", range(11))
def test_a_join_that_is_killed_goes_on_without_making_a_shard_again(tmp_path, monkeypatch, call):
    shards = Shards(tmp_path / "a.npy", 9, 3, 2)  # five shards: two calls each, a last sync, a rename
    fill(shards, numbers(9))
    calls = itertools.count()

    def may_be_killed(function):
        def wrapped(*arguments, **options):
            if next(calls) == call:
                raise Killed
            return function(*arguments, **options)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(module, "_sync", may_be_killed(module._sync))
        patch.setattr(Path, "unlink", may_be_killed(Path.unlink))
        with pytest.raises(Killed):
            shards.join()
    assert all(map(shards.has, range(len(shards))))
    assert np.array_equal(joined(shards), numbers(9))


@pytest.mark.parametrize("whole", range(5))
@pytest.mark.parametrize("torn", [0, 1, 23])
@pytest.mark.parametrize("deleted", [True, False])
def test_a_shard_that_was_half_appended_is_appended_again(tmp_path, whole, torn, deleted):
    shards = Shards(tmp_path / "a.npy", 9, 3, 2)
    fill(shards, numbers(9))
    (tmp_path / "whole").mkdir()
    other = Shards(tmp_path / "whole" / "a.npy", 9, 3, 2)
    fill(other, numbers(9))
    other.join()
    header = other.target.stat().st_size - 4 * 27
    (tmp_path / "a.draft").write_bytes(other.target.read_bytes()[: header + 24 * whole + min(torn, 24)])
    for number in range(whole) if deleted else range(whole - 1):  # the kill came before the last was deleted
        (tmp_path / "shards" / f"a-{number:06d}.npy").unlink()
    assert np.array_equal(joined(shards), numbers(9))


def test_a_draft_of_another_array_is_started_afresh(tmp_path):
    (tmp_path / "a.draft").write_bytes(b"anything" * 100)
    shards = Shards(tmp_path / "a.npy", 5, 3, 2)
    assert not any(map(shards.has, range(3)))
    fill(shards, numbers(5))
    assert np.array_equal(joined(shards), numbers(5))


def test_joining_needs_no_double_room(tmp_path, monkeypatch):
    shards = Shards(tmp_path / "a.npy", 64, 256, 4)
    fill(shards, numbers(64, 256))
    sizes, sync = [], module._sync

    def measured(file):
        sync(file)
        sizes.append(sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()))

    monkeypatch.setattr(module, "_sync", measured)
    shards.join()
    assert len(sizes) == 17 and max(sizes) < (64 + 2 * 4) * 256 * 4


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "longer", "fewer rows", "narrower", "other type"])
def test_a_damaged_shard_is_not_there(tmp_path, damage):
    shards = Shards(tmp_path / "a.npy", 6, 3, 2)
    fill(shards, numbers(6))
    path = tmp_path / "shards" / "a-000001.npy"
    whole = path.read_bytes()
    content = {"empty": b"", "cut": whole[:-1], "longer": whole + b"\0"}
    arrays = {"fewer rows": numbers(1), "narrower": numbers(2, 2), "other type": numbers(2).astype(np.float64)}
    if damage == "missing":
        path.unlink()
    elif damage in content:
        path.write_bytes(content[damage])
    else:
        write_array(path, arrays[damage])
    assert [shards.has(number) for number in range(3)] == [True, False, True]
    with pytest.raises(FileNotFoundError, match="a-000001"):
        shards.join()
    fill(shards, numbers(6), [1])
    assert np.array_equal(joined(shards), numbers(6))


def test_rows_that_are_no_shard_are_refused(tmp_path):
    with pytest.raises(ValueError, match="2 x 3"):
        Shards(tmp_path / "a.npy", 6, 3, 2).write(0, numbers(3))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_disk_says_so_and_loses_nothing(tmp_path, monkeypatch):
    shards = Shards(tmp_path / "a.npy", 4, 4096, 2)
    fill(shards, numbers(4, 4096), [0])
    (tmp_path / "shards" / "draft-a-000001.npy").symlink_to("/dev/full")
    with monkeypatch.context() as patch, pytest.raises(OSError) as raised:
        patch.setattr("stepwell.files.remove", lambda path: None)  # else a draft of before would be taken away
        fill(shards, numbers(4, 4096), [1])
    assert raised.value.errno == errno.ENOSPC
    assert shards.has(0) and not shards.has(1)
    fill(shards, numbers(4, 4096), [1])
    assert np.array_equal(joined(shards), numbers(4, 4096))


def test_an_array_is_written_as_numpy_writes_it(tmp_path):
    for number, values in enumerate([numbers(4), np.zeros(0, np.int32), np.arange(5, dtype=np.int32)[::2]]):
        write_array(tmp_path / f"{number}.npy", values)
        np.save(tmp_path / "numpy.npy", values)
        assert (tmp_path / f"{number}.npy").read_bytes() == (tmp_path / "numpy.npy").read_bytes()
