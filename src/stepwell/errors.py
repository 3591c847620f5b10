"""What a user sees when something is wrong: one paragraph, never a traceback."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class StepwellError(Exception):
    """A mistake that the user can mend.

    The message is one paragraph that says what is wrong, where (file and line, or an id), why it matters
    and what to do. The command line prints it and exits with status 2; nothing is overwritten.
    """


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


def write_text(path: Path, text: str) -> None:
    """Write a file as a whole or not at all."""
    draft = path.with_name(f"{path.name}.draft")
    with writing(path):
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
