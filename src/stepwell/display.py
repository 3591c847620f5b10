"""What a person sees: tables, progress with an ETA, remarks. Designed on a terminal, plain lines elsewhere.

Results (tables) go to standard output; progress, remarks and warnings go to standard error, so that a pipe
or ``--json`` gets results alone. All else in the package returns data and prints nothing.
"""

import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import rich.box
import rich.progress
import rich.table
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

Cell = str | int | float | None

PLAIN_SECONDS = 10.0
"""Shortest time between two progress lines where there is no terminal."""

_NUMBER = re.compile(r"[<+\-−]?\.?\d")
_PLAIN_RULE = rich.box.Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)

_out = Console(highlight=False, markup=False, emoji=False)
_err = Console(highlight=False, markup=False, emoji=False, stderr=True)
_live: rich.progress.Progress | None = None
_quiet = False


@dataclass(frozen=True)
class Table:
    """A titled table with notes beneath it.

    Examples
    --------
    >>> table = Table("Dropped", ["reason", "passages"], [["known positive", 1204], ["near duplicate", 31]])
    >>> print(table.text())
    Dropped
    reason          passages
    ------------------------
    known positive     1,204
    near duplicate        31
    """

    title: str  # one line above the table
    columns: Sequence[str]  # heads; the first column is set left, another one right when all of it are numbers
    rows: Sequence[Sequence[Cell]]  # integers get thousands separators, floats three decimals, None is empty
    notes: Sequence[str] = ()  # lines beneath the table, one sentence each
    highlight: Sequence[int] = ()  # numbers of the rows (from 0) that stand out on a terminal

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {len(row)} cells in a table of {len(self.columns)} columns: {row!r}")

    def text(self) -> str:
        """Return the table as aligned plain text of whatever width it needs, without a trailing newline."""
        console = Console(width=100_000, color_system=None, force_terminal=False, legacy_windows=False)
        with console.capture() as capture:
            console.print(self._grid(plain=True))
        grid = "\n".join(line.rstrip() for line in capture.get().splitlines())
        return "\n".join(part for part in (self.title, grid, *self.notes) if part)

    def __rich__(self) -> RenderableType:
        notes = [Text(note, style="dim") for note in self.notes]
        return Group(Text(self.title, style="bold"), self._grid(plain=False), *notes)

    def _grid(self, plain: bool) -> rich.table.Table:
        grid = rich.table.Table(
            box=_PLAIN_RULE if plain else rich.box.SIMPLE_HEAD,
            show_edge=False,
            padding=(0, 1, 0, 0),  # and the divider is a space too: two between columns
            pad_edge=False,
            header_style="bold",
        )
        columns = [[cell_text(row[number]) for row in self.rows] for number in range(len(self.columns))]
        cells: list[list[RenderableType]] = []
        for number, (head, column) in enumerate(zip(self.columns, columns, strict=True)):
            right = number > 0 and _are_numbers(column)
            grid.add_column(
                Text(head),
                justify="right" if right else "left",
                no_wrap=plain,
                min_width=_longest([head, *column]),  # a screen may fold cells, and cuts no word or number
            )
            cells.append([_set_right(cell) if right else Text(cell) for cell in column])
        for number, row in enumerate(zip(*cells, strict=True)):
            grid.add_row(*row, style="bold" if number in self.highlight else None)
        return grid


def _are_numbers(cells: list[str]) -> bool:
    filled = [cell.strip() for cell in cells if cell.strip(" -–*")]
    return bool(filled) and all(map(_NUMBER.match, filled))


def _set_right(cell: str) -> Padding:
    """Keep the blanks at the end of a cell, which stand for an absent mark: rich drops them from texts."""
    text = cell.rstrip()
    return Padding(Text(text), (0, len(cell) - len(text), 0, 0))


def _longest(cells: list[str]) -> int:
    """Return the width of the longest word, with the blanks that end its cell."""
    return max((cell_len(word) for cell in cells for word in re.findall(r"\S+(?:\s+$)?", cell)), default=1)


def cell_text(value: Cell) -> str:
    """Return a cell as it is written in every table."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else value


def show(table: Table) -> None:
    """Print a table on standard output, with an empty line after it."""
    if _out.is_terminal:
        _out.print(table, crop=False)
        _out.print()
    else:
        _out.file.write(table.text() + "\n\n")


def say(remark: str | Table) -> None:
    """Print a remark on standard error; nothing when quiet."""
    if not _quiet:
        plain = not _err.is_terminal
        _err.print(remark.text() if plain and isinstance(remark, Table) else remark, soft_wrap=plain, crop=False)


def warn(text: str) -> None:
    """Print a warning on standard error, also when quiet."""
    _err.print(f"Warning: {text}", style="yellow", soft_wrap=not _err.is_terminal)


def ask(question: str) -> bool | None:
    """Ask on the terminal and return whether the answer is yes; None where no terminal is there."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    return _err.input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def set_quiet(quiet: bool) -> None:
    """Silence remarks and progress, or let them speak again; tables and warnings stay."""
    global _quiet
    _quiet = quiet


