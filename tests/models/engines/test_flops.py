"""Operations are those that torch itself counts."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, BertConfig, DistilBertConfig, ModernBertConfig, RobertaConfig

from stepwell.models.engines.flops import layer_products, matmul_peak, operations

SHAPE = {"num_hidden_layers": 3, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "vocab_size": 50}
CONFIGS = {
    "bert": BertConfig(**SHAPE),
    "roberta": RobertaConfig(**SHAPE),
    "distilbert": DistilBertConfig(n_layers=3, dim=32, hidden_dim=48, n_heads=4, vocab_size=50),
    "modernbert": ModernBertConfig(**SHAPE, pad_token_id=0),  # its layers have a gate
}


@pytest.mark.parametrize("family", CONFIGS)
def test_a_forward_pass_takes_what_torch_counts(family):
    model = AutoModel.from_config(CONFIGS[family], attn_implementation="eager").eval()
    if hasattr(model, "pooler"):
        model.pooler = None  # it sees one token a text, and no embedding needs it
    counted = 0
    for length in (5, 17):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(input_ids=torch.ones(1, length, dtype=torch.long), attention_mask=torch.ones(1, length))
        counted += counter.get_total_flops()
    rope = 0.01 if family == "modernbert" else 0  # the angles of its positions are a small product too
    assert operations(CONFIGS[family], 5 + 17, 25 + 289) == pytest.approx(counted, rel=rope)


def test_the_products_of_a_layer_are_those_of_its_weights():
    assert sum(k * n for _, k, n in layer_products(CONFIGS["bert"], 7)) == 4 * 32 * 32 + 2 * 32 * 48
    assert layer_products(CONFIGS["distilbert"], 7) == layer_products(CONFIGS["bert"], 7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_peak_is_a_number_of_operations_a_second(dtype):
    peak = matmul_peak(dtype, [(8, 16, 4), (8, 4, 16)], seconds=0)
    assert 0 < peak < math.inf
