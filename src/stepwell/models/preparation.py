"""One gate at opening: a model gets the very inputs that sentence-transformers would give it, or it is refused.

Where ids joined with the tokenizer's special tokens (:class:`~stepwell.models.tokens.Template`) are what ``preprocess``
of sentence-transformers makes of some texts, they are taken: texts are then tokenised once, and a passage once for all
its pairs. Else ``preprocess`` itself prepares every text (chat templates, prompts of pairs, tokenizers that change a
text beside its special tokens), which is slower, and said once.
"""

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding
from torch import Tensor, nn

from stepwell import display
from stepwell.errors import RunError
from stepwell.models.opening import named, quiet
from stepwell.models.tokens import MOST, Features, Rows, Side, Template, Tokens, tokenizer_fingerprint

FORMAT = 1
"""Of how inputs are written; a change parts all that was computed from them."""

SHORT = (
    "who built the first lighthouse on this coast",
    "boiling point of water at high altitude",
    "how long does a violin need to dry?",
    "Why do glaciers move, and how fast?",
)
"""Texts like queries, to compare ways on."""

LONG = (
    "The lighthouse was finished in 1822 after three winters in which the sea carried off most of what had been built "
    "the summer before. Its keeper kept a record of every ship that passed, and of the weather, for forty-one years; "
    "the books are now in the town's library, together with his letters to the engineer who had drawn the tower.",
    "Water boils when its vapour pressure equals that of the air above it. Since the air is thinner on a mountain, it "
    "boils at about 90 degrees Celsius at 3,000 metres and at 70 on the highest peak, which is why potatoes take so "
    "much longer there: the water is boiling, but it is not as hot, and cooking is a matter of heat, not of bubbles.",
    "A violin's varnish is laid on in many thin coats, each of which has to dry before the next one. In sunlight that "
    "is a matter of days, in a cellar of weeks. Makers disagree on what the varnish does to the sound (nothing, some "
    "say), but they agree that one who hurries will find the marks of the case on the back of the instrument.",
    "Glaciers flow under their own weight: ice deforms slowly, like honey, and it slides where meltwater reaches the "
    "rock beneath. Most of them move less than a metre a day. A surge, in which a glacier speeds up a hundredfold for "
    "some months, is rare, and what sets it off is still argued about; the water under the ice has a part in it.",
)
"""Texts like passages, in the order of :data:`SHORT`, to compare and to time ways on."""

ODD = (
    "",
    "  Leading blanks, TWO  within\tand a tab\nand a new line ",
    "Naïve ÜBER straße 東京タワー مرحبا नमस्ते 🙂 e\u0301",
    "a word of the tokenizer: [SEP] </s> <s> [CLS] <|im_end|> <mask> {braces} {{ double }}",
)
"""Texts on which tokenizers and templates go different ways."""

ROOM = 40
"""Tokens to which texts are cut in the comparison, beside what the model puts around them: the cuts must agree too."""


class OwnTokenizer:
    """sentence-transformers' own preparation of the texts of one side, called like a tokenizer: ids with all around."""

    def __init__(self, model: Any, side: Side, prompt: str) -> None:
        self.model, self.side, self.prompt = model, side, prompt

    def __len__(self) -> int:
        return len(self.model.tokenizer)

    def __call__(self, texts: Sequence[str], **_: Any) -> dict[str, list[list[int]]]:
        """Return the ids of each text."""
        features = self.features(texts)
        mask = features.get("attention_mask")
        rows: list[list[int]] = (
            []
            if mask is None
            else [ids[kept].tolist() for ids, kept in zip(features["input_ids"], mask.bool(), strict=True)]
        )
        return {"input_ids": rows}

    def features(self, texts: Sequence[str]) -> dict[str, Any]:
        """Return what sentence-transformers makes of texts: tensors (B, L), and facts that are no tensors."""
        with quiet():  # transformers warns of texts that are to be cut
            found: dict[str, Any] = self.model.preprocess(list(texts), prompt=self.prompt or None, task=self.side)
        return found

    @property
    def fingerprint(self) -> str:
        """A name for how texts become ids, beside where they are cut."""
        facts = [FORMAT, self.side, self.prompt, *writing_of(self.model)]
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


class BagTokenizer(OwnTokenizer):
    """The tokenizer of a static model, called like one of transformers: ids without any around."""

    def __len__(self) -> int:
        return int(self.model[0].num_embeddings)

    def __call__(self, texts: Sequence[str], **_: Any) -> dict[str, list[list[int]]]:
        """Return the ids of each text."""
        prompted = [self.prompt + text for text in texts]
        encoded = self.model[0].tokenizer.encode_batch(prompted, add_special_tokens=False)
        return {"input_ids": [one.ids for one in encoded]}

    @property
    def fingerprint(self) -> str:
        """A name for how texts become ids; a static model's tokenizer cuts them itself where it does."""
        facts = json.dumps([FORMAT, self.prompt, self.model[0].tokenizer.to_str()])
        return hashlib.sha256(facts.encode()).hexdigest()


