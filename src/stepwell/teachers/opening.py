"""The kinds of teachers: here alone they are told apart, and opened, in a ladder or outside of one.

A new kind is a section in :mod:`stepwell.recipe.teachers` and a class here, with a line in :data:`KINDS`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import numpy as np

from stepwell.collection import Collection
from stepwell.display import SILENT, Progress, warn
from stepwell.errors import RecipeError, RunError
from stepwell.files import read_json, write_json
from stepwell.models.build import build_cross_encoder, build_multi_vector, build_student
from stepwell.models.encoder import Encoder
from stepwell.models.late_interaction import LateInteraction
from stepwell.models.reranker import Reranker
from stepwell.models.shape import vector_width
from stepwell.models.tokens import Side
from stepwell.recipe import TokensSection, teachers as sections
from stepwell.recipe.training import Prompts
from stepwell.retrieval.run import Floats
from stepwell.retrieval.shards import write_array
from stepwell.retrieval.vectors import BLOCK, Vectors
from stepwell.teachers.embeddings import Bill, Embeddings, Sent
from stepwell.teachers.from_file import FileTeacher, content_fingerprint, import_scores
from stepwell.teachers.hosted import HostedReranker
from stepwell.teachers.protocol import LogOdds, Rows, Scores, Several, Teacher
from stepwell.teachers.scoring import Scorer, Stored
from stepwell.teachers.store import ScoreStore
from stepwell.teachers.vector_files import Shape, VectorFile, import_vectors

Folders = Mapping[str, Path]  # of the stages that :meth:`Kind.inputs` names
Section = TypeVar("Section", bound=sections.AnyTeacher)
VectorSection = TypeVar("VectorSection", bound=sections.VectorsTeacher | sections.EmbeddingsTeacher)
HOW = {"similarity", "dimensions", "scale"}  # what becomes of the vectors of a teacher without a model
SEEN, ALIKE = 8, 0.95  # passages that are embedded again beside vectors that were given; how near these have to be
ListSection = TypeVar("ListSection", bound=sections.CrossEncoderTeacher | sections.LateInteractionTeacher)


class Texts(NamedTuple):
    """What a teacher reads: a collection, how many tokens of each text; and where it keeps its scores."""

    collection: Collection
    tokens: TokensSection
    store_root: Path


class Lot(NamedTuple):
    """Texts that are embedded as one side: how many, and those from a place to another (exclusive)."""

    side: Side
    size: int
    slice: Callable[[int, int], list[str]]


def queries_of(collection: Collection, query_rows: Rows) -> Lot:
    """Return some of a collection's queries."""
    return Lot("query", len(query_rows), lambda start, stop: collection.query_texts(query_rows[start:stop]))


class Making(NamedTuple):
    """What a teacher without a model is made from, in a stage's folder."""

    folder: Path
    collection: Collection
    settings: Mapping[str, Any]
    query_rows: Rows  # (Q,), sorted: the queries that the run uses
    progress: Progress = SILENT
    unlabelled: Rows | None = None  # (U,), sorted: those of them that no split judges


class Reads(NamedTuple):
    """A model that reads all of a query's candidates: as pairs with it, or each text alone."""

    base: str
    layers: int | None
    what: Literal["pairs", "texts"]


class Cost(NamedTuple):
    """What scoring takes: models that read, rounds of requests to a server, pairs that are kept."""

    reads: tuple[Reads, ...] = ()
    rounds: float = 0.0
    kept: float = 0.0


