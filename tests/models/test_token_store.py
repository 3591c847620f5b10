"""The token store: the same tokens as in memory, made once, resumed, repaired."""

from __future__ import annotations

import contextlib
import os

import numpy as np
import pytest
from transformers import AutoTokenizer

from stepwell.models import token_store, tokens
from stepwell.models.build import build_cross_encoder
from stepwell.models.encoder import Encoder
from stepwell.models.reranker import Reranker
from stepwell.models.token_store import both_tokens, open_tokens, side_tokens
from stepwell.models.tokens import Tokens

WORDS = ["river", "engine", "violin", "glacier"]
TEXTS = [" ".join(WORDS[: 1 + number % 4] * (1 + number % 3)) for number in range(23)] + ["", "sail " * 700]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    for module in (tokens, token_store):
        monkeypatch.setattr(module, "BLOCK", 4)


@pytest.fixture
def tokenizer(tiny_models):
    return AutoTokenizer.from_pretrained(tiny_models["bert"])


class Source:
    """Texts that remember which rows were asked for, and fail at ``broken``."""

    def __init__(self, broken=None):
        self.broken, self.asked = broken, []

    def __call__(self, start, stop):
        if self.broken is not None and start >= self.broken:
            raise KeyboardInterrupt
        self.asked.append((start, stop))
        return TEXTS[start:stop]


def stored(root, tokenizer, source=None, limit=512, **options):
    return open_tokens(root, "texts", tokenizer, source or Source(), len(TEXTS), limit, **options)


def assert_same(ours, tokenizer, limit=512, prompt=""):
    expected = Tokens.build(tokenizer, TEXTS, limit, prompt)
    assert [ours[row].tolist() for row in range(len(TEXTS))] == [expected[row].tolist() for row in range(len(TEXTS))]
    assert ours.lengths.tolist() == expected.lengths.tolist()


def test_stored_tokens_are_those_in_memory(tmp_path, tokenizer):
    ours = stored(tmp_path, tokenizer)
    assert_same(ours, tokenizer)
    assert isinstance(ours.ids, np.memmap)
    assert isinstance(ours.offsets, np.memmap)


def test_a_second_opening_reads_no_text(tmp_path, tokenizer):
    stored(tmp_path, tokenizer)
    again = Source(broken=0)
    assert_same(stored(tmp_path, tokenizer, again), tokenizer)


@pytest.mark.parametrize("broken", [4, 12, 24])
def test_an_interrupted_store_goes_on_after_its_last_whole_block(tmp_path, tokenizer, broken):
    with pytest.raises(KeyboardInterrupt):
        stored(tmp_path, tokenizer, Source(broken))
    folder = next(path for path in tmp_path.iterdir() if path.is_dir())
    with (folder / "ids.bin").open("ab") as file:
        file.write(b"half a block")
    source = Source()
    assert_same(stored(tmp_path, tokenizer, source), tokenizer)
    assert source.asked[0] == (broken, min(broken + 4, len(TEXTS)))


def test_a_resumed_store_tells_what_is_done_and_what_comes(tmp_path, tokenizer, monkeypatch):
    told = []

    class Bar:
        def advance(self, n):
            told.append(n)

    def progress(total, description, done):
        told.append((total, done))
        return contextlib.nullcontext(Bar())

    with pytest.raises(KeyboardInterrupt):
        stored(tmp_path, tokenizer, Source(broken=8))
    monkeypatch.setattr(token_store, "progress", progress)
    stored(tmp_path, tokenizer)
    assert told == [(25, 8), 4, 4, 4, 4, 1]


def test_a_block_whose_ids_are_lost_is_made_again(tmp_path, tokenizer):
    with pytest.raises(KeyboardInterrupt):
        stored(tmp_path, tokenizer, Source(12))
    folder = next(path for path in tmp_path.iterdir() if path.is_dir())
    size = (folder / "ids.bin").stat().st_size
    with (folder / "ids.bin").open("r+b") as file:
        file.truncate(size - 2)
    source = Source()
    assert_same(stored(tmp_path, tokenizer, source), tokenizer)
    assert source.asked[0] == (8, 12)


@pytest.mark.parametrize("name", ["ids.bin", "offsets.npy"])
def test_a_finished_store_that_was_cut_off_is_made_again(tmp_path, tokenizer, name):
    stored(tmp_path, tokenizer)
    path = next(tmp_path.rglob(name))
    path.write_bytes(path.read_bytes()[:-3])
    assert_same(stored(tmp_path, tokenizer), tokenizer)


@pytest.mark.parametrize("before", [None, "false"])
def test_a_store_is_made_with_all_cores(tmp_path, tokenizer, monkeypatch, before):
    """tokenizers reads the variable at each call."""
    name, during = "TOKENIZERS_PARALLELISM", set()
    monkeypatch.delenv(name, raising=False) if before is None else monkeypatch.setenv(name, before)

    def texts(start, stop):
        during.add(os.environ.get(name))
        return TEXTS[start:stop]

    assert_same(stored(tmp_path, tokenizer, texts), tokenizer)
    assert during == {"true"} and os.environ.get(name) == before


def test_models_with_other_limits_share_a_store(tmp_path, tokenizer):
    stored(tmp_path, tokenizer, limit=30)
    short = stored(tmp_path, tokenizer, Source(broken=0), limit=5)
    assert_same(short, tokenizer, limit=5)


def test_a_longer_limit_has_a_store_of_its_own(tmp_path, tokenizer):
    stored(tmp_path, tokenizer)
    assert_same(stored(tmp_path, tokenizer, limit=600), tokenizer, limit=600)


def test_a_prompt_is_in_front(tmp_path, tokenizer):
    stored(tmp_path, tokenizer)
    assert_same(stored(tmp_path, tokenizer, prompt="sail: "), tokenizer, prompt="sail: ")


def test_another_number_of_texts_is_not_taken_for_this_one(tmp_path, tokenizer):
    stored(tmp_path, tokenizer)
    few = open_tokens(tmp_path, "texts", tokenizer, lambda start, stop: TEXTS[:2][start:stop], 2, 512)
    assert len(few) == 2


def test_texts_without_a_token_can_be_stored(tmp_path, tokenizer):
    blank = open_tokens(tmp_path, "none", tokenizer, lambda start, stop: [""] * (stop - start), 3, 512)
    assert blank.lengths.tolist() == [0, 0, 0]
    assert len(open_tokens(tmp_path, "nothing", tokenizer, lambda start, stop: [], 0, 512)) == 0


def test_encoder_and_cross_encoder_of_one_tokenizer_share_the_passages(tiny_collection, tiny_model):
    encoder = Encoder.open(tiny_model)
    reranker = Reranker(build_cross_encoder(str(tiny_model), 1, 40, seed=1))
    encoder.limit = 9
    passages = side_tokens(tiny_collection, encoder, "document")
    expected = encoder.tokenise(tiny_collection.passage_texts(), "document")
    assert [passages[row].tolist() for row in range(3)] == [expected[row].tolist() for row in range(3)]
    assert both_tokens(tiny_collection, reranker)[1].ids.filename == passages.ids.filename
