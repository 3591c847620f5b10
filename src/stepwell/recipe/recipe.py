"""The recipe: everything that a run depends on, typed.

Every field carries its unit and its default; ``docs/recipe.md`` is generated from these types. Reading YAML
and naming the line of a mistake is :mod:`stepwell.recipe.yaml_file`.
"""

from collections.abc import Iterator
from string import Formatter
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from stepwell.recipe.ladder import Mining, Refine, Rung, WarmUp, teacher_temperature
from stepwell.recipe.teachers import AnyTeacher, DualEncoderTeacher, ListTeacher, SeveralTeachers, VectorsTeacher
from stepwell.recipe.training import Count, Fraction, Pooling, Positive, Prompts, Section, Similarity

Tracker = Literal["tensorboard", "wandb", "trackio", "mlflow"]

Column = Literal[
    "passage.id",
    "passage.title",
    "passage.text",
    "query.id",
    "query.text",
    "qrels.query",
    "qrels.passage",
    "qrels.grade",
    "positive",
    "negatives",
]


class CollectionSection(Section):
    """What is searched, and which queries train, steer and test."""

    path: str
    """A BEIR directory (corpus.jsonl, queries.jsonl, qrels/) or one of another format, `irds:NAME` (ir-datasets), `hf:NAME` (Hugging Face), or `demo`: docstrings of the standard library and of some packages (`demo-full`: all of them). See your-own-corpus.md."""
    format: Literal[
        "auto", "beir", "msmarco-passage", "msmarco-document", "dpr", "tables", "folder", "ir-datasets", "huggingface"
    ] = "auto"
    """How the files are laid out; auto = told by their names."""
    template: str | None = None
    """How the fields of a passage become its text, such as `{title} [SEP] {text}`; empty = the format's own way: `{title} {text}`, and for msmarco-document `{url} {title} {text}`."""
    characters: Count | None = None
    """Keep so many characters of each passage; empty = the format's own: 10,000 for msmarco-document, else all."""
    columns: dict[Column, str] = Field(default_factory=dict)
    """What columns are called in tables and Hugging Face datasets, where it can't be told: `{passage.id: docno, passage.text: body}`."""
    train: str = "train"
    """The qrels split that trains; with `irds:`, also an identifier of its own, as for dev and test."""
    dev: str = "auto"
    """The split that steers: a name, or `auto`: the split `dev`, and when it is taken for the test or missing, a part carved off training by hash."""
    test: str = "auto"
    """The split of the final table: a name, or `auto`: `test`, else `dev`, else a part carved off training by hash."""
    train_queries: Count | None = None
    """Use at most so many training queries, chosen by hash; all when empty."""
    dev_queries: Count | None = 500
    """Use at most so many dev queries, chosen by hash; all when empty."""
    test_queries: Count | None = None
    """Use at most so many test queries, chosen by hash; all when empty."""
    unlabelled_queries: bool = False
    """Also use the queries that no split judges: a tenth of them (20 to 1,000, by hash) is held out, to compare the student's lists in the teacher's vectors with the teacher's own; embedding rungs learn the vectors of the others."""
    relevant_from: Count | None = None
    """The grade from which binary measures count a passage of the test as relevant; nDCG takes the grades as they are. Empty = the format's own: 2 for TREC DL passages, else 1."""

    @field_validator("template")
    @classmethod
    def _template(cls, template: str | None) -> str | None:
        for _, name, spec, conversion in Formatter().parse(template or ""):
            if name is not None and (spec or conversion or not name.replace("-", "_").isidentifier()):
                raise ValueError(
                    f"the template names fields in braces, as in `{{title}} {{text}}`, and {name!r} is none"
                )
        return template

    def reading(self) -> dict[str, Any]:
        """Return what decides how the files are read, without what is as always."""
        named = self.model_dump(include={"format", "template", "characters", "columns"}, exclude_defaults=True)
        ids = {role: name for role in ("train", "dev", "test") if "/" in (name := getattr(self, role))}
        return named | (ids if self.path.startswith("irds:") else {})