@dataclass(frozen=True)
class Kind(Generic[Section]):
    """A teacher that is not open yet. What differs from kind to kind is here, and the rest of the code asks for it."""

    name: str
    section: Section
    teachers: Mapping[str, sections.AnyTeacher]  # all of the recipe, by name

    model: ClassVar[Literal["dense", "reranker", "late"] | None] = None  # what a stage takes as it is or trains
    cut_by: ClassVar[tuple[str, ...]] = ()  # settings in `tokens` that the model depends on
    stage: ClassVar[str] = "name-teacher"  # how a stage makes it where there is no model
    titled: ClassVar[str] = "{}"  # what that stage is called, of its name and those of its parts

    @property
    def parts(self) -> "tuple[Kind[Any], ...]":
        """The teachers that it is made of."""
        return tuple(kind_of(name, self.teachers) for name in getattr(self.section, "of", ()))

    @property
    def missing(self) -> tuple[sections.Missing, ...]:
        """What is to become of pairs without a score, by the recipe; empty where every pair has one."""
        own = getattr(self.section, "missing", None)
        return (own,) if own else tuple(choice for part in self.parts for choice in part.missing)

    def inputs(self) -> tuple[str, ...]:
        """Return the stages whose folders :meth:`open` reads; the first is its own."""
        return (f"teacher.{self.name}", *(stage for part in self.parts for stage in part.inputs()))

    def settings(self) -> dict[str, Any]:
        """Return what :meth:`make` depends on."""
        return self.section.model_dump()

    def width(self) -> int | None:
        """Return the width of its vectors; None where it is not known, or has none."""
        return None

    def rounds(self, texts: int) -> float:
        """Return the rounds of requests that the vectors of so many texts take."""
        return 0.0

    def lots(self, collection: Collection, query_rows: Rows) -> list[Lot]:
        """Return the texts of a collection that it embeds: all passages, and some queries."""
        passages = Lot("document", collection.n_passages, collection.passages_slice)
        return [passages, queries_of(collection, query_rows)]

    def bill(self, lots: Sequence[Lot]) -> Bill | None:
        """Return what having texts embedded costs beyond this machine, where it does."""
        return None

    def make(self, job: Making) -> None:
        """Write what :meth:`open` reads into a stage's folder, where there is no model."""
        write_json(job.folder / "teacher.json", self.section.model_dump())

    def cost(self, queries: float, k: int) -> Cost:
        """Return what the scores of K candidates of so many queries take when none of them is there yet."""
        costs = [part.cost(queries, k) for part in self.parts]
        reads = tuple(model for cost in costs for model in cost.reads)
        return Cost(reads, sum(cost.rounds for cost in costs), sum(cost.kept for cost in costs))

    def taken(self) -> Section:
        """Return the section of a model that is taken as it is; refuse one that a ladder trains."""
        if getattr(self.section, "train", None) is not None:
            raise RecipeError(
                f"the teacher {self.name!r} is trained by the ladder, so the recipe alone does not give its weights: "
                "run the recipe, and name the model that results.json of the run lists as the stage "
                f"teacher.{self.name}, without a recipe."
            )
        return self.section

    def stored(self, texts: Texts, folders: Folders | None = None) -> Stored:
        """Open it as a teacher that scores any pair and keeps the score; refuse what can't, or is yet to be trained."""
        parts = ", ".join(part.name for part in self.parts)
        raise RecipeError(
            f"the teacher {self.name!r} is of the kind {self.section.kind}, which scores no pair by itself: "
            f"`score` needs a model, or a server that re-ranks. Score with {parts or 'another teacher'} instead."
        )

    def open(self, texts: Texts, folders: Folders | None = None) -> Teacher:
        """Open it: as the ladder left it in ``folders``, or outside of a ladder when None."""
        return self.logits_of(self.stored(texts, folders))

    def logits_of(self, teacher: Teacher) -> Teacher:
        """Return a teacher's logits where the recipe says that it gives probabilities, and the teacher itself else."""
        return LogOdds(teacher, self.name) if getattr(self.section, "logit", False) else teacher

    def targets(self, teacher: Teacher, queries: Rows, candidates: Rows, progress: Progress = SILENT) -> Scores:
        """Return what a student learns from the open teacher: (Q, K), or (T, Q, K) where one of T counts a query."""
        return teacher.score(queries, candidates, progress)


# -- models


