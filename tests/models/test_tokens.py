"""Tokens and templates agree with what the tokenizer itself makes of texts and pairs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, strategies as st
from transformers import AutoTokenizer

from stepwell.errors import StepwellError
from stepwell.models.tokens import Template, Tokens, batches_by_length, cheapest_batches, round_up

QUERIES = ["which river is old", "engine", "", "a bright and quiet castle with a warm side"]
PASSAGES = [
    "the glacier was thin , with a hidden side to it",
    "sail",
    "the market was large and quiet , and the harvest was early , and the comet was bright",
    "",
]
FAMILIES = ("bert", "roberta", "distilbert")


@pytest.fixture(params=FAMILIES)
def tokenizer(request, tiny_models):
    return AutoTokenizer.from_pretrained(tiny_models[request.param])


def assert_same(ours, theirs):
    assert set(ours) == set(theirs)
    for name in ours:
        assert ours[name].tolist() == theirs[name].tolist(), name


class TestTokens:
    def test_texts_are_kept_behind_one_another(self, tokenizer):
        tokens = Tokens.build(tokenizer, QUERIES, 64)
        expected = tokenizer(QUERIES, add_special_tokens=False)["input_ids"]
        assert len(tokens) == 4
        assert [tokens[row].tolist() for row in range(4)] == expected
        assert tokens.lengths.tolist() == [len(ids) for ids in expected]
        assert tokens.ids.dtype == np.uint16

    def test_the_limit_keeps_the_first_tokens(self, tokenizer):
        whole, cut = Tokens.build(tokenizer, QUERIES, 64), Tokens.build(tokenizer, QUERIES, 3)
        assert [cut[row].tolist() for row in range(4)] == [whole[row][:3].tolist() for row in range(4)]

    def test_a_prompt_is_text_in_front(self, tokenizer):
        prompted = Tokens.build(tokenizer, ["river"], 64, "which: ")
        assert prompted[0].tolist() == tokenizer("which: river", add_special_tokens=False)["input_ids"]

    def test_no_texts_are_no_tokens(self, tokenizer):
        assert len(Tokens.build(tokenizer, [], 64)) == 0


class TestTemplate:
    @pytest.mark.parametrize("limit", [64, 12, 5])
    def test_texts_are_padded_as_the_tokenizer_pads_them(self, tokenizer, limit):
        ours = Template.of(tokenizer).texts(Tokens.build(tokenizer, PASSAGES, 64), np.arange(4), limit)
        assert_same(ours, tokenizer(PASSAGES, padding=True, truncation=True, max_length=limit, return_tensors="pt"))

    @pytest.mark.parametrize("limit", [64, 40])
    def test_pairs_are_padded_as_the_tokenizer_pads_them(self, tokenizer, limit):
        template = Template.of(tokenizer)
        queries, passages = (
            Tokens.build(tokenizer, texts, 200) for texts in (["old river", "a", "", "sail"], PASSAGES)
        )
        ours = template.pairs(queries, passages, np.arange(4), np.arange(4), limit)
        theirs = tokenizer(
            ["old river", "a", "", "sail"], PASSAGES,
            padding=True, truncation="only_second", max_length=limit, return_tensors="pt",
        )  # fmt: skip
        assert_same(ours, theirs)

    def test_of_two_long_texts_each_keeps_half(self, tokenizer):
        template = Template.of(tokenizer)
        tokens = Tokens.build(tokenizer, [PASSAGES[2]], 64)
        limit = template.overhead[1] + 11
        ids = template.pairs(tokens, tokens, np.array([0]), np.array([0]), limit)["input_ids"][0].tolist()
        before, between, after = template.pair
        assert ids == [*before, *tokens[0][:5].tolist(), *between, *tokens[0][:6].tolist(), *after]

    def test_rows_may_come_in_any_order_and_again(self, tokenizer):
        template, tokens = Template.of(tokenizer), Tokens.build(tokenizer, PASSAGES, 64)
        ids = template.texts(tokens, np.array([2, 0, 2]), 64)["input_ids"]
        assert ids[0].tolist() == ids[2].tolist() != ids[1].tolist()

    @pytest.mark.parametrize("limit", [64, 13])
    def test_a_width_is_a_multiple_where_the_limit_leaves_room(self, tokenizer, limit):
        template, tokens = Template.of(tokenizer), Tokens.build(tokenizer, PASSAGES, 64)
        for row in range(len(PASSAGES)):
            plain = template.texts(tokens, np.array([row]), limit)
            wide = template.texts(tokens, np.array([row]), limit, rounded=True)
            length, width = plain["input_ids"].shape[1], wide["input_ids"].shape[1]
            assert width == min(-(-length // 8) * 8, limit)
            for name, tensor in plain.items():
                assert (wide[name][:, :length] == tensor).all()
            assert wide["attention_mask"][:, length:].sum() == 0

    def test_only_bert_has_token_types(self, tiny_models):
        types = {name: Template.of(AutoTokenizer.from_pretrained(tiny_models[name])).types for name in FAMILIES}
        assert types == {"bert": (0, 1), "roberta": None, "distilbert": None}

    def test_padding_goes_left_where_the_tokenizer_wants_it(self, tiny_model):
        tokenizer = AutoTokenizer.from_pretrained(tiny_model, padding_side="left")
        ours = Template.of(tokenizer).texts(Tokens.build(tokenizer, PASSAGES, 64), np.arange(4), 64)
        assert_same(ours, tokenizer(PASSAGES, padding=True, return_tensors="pt"))

    def test_a_tokenizer_that_changes_texts_is_refused(self):
        def strange(*texts, add_special_tokens=True):
            return {"input_ids": [1, 9, 2] if add_special_tokens else [5]}

        with pytest.raises(StepwellError, match="changes a text"):
            Template.of(strange)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 120))
def test_batches_hold_each_row_once_within_the_budget(lengths, budget):
    lengths = np.array(lengths)
    batches = list(batches_by_length(lengths, budget))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert np.all(np.diff(lengths[np.concatenate(batches)]) >= 0)  # shortest first
    assert all(len(batch) == 1 or len(batch) * lengths[batch].max() <= budget for batch in batches)


@given(st.lists(st.integers(1, 200), min_size=1, max_size=60), st.integers(1, 500))
def test_batches_of_rounded_lengths_fit_and_have_few_shapes(lengths, budget):
    lengths = np.array(lengths)
    widths = round_up(lengths)
    assert all(0 <= width - length < (8 if width <= 64 else 16) for width, length in zip(widths, lengths, strict=True))
    batches = list(batches_by_length(widths, budget))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    shapes = [(len(batch), int(widths[batch].max())) for batch in batches]
    assert all(rows == 1 or rows * width <= budget for rows, width in shapes)
    for width in set(widths.tolist()):  # as many rows as fit, but where longer texts begin and at the end
        assert sum(rows != max(1, budget // width) for rows, w in shapes if w == width) <= 2


@given(st.lists(st.integers(1, 12), max_size=7), st.integers(1, 40), st.integers(0, 9))
def test_no_other_cut_of_the_sorted_lengths_is_cheaper(lengths, budget, overhead):
    lengths = np.array(lengths, dtype=np.int64)
    batches = cheapest_batches(lengths, budget, overhead)
    assert sorted(np.concatenate([[], *batches]).tolist()) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * lengths[batch].max() <= budget for batch in batches)
    ordered, costs = np.sort(lengths), []
    for cuts in itertools.product([False, True], repeat=max(0, len(lengths) - 1)):
        parts = np.split(ordered, np.flatnonzero(cuts) + 1) if len(lengths) else []
        if all(len(part) == 1 or len(part) * part[-1] <= budget for part in parts):
            costs.append(sum(len(part) * part[-1] + overhead for part in parts))
    assert sum(len(batch) * lengths[batch].max() + overhead for batch in batches) == min(costs)
