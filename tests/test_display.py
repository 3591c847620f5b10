"""Tables line up, progress is sparse, and results never share a stream with remarks."""

import io

import pytest
from rich.console import Console

from stepwell import display
from stepwell.display import SILENT, Progress, Table, duration, progress, say, set_quiet, show, warn


@pytest.fixture
def quiet():
    set_quiet(True)
    yield
    set_quiet(False)


@pytest.fixture
def terminal(monkeypatch):
    """Standard error as a terminal of 100 columns; gives what was written."""
    screen = io.StringIO()
    monkeypatch.setattr(display, "_err", Console(file=screen, force_terminal=True, width=100, highlight=False))
    return screen


def test_numbers_are_set_right_and_words_left():
    table = Table("T", ["name", "n", "share", "why"], [["bm25", 1234567, 0.5, "a"], ["x", 7, None, "bcd"]])
    assert table.text().splitlines() == [
        "T",
        "name          n  share  why",
        "---------------------------",
        "bm25  1,234,567  0.500  a",
        "x             7         bcd",
    ]


def test_a_column_with_one_word_among_numbers_is_set_left():
    lines = Table("", ["a", "b"], [["x", "10"], ["y", "many"]]).text().splitlines()
    assert lines[2:] == ["x  10", "y  many"]


def test_marks_and_the_blanks_in_their_place_keep_digits_under_digits():
    lines = Table("", ["a", "p"], [["x", "0.210 "], ["y", "<0.001*"], ["z", None]]).text().splitlines()
    assert lines[2:] == ["x   0.210", "y  <0.001*", "z"]


def test_wide_characters_keep_the_columns_aligned():
    lines = Table("", ["query", "n"], [["日本", 1], ["abcd", 2]]).text().splitlines()
    assert lines[2:] == ["日本   1", "abcd   2"]


def test_square_brackets_are_text_and_not_markup():
    text = Table("[bold]t", ["a", "b"], [["[red]x[/red]", "0.634 [0.621, 0.648]"]], notes=["[dim]"]).text()
    assert "[red]x[/red]" in text
    assert "0.634 [0.621, 0.648]" in text
    assert text.endswith("[dim]")


def test_long_rows_are_never_folded_in_plain_text():
    assert "word " * 99 + "word" in Table("", ["a", "b"], [["x", "word " * 99 + "word"]]).text()


def test_a_table_without_rows_has_its_heads():
    assert Table("Nothing", ["a", "b"], []).text().startswith("Nothing\na  b")


def test_a_row_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match="3 cells in a table of 2"):
        Table("", ["a", "b"], [["x", 1, 2]])


def test_tables_go_to_stdout_and_remarks_to_stderr(capsys):
    show(Table("Result", ["a"], [["x"]]))
    say("a [remark]")
    warn("careful")
    out, err = capsys.readouterr()
    assert out == "Result\na\n-\nx\n\n"
    assert err == "a [remark]\nWarning: careful\n"


def test_quiet_silences_remarks_but_not_warnings_or_tables(capsys, quiet):
    say("a remark")
    warn("careful")
    show(Table("Result", ["a"], [["x"]]))
    with progress(1, "working") as bar:
        bar.advance()
    out, err = capsys.readouterr()
    assert "Result" in out
    assert err == "Warning: careful\n"


def test_a_table_on_a_terminal_has_its_title_cells_and_notes(terminal):
    display._err.print(Table("Title", ["a", "b"], [["x", 1]], notes=["A note."], highlight=[0]))
    assert all(part in terminal.getvalue() for part in ("Title", "x", "A note."))


def test_a_narrow_terminal_folds_cells_and_loses_nothing():
    screen = io.StringIO()
    row = ["bm25", "0.634 [0.621, 0.648]", "-0.1 [-0.2, -0.1] "]
    Console(file=screen, width=30).print(Table("T", ["system", "nDCG@10", "minus ladder"], [row]))
    assert "…" not in screen.getvalue()
    assert all(part in screen.getvalue() for part in ("0.634", "[0.621,", "0.648]", "minus", "ladder", "-0.1]"))