class DualEncoder(Kind[sections.DualEncoderTeacher]):
    """A model with a vector of every text; in a ladder nothing runs any more: its vectors are there."""

    model = "dense"
    cut_by = ("longest",)

    def inputs(self) -> tuple[str, ...]:
        """Return the stage of its vectors."""
        return (f"teacher.{self.name}.vectors",)

    def width(self) -> int | None:
        """Return the width of its vectors, by the files of its base."""
        return vector_width(self.section)

    def stored(self, texts: Texts, folders: Folders | None = None) -> Stored:
        """Open it as a teacher that scores any pair by the similarity of vectors."""
        section = self.taken()
        shape = section.layers, "first", section.pooling, section.similarity, 1, texts.tokens.longest
        encoder = Encoder(build_student(section.base, *shape, section.prompts, section.dimensions), section.scale)
        return Stored.of(texts.store_root, encoder, texts.collection)

    def open(self, texts: Texts, folders: Folders | None = None) -> Teacher:
        """Open its vectors, or outside of a ladder its model."""
        return super().open(texts) if folders is None else Vectors.open(folders[self.inputs()[0]])


class ListModel(Kind[ListSection]):
    """A model that scores a query's candidates, one pair at a time."""

    form: ClassVar[type[Reranker] | type[LateInteraction]]
    reads: ClassVar[Literal["pairs", "texts"]]

    def opened(self, place: str | Path, tokens: TokensSection) -> Reranker | LateInteraction:
        """Open its model from a directory or hub name."""
        return self.form.open(place, *(getattr(tokens, key) for key in self.cut_by))

    def cost(self, queries: float, k: int) -> Cost:
        """Return one model that reads all."""
        return Cost((Reads(self.section.base, self.section.layers, self.reads),), kept=queries * k)

    def stored(self, texts: Texts, folders: Folders | None = None) -> Stored:
        """Open its model; in a ladder it reads tokens of the whole collection, which are kept."""
        own = self.taken().base if folders is None else folders[f"teacher.{self.name}"] / "model"
        return Stored.of(texts.store_root, self.opened(own, texts.tokens), texts.collection, mapped=folders is not None)


class CrossEncoder(ListModel[sections.CrossEncoderTeacher]):
    """A model that reads query and passage together."""

    form = Reranker
    model = "reranker"
    reads = "pairs"
    cut_by = ("pair",)

    def built(self, tokens: TokensSection, seed: int) -> Reranker:
        """Build its model to be trained."""
        return Reranker(build_cross_encoder(self.section.base, self.section.layers, tokens.pair, seed), tokens.pair)


class Late(ListModel[sections.LateInteractionTeacher]):
    """A model with a vector for each token."""

    form = LateInteraction
    model = "late"
    reads = "texts"
    cut_by = ("query", "passage")

    def built(self, tokens: TokensSection, seed: int) -> LateInteraction:
        """Build its model to be trained."""
        section, limits = self.section, (tokens.query, tokens.passage)
        return LateInteraction(build_multi_vector(section.base, section.layers, section.width, *limits, seed), *limits)


# -- a file, a server


class ScoresFile(Kind[sections.ScoresTeacher]):
    """Scores in a file, which a stage reads once."""

    stage = "take-scores"
    titled = "read the scores of {}"

    def settings(self) -> dict[str, Any]:
        """Return what is in the file, wherever it lies."""
        return {**self.section.model_dump(exclude={"file"}), "sha256": content_fingerprint(Path(self.section.file))}

    def make(self, job: Making) -> None:
        """Read the file into a store of the stage's own."""
        content = job.settings["sha256"]
        store = ScoreStore.open(job.folder / "scores", content, job.collection.texts_fingerprint)
        floors, counts = import_scores(Path(self.section.file), store, job.collection)
        np.save(job.folder / "floors.npy", floors)
        write_json(job.folder / "scores.json", {"sha256": content, "kept": len(store), **counts})

    def open(self, texts: Texts, folders: Folders | None = None) -> Teacher:
        """Open what :meth:`make` read; there is nothing outside of a ladder."""
        if folders is None:
            return super().open(texts)
        folder = folders[f"teacher.{self.name}"]
        content = read_json(folder / "scores.json")["sha256"]
        store = ScoreStore.open(folder / "scores", content, texts.collection.texts_fingerprint)
        floors = np.load(folder / "floors.npy", allow_pickle=False) if self.section.missing == "floor" else None
        return self.logits_of(FileTeacher(store, floors))


