"""Attention by plain products is attention: values, gradients, and what is left to torch."""

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from stepwell.models.engines import cpu
from stepwell.models.engines.cpu import SHORT, for_training, short_attention


def qkv(length: int, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    torch.manual_seed(7)
    return [torch.randn(3, 4, length, 8).to(dtype).requires_grad_() for _ in range(3)]


def reference(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    logits = query.double() @ key.double().transpose(2, 3) / 8**0.5
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    return (logits.softmax(-1) @ value.double()).transpose(1, 2)


LENGTHS = torch.tensor([5, 12, 9])
MASK = (torch.arange(12) < LENGTHS[:, None])[:, None, None].expand(3, 1, 12, 12)


@pytest.mark.parametrize("mask", [None, MASK])
def test_values_and_gradients_are_those_of_attention(mask: Tensor | None) -> None:
    inputs = qkv(12)
    copies = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    ours, weights = short_attention(nn.Module(), *inputs, mask)
    wanted = reference(*copies, mask)
    assert weights is None
    assert ours.shape == (3, 12, 4, 8)
    assert torch.allclose(ours.double(), wanted, atol=2e-2)
    torch.manual_seed(1)
    direction = torch.randn(ours.shape)
    ours.backward(direction.to(ours.dtype))
    wanted.backward(direction.double())
    for tensor, copy in zip(inputs, copies, strict=True):
        assert tensor.grad is not None
        assert copy.grad is not None
        assert torch.allclose(tensor.grad.double(), copy.grad.double(), atol=4e-2)


def test_a_mask_of_numbers_is_added() -> None:
    inputs = qkv(12)
    numbers = torch.zeros(3, 1, 12, 12, dtype=torch.bfloat16).masked_fill(~MASK, -1e30)
    assert torch.equal(
        short_attention(nn.Module(), *inputs, numbers)[0], short_attention(nn.Module(), *inputs, MASK)[0]
    )


def test_a_text_without_tokens_is_still_a_number() -> None:
    nothing = torch.zeros(3, 1, 12, 12, dtype=torch.bool)
    assert short_attention(nn.Module(), *qkv(12), nothing)[0].isfinite().all()


def test_other_cases_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def theirs(*_: object, **__: object) -> tuple[str, None]:
        return "theirs", None

    monkeypatch.setattr(cpu, "sdpa_attention_forward", theirs)
    causal = nn.Module()
    causal.is_causal = True  # type: ignore[assignment]
    plain = nn.Module()
    assert short_attention(plain, *qkv(12, torch.float32), None)[0] == "theirs"
    assert short_attention(plain, *qkv(SHORT + 1), None)[0] == "theirs"
    assert short_attention(causal, *qkv(12), None)[0] == "theirs"
    for special in ({"is_causal": True}, {"softcap": 30.0}, {"position_bias": torch.zeros(1, 4, 12, 12)}):
        assert short_attention(plain, *qkv(12), None, **special)[0] == "theirs"
    assert not isinstance(short_attention(plain, *qkv(12), None, is_causal=False, position_bias=None)[0], str)
    query, key, value = qkv(12)
    assert short_attention(plain, query, key[:, :2], value[:, :2], None)[0] == "theirs"
    with torch.no_grad():
        assert short_attention(plain, *qkv(12), None)[0] == "theirs"
    assert not isinstance(short_attention(plain, *qkv(SHORT), None)[0], str)


def test_a_training_in_bf16_has_the_gradient_of_fp32_and_gives_the_model_back() -> None:
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = BertModel(config).train()
    ids = torch.randint(1, 50, (4, 10))
    mask = (torch.arange(10) < torch.tensor([[10], [6], [8], [3]])).long()

    def gradient() -> Tensor:
        model.zero_grad()
        out = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        (out[:, 0] ** 3).sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    before = model.config._attn_implementation
    whole = gradient()
    with for_training(model), torch.autocast("cpu", torch.bfloat16):
        assert model.config._attn_implementation == cpu.ATTENTION
        half = gradient()
    assert model.config._attn_implementation == before == "sdpa"
    assert torch.nn.functional.cosine_similarity(whole, half, dim=0) > 0.999