class TokensSection(Section):
    """Where texts are cut, in tokens."""

    query: Annotated[int, Field(ge=4)] = 32
    """Longest query of a late-interaction teacher, in tokens. Student and dual encoders cut both sides at the larger of `query` and `passage`: sentence-transformers has one limit for both."""
    passage: Annotated[int, Field(ge=4)] = 144
    """Longest passage, in tokens (titles are joined in front)."""
    pair: Annotated[int, Field(ge=8)] = 176
    """Longest query-passage pair of a cross-encoder, in tokens; the passage is cut."""

    @property
    def longest(self) -> int:
        """Where a model with one limit for queries and passages cuts both."""
        return max(self.query, self.passage)


class StudentSection(Section):
    """The model to build: the embeddings and some layers of an encoder."""

    base: str = Field(alias="from")
    """Any encoder: a hub name or a directory (`demo`: the bundled all-MiniLM-L6-v2)."""
    layers: Count | None = Field(None, description="How many of its layers to keep; all when empty.")
    pick: Literal["first", "spread", "last"] | list[int] = "first"
    """Which layers: the first, evenly spread, the last, or a list of layer numbers from 0."""
    pooling: Pooling | None = None
    """How token vectors become one vector; as the base does it when empty."""
    similarity: Similarity | None = Field(None, description="How vectors are compared; as the base's when empty.")
    prompts: Prompts | None = None
    """Written in front of texts: `{query: "query: ", passage: "passage: "}`; the base's own when empty, none for `{}`."""
    dimensions: Count | None = None
    """Keep the first so many numbers of each vector (Matryoshka); as the base does when empty."""
    scale: Positive | None = None
    """What similarities are multiplied with in the losses; 20 for cos and 1 for dot when empty."""
    towers: Literal[1, 2] = Field(1, description="One shared tower for queries and passages, or two.")
    static: bool = False
    """A table of word vectors and their mean instead of layers: each word begins as what the base makes of it alone. The fastest there is, on any machine."""

    @model_validator(mode="after")
    def _static(self) -> Self:
        if self.static and (self.layers, self.pick, self.pooling, self.towers) != (None, "first", None, 1):
            raise ValueError("a static student has no layers: leave `layers`, `pick`, `pooling` and `towers` out")
        return self

    @property
    def loss_scale(self) -> float | None:
        """The factor from a similarity to a logit; None where the model's own similarity decides."""
        usual = {"cos": 20.0, "dot": 1.0, None: None}
        return self.scale if self.scale is not None else usual[self.similarity]


DenseSection = StudentSection | DualEncoderTeacher
"""What becomes one vector a text."""


class Judging(Section):
    """How students and teachers are compared on dev, and what is decided by it."""

    measure: str = Field("nDCG@10", description="The measure that decides (an ir-measures name).")
    measures: list[str] = Field(default_factory=list)
    """Further measures of all tables, instead of RR@10, nDCG@10, R@5, R@20 and R@100."""
    depth: Count = Field(100, description="Passages retrieved a query for evaluation.")
    rerank: Count = 20
    """Passages of the student's list that a teacher which does not embed reranks, for its headroom and in the final table."""
    headroom_queries: Count = 200
    """Dev queries on which the headroom of a teacher that does not embed is measured, at most."""
    level: Fraction = 1.0
    """A rung's student that is worse on dev goes on all the same unless the p-value is below this: with 1 the better one always goes on, with 0 the new one (the paper)."""