class Hosted(Kind[sections.HostedTeacher]):
    """A re-ranker behind an HTTP API: the same in a ladder and outside of one."""

    titled = "{} is asked over HTTP"

    def settings(self) -> dict[str, Any]:
        """Return what its scores depend on."""
        return {**self.section.facts(), "kind": self.section.kind, "logit": self.section.logit}

    def cost(self, queries: float, k: int) -> Cost:
        """Return the requests, some of them at a time."""
        return Cost(rounds=queries * math.ceil(k / self.section.batch) / self.section.parallel, kept=queries * k)

    def stored(self, texts: Texts, folders: Folders | None = None) -> Stored:
        """Open it; the server is asked when there is something to score."""
        section, collection = self.section, texts.collection

        def scorer() -> Scorer:
            server = HostedReranker(section)
            return lambda queries, passages, progress: server.scores(
                collection.query_texts(queries), collection.passage_texts(passages), progress
            )

        name, block = HostedReranker.fingerprint_of(section), section.batch * section.parallel
        return Stored(texts.store_root, name, collection.texts_fingerprint, scorer, block)


# -- vectors without a model


class Vectored(Kind[VectorSection]):
    """A teacher of which vectors are to be had: its stage leaves them as a model's vectors lie, and no model."""

    def inputs(self) -> tuple[str, ...]:
        """Return the stage of its vectors."""
        return (f"teacher.{self.name}.vectors",)

    @property
    def shape(self) -> Shape:
        """What becomes of its vectors as they come."""
        return Shape(self.section.similarity, self.section.dimensions)

    def open(self, texts: Texts, folders: Folders | None = None) -> Teacher:
        """Open its vectors; there is nothing outside of a ladder."""
        return super().open(texts) if folders is None else Vectors.open(folders[self.inputs()[0]])

    def rows(self, job: Making) -> Rows:
        """Return the queries that it has vectors of."""
        if self.section.embeds_queries:
            return job.query_rows
        return job.query_rows[:0] if job.unlabelled is None or not self.section.has_query_vectors else job.unlabelled

    def finish(self, job: Making, width: int, facts: Mapping[str, Any]) -> None:
        """Write what :meth:`Vectors.open` reads beside the arrays; ``facts`` are told when the stage is done."""
        rows = self.rows(job)
        if not len(rows):
            write_array(job.folder / "queries.npy", np.zeros((0, width), np.float32))
        write_array(job.folder / "query_rows.npy", rows)
        cosine = self.section.similarity == "cos"
        about = {"scale": self.section.logit_scale, "cosine": cosine, "dimension": width}
        write_json(job.folder / "taken.json", dict(facts))
        write_json(job.folder / "vectors.json", about)  # the last: where it is, all is


