"""Everything that is wrong with a collection, before hours are spent on it."""

import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

from stepwell.collection import demo
from stepwell.collection.readers.formats import Place, find_source, section_of
from stepwell.collection.scan import scan
from stepwell.collection.source import Problem
from stepwell.errors import CollectionError
from stepwell.files import cache

SHOWN = 20
"""Problems of one kind that are listed for one file; the rest is counted in one more line."""


def check_directory(path: Place) -> list[Problem]:
    """Return every problem of a collection of any format: errors stop a run, warnings do not."""
    problems: list[Problem] = []
    counts: Counter[tuple[str, str, str]] = Counter()
    seen: set[int] = set()  # some files are read more than once

    def report(problem: Problem) -> None:
        if hash(problem) not in seen:
            seen.add(hash(problem))
            counts[_kind(problem)] += 1
            if counts[_kind(problem)] <= SHOWN:
                problems.append(problem)

    section = section_of(path)
    if section.path in demo.SIZES:
        section = section.model_copy(update={"path": str(demo.build(section.path, cache()))})
    source = find_source(section, report)
    try:
        with tempfile.TemporaryDirectory(prefix="stepwell-check-") as folder:
            scan(source, Path(folder), report)
    except OSError as error:
        raise CollectionError(
            f"{section.path} can't be checked: {error.strerror or error}. Checking takes room for about the size of "
            f"the texts in {tempfile.gettempdir()}; the environment variable TMPDIR names another place."
        ) from error
    return _with_rests(problems, counts)


def _kind(problem: Problem) -> tuple[str, str, str]:
    return problem.file, problem.code, problem.severity


def _with_rests(problems: list[Problem], counts: Counter[tuple[str, str, str]]) -> list[Problem]:
    """Say behind the last listed problem of a kind how many more there are."""
    listed: list[Problem] = []
    left = counts.copy()
    for problem in problems:
        listed.append(problem)
        left[_kind(problem)] -= 1
        rest = left[_kind(problem)]
        if rest and counts[_kind(problem)] - rest == SHOWN:
            listed.append(replace(problem, line=None, message=f"and {rest:,} more of this kind."))
    return listed
