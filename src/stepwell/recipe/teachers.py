"""The teachers of a recipe, one section a kind; what a teacher can do is a flag, so that nobody asks for its kind."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from stepwell.recipe.training import (
    Count,
    DenseTraining,
    ListTraining,
    Pooling,
    Positive,
    Prompts,
    RerankTraining,
    Section,
    Similarity,
)

Missing = Literal["error", "drop", "floor"]


class Teacher(Section):
    """What every teacher answers before anything runs."""

    embeds: ClassVar[bool] = False
    """Whether it has a vector of every text; one that has not gives scores of lists, and can rerank."""
    place: ClassVar[str | None] = None
    """The field that names a file or directory, which may stand beside the recipe."""

    @property
    def names(self) -> tuple[str, ...]:
        """Other teachers that this one is made from."""
        return ()


class ModelTeacher(Teacher):
    """A teacher that is a model: trained by the ladder from `from`, or taken as it is when `train` is empty."""

    place: ClassVar[str | None] = "base"

    base: str = Field(alias="from", description="A hub name or a directory (`demo`: the bundled all-MiniLM-L6-v2).")
    layers: Count | None = Field(None, description="Keep the first so many layers before training; all when empty.")


class DualEncoderTeacher(ModelTeacher):
    """A teacher that embeds."""

    embeds: ClassVar[bool] = True

    kind: Literal["dual-encoder"]
    train: DenseTraining | None = Field(None, description="How to train it; empty takes it as it is.")
    pooling: Pooling | None = Field(None, description="Pooling; as the model has it when empty.")
    similarity: Similarity | None = Field(None, description="Similarity; as the model has it when empty.")
    prompts: Prompts | None = None
    """Written in front of texts, as for the student; the model's own when empty, none for `{}`."""
    dimensions: Count | None = None
    """Keep the first so many numbers of each vector (Matryoshka); as the model does when empty."""
    scale: Positive | None = Field(None, description="From similarity to logit; 20 for cos and 1 for dot when empty.")


class ListTeacher(ModelTeacher):
    """A model that scores a query's candidates, one pair at a time."""

    train: ListTraining | None = None
    imitate: str | None = Field(None, description="The dual-encoder teacher whose scores it first imitates.")

    @property
    def names(self) -> tuple[str, ...]:
        """The teacher that it imitates."""
        return () if self.imitate is None else (self.imitate,)


class CrossEncoderTeacher(ListTeacher):
    """A teacher that reads query and passage together."""

    kind: Literal["cross-encoder"]
    train: RerankTraining | None = Field(None, description="How to train it; empty takes it as it is.")


class LateInteractionTeacher(ListTeacher):
    """A teacher with a vector for each token, whose score is MaxSim (ColBERT)."""

    kind: Literal["late-interaction"]
    train: ListTraining | None = Field(None, description="How to train it; empty takes it as it is.")
    width: Count | None = None
    """Project token vectors to this width (ColBERT: 128; learned from nothing, so it needs training); the encoder's own when empty."""


class ScoresTeacher(Teacher):
    """A teacher of which only the scores are there, in a file."""

    place: ClassVar[str | None] = "file"

    kind: Literal["scores"]
    file: str
    """Parquet or TSV with query-id, corpus-id and score, or a TREC run; text also as `.gz`. Pairs of texts that the collection has not are passed over."""
    missing: Missing = "error"
    """What becomes of candidates without a score: `error` stops and writes their list; `drop` leaves them out of the rung; `floor` gives them the lowest score that the query has in the file (for the top of a ranking). A query that is left without a positive or with one candidate is left out."""
    logit: bool = Field(False, description="The file holds probabilities: log(p / (1 - p)) is taken of each.")


class SeveralTeachers(Teacher):
    """Teachers at once."""

    of: list[str] = Field(min_length=2, description="The names of the teachers, two or more.")

    @property
    def names(self) -> tuple[str, ...]:
        """The teachers that it is made of."""
        return tuple(self.of)


class MeanTeacher(SeveralTeachers):
    """The mean of several teachers' scores: the multi-teacher baseline."""

    kind: Literal["mean"]
    standardise: bool = True
    """First bring each teacher's scores of a query's list to mean 0 and deviation 1, so that no teacher counts more for its scale."""


class BestTeacher(SeveralTeachers):
    """Several teachers of which, for each query of a step, the one counts that the student is farther from.

    The soft loss is the larger of the teachers' losses. Where a list has to be ordered, their standardised mean does it.
    """

    kind: Literal["best"]


class HostedTeacher(Teacher):
    """A re-ranker behind an HTTP API that takes a query and documents and gives a score of each."""

    kind: Literal["http"]
    url: str = Field(description="Where requests are posted, such as `http://localhost:8080/rerank`.")
    model: str | None = Field(None, description="The model's name in the request, where the API wants one.")
    key: str | None = None
    """The name of the environment variable with the key, sent as `Authorization: Bearer`; the key itself is never written anywhere."""
    documents: str = Field("documents", description="What the API calls the list of texts (`texts` for TEI).")
    extra: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Further fields of the request, such as `{raw_scores: true}` for TEI."""
    batch: Count = Field(32, description="Documents a request, at most.")
    parallel: Count = Field(4, description="Requests at a time.")
    timeout: Positive = Field(60.0, description="Seconds to wait for an answer.")
    retries: int = Field(6, ge=0, description="Further attempts after 429, 5xx or no answer, ever longer apart.")
    logit: bool = Field(False, description="The API gives probabilities: log(p / (1 - p)) is taken of each.")

    @field_validator("url")
    @classmethod
    def _web(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"the url of a hosted teacher begins with http:// or https://, and {url!r} does not")
        return url

    def facts(self) -> dict[str, Any]:
        """Return what the scores depend on."""
        return self.model_dump(include={"url", "model", "documents", "extra"})


AnyTeacher = Annotated[
    DualEncoderTeacher
    | CrossEncoderTeacher
    | LateInteractionTeacher
    | ScoresTeacher
    | MeanTeacher
    | BestTeacher
    | HostedTeacher,
    Field(discriminator="kind"),
]
"""A teacher of any kind, told apart by `kind`."""