@dataclass(frozen=True)
class Bags:
    """How a static model takes texts: the ids of all behind one another, and where each text begins."""

    overhead = (0, 0)
    pad = 0

    def texts(self, tokens: Tokens, rows: Rows, limit: int, rounded: bool = False) -> Features:
        """Return the ids of the texts ``rows`` (T,), and where each of them begins (B,)."""
        lengths = tokens.lengths_of(rows)
        ids = np.concatenate([np.zeros(0, np.int64), *(tokens[row] for row in rows.tolist())]).astype(np.int64)
        return {"input_ids": torch.from_numpy(ids), "offsets": torch.from_numpy(np.cumsum(lengths) - lengths)}


@dataclass(frozen=True)
class TextTokens(Tokens):
    """Texts that sentence-transformers prepares pair by pair: the texts, and their ids, for their lengths alone."""

    fetch: Callable[[NDArray[np.int64]], list[str]]  # gives the texts of rows (B,)


@dataclass(frozen=True)
class Preparation:
    """How the texts of an encoder become its inputs."""

    template: Template | Bags
    tokenizers: Mapping[Side, Any]  # called with texts: their ids
    prompts: Mapping[Side, str]  # written in front of each text before its tokenizer is called
    more: Mapping[Side, Mapping[str, Any]]  # features that are no tensors

    def tokenise(self, texts: Sequence[str], side: Side, limit: int) -> Tokens:
        """Tokenise texts of one side in memory, for inputs of at most ``limit`` tokens."""
        room = limit - self.template.overhead[0]
        return Tokens.build(self.tokenizers[side], texts, room, self.prompts[side])


@dataclass(frozen=True)
class PairPreparation:
    """How query-passage pairs become the inputs of a cross-encoder."""

    template: Template | None  # None where sentence-transformers itself prepares the pairs
    model: Any
    limit: int  # tokens of the longest pair, all included
    around: int  # tokens that a pair has beside its texts
    prompt: str | None
    more: Mapping[str, Any] = field(default_factory=dict)  # features that are no tensors

    def pairs(
        self, queries: Tokens, passages: Tokens, query_rows: Any, passage_rows: Any, rounded: bool = False
    ) -> Features:
        """Pad pairs to one batch: (B, L)."""
        if self.template is not None:
            return self.template.pairs(queries, passages, query_rows, passage_rows, self.limit, rounded)
        if not isinstance(queries, TextTokens) or not isinstance(passages, TextTokens):
            raise TypeError("pairs that sentence-transformers prepares need the texts themselves")
        texts = zip(queries.fetch(query_rows), passages.fetch(passage_rows), strict=True)
        return tensors_of(pair_features(self.model, list(texts), self.prompt, self.limit))


def prepare_texts(model: Any, prompts: Mapping[Side, str], limit: int) -> Preparation:
    """Return how the texts of an encoder become its inputs, each of at most ``limit`` tokens."""
    if isinstance(model[0], StaticEmbedding):
        bags = {side: BagTokenizer(model, side, prompt) for side, prompt in prompts.items()}
        return Preparation(Bags(), bags, dict.fromkeys(prompts, ""), {side: {} for side in prompts})
    own = {side: OwnTokenizer(model, side, prompt) for side, prompt in prompts.items()}
    features = {side: tokenizer.features(SHORT) for side, tokenizer in own.items()}
    pooled = all(module.include_prompt for module in model.modules() if isinstance(module, Pooling))
    more = {side: facts_of(found, pooled) for side, found in features.items()}
    with contextlib.suppress(RunError):
        ours = Preparation(Template.of(model.tokenizer), dict.fromkeys(prompts, model.tokenizer), prompts, more)
        if not any(_text_difference(ours, tokenizer, limit) for tokenizer in own.values()):
            return ours
    bare = _bare(model.tokenizer, features["document"])
    theirs = Preparation(bare, own, dict.fromkeys(prompts, ""), more)
    for tokenizer in own.values():
        if difference := _text_difference(theirs, tokenizer, limit):
            raise RunError(
                f"can't use {named(model)}: sentence-transformers gives it inputs that stepwell can't keep "
                f"({difference}), so its vectors would be other ones. Take another model."
            )
    _say_own(named(model))
    return theirs


