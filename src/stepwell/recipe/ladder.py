"""The recipe's sections about the climb: how negatives are mined, what a rung and refine do, the warm-up."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from stepwell.recipe.training import Count, DenseTraining, Fraction, Optimiser, Positive, Section, Weight

Side = Literal["document", "query"]
MORE: dict[Side, str] = {"document": "more_passages", "query": "more_queries"}
"""The keys of a rung that name files of texts, by what the texts are embedded as."""

Soft = Literal["kl", "cross-entropy", "mse", "margin-mse", "decoupled"]


class Mining(Section):
    """From a run to candidates: which passages stand beside the positives."""

    depth: Count = Field(100, description="Passages retrieved a query.")
    first: Count = Field(1, description="Best rank a negative may have (1 = top).")
    last: Count = Field(50, description="Worst rank a negative may have; at most `depth` where it is left out.")
    sampling: Literal["random", "hardest", "simans"] = "random"
    """How negatives are drawn from the window: evenly, from the top, or near the positive's score (SimANS)."""
    positives: Count = 2
    """Positives that are kept of a query, at most; each epoch draws from them, never more than half of K."""
    answers: bool | None = None
    """Drop a passage that holds an answer to the query, as DPR matches them; when empty, where training queries have answers."""
    margin: float | None = None
    """Drop a passage that scores higher than the positive's score minus this, in the miner's own scores."""
    near_duplicate: Fraction | None = 0.9
    """Drop a passage whose words overlap with a positive's so much (Jaccard); empty keeps all."""
    denoise: float | None = None
    """Drop a passage that the denoising teacher scores higher than the positive minus this (logits)."""
    pool: Count | None = None
    """Candidates kept a query, from which each epoch draws K; K when empty (the same every epoch)."""

    @model_validator(mode="before")
    @classmethod
    def _within_depth(cls, given: Any) -> Any:
        """Let the window of a small depth end there where nobody says otherwise."""
        if isinstance(given, dict) and "last" not in given and isinstance(given.get("depth"), int):
            return {**given, "last": min(50, max(1, given["depth"]))}
        return given

    @model_validator(mode="after")
    def _window(self) -> Self:
        if self.last < self.first:
            raise ValueError(f"`last` ({self.last}) is before `first` ({self.first}): no rank is left for a negative")
        if self.last > self.depth:
            raise ValueError(
                f"`last` ({self.last}) is beyond `depth` ({self.depth}), and nothing is retrieved there; raise `depth` to {self.last}"
            )
        return self


