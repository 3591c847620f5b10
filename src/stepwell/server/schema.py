"""What requests and answers look like; OpenAPI is made from this."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Span = tuple[int, int]
Text = Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]

_STRICT = ConfigDict(extra="forbid", strict=True)


class SearchRequest(BaseModel):
    """Queries to search for."""

    model_config = _STRICT
    query: Text | list[Text] = Field(description="A query, or several.", examples=["who was the first emperor of rome"])
    k: int | None = Field(
        None,
        ge=1,
        description="Passages a query; 10, or as many as the server allows where these are fewer, when left out.",
    )
    system: str = Field("student", description="A name from /systems.")
    characters: int = Field(1_000, ge=0, le=10_000, description="How much of each text to give.")


class EmbedRequest(BaseModel):
    """Texts to embed."""

    model_config = _STRICT
    text: Text | list[Text] = Field(description="A text, or several.")
    side: Literal["query", "document"] = Field("query", description="What the texts are.")


class Passage(BaseModel):
    """A passage that was found."""

    rank: int
    id: str
    title: str
    text: str
    cut: bool = Field(description="Whether the text goes on.")
    score: float
    title_matches: list[Span] = Field(description="Words of the query: first character, behind the last; code points.")
    text_matches: list[Span] = Field(description="The same in the text.")


class Answer(BaseModel):
    """A query and what was found."""

    query: str
    passages: list[Passage]


class SearchAnswer(BaseModel):
    """Answers in the order of the queries."""

    system: str
    milliseconds: float = Field(description="From the parsed request to this answer, on the server.")
    answers: list[Answer]


class EmbedAnswer(BaseModel):
    """Vectors in the order of the texts."""

    dimension: int
    vectors: list[list[float]]


class SystemFacts(BaseModel):
    """A system that can be asked."""

    name: str
    label: str
    quality: float | None = Field(description="Its mean on the run's test queries.")


class Offer(BaseModel):
    """What this server searches, and with what."""

    collection: str
    passages: int
    measure: str | None = Field(description="What quality is measured by.")
    systems: list[SystemFacts]
    examples: list[str]
    limits: dict[str, int]


class Problem(BaseModel):
    """Why a request was refused."""

    error: str
