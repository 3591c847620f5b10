"""What a user sees when something is wrong: one paragraph, never a traceback."""

import errno

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class StepwellError(Exception):
    """A mistake that the user can mend.

    The message is one paragraph that says what is wrong, where (file and line, or an id), why it matters
    and what to do. The command line prints it and exits with status 2; nothing is overwritten.
    """


class RecipeError(StepwellError):
    """A recipe, a change of one or a grid of variants has mistakes; all of them are named, by line."""


class CollectionError(StepwellError):
    """Passages, queries or judgements can't be read, or do not fit together."""


class RunError(StepwellError):
    """The folder of a run, a model, an index or a run file is not what is needed, or is not finished."""


class MissingPackage(StepwellError):  # noqa: N818  its public name
    """A package that is not part of a plain installation is needed and is not installed."""

    def __init__(self, message: str, package: str, extra: str) -> None:
        super().__init__(message)
        self.package, self.extra = package, extra

    def __reduce__(self) -> tuple[type["MissingPackage"], tuple[str, str, str]]:
        """Let it pass from one process to another."""
        return MissingPackage, (str(self), self.package, self.extra)


def explain(error: OSError) -> str:
    """Return what the system refused, as a sentence for the user."""
    where = f" at {error.filename}" if error.filename else ""
    if error.errno in DISK_FULL:
        return (
            f"the disk is full{where}. What is finished is safe; make room and run the same command again: it goes on."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission to read or write{where} ({error.strerror}). Choose another folder, or change its rights."
    return f"the system refused{where}: {error.strerror or error}. Nothing was overwritten; mend that and run again."