@pytest.mark.parametrize("width", [30, 50, 70])
def test_no_number_or_word_is_cut_on_a_terminal_that_is_too_narrow(monkeypatch, width):
    screen = io.StringIO()
    monkeypatch.setattr(display, "_out", Console(file=screen, force_terminal=True, width=width, color_system=None))
    heads = ["kind", "bytes/passage", "recall@10", "recall@100", "queries/s"]
    rows = [["faiss-ivfpq with fp32", "1,536", 0.987, "0.988*", "1,204"], ["exact", "8", 1.0, "0.5 ", "1"]]
    show(Table("T", heads, rows))
    lines = screen.getvalue().splitlines()
    assert "…" not in screen.getvalue()
    assert any(all(number in line for number in ("1,536", "0.987", "0.988*", "1,204")) for line in lines)
    assert all(word in screen.getvalue() for head in heads for word in head.split())


def test_marks_stand_outside_the_column_on_a_terminal_too():
    screen = io.StringIO()
    Console(file=screen, width=40).print(Table("T", ["system", "MRR"], [["a", "0.512*"], ["b", "0.500 "]]))
    first, second = (line.rstrip() for line in screen.getvalue().splitlines()[-2:])
    assert first.index("0.512") == second.index("0.500")


def test_short_work_prints_no_progress_lines(capsys):
    with progress(3, "encoding") as bar:
        bar.advance(3)
    assert capsys.readouterr().err == ""


def test_long_work_prints_a_line_every_ten_seconds_with_the_time_left(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    with progress(100, "encoding", done=40) as bar:
        for second in range(1, 31):
            now[0] = float(second)
            bar.advance(2)
    assert capsys.readouterr().err.splitlines() == [
        "encoding: 60 of 100 (60%), about 20 s left",
        "encoding: 80 of 100 (80%), about 10 s left",
        "encoding: 100 of 100 (100%), about 0 s left",
        "encoding: 100 done in 30 s",
    ]


def test_work_of_unknown_length_is_counted_all_the_same(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    with progress(None, "asking", done=1000) as bar:
        now[0] = 11.0
        bar.advance(234)
    assert capsys.readouterr().err.splitlines() == ["asking: 1,234", "asking: 1,234 done in 11 s"]


def test_a_terminal_shows_the_note_beside_the_bar(terminal):
    with progress(4, "training") as bar:
        bar.advance()
        display._live.refresh()
        assert "1 of 4" in terminal.getvalue()
        bar.advance(1, "loss 0.123")
        display._live.refresh()
    assert "loss 0.123" in terminal.getvalue()


@pytest.fixture
def shown():
    """Return a progress, and the list of what it shows."""
    seen = []
    return Progress(lambda share, note: seen.append((share, note))), seen


def test_progress_counts_units_and_shows_the_share_and_a_note(shown):
    watched, seen = shown
    assert watched.start(2000, "pairs") is watched
    watched.advance(500)
    watched.advance()
    watched.advance(499, "loss 0.5")
    assert seen == [(0.25, "500 of 2,000 pairs"), (0.2505, "501 of 2,000 pairs"), (0.5, "loss 0.5")]


def test_a_part_moves_the_whole_by_its_share_and_nothing_counts_twice(shown):
    watched, seen = shown
    watched.start(4)
    for _ in range(2):
        inner = watched.part(2).start(100)
        inner.advance(50)
        inner.part(50).start(5).advance(5)
        watched.advance(2)
    assert [share for share, _ in seen] == [0.25, 0.5, 0.5, 0.75, 1, 1]


def test_progress_never_falls_and_never_passes_the_end(shown):
    watched, seen = shown
    watched.start(2).advance(3)
    watched.start(2).advance()  # a second piece of work in the place of one
    assert [share for share, _ in seen] == [1, 1]


def test_nothing_to_do_and_unknown_work_divide_by_nothing(shown):
    watched, seen = shown
    watched.start(0).advance(0)
    watched.start(None).part(1).start(0).advance(0)
    assert [share for share, _ in seen] == [0, 0]


def test_the_silent_progress_is_safe_to_share():
    assert SILENT.start(5, "texts") is SILENT and SILENT.part(2) is SILENT
    SILENT.advance(3)
    assert (SILENT.done, SILENT.total) == (0, None)


def test_bars_nest_on_a_terminal_and_are_gone_afterwards(terminal):
    with progress(2, "the ladder") as outer:
        with progress(None, "encoding") as inner:
            inner.advance(5)
        outer.advance()
        assert display._live is not None
    assert display._live is None
    assert "the ladder" in terminal.getvalue()


def test_a_failure_inside_a_bar_leaves_no_live_display(terminal):
    with pytest.raises(RuntimeError), progress(2, "the ladder"):
        raise RuntimeError
    assert display._live is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (601, "10 min"), (3600, "1 h 0 min"), (3599, "60 min")],
)
def test_durations_read_well(seconds, words):
    assert duration(seconds) == words