class VectorsFile(Vectored[sections.VectorsTeacher]):
    """Vectors in files, which a stage reads once."""

    stage = "take-vectors"
    titled = "read the vectors of {}"

    @property
    def files(self) -> dict[str, VectorFile]:
        """The files, by what they hold vectors of."""
        section, found = self.section, dict[str, VectorFile]()
        for side, name, ids in (
            ("passages", section.passages, section.passage_ids),
            ("queries", section.queries, section.query_ids),
        ):
            if name is not None:
                found[side] = VectorFile(Path(name), None if ids is None else Path(ids), side)
        return found

    def settings(self) -> dict[str, Any]:
        """Return what is in the files, wherever they lie."""
        content = {side: file.fingerprint() for side, file in self.files.items()}
        cover = self.section.model_dump(include={"queries_cover"}, exclude_defaults=True)
        return {"kind": self.section.kind, **self.section.model_dump(include=HOW), "sha256": content, **cover}

    def width(self) -> int:
        """Return the width of its vectors, by the first of them."""
        file = self.files["passages"]
        return self.shape.width(file.width(), str(file.path))

    def make(self, job: Making) -> None:
        """Read the files, matched with the collection."""
        collection, files = job.collection, self.files
        widths = {side: file.width() for side, file in files.items()}
        if len(set(widths.values())) > 1:
            raise RunError(
                f"{files['queries'].path} has vectors with {widths['queries']:,} numbers, and {files['passages'].path} "
                f"with {widths['passages']:,}: queries and passages are not of one space. Take both of one model."
            )
        every = np.arange(collection.n_passages, dtype=np.int32)
        texts = {
            "passages": (collection.find_passage, collection.passage_ids, every),
            "queries": (collection.find_query, collection.query_ids, self.rows(job)),
        }
        read = unknown = 0
        for side, file in files.items():
            counts = import_vectors(file, job.folder / f"{side}.npy", self.shape, *texts[side])
            read, unknown = read + counts[0], unknown + counts[1]
        self.finish(job, self.width(), {"vectors": read, "unknown": unknown})


def _some(passages: int) -> Rows:
    """Return the passages that are embedded again beside vectors that were given, spread evenly."""
    return np.unique(np.linspace(0, passages - 1, min(SEEN, passages)).astype(np.int32))


