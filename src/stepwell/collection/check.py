"""Everything that is wrong with a collection, before hours are spent on it."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from stepwell.collection import demo
from stepwell.collection.readers.formats import Place, find_source, section_of
from stepwell.collection.scan import scan
from stepwell.collection.source import Problem
from stepwell.errors import StepwellError
from stepwell.files import cache

SHOWN = 20


def check_directory(path: Place, shown: int = SHOWN) -> list[Problem]:
    """Return every problem of a collection of any format: errors stop a run, warnings do not.

    Parameters
    ----------
    path
        Where it is, as for :func:`stepwell.collection.open_collection`.
    shown
        Problems of one code listed for one file; the rest is counted in one more line.

    Raises
    ------
    StepwellError
        When there is no room for the temporary files that checking takes (about the size of the texts).
    """
    problems: list[Problem] = []
    counts: Counter[tuple[str, str, str]] = Counter()
    seen: set[int] = set()  # some files are read more than once

    def report(problem: Problem) -> None:
        if hash(problem) in seen:
            return
        seen.add(hash(problem))
        key = (problem.file, problem.code, problem.severity)
        counts[key] += 1
        if counts[key] <= shown:
            problems.append(problem)

    section = section_of(path)
    if section.path in demo.SIZES:
        section = section.model_copy(update={"path": str(demo.build(section.path, cache()))})
    source = find_source(section, report)
    try:
        with tempfile.TemporaryDirectory(prefix="stepwell-check-") as folder:
            scan(source, Path(folder), report)
    except OSError as error:
        raise StepwellError(
            f"{section.path} can't be checked: {error.strerror or error}. Checking takes room for about the size of "
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
