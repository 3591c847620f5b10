"""Everything that is wrong with a collection, before hours are spent on it."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from stepwell.collection.beir import Problem, find_sources
from stepwell.collection.scan import scan
from stepwell.errors import StepwellError

SHOWN = 20


def check_directory(path: str | Path, shown: int = SHOWN) -> list[Problem]:
    """Return every problem of a BEIR directory: errors stop a run, warnings do not.

    Parameters
    ----------
    path
        The directory.
    shown
        Problems of one code listed for one file; the rest is counted in one more line.

    Raises
    ------
    StepwellError
        When there is no room for the temporary files that checking takes (about the size of the texts).
    """
    problems: list[Problem] = []
    counts: Counter[tuple[str, str, str]] = Counter()

    def report(problem: Problem) -> None:
        key = (problem.file, problem.code, problem.severity)
        counts[key] += 1
        if counts[key] <= shown:
            problems.append(problem)

    directory = Path(path).resolve()
    sources = find_sources(directory, report)
    try:
        with tempfile.TemporaryDirectory(prefix="stepwell-check-") as folder:
            scan(sources, Path(folder), report)
    except OSError as error:
        raise StepwellError(
            f"{path} can't be checked: {error.strerror or error}. Checking takes room for about the size of "
            "the texts "
            f"in {tempfile.gettempdir()}; the environment variable TMPDIR names another place."
        ) from error
    for (file, code, severity), count in counts.items():
        if count > shown:
            rest = Problem(
                "error" if severity == "error" else "warning",
                file,
                None,
                code,
                f"and {count - shown:,} more of this kind.",
            )
            last = max(at for at, p in enumerate(problems) if (p.file, p.code, p.severity) == (file, code, severity))
            problems.insert(last + 1, rest)
    return problems