class Recipe(Section):
    """A whole run: collection, student, teachers, ladder, refine, proof."""

    name: str = Field("stepwell", description="Shown in tables and reports.")
    seed: int = Field(13, ge=0, le=2**63 - 1, description="All randomness follows from it.")
    collection: CollectionSection
    tokens: TokensSection = TokensSection()
    student: StudentSection
    teachers: dict[str, AnyTeacher] = Field(default_factory=dict)
    mining: Mining = Mining()
    warmup: WarmUp = WarmUp()
    ladder: list[Rung] = Field(min_length=1)
    refine: Refine = Refine()
    judging: Judging = Judging()
    track: list[Tracker] = Field(default_factory=list)
    """Trackers that follow the run: losses and their parts, dev figures, decisions. Each needs its package, as `stepwell[tensorboard]`; what a run does is the same without."""
    proof: Literal["none", "quick", "full"] = "quick"
    """Which baselines are trained for the final table, with the ladder's number of updates: `quick`: contrastive only, the first rung alone, the first rung and then the last, and straight from the teacher that dev finds the strongest; `full`: straight from each teacher by each loss; `none`."""
    proof_rates: list[Positive] = Field([1 / 3, 1.0, 3.0], min_length=1)
    """Learning rates of each baseline, over its own of the recipe; dev takes the best. One makes the proof three times as fast, and weaker."""

    @property
    def embedding_teacher(self) -> str | None:
        """The dual encoder whose vectors the student imitates: that of the first embedding rung."""
        return next((rung.teacher for rung in self.ladder if rung.loss == "embedding"), None)

    def miner_of(self, number: int) -> str:
        """Return who mines for a rung, counted from 1: ``bm25``, ``student`` or a dual encoder's name."""
        rung = self.ladder[number - 1]
        if rung.negatives != "auto":
            return rung.negatives
        seen = [other.teacher for other in self.ladder[:number] if self.teachers[other.teacher].embeds_queries]
        return seen[-1] if seen else "bm25"

    @field_validator("proof_rates")
    @classmethod
    def _each_once(cls, rates: list[float]) -> list[float]:
        if len(set(rates)) < len(rates):
            raise ValueError("names a rate twice, which would be trained once and chosen between: name each once")
        return rates

    @field_validator("teachers")
    @classmethod
    def _names(cls, teachers: dict[str, AnyTeacher]) -> dict[str, AnyTeacher]:
        for name in teachers:
            if name in {"student", "bm25", "auto", "none"}:
                raise ValueError(f"a teacher can't be called {name!r}: the word has a meaning of its own in a recipe")
        return teachers

    @model_validator(mode="after")
    def _sound(self) -> Self:
        for mistake in self._mistakes():
            raise ValueError(mistake)
        return self

    def _mistakes(self) -> Iterator[str]:
        """Yield what makes no sense in the sections together."""
        for number, rung in enumerate(self.ladder, start=1):
            yield from (f"rung {number} of the ladder{mistake}" for mistake in self._rung_mistakes(rung))
        for name, teacher in self.teachers.items():
            if not teacher.embeds_queries and teacher.has_query_vectors and not self.collection.unlabelled_queries:
                yield f"teacher {name!r}: `queries_cover: unlabelled` is for queries that no split judges, and the recipe does not use them: set `unlabelled_queries: true` of the collection"
            yield from (f"teacher {name!r}{mistake}" for mistake in self._teacher_mistakes(teacher))
        if self.refine.rounds and not (self.refine.alpha or self.refine.beta):
            yield "refine: alpha and beta are 0: nothing is left to learn from; set `beta`, or `rounds: 0`"
        if self.refine.teacher is not None:
            yield from (f"refine{mistake}" for mistake in self._missing(self.refine.teacher))
        if self.refine.rounds:
            yield from (
                f"refine{mistake}"
                for mistake in self._without_softmax(self.refine, self.refine.teacher or self.ladder[-1].teacher)
            )
        judges = [*(rung.teacher for rung in self.ladder), self.refine.teacher or self.ladder[-1].teacher]
        for name in judges if self.mining.denoise is not None else []:
            if isinstance(self.teachers[name], SeveralTeachers):
                yield f"`mining.denoise` asks {name!r} about one passage at a time, and the scores of several teachers are brought to one scale over whole lists; leave `denoise` out, or take one teacher"

    def _rung_mistakes(self, rung: Rung) -> Iterator[str]:
        named = (rung.teacher, rung.beside, None if rung.negatives in ("auto", "student", "bm25") else rung.negatives)
        for name in named:
            if name is not None:
                yield from self._missing(name)
        teacher, beside, miner = (self.teachers[name] if name is not None else None for name in named)
        if teacher is not None and rung.loss in ("embedding", "in-batch") and not teacher.embeds:
            yield f": the loss `{rung.loss}` needs a dual-encoder teacher, and {rung.teacher!r} is of kind `{teacher.kind}`"
        if rung.more and rung.loss != "embedding":
            yield f": `more_passages` and `more_queries` are texts without labels, and the loss `{rung.loss}` needs labels; only `embedding` learns from them"
        learns = rung.alpha or rung.beta or rung.hold or (rung.beside and rung.beside_weight)
        if rung.loss != "embedding" and not learns:
            yield ": alpha and beta are 0, and there is no `beside` and no `hold`: nothing is left to learn from; set `beta`"
        if rung.hold and self.embedding_teacher is None:
            yield ": `hold` stays near the vectors of an embedding rung, and the ladder has none"
        yield from self._without_softmax(rung, rung.teacher)
        yield from self._silent_on_queries(rung)
        if beside is not None and not beside.embeds:
            yield f": `beside` needs a dual-encoder teacher, and {rung.beside!r} is none"
        if miner is not None and not miner.embeds:
            yield f": only bm25, the student or a dual encoder can mine, and {rung.negatives!r} is none"

    def _without_softmax(self, rung: Rung | Refine, name: str) -> Iterator[str]:
        """Yield that a loss of logits can't learn the mean of softmaxes."""
        if (
            rung.beta
            and teacher_temperature(rung) is None
            and getattr(self.teachers[name], "average", None) == "softmaxes"
        ):
            yield f": `soft: {rung.soft}` compares logits, and {name!r} gives the mean of softmaxes (`average: softmaxes`); take `soft: kl`, or `average: scores`"

    def _silent_on_queries(self, rung: Rung) -> Iterator[str]:
        """Yield what a rung asks of a teacher that has vectors of passages alone."""
        used = {
            f"the loss `{rung.loss}`": None if rung.loss == "embedding" else rung.teacher,
            "`beside`": rung.beside,
            "`negatives`": rung.negatives,
            "`hold`": self.embedding_teacher if rung.hold else None,
        }
        for what, name in used.items():
            teacher = self.teachers.get(name or "")
            if teacher is not None and teacher.embeds and not teacher.embeds_queries:
                yield f": {what} needs vectors of queries, and the teacher {name!r} has vectors of passages alone; name a file of them in its `queries` (with `queries_cover: all`), or take it for the loss `embedding` alone"
        if rung.more and isinstance(self.teachers.get(rung.teacher), VectorsTeacher):
            yield f": `more_passages` and `more_queries` are texts that the teacher embeds, and {rung.teacher!r} is a file of vectors, which has none of them"

    def _teacher_mistakes(self, teacher: AnyTeacher) -> Iterator[str]:
        for name in teacher.names:
            yield from self._missing(name)
        if isinstance(teacher, DualEncoderTeacher) and teacher.towers == 2 and teacher.train is None:
            yield ": `towers: 2` makes two towers that begin alike, and only a training tells them apart, which it has not; add `train`, or leave `towers` out"
        if isinstance(teacher, ListTeacher):
            if teacher.imitate is not None and not self.teachers[teacher.imitate].embeds:
                yield f": `imitate` needs a dual-encoder teacher, and {teacher.imitate!r} is none"
            yield from _idle_keys(teacher)
        for name in teacher.names:
            if self.teachers[name].embeds and not self.teachers[name].embeds_queries:
                yield f": {name!r} has vectors of passages alone, and so no scores; name a file of vectors in its `queries`"
            if isinstance(self.teachers[name], SeveralTeachers):
                yield f": {name!r} is made of teachers itself; name them one by one in `of`"

    def _missing(self, name: str) -> Iterator[str]:
        if name not in self.teachers:
            yield f" names the teacher {name!r}, which is not among the teachers ({', '.join(self.teachers) or 'there are none'})"


def _idle_keys(teacher: ListTeacher) -> Iterator[str]:
    """Yield what would do nothing, in silence: `imitate` without how long, the reverse, layers without a training."""
    if teacher.layers is not None and teacher.train is None:
        yield f": `layers: {teacher.layers}` cuts the model before its training, and it has none; add `train`, or leave `layers` out and take the model as it is"
    epochs = teacher.train.imitate_epochs if teacher.train else 0
    if teacher.imitate is not None and not epochs:
        yield f": `imitate: {teacher.imitate}` does nothing without `train.imitate_epochs`; set it (1 is usual), or leave `imitate` out"
    if teacher.imitate is None and epochs:
        yield ": `train.imitate_epochs` does nothing without `imitate`; name there the dual-encoder teacher to imitate"
