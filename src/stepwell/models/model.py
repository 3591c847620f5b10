"""What the encoder, the re-ranker and late interaction share: a model on this process's device, and its tokens."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer
from torch import Tensor

from stepwell import distributed
from stepwell.models.engines.forward import forward_all
from stepwell.models.files import Kind
from stepwell.models.opening import fingerprint, save_model
from stepwell.models.preparation import FORMAT, writing_of
from stepwell.models.tokens import Rows, Side, Tokens

M = TypeVar("M", SentenceTransformer, CrossEncoder, MultiVectorEncoder)


class Model(ABC, Generic[M]):
    """A sentence-transformers model on this process's device."""

    kind: ClassVar[Kind]

    def __init__(self, model: M) -> None:
        self.model: M = model.to(distributed.state().device)
        self.gradient_cache = False  # set by a training that asks for it
        self.tokenizer: Any = model.tokenizer

    def save(self, folder: Path) -> None:
        """Write a sentence-transformers directory."""
        save_model(self.model, folder)

    @property
    def fingerprint(self) -> str:
        """The sha256 of the model and of all that its outputs depend on besides."""
        return fingerprint(self.model, FORMAT, writing_of(self.model), *self._facts())

    @abstractmethod
    def _facts(self) -> tuple[object, ...]:
        """Return what outputs depend on besides weights, tokenizer and modules."""

    @abstractmethod
    def room(self, side: Side) -> int:
        """Return how many tokens of a text count, specials apart."""

    def prompt(self, side: Side) -> str:
        """Return what the model wants in front of its texts."""
        return ""

    def cutting(self, side: Side) -> tuple[Any, int, str]:
        """Return what cuts the texts of a side into tokens, how many of them count, and what is put in front."""
        return self.tokenizer, self.room(side), self.prompt(side)

    def tokenise(self, texts: Sequence[str], side: Side) -> Tokens:
        """Tokenise texts of one side in memory."""
        tokenizer, limit, prompt = self.cutting(side)
        return Tokens.build(tokenizer, texts, limit, prompt)

    def with_texts(self, tokens: Tokens, fetch: Callable[[Rows], list[str]]) -> Tokens:
        """Return tokens; with the texts of rows (B,) where the model's inputs are made from these."""
        return tokens

    def _run(self, features: Mapping[str, Tensor], more: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run the model on a padded batch; ``more`` are features that are no tensors."""
        device = distributed.state().device
        moved = {name: tensor.to(device) for name, tensor in features.items()}
        return self.model({**moved, **(more or {})}, **options)

    def _with_gradient(self, lengths: Rows, forward: Callable[[Rows], Tensor]) -> Tensor:
        """Run all items of so many tokens through ``forward``, shared over the processes: (B, ...)."""
        return forward_all(lengths, forward, self.gradient_cache)