class Rung(Optimiser):
    """One rung: what the student learns from one teacher.

    loss = alpha * hard + beta * soft + gamma * keep  (docs/how-it-works/losses.md).
    """

    teacher: str = Field(description="The teacher's name.")
    loss: Literal["embedding", "in-batch", "candidates"]
    """`embedding`: its vectors (then only `force`, `more_*` and the keys of a training count); `in-batch`: its scores of all passages of the batch; `candidates`: its scores of the query's own K candidates."""
    alpha: Weight = Field(0.1, description="Weight of the hard loss (labels).")
    beta: Weight = Field(0.9, description="Weight of the soft loss (the teacher's scores).")
    gamma: Weight = 1.0
    """Weight of keep (the student's own scores at the start of the rung); unused by `embedding`."""
    tau: Positive = Field(1.0, description="Temperature of the soft loss and of keep.")
    teacher_tau: Positive | None = None
    """The teacher's own temperature in the soft loss (`kl`, `cross-entropy`); `tau` when empty."""
    soft: Soft = "kl"
    """How the student's scores are compared with the teacher's: `kl` (the paper), `cross-entropy` (against the softened teacher; the student's scores are not divided by `tau`, and there is no factor), `mse` (of the logits), `margin-mse` (of positive minus negative), `decoupled` (positives and the rest apart)."""
    target: Weight = Field(1.0, description="With `decoupled`: weight of the mass on the positives.")
    rest: Weight = Field(1.0, description="With `decoupled`: weight of the order among the negatives.")
    candidates: Annotated[int, Field(ge=2)] = Field(8, description="Candidates a query, K.")
    keep_over: Literal["candidates", "batch"] = "candidates"
    """What keep is measured over: the query's own candidates, or all passages of the batch."""
    beside: str | None = None
    """A dual-encoder teacher whose in-batch term stays beside this rung's own."""
    beside_weight: Weight = Field(0.5, description="Weight of that term.")
    hold: Weight = 0.0
    """Weight of staying near the embedding teacher's vectors (the embedding rung's loss, kept beside); it needs vectors of the student's width, which it has behind a head that was kept."""
    negatives: str = "auto"
    """Who mines: `student`, `bm25` or a dual-encoder teacher's name; auto = the last dual-encoder teacher at or before this rung, else bm25."""
    head: Literal["keep", "none"] = "keep"
    """With `embedding`, where the teacher's vectors have another width than the student's: `keep` gives the student a linear layer to the teacher's width, which is saved and exported with it; `none` learns one for this rung and throws it away, and the student keeps its width."""
    more_passages: str | None = None
    """With `embedding`: a file of further texts that the student learns to embed as passages; they are never searched. One text a line, or in a `.jsonl` file one object a line with `text` (and `title`); also as `.gz`."""
    more_queries: str | None = None
    """The same for texts that are embedded as queries, such as a log of what was asked."""
    force: bool = Field(False, description="Train even when the teacher has no headroom over the student.")

    @property
    def more(self) -> dict[Side, Path]:
        """Files of texts from elsewhere, by what they are embedded as."""
        return {side: Path(file) for side, key in MORE.items() if (file := getattr(self, key)) is not None}


class Refine(Optimiser):
    """Data progressive distillation: only what the teacher gets right and the student gets wrong."""

    rounds: Annotated[int, Field(ge=0, le=100)] = Field(1, description="At most so many rounds, while dev improves.")
    teacher: str | None = Field(None, description="The teacher; the last rung's when empty.")
    depth: Count = Field(20, description="Passages of the student's list that the teacher reranks.")
    rule: Literal["top", "better"] = "top"
    """`top`: teacher rank 1, student rank 2 to `worst` (MS MARCO). `better`: teacher rank before student rank, and at most `worst` (NQ)."""
    worst: Count = Field(15, description="The rank bound of the rule.")
    ranks: Literal["auto", "answers", "qrels"] = "auto"
    """Whose ranks the rule compares: the first passage with an answer (`answers`) or the first positive (`qrels`); auto = answers where training queries have some."""
    candidates: Annotated[int, Field(ge=2)] = Field(8, description="Candidates a query, K, hardest first.")
    alpha: Weight = 0.1
    beta: Weight = 0.9
    gamma: Weight = 1.0
    tau: Positive = 1.0
    teacher_tau: Positive | None = None
    soft: Soft = "kl"
    target: Weight = 1.0
    rest: Weight = 1.0
    lr: Positive = Field(1e-5, description="Highest learning rate.")
    epochs: Weight = Field(3.0, description="Passes over the selected queries.")
    keep_over: Literal["candidates", "batch"] = "candidates"
    force: bool = Field(False, description="Refine even when the teacher has no headroom over the student.")


class WarmUp(DenseTraining):
    """Contrastive training of the student before the first rung; 0 epochs leave it out."""

    epochs: Weight = Field(0.0, description="Passes over the training queries; 0 leaves the warm-up out.")


def teacher_temperature(rung: Rung | Refine) -> float | None:
    """Return the temperature that the soft loss reads the teacher's scores at; None where it reads the logits."""
    if not rung.beta or rung.soft in ("mse", "margin-mse"):
        return None
    return rung.tau if rung.teacher_tau is None or rung.soft == "decoupled" else rung.teacher_tau
