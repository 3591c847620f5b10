"""Queries from a model that was trained, or is instructed, to ask them: doc2query and its like."""

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from stepwell.models.files import locate
from stepwell.models.opening import opening

TOKENS = 320  # of a passage
_NEW_TOKENS = 48
_ASK = "Write one short question that this text answers. Only the question.\n\nText: {text}"
_GO_ON = "Text: {text}\n\nA short question that this text answers:"


class Generator(Protocol):
    """Something that asks about passages."""

    def ask(self, texts: Sequence[str], queries: int, seed: int) -> Sequence[Sequence[str | tuple[str, str]]]:
        """Return so many queries of each text, or (kind, query); the same for the same texts and seed."""
        ...


class ModelGenerator:
    """A sequence-to-sequence model (doc2query), or a language model that is given a task.

    Doc2query is given the passage and nothing else (Nogueira and Lin, From doc2query to docTTTTTquery, 2019): its
    queries are sampled from the ten likeliest tokens at each place. ``place`` is a directory or a name on the Hub, with
    weights in safetensors and no code of its own.
    """

    def __init__(self, place: str) -> None:
        with opening(place, "query generator"):
            found = locate(place)
            config = AutoConfig.from_pretrained(found)
            self._seq2seq = bool(config.is_encoder_decoder)
            kind = AutoModelForSeq2SeqLM if self._seq2seq else AutoModelForCausalLM
            model: Any = kind.from_pretrained(found, use_safetensors=True)
            side = "right" if self._seq2seq else "left"  # a causal model goes on at the right end
            self._tokenizer: Any = AutoTokenizer.from_pretrained(found, padding_side=side)
        self._chats = not self._seq2seq and self._tokenizer.chat_template is not None
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def ask(self, texts: Sequence[str], queries: int, seed: int) -> list[list[str]]:
        """Return so many queries of each text; the same for the same texts and seed."""
        prompts = [self._prompt(text) for text in texts]
        batch = self._tokenizer(prompts, padding=True, return_tensors="pt", add_special_tokens=not self._chats)
        batch = batch.to(self._model.device)
        own = hashlib.sha256("\0".join([str(seed), *texts]).encode()).digest()
        devices = [self._model.device] if self._model.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.inference_mode():
            torch.manual_seed(int.from_bytes(own[:8], "little"))
            made = self._model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                do_sample=True,
                top_k=10,
                num_return_sequences=queries,
                max_new_tokens=_NEW_TOKENS,
                pad_token_id=self._tokenizer.pad_token_id,
            )
        if not self._seq2seq:
            made = made[:, batch["input_ids"].shape[1] :]
        decoded = [_first_line(line) for line in self._tokenizer.batch_decode(made, skip_special_tokens=True)]
        return [decoded[at : at + queries] for at in range(0, len(decoded), queries)]

    def _prompt(self, text: str) -> str:
        """Return what the model is given: the passage, cut, as it is or with a task around it."""
        ids = self._tokenizer(text, add_special_tokens=False, truncation=True, max_length=TOKENS)["input_ids"]
        text = self._tokenizer.decode(ids)
        if self._seq2seq:
            return text
        if not self._chats:
            return _GO_ON.format(text=text)
        message = [{"role": "user", "content": _ASK.format(text=text)}]
        return str(self._tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return " ".join(lines[0].split()).strip("\"'“” ") if lines else ""
