"""The teachers of a recipe, one section a kind; what a teacher can do is a flag, so that nobody asks for its kind."""

from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

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
    Weight,
)

Missing = Literal["error", "drop", "floor"]

Together = Literal["larger of a query", "larger of a batch", "mean of softmaxes"]
"""What becomes of several teachers' scores in a training that is given all of them."""


class Teacher(Section):
    """What every teacher answers before anything runs."""

    embeds: ClassVar[bool] = False
    """Whether it has a vector of every text; one that has not gives scores of lists, and can rerank."""
    places: ClassVar[tuple[str, ...]] = ()
    """The fields that name a file or directory, which may stand beside the recipe."""

    @property
    def embeds_queries(self) -> bool:
        """Whether it has vectors of queries too: it can then mine, score, and be compared on dev and test."""
        return self.embeds

    @property
    def has_query_vectors(self) -> bool:
        """Whether it has vectors of some queries at least: its lists can then be compared with others."""
        return self.embeds_queries

    @property
    def key_name(self) -> str | None:
        """The environment variable with the key of its server, where it has one."""
        return None

    @property
    def names(self) -> tuple[str, ...]:
        """Other teachers that this one is made from."""
        return ()


class ModelTeacher(Teacher):
    """A teacher that is a model: trained by the ladder from `from`, or taken as it is when `train` is empty."""

    places: ClassVar[tuple[str, ...]] = ("base",)

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
    towers: Literal[1, 2] = 1
    """One shared tower for queries and passages, or two that begin alike and learn apart, so that only a teacher with `train` can have them. A base that has two keeps them with 1."""


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

    places: ClassVar[tuple[str, ...]] = ("file",)

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
    def together(self) -> Together | None:
        """What a training that is given all of them makes of their scores; None where it is given one score a pair."""
        return None

    @property
    def names(self) -> tuple[str, ...]:
        """The teachers that it is made of."""
        return tuple(self.of)


class MeanTeacher(SeveralTeachers):
    """The mean of several teachers' scores: the multi-teacher baseline."""

    kind: Literal["mean"]
    average: Literal["scores", "softmaxes"] = "scores"
    """What the student learns the mean of: the teachers' `scores`; or their `softmaxes` over the candidates, each at the rung's temperature, as in the paper's code. Where a list has to be ordered, it is the mean of the scores."""
    standardise: bool = True
    """Before the mean of scores, bring each teacher's of a query's list to mean 0 and deviation 1, so that no teacher counts more for its scale."""

    @property
    def together(self) -> Together | None:
        """The mean of softmaxes, which only the loss can take."""
        return "mean of softmaxes" if self.average == "softmaxes" else None


class BestTeacher(SeveralTeachers):
    """Several teachers of which the one counts that the student is farther from.

    The soft loss is the larger of the teachers' losses. Where a list has to be ordered, their standardised mean does it.
    """

    kind: Literal["best"]
    by: Literal["query", "batch"] = "query"
    """What one of them is chosen for: each `query` of a step, or the whole `batch`, as in the paper's code."""

    @property
    def together(self) -> Together:
        """The larger loss."""
        return "larger of a query" if self.by == "query" else "larger of a batch"


def _web(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"the url of a hosted teacher begins with http:// or https://, and {url!r} does not")
    if "@" in urlsplit(url).netloc:
        raise ValueError(
            "the url holds a name or a password, which would be written into every copy of the recipe: name the environment variable of a key instead"
        )
    return url