def prepare_pairs(model: Any, limit: int) -> PairPreparation:
    """Return how pairs of a cross-encoder become its inputs, each of at most ``limit`` tokens."""
    prompt = model.prompts.get(model.default_prompt_name) if model.default_prompt_name else None
    sample = pair_features(model, [("a", "a")], prompt, limit)
    more = facts_of(sample)
    around = max(0, int(sample["attention_mask"].sum()) - 2)
    theirs = PairPreparation(None, model, limit, around, prompt, more)
    with contextlib.suppress(RunError):
        template = Template.of(model.tokenizer)
        ours = PairPreparation(template, model, limit, template.overhead[1], prompt, more)
        cuts = {min(limit, 2 * ROOM + odd + template.overhead[1]) for odd in (0, 1)}  # halves are rounded in ways
        if not prompt and not any(_pair_difference(ours, cut) for cut in cuts):
            return ours
    if around >= limit:
        raise RunError(
            f"can't score with {named(model)}: what it writes around a query and a passage takes {around} tokens, and "
            f"a pair has {limit} at most. Raise `tokens.pair`."
        )
    _say_own(named(model))
    return theirs


def pair_features(model: Any, pairs: Sequence[tuple[str, str]], prompt: str | None, limit: int) -> dict[str, Any]:
    """Return what sentence-transformers makes of pairs: tensors (B, L), and facts that are no tensors."""
    with cut_at(model, limit), quiet():
        found: dict[str, Any] = model.preprocess(list(pairs), prompt=prompt)
    return found


def tensors_of(features: Mapping[str, Any]) -> Features:
    """Return the tensors among features."""
    return {name: value for name, value in features.items() if isinstance(value, Tensor)}


def facts_of(features: Mapping[str, Any], pooled: bool = True) -> dict[str, Any]:
    """Return what is no tensor among features and matters: ``pooled`` says that prompts are pooled as all else."""
    found = {name: value for name, value in features.items() if not isinstance(value, Tensor)}
    if pooled:
        found.pop("prompt_length", None)
    return {name: value for name, value in found.items() if (name, value) != ("modality", "text")}


def writing_of(model: Any) -> list[Any]:
    """Return all that decides how a model's texts become ids: tokenizer, template, settings of the preparation."""
    found: list[Any] = []
    for module in model.modules():
        if isinstance(module, Transformer):
            template = getattr(module.processor, "chat_template", None)
            modalities = {str(name): params for name, params in module.modality_config.items()}
            found.append([tokenizer_fingerprint(module.tokenizer), template, module.processing_kwargs, modalities])
    return found


@contextlib.contextmanager
def cut_at(model: nn.Module, limit: int) -> Iterator[None]:
    """Let sentence-transformers cut texts at ``limit`` tokens in here."""
    parts = [module for module in model.modules() if isinstance(module, Transformer)]
    before = [part.max_seq_length for part in parts]
    try:
        for part in parts:
            part.max_seq_length = limit
        yield
    finally:
        for part, its in zip(parts, before, strict=True):
            part.max_seq_length = its


def _text_difference(ours: Preparation, own: OwnTokenizer, limit: int) -> str | None:
    """Return how the inputs of some texts differ from those of sentence-transformers, or None."""
    texts = [*SHORT, *LONG, *ODD]
    cut = min(limit, len(own([""])["input_ids"][0]) + ROOM)
    with cut_at(own.model, cut):
        found = ours.template.texts(ours.tokenise(texts, own.side, cut), np.arange(len(texts)), cut)
        return difference(found, own.features(texts))


def _pair_difference(ours: PairPreparation, limit: int) -> str | None:
    """Return how the inputs of some pairs differ from those of sentence-transformers, or None."""
    texts = [*SHORT, *LONG, *ODD]
    pairs = list(itertools.product(texts, texts))
    rows = np.divmod(np.arange(len(pairs)), len(texts))
    assert ours.template is not None
    tokens = Tokens.build(ours.model.tokenizer, texts, MOST)
    found = ours.template.pairs(tokens, tokens, *rows, limit)
    return difference(found, pair_features(ours.model, pairs, ours.prompt, limit))


def difference(ours: Features, theirs: Mapping[str, Any]) -> str | None:
    """Return how a padded batch differs from that of sentence-transformers, beside what is masked; None when equal."""
    wanted = tensors_of(theirs)
    if wanted.keys() != ours.keys():
        return f"its inputs are {', '.join(sorted(wanted))}"
    mask = wanted["attention_mask"].bool()
    if mask.shape != ours["attention_mask"].shape or not bool((mask == ours["attention_mask"].bool()).all()):
        return "other lengths, or padding on the other side"
    return next((f"other {name}" for name in wanted if not bool((wanted[name] == ours[name])[mask].all())), None)


def _bare(tokenizer: Any, features: Mapping[str, Any]) -> Template:
    """Return the template of ids that have all around them already, padded as in ``features``."""
    types = features.get("token_type_ids")
    kind = None if types is None else int(types[features["attention_mask"].bool()][0])
    left = bool((features["attention_mask"][:, 0] == 0).any())
    return Template(([], []), ([], [], []), None if kind is None else (kind, kind), tokenizer.pad_token_id or 0, left)


@cache
def _say_own(model: str) -> None:
    display.say(
        f"{model} has inputs of its own (a chat template, a prompt, or another tokenizer): sentence-transformers "
        "prepares its texts, which is slower."
    )