def duration(seconds: float) -> str:
    """Return a length of time in words, no finer than a reader cares for.

    >>> duration(4.2), duration(200), duration(9000)
    ('4 s', '3 min 20 s', '2 h 30 min')
    """
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole < 600 else f"{round(whole / 60)} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def counted(number: int, thing: str) -> str:
    """Return how many there are of a thing that takes an s.

    >>> counted(1, "step"), counted(1200, "step")
    ('1 step', '1,200 steps')
    """
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


class Progress:
    """How far a piece of work is: it counts units and shows them, or nobody watches.

    Whoever knows how much there is to do calls :meth:`start`; what does the work calls :meth:`advance`, or hands
    :meth:`part` on. ``show`` is called with the share done (0 to 1, never falling) and a note.

    >>> whole = Progress(lambda share, note: print(f"{share:.0%} {note}")).start(4, "texts")
    >>> whole.advance(2)
    50% 2 of 4 texts
    >>> whole.part(2).start(100).advance(50, "half of what is left")
    75% half of what is left
    """

    def __init__(self, show: Callable[[float, str], None] | None = None) -> None:
        self._show = show
        self._furthest = 0.0
        self.total: float | None = None  # unknown
        self.done: float = 0
        self.unit = ""

    def start(self, total: float | None, unit: str = "", done: float = 0) -> "Progress":
        """Say how many units there are, None where nobody knows, and how many of them were done before."""
        if self._show is not None:  # else it may be shared: nothing is written down
            self.total, self.unit, self.done = total, unit, done
        return self

    def advance(self, n: float = 1, note: str = "") -> None:
        """Say that ``n`` more units are done; the note is "done of total unit" where none is given."""
        if self._show is None:
            return
        self.done += n
        of = "" if self.total is None else f" of {round(self.total):,}"
        self._reach(self.done, note or f"{round(self.done):,}{of} {self.unit}".rstrip())

    def part(self, n: float) -> "Progress":
        """Return the progress of the next ``n`` units; when they are done, :meth:`advance` by them."""
        if self._show is None:
            return self
        begin = self.done
        return Progress(lambda share, note: self._reach(begin + share * n, note))

    def _reach(self, done: float, note: str) -> None:
        assert self._show is not None
        if self.total:
            self._furthest = max(self._furthest, min(1.0, done / self.total))
        self._show(self._furthest, note)


SILENT = Progress()
"""Shows nothing."""


@contextmanager
def progress(total: int | None, description: str, done: int = 0) -> Iterator[Progress]:
    """Show how far a piece of work is and when it will end.

    On a terminal it is a bar with an ETA (bars may be nested: they stand beneath one another); elsewhere a
    plain line every ten seconds or more; nothing when quiet. ``total`` is None when unknown; ``done`` were done
    before (a resumed stage): they count in the bar but not in the ETA.
    """
    if _quiet:
        yield SILENT
    elif _err.is_terminal:
        with _bars() as bars:
            task = bars.add_task(description, total=total, completed=done, note="")

            def show(share: float, note: str) -> None:
                bars.update(task, completed=share * total if total else bar.done, note=note)

            bar = Progress(show).start(total, done=done)
            try:
                yield bar
            finally:
                bars.remove_task(task)
    else:
        began = spoke = time.monotonic()
        start = done / total if total else 0.0  # the share that was done before

        def write(share: float, note: str) -> None:
            nonlocal spoke
            now = time.monotonic()
            if now - spoke < PLAIN_SECONDS:
                return
            spoke, left = now, ""
            if share > start:
                rest = (now - began) * (1 - share) / (share - start)
                left = f" ({share:.0%}), about {duration(rest)} left"
            say(f"{description}: {note}{left}")

        bar = Progress(write).start(total, done=done)
        yield bar
        if spoke > began:
            say(f"{description}: {round(bar.done):,} done in {duration(time.monotonic() - began)}")


@contextmanager
def _bars() -> Iterator[rich.progress.Progress]:
    """Give the one live display, started by the outermost bar and stopped with it."""
    global _live
    if _live is not None:
        yield _live
        return
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(bar_width=30),
        rich.progress.TaskProgressColumn(show_speed=True),
        rich.progress.TextColumn("{task.fields[note]}"),
        rich.progress.TimeRemainingColumn(elapsed_when_finished=True),
    )
    # Standard output is only rerouted above the bars when it is the same screen: a pipe keeps its results.
    bars = rich.progress.Progress(*columns, console=_err, transient=True, redirect_stdout=sys.stdout.isatty())
    with bars:
        _live = bars
        try:
            yield bars
        finally:
            _live = None
