"""A query-generation model is opened from a directory and asks the same for the same seed."""

import pytest
import torch

from stepwell.errors import StepwellError
from stepwell.intake.synthetic.generator import ModelGenerator

TEXTS = ["the old river was deep", "a bright comet , and the castle"]


def write(folder, tiny_model, kind):
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    size = len(tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        if kind == "seq2seq":
            ends = {"pad_token_id": 0, "eos_token_id": 3, "decoder_start_token_id": 0}
            model = T5ForConditionalGeneration(
                T5Config(vocab_size=size, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, **ends)
            )
        else:
            ends = {"bos_token_id": 2, "eos_token_id": 3}
            model = GPT2LMHeadModel(
                GPT2Config(vocab_size=size, n_positions=512, n_embd=16, n_layer=1, n_head=2, **ends)
            )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
def test_queries_follow_from_texts_and_seed(tmp_path, tiny_model, kind):
    asks = ModelGenerator(str(write(tmp_path / kind, tiny_model, kind)))
    torch.manual_seed(1)
    once = asks.ask(TEXTS, 2, seed=7)
    torch.manual_seed(2)
    assert [len(queries) for queries in once] == [2, 2]
    assert all("\n" not in query for queries in once for query in queries)
    assert asks.ask(TEXTS, 2, seed=7) == once
    assert asks.ask(TEXTS, 2, seed=8) != once


def test_what_is_no_generator_is_said(tmp_path):
    with pytest.raises(StepwellError, match="there is no model directory"):
        ModelGenerator(str(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(StepwellError, match="as query generator"):
        ModelGenerator(str(tmp_path))
