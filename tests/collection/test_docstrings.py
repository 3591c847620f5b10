from __future__ import annotations

import textwrap

import pytest

from stepwell.collection.docstrings import PASSAGE_WORDS, read_package, split_docstring

REST = "It keeps the order of equal items and leaves the original untouched, whatever its size."


def split(docstring: str):
    pair = split_docstring("a.b", docstring)
    return None if pair is None else (pair.query, pair.passage)


def test_the_first_sentence_asks_and_the_rest_answers():
    assert split(f"Return a sorted copy. {REST}") == ("Return a sorted copy.", REST)
    assert split(f"Return a sorted copy\n\n{REST}") == ("Return a sorted copy", REST)


def test_the_first_sentence_may_run_over_lines_and_hold_abbreviations():
    query = "Return a copy, e.g. A list, that is sorted."
    assert split(f"Return a copy, e.g. A list,\nthat is sorted.\n\n{REST}") == (query, REST)


def test_the_passage_never_holds_the_query():
    query, passage = split(f"Return a sorted copy. {REST} Return a sorted copy.")
    assert query not in passage


@pytest.mark.parametrize(
    "section",
    [
        "Parameters\n----------\nx : array\n    {rest}",
        "Args:\n    x: {rest}",
        ":param x: {rest}",
        ">>> f(1)\n{rest}",
        "    {rest}",
        "- {rest}",
        ".. note:: {rest}",
        "```\n{rest}\n```",
    ],
)
def test_parameters_lists_and_code_are_no_prose(section):
    assert split(f"Return a sorted copy.\n\n{section.format(rest=REST)}") is None
    assert split(f"Return a sorted copy.\n\n{REST}\n\n{section.format(rest='Another ' + REST)}")[1] == REST


def test_prose_after_a_google_section_and_in_notes_is_read():
    assert split(f"Return a sorted copy.\n\nArgs:\n    x: what to sort.\n\n{REST}")[1] == REST
    numpy = f"Return a sorted copy.\n\nParameters\n----------\nx : list\n\nNotes\n-----\n{REST}"
    assert split(numpy)[1] == REST


def test_markup_is_taken_off():
    marked = "It is like :func:`~os.walk`, ``dict`` and `the guide <x.html>`_ but **keeps** the [order](u) [1]_."
    expected = "It is like os.walk, dict and the guide but keeps the order."
    assert split(f"Return a sorted copy. {marked} {REST}")[1] == f"{expected} {REST}"


def test_sentences_that_lean_on_what_is_not_there_are_left_out():
    assert split(f"Return a sorted copy. See https://example.org for more. {REST} For example:")[1] == REST
    assert split(f"Return a sorted copy. It follows the method of [2]_. {REST}")[1] == REST
    assert split(f"Return a sorted copy. Read more in the User Guide. {REST}")[1] == REST


def test_long_prose_is_cut_between_sentences():
    passage = split(f"Return a sorted copy. {REST} {REST.replace('It', 'This')} {REST.replace('It', 'That')} {REST}")[1]
    assert len(passage.split()) <= PASSAGE_WORDS[1] and passage.endswith("size.")


@pytest.mark.parametrize(
    "docstring",
    [
        "Sort. " + REST,  # a query of one word
        "Return a sorted copy. It is short.",
        "sort(x, key=None) -> list with items. " + REST,
        "  >>> sort([2, 1]) gives a list here\n\n" + REST,
        "Return \\sum_{i} x_i^2 / n of it. " + REST,
        "Args:\n    x: a list of things.\n\n" + REST,
        "",
    ],
)
def test_what_is_no_question_and_answer_is_left_out(docstring):
    assert split(docstring) is None


def test_a_package_is_read_without_being_run_in_a_stable_order(tmp_path):
    def module(name: str, *things: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("raise SystemExit\n" + "\n".join(things), encoding="utf-8")

    def function(name: str, indent: str = "") -> str:
        return textwrap.indent(f'def {name}():\n    """Return the {name} of it. {REST}"""\n', indent)

    module("__init__.py", function("zeta"), function("_private"))
    module(
        "sub/b.py",
        "class Box:\n" + function("get", "    ") + function("_set", "    "),
        "class _Hidden:\n" + function("x", "    "),
    )
    module("sub/a.py", "async " + function("wait"))
    module("sub/broken.py", "def (")
    module("tests/test_a.py", function("test_it"))
    module("old/c.py", function("gone"))
    names = [pair.name for pair in read_package(tmp_path, "pack", skip=("old",))]
    assert names == ["pack.zeta", "pack.sub.a.wait", "pack.sub.b.Box.get"]