class Api(Vectored[sections.EmbeddingsTeacher]):
    """An embedding model behind an HTTP API, which is sent each text once, ever."""

    stage = "embed-vectors"
    titled = "{} embeds over HTTP"

    @property
    def file(self) -> VectorFile | None:
        """The file with the vectors that it gave of the passages before, where there is one."""
        name, ids = self.section.passages, self.section.passage_ids
        return None if name is None else VectorFile(Path(name), None if ids is None else Path(ids), "passages")

    def settings(self) -> dict[str, Any]:
        """Return what its vectors depend on."""
        given = {} if self.file is None else {"sha256": {"passages": self.file.fingerprint()}}
        return self.section.model_dump(include={"kind", "prompts", *HOW}) | self.section.facts() | given

    def width(self) -> int | None:
        """Return the width of its vectors, where the recipe says it or some are there."""
        if self.file is not None:
            return self.shape.width(self.file.width(), str(self.file.path))
        return self.section.dimensions or Embeddings(self.section).kept.width

    def lots(self, collection: Collection, query_rows: Rows) -> list[Lot]:
        """Return the texts of a collection that are sent; of passages with vectors a few, to see whether they agree."""
        if self.file is None:
            return super().lots(collection, query_rows)
        rows = _some(collection.n_passages)
        some = Lot("document", len(rows), lambda start, stop: collection.passage_texts(rows[start:stop]))
        return [some, queries_of(collection, query_rows)]

    def _blocks(self, lots: Sequence[Lot]) -> Iterator[list[str]]:
        """Yield texts as they are sent, some at a time."""
        prompts = self.section.prompts or Prompts()
        for lot in lots:
            prompt = prompts.query if lot.side == "query" else prompts.passage
            for start in range(0, lot.size, BLOCK):
                yield [prompt + text for text in lot.slice(start, min(start + BLOCK, lot.size))]

    def bill(self, lots: Sequence[Lot]) -> Bill:
        """Return what is yet to be sent of some texts."""
        return Embeddings(self.section).bill(self.name, self._blocks(lots))

    def rounds(self, texts: int) -> float:
        """Return the rounds of requests that so many texts take, some of them at a time."""
        return math.ceil(texts / self.section.batch) / self.section.parallel

    def embed(self, lots: Sequence[Lot], targets: Sequence[Path], progress: Progress = SILENT) -> Sent:
        """Write the vectors of each lot into an array (N, D), having embedded what was never sent."""
        api = Embeddings(self.section)
        sent = api.fetch(lambda: self._blocks(lots), progress)
        width = api.shape.width(api.kept.width or 0, self.section.url)
        for lot, target in zip(lots, targets, strict=True):
            out, start = np.lib.format.open_memmap(target, "w+", np.float32, (lot.size, width)), 0
            for texts in self._blocks([lot]):
                out[start : start + len(texts)] = api.read(texts)
                start += len(texts)
            out.flush()
        return sent

    def make(self, job: Making) -> None:
        """Have all passages and queries embedded, but for passages whose vectors are there."""
        lots, file, passages = self.lots(job.collection, job.query_rows), self.file, job.folder / "passages.npy"
        job.progress.start(sum(lot.size for lot in lots), "texts")
        if file is not None:  # read before anything is sent: it may lack some
            every = np.arange(job.collection.n_passages, dtype=np.int32)
            find, ids = job.collection.find_passage, job.collection.passage_ids
            import_vectors(file, passages, self.shape, find, ids, every)
        first = passages if file is None else job.folder / "seen.npy"
        sent = self.embed(lots, [first, job.folder / "queries.npy"], job.progress)
        if file is not None:
            self._compare(np.load(first), np.load(passages, mmap_mode="r"), file)
            first.unlink()
        self.finish(job, int(np.load(passages, mmap_mode="r").shape[1]), sent._asdict())

    def _compare(self, seen: Floats, given: Floats, file: VectorFile) -> None:
        """Refuse vectors of another width than the file's; warn where they are others than it has of these passages."""
        if seen.shape[1] != given.shape[1]:
            raise RunError(
                f"{file.path} has vectors with {given.shape[1]:,} numbers, and {self.section.url} gives "
                f"{seen.shape[1]:,}: they are not of one model. Name the model that the file's vectors are of."
            )
        own = given[_some(len(given))]
        norms = np.linalg.norm(seen, axis=1) * np.linalg.norm(own, axis=1)
        alike = float(((seen * own).sum(axis=1) / norms).mean())
        if alike < ALIKE:
            warn(
                f"the vectors in {file.path} are not what {self.section.url} gives of the same passages (cosine "
                f"{alike:.2f} in the mean of {len(seen)}): it is another model, or the texts were written in another "
                "way there (title, prompt, cut). Queries embedded by it may not find what they should."
            )


# -- several


class SeveralKind(Kind[sections.MeanTeacher | sections.BestTeacher]):
    """Teachers at once."""

    titled = "{} is made of {}"

    def open(self, texts: Texts, folders: Folders | None = None) -> Teacher:
        """Open all of them; outside of a ladder each is asked alone."""
        if folders is None:
            return super().open(texts)
        return Several([part.open(texts, folders) for part in self.parts], getattr(self.section, "standardise", True))


class Best(SeveralKind):
    """Several teachers of which one counts for each query; their standardised mean orders lists."""

    def targets(self, teacher: Teacher, queries: Rows, candidates: Rows, progress: Progress = SILENT) -> Scores:
        """Return every teacher's own scores: (T, Q, K)."""
        assert isinstance(teacher, Several)  # as `open` gives it
        return teacher.each(queries, candidates, progress)


KINDS: dict[str, type[Kind[Any]]] = {
    "dual-encoder": DualEncoder,
    "cross-encoder": CrossEncoder,
    "late-interaction": Late,
    "scores": ScoresFile,
    "http": Hosted,
    "mean": SeveralKind,
    "best": Best,
    "vectors": VectorsFile,
    "embeddings-api": Api,
}


def kind_of(name: str, teachers: Mapping[str, sections.AnyTeacher]) -> Kind[Any]:
    """Return a teacher of a recipe, not open yet."""
    section = teachers[name]
    return KINDS[section.kind](name, section, teachers)
