"""Passages are cut between paragraphs and sentences, and every word is in exactly one."""

from hypothesis import given, strategies as st

from stepwell.collection.readers.cutting import LONGEST, RUN_ON, SHORTEST, Block, length, pack, sentences

SENTENCES = st.lists(st.integers(1, 60), min_size=1, max_size=12).map(
    lambda sizes: [" ".join([f"W{at}x{size}", *["word"] * (size - 1)]) + "." for at, size in enumerate(sizes)]
)
BLOCKS = st.lists(st.builds(lambda lines, code: Block(lines, code), SENTENCES, st.booleans()), min_size=1, max_size=8)
PROSE = st.lists(SENTENCES.map(lambda found: Block([" ".join(found)])), min_size=1, max_size=8)


def words(n: int, name: str = "word") -> str:
    return " ".join([name.capitalize()] + [name] * (n - 1)) + "."


def texts(*blocks: Block) -> list[str]:
    return [text for _, text in pack(blocks)]


@given(BLOCKS)
def test_every_word_is_in_exactly_one_passage_in_order(blocks):
    assert " ".join(text for _, text in pack(blocks)).split() == " ".join(block.text for block in blocks).split()


@given(BLOCKS)
def test_no_passage_is_longer_than_the_bound_but_for_short_neighbours(blocks):
    assert all(length(text) <= LONGEST + 2 * SHORTEST for _, text in pack(blocks))


@given(PROSE)
def test_a_passage_begins_and_ends_with_a_sentence(blocks):
    whole = {sentence for block in blocks for sentence in sentences(block.text)}
    for _, text in pack(blocks):
        assert all(sentence in whole for part in text.split("\n\n") for sentence in sentences(part))


def test_paragraphs_go_together_while_they_fit():
    first, second, third = (Block([words(70, name)]) for name in ("one", "two", "three"))
    assert texts(first, second, third) == [f"{first.text}\n\n{second.text}", third.text]


def test_a_paragraph_that_is_too_long_is_cut_between_sentences():
    made = [words(60, name) for name in ("one", "two", "three")]
    assert texts(Block([" ".join(made)])) == [f"{made[0]} {made[1]}", made[2]]


def test_a_short_rest_goes_with_the_passage_before():
    long, rest = Block([words(150)]), Block([words(5, "rest")])
    assert texts(long, rest) == [f"{long.text}\n\n{rest.text}"]


def test_code_is_whole_or_cut_between_lines():
    short = Block(["def f():", "    return 1"], code=True)
    assert texts(short) == ["def f():\n    return 1"]
    lines = [f"line {at} of code. Not a sentence" for at in range(40)]
    assert [line for text in texts(Block(lines, code=True)) for line in text.split("\n")] == lines


def test_what_never_ends_is_no_sentence_and_is_cut_between_words():
    sizes = [length(text) for text in texts(Block(["word " * (RUN_ON + 10)]))]
    assert sizes == [LONGEST, LONGEST + 10]


def test_a_passage_knows_the_line_it_begins_at():
    blocks = [Block([words(100)], line=3), Block([words(100)], line=9)]
    assert [line for line, _ in pack(blocks)] == [3, 9]


def test_sentences_end_in_other_scripts_too():
    assert sentences("Так он сказал. Это было вчера! Да.") == ["Так он сказал.", "Это было вчера!", "Да."]
    assert sentences("これは文です。次の文です。") == ["これは文です。", "次の文です。"]
    assert sentences("Dr. A. Smith, e.g. Version 2.0 is out.") == ["Dr.", "A. Smith, e.g. Version 2.0 is out."]
