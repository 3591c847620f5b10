"""What a passage proposes by itself, and what is taken out of it."""

import pytest

from stepwell.collection.source import Text
from stepwell.intake.synthetic.proposals import (
    HEADING,
    SENTENCE,
    Headings,
    Proposal,
    propose,
    refusal,
    split_first,
    without,
)

BODY = "Turn the valve slowly to the left. Wait until the gauge shows no pressure any more and open the lid with care."


def text(id, title="", body=BODY):
    return Text(1, id, title, body)


def proposals(*texts):
    headings = Headings.of(texts)
    return [propose(one, headings) for one in texts]


def test_the_first_sentence_asks_for_the_rest():
    passage = text("a")
    [proposal] = proposals(passage)[0]
    assert proposal == Proposal("sentence:a", "first sentence", "Turn the valve slowly to the left.")
    searched = without(passage, SENTENCE)
    assert proposal.text not in searched.text
    assert f"{proposal.text} {searched.text}" == BODY


def test_a_heading_asks_for_all_that_stands_beneath_it_and_is_taken_out_of_the_title():
    one, two = text("a", "Boiler > Letting the steam out"), text("b", "Boiler > Letting the steam out", BODY[35:])
    found = proposals(one, two)
    assert found[0][0] == found[1][0]
    assert found[0][0].text == "Letting the steam out"
    assert without(one, HEADING).title == "Boiler"


def test_a_short_heading_takes_the_one_above_with_it():
    passage = text("a", "Manual > Old boilers > Steam")
    assert proposals(passage)[0][0].text == "Old boilers Steam"
    assert without(passage, HEADING).title == "Manual"


def test_a_heading_with_others_beneath_it_or_with_many_passages_asks_nothing():
    above, below = text("a", "All about boilers"), text("b", "All about boilers > Letting the steam out")
    origins = [[one.origin for one in found] for found in proposals(above, below)]
    assert origins == [["first sentence"], ["heading", "first sentence"]]
    many = [text(f"p{at}", "Said far too often") for at in range(5)]
    assert {one.origin for found in proposals(*many) for one in found} == {"first sentence"}


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("what is it", None),
        ("too short", "too short or too long"),
        ("word " * 31, "too short or too long"),
        ("x = f(1) + [2, 3] * {4}", "no prose"),
        ("see https://example.org for more", "no prose"),
        ("these are the steps:", "no prose"),
        ("WAIT  until the gauge", "the passage holds it word for word"),
    ],
)
def test_what_is_no_query_is_refused_with_a_reason(query, reason):
    assert refusal(query, BODY) == reason


def test_too_short_a_rest_is_left_whole():
    [refused] = proposals(text("a", "", "Turn the valve slowly to the left. Then open it."))[0]
    assert refused == Proposal("sentence:a", "first sentence", refused.text, "too little is left without it")


def test_without_a_sentence_nothing_is_split_off():
    assert split_first("only words without an end\nand more of them") is None
    assert split_first("One sentence alone.") is None
    assert split_first("One. Two\n\nthree") == ("One.", "Two\n\nthree")