class Server(Teacher):
    """A teacher behind an HTTP API."""

    url: Annotated[str, AfterValidator(_web)]
    """Where requests are posted."""
    model: str | None = Field(None, description="The model's name in the request, where the API wants one.")
    extra: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Further fields of the request, such as `{truncate: true}` for TEI."""
    batch: Count = Field(32, description="Texts a request, at most.")
    parallel: Count = Field(4, description="Requests at a time.")
    timeout: Positive = Field(60.0, description="Seconds to wait for an answer.")
    retries: int = Field(6, ge=0, description="Further attempts after 429, 5xx or no answer, ever longer apart.")


class HostedTeacher(Server):
    """A re-ranker behind an HTTP API that takes a query and documents and gives a score of each."""

    kind: Literal["http"]
    key: str | None = None
    """The name of the environment variable with the key, sent as `Authorization: Bearer`; the key itself is never written anywhere."""
    documents: str = Field("documents", description="What the API calls the list of texts (`texts` for TEI).")
    logit: bool = Field(False, description="The API gives probabilities: log(p / (1 - p)) is taken of each.")

    @property
    def key_name(self) -> str | None:
        """The environment variable with the key of its server."""
        return self.key

    def facts(self) -> dict[str, Any]:
        """Return what the scores depend on."""
        return self.model_dump(include={"url", "model", "documents", "extra"})


class VectorTeacher(Teacher):
    """A teacher of which vectors are to be had, and no model that makes them."""

    embeds: ClassVar[bool] = True

    similarity: Similarity = "cos"
    """How its vectors are compared; for `cos` they are normalised, whatever length they come with."""
    dimensions: Count | None = None
    """Keep the first so many numbers of each vector (Matryoshka); all when empty."""
    scale: Positive | None = Field(None, description="From similarity to logit; 20 for cos and 1 for dot when empty.")

    @property
    def logit_scale(self) -> float:
        """The factor from a similarity to a logit."""
        return self.scale if self.scale is not None else (20.0 if self.similarity == "cos" else 1.0)


class VectorsTeacher(VectorTeacher):
    """A teacher of which only vectors are there, in files."""

    places: ClassVar[tuple[str, ...]] = ("passages", "passage_ids", "queries", "query_ids")

    kind: Literal["vectors"]
    passages: str
    """Vectors of all passages: Parquet (an id and a list of numbers a row), JSONL (`{"id": ..., "vector": [...]}` a line; also as `.gz`), or `.npy`. Ids that the collection has not are passed over."""
    passage_ids: str | None = None
    """For `.npy`: the file with the id of each row, one a line."""
    queries: str | None = None
    """The same of all queries of train, dev and test. Without them the teacher teaches passages alone: it can't mine or score, and its headroom is not known."""
    query_ids: str | None = Field(None, description="For `.npy`: the file with the id of each query.")
    queries_cover: Literal["all", "unlabelled"] = "all"
    """Which queries that file has: `all`; or `unlabelled`, those that no split judges (`unlabelled_queries: true` of the collection), where train and dev are synthetic and nobody has embedded them. It then can't mine or score, as without a file."""

    @property
    def embeds_queries(self) -> bool:
        """Whether there is a file of all queries' vectors."""
        return self.queries is not None and self.queries_cover == "all"

    @property
    def has_query_vectors(self) -> bool:
        """Whether there is a file of queries' vectors."""
        return self.queries is not None

    @model_validator(mode="after")
    def _ids(self) -> "VectorsTeacher":
        _check_ids(self.passages, self.passage_ids, "passage_ids")
        _check_ids(self.queries, self.query_ids, "query_ids")
        return self


def _check_ids(file: str | None, ids: str | None, key: str) -> None:
    """Refuse numbers without ids, and ids twice."""
    if file is not None and file.endswith(".npy") and ids is None:
        raise ValueError(f"{file} holds numbers alone: name the file with the id of each row in `{key}`")
    if ids is not None and (file is None or not file.endswith(".npy")):
        raise ValueError(f"`{key}` is for the rows of a `.npy` file; Parquet and JSONL hold their ids themselves")


class EmbeddingsTeacher(Server, VectorTeacher):
    """An embedding model behind an OpenAI-compatible `/v1/embeddings` (OpenAI, TEI, vLLM, Ollama, infinity).

    Every text is sent once, ever: vectors are kept whole by the text's hash, so other `dimensions` cost nothing.
    """

    places: ClassVar[tuple[str, ...]] = ("passages", "passage_ids")

    kind: Literal["embeddings-api"]
    passages: str | None = None
    """A file of the vectors that this model gave of the passages before, as for `kind: vectors`: they are taken as they are, and of the passages only a few are sent, to see whether they agree."""
    passage_ids: str | None = Field(None, description="For `.npy`: the file with the id of each row, one a line.")
    api_key_env: str | None = None
    """The name of the environment variable with the key, sent as `Authorization: Bearer`; the key itself is never written anywhere."""
    prompts: Prompts | None = Field(None, description="Written in front of texts, as for the student.")
    price_per_million: Weight | None = None
    """What a million tokens cost, in any currency; `plan` and the question of `run` then say the cost."""

    @property
    def key_name(self) -> str | None:
        """The environment variable with the key of its server."""
        return self.api_key_env

    def facts(self) -> dict[str, Any]:
        """Return what the vectors of a text depend on."""
        return self.model_dump(include={"url", "model", "extra"})

    @model_validator(mode="after")
    def _ids(self) -> "EmbeddingsTeacher":
        if "input" in self.extra:
            raise ValueError("`extra` can't hold `input`: that is where the texts are sent")
        _check_ids(self.passages, self.passage_ids, "passage_ids")
        return self


AnyTeacher = Annotated[
    DualEncoderTeacher
    | CrossEncoderTeacher
    | LateInteractionTeacher
    | ScoresTeacher
    | MeanTeacher
    | BestTeacher
    | HostedTeacher
    | VectorsTeacher
    | EmbeddingsTeacher,
    Field(discriminator="kind"),
]
"""A teacher of any kind, told apart by `kind`."""
