"""Put measured figures on the page: python benchmarks/table.py FILE.json ... [--page docs/speed.md].

Reads what the benchmarks wrote with --out and replaces what stands between the two marks of the page.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stepwell.errors import StepwellError

ORDER = ("embed", "score", "rung", "breakdown", "mine", "search", "growth")
PAGE = Path(__file__).resolve().parent.parent / "docs" / "speed.md"


def markdown(figures: dict[str, Any]) -> str:
    """Return the table of one benchmark as Markdown, with its notes beneath."""
    table = figures["table"]
    rows = [table["columns"], ["---"] + ["---:"] * (len(table["columns"]) - 1), *table["rows"]]
    lines = ["| " + " | ".join("" if cell is None else str(cell) for cell in row) + " |" for row in rows]
    notes = [*table["notes"], f"Other work on the machine when this began: a load of {figures['machine']['load']:g}."]
    return "\n".join([f"### {table['title']}", "", *lines, "", *(f"- {note}" for note in notes)])


def machine_line(machine: dict[str, Any]) -> str:
    """Return the machine in a sentence."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"Machine: {machine['processor']} ({machine['instructions']}), {machine['cores']} cores, "
        f"{machine['threads']} threads, {machine['memory_gb']:g} GB, {machine['system']}, Python {machine['python']}; "
        f"{versions}."
    )


def section(results: Sequence[dict[str, Any]]) -> str:
    """Return all tables in a fixed order, each after its machine where that is another than the one before."""
    known = {name: number for number, name in enumerate(ORDER)}
    parts, before = [], ""
    for figures in sorted(results, key=lambda figures: known.get(figures["benchmark"], len(ORDER))):
        line = machine_line(figures["machine"])
        parts += [line] if line != before else []
        parts.append(markdown(figures))
        before = line
    return "\n\n".join(parts)


def replaced(page: str, text: str, name: str = "figures") -> str:
    """Return the page with ``text`` between the marks of that name."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise StepwellError(f"the page has no line {begin} with a line {end} behind it: put both where tables go.")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args(argv)
    results = [json.loads(path.read_text(encoding="utf-8")) for path in options.files]
    page = options.page.read_text(encoding="utf-8")
    options.page.write_text(replaced(page, section(results)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
