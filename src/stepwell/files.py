"""Files that are whole or not there, made once, or held by one process; checksums; the cache."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from stepwell.errors import DISK_FULL, RunError, StepwellError

T = TypeVar("T")


def cache() -> Path:
    """Return the folder for what can be made again: ``$STEPWELL_CACHE`` or ``~/.cache/stepwell``."""
    return Path(os.environ.get("STEPWELL_CACHE") or Path.home() / ".cache" / "stepwell")


def sha256(path: Path) -> str:
    """Return the sha256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_free(file: Path) -> None:
    """Refuse a file that can't be written, before anything is done for it."""
    if file.exists():
        raise StepwellError(f"{file} is there already and would be overwritten: choose another name or move it away.")
    if not file.parent.is_dir():
        raise StepwellError(f"{file} can't be written: there is no folder {file.parent}. Make it or name another file.")


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Let a full disk say what was being written: the system names no file when a write fails.

    Examples
    --------
    >>> try:
    ...     with writing(Path("runs/a")):
    ...         raise OSError(errno.ENOSPC, "No space left on device")
    ... except OSError as error:
    ...     print(error)
    [Errno 28] No space left on device: 'runs/a'
    """
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL and error.filename is None:
            error.filename = str(place)
        raise


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a place to write a file or a folder to, which gets the name ``path`` when all of it is on the disk.

    What had that name before is replaced in that instant. After an error or a kill it is as it was; the next writer
    takes the same place, so nothing piles up. Who writes one path from several processes holds a lock.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "facts.json"
    >>> with whole(target) as draft:
    ...     _ = draft.write_text("{}")
    >>> target.read_text(), draft.exists()
    ('{}', False)
    """
    draft = path.with_name(f"draft-{path.name}")
    remove(draft)
    try:
        with writing(path):
            yield draft
            sync_all(draft)
            if draft.is_dir() and path.is_dir():
                remove(path)
            draft.replace(path)
            sync(path.parent)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename == str(draft):
            error.filename = str(path)  # the name that the user knows
        remove(draft)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file as a whole or not at all."""
    with whole(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: Path, content: object) -> None:
    """Write a JSON file as a whole or not at all."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True))


def read_json(path: Path) -> Any:
    """Read a JSON file of ours."""
    return json.loads(path.read_text(encoding="utf-8"))


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold what belongs to ``path`` for one process at a time; others wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        yield


def made_once(path: Path, make: Callable[[Path], None]) -> Path:
    """Return ``path``, a file or folder that ``make`` writes unless it is there; other processes wait for it.

    ``make`` is given the place to write to, as by :func:`whole`.
    """
    read_or_make(path, lambda place: place if place.exists() else None, make)
    return path


def read_or_make(path: Path, read: Callable[[Path], T | None], make: Callable[[Path], None]) -> T | None:
    """Return what ``read`` gives for ``path``; where that is None (absent, damaged, too old), ``make`` writes it first.

    ``make`` is given the place to write to, as by :func:`whole`, and other processes wait for it.
    """
    found = read(path)
    if found is not None:
        return found
    with locked(path):
        found = read(path)  # another process may have been faster
        if found is not None:
            return found
        with whole(path) as draft:
            make(draft)
        return read(path)


@contextmanager
def claimed(folder: Path, source: Mapping[str, Any], what: str, anew: bool = False) -> Iterator[None]:
    """Hold a folder that is for what is made from ``source`` alone, so that work in it can go on after a stop.

    ``source.json`` in it says what it is for; ``what`` names its content in sentences. A folder that holds anything
    else is refused, or emptied if that was made from another source and ``anew`` is set; so is one that is being held.
    """
    facts = folder / "source.json"
    own = {".lock", f"draft-{facts.name}"}
    others = {path.name for path in folder.iterdir()} - own if folder.is_dir() else folder.exists()
    if others and not facts.is_file():  # in this order, as another process may just begin; nothing is written before
        raise RunError(f"{folder} holds files that are no {what} of stepwell's: choose a folder that is empty or new.")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            other = facts.is_file() and read_json(facts) != dict(source)
            if other and not anew:
                raise RunError(
                    f"{folder} holds {what} of another model or another collection, which would be mixed with these: "
                    "choose another folder, or delete that one."
                )
            for path in folder.iterdir() if other else ():
                if path.name not in (".lock", facts.name):
                    remove(path)
            if other or not facts.is_file():
                write_json(facts, dict(source))
            yield
    except Timeout:
        raise RunError(
            f"another stepwell is at work in {folder}: wait for it, stop it, or choose another folder."
        ) from None


def sync_all(path: Path) -> None:
    """Wait until a file, or all files in a folder, are on the disk."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            sync(file)


def sync(path: Path) -> None:
    """Wait until a file or a folder's list of names is on the disk."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that can't
            raise
    finally:
        os.close(handle)
