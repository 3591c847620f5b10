"""The parts that the recipe and its teachers share: sections, number types, how a model is trained."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Weight = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]


Pooling = Literal["mean", "cls", "lasttoken"]
Similarity = Literal["cos", "dot"]


class Section(BaseModel):
    """A part of the recipe; unknown keys are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Prompts(Section):
    """What is written in front of texts."""

    query: str = Field("", description="In front of each query.")
    passage: str = Field("", description="In front of each passage.")


class Optimiser(Section):
    """How a model is trained: AdamW, linear warm-up, linear decay, clipped gradients."""

    epochs: Weight = Field(1.0, description="Passes over the training queries (or texts); 0 trains nothing.")
    steps: Count | None = Field(None, description="Optimiser steps, instead of epochs.")
    lr: Positive = Field(5e-5, description="Highest learning rate.")
    batch: Count = Field(16, description="Queries (or texts) a step, over all processes.")
    warmup: Fraction = Field(0.1, description="Share of the steps in which the learning rate rises.")
    weight_decay: Weight = Field(0.01, description="AdamW weight decay; not on biases and norms.")
    clip: Positive = Field(2.0, description="Largest norm of the gradient.")
    dropout: bool = False
    """Keep the model's dropout; off is faster and usually as good for distillation."""
    freeze_words: bool = Field(False, description="Leave the word embeddings as they are.")
    gradient_cache: bool = False
    """Keep vectors instead of activations and compute them again in backward: batches of thousands in the memory of one micro-batch, for a third more time and the same gradient."""


class Continued(Optimiser):
    """Going on with a contrastive training, on harder negatives: those that a trained dual encoder finds."""


class DenseTraining(Optimiser):
    """Contrastive training: each query against its positives, mined negatives and everything else in the batch."""

    negatives: Annotated[int, Field(ge=0)] = 1
    """Mined negatives a query, besides those of the batch."""
    further: Continued | None = Field(None, alias="continue")
    """A second training behind the first, on other negatives than BM25's: a teacher's are what it finds itself, the student's what the ladder's first dual-encoder teacher finds. Left out when empty."""

    @property
    def trains(self) -> bool:
        """Whether the first training takes any step."""
        return bool(self.epochs or self.steps)


class ListTraining(Optimiser):
    """Training over a query's candidates: listwise cross-entropy of the positives (docs/how-it-works/teachers.md)."""

    batch: Count = Field(8, description="Queries a step; each brings its candidates as pairs.")
    candidates: Annotated[int, Field(ge=2)] = Field(8, description="Pairs a query, K: positives and mined negatives.")
    train_queries: Count | None = Field(None, description="Use at most so many training queries; all when empty.")
    labels: Literal["positives", "grades"] = "positives"
    """What the labels teach: which candidates are positives (listwise cross-entropy), or how good each is (ListNet on the grades)."""
    imitate_epochs: Weight = 0.0
    """First learn a dual encoder's scores on the same pairs, without labels, for so many epochs."""


class RerankTraining(ListTraining):
    """Training of a cross-encoder: listwise cross-entropy over a query's candidates (docs/how-it-works/teachers.md)."""

    lr: Positive = Field(1e-4, description="Highest learning rate of the body.")
    head_lr: Positive = Field(1e-3, description="Highest learning rate of the scoring head, which starts from nothing.")
