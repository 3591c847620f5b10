"""The places of a query's words in a text."""

import re

from hypothesis import given, strategies as st

from stepwell.retrieval.bm25 import singular, words_of
from stepwell.server.matching import matcher


def test_words_match_whole_in_any_case_and_number():
    text = "Rivers: the river, riverside and RIVER."
    assert [text[start:stop] for start, stop in matcher("the river")(text)] == ["Rivers", "river", "RIVER"]


def test_function_words_and_nothing_match_nothing():
    assert matcher("what is the")("what is the river") == [] == matcher("?!")("?!")


def test_places_count_code_points():
    text = "\N{GRINNING FACE} İ comet"
    assert matcher("comets")(text) == [(4, 9)]


def test_what_looks_like_a_pattern_is_text():
    assert matcher("foo.bar (baz* [qux")("bazz qux foo.bar") == [(5, 8), (9, 12), (13, 16)]


@given(st.text("rivesqu yİ.", max_size=12), st.text("rivesqu yİ.", max_size=40))
def test_matches_are_the_words_that_bm25_would_match(query, text):
    wanted = set(words_of(query))
    lowered = "".join(letter.lower()[0] for letter in text)
    expected = [m.span() for m in re.finditer(r"[^\W_]+", lowered) if singular(m[0]) in wanted]
    assert matcher(query)(text) == expected
