"""The kinds of teachers: here alone they are told apart, and opened, in a ladder or outside of one.

A new kind is a section in :mod:`stepwell.recipe.teachers` and a class here, with a line in :data:`KINDS`.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np

from stepwell.display import SILENT, Progress
from stepwell.files import read_json, write_json
from stepwell.models.build import build_cross_encoder, build_multi_vector, build_student
from stepwell.models.encoder import Encoder
from stepwell.models.late_interaction import LateInteraction
from stepwell.models.reranker import Reranker
from stepwell.models.shape import vector_width
from stepwell.recipe import TokensSection, teachers as sections
from stepwell.retrieval.vectors import Vectors
from stepwell.teachers.from_file import FileTeacher, content_fingerprint, import_scores
from stepwell.teachers.given import Api, VectorsFile
from stepwell.teachers.hosted import HostedReranker
from stepwell.teachers.kinds import Cost, Folders, Kind, Making, Reads, Texts
from stepwell.teachers.protocol import Rows, Scores, Several, Teacher
from stepwell.teachers.scoring import Named, Scorer, Stored
from stepwell.teachers.store import ScoreStore

ListSection = TypeVar("ListSection", bound=sections.CrossEncoderTeacher | sections.LateInteractionTeacher)


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
        return Stored.of(texts.store_root, encoder, Named(self.name, texts.collection))

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
        model, named = self.opened(own, texts.tokens), Named(self.name, texts.collection)
        return Stored.of(texts.store_root, model, named, mapped=folders is not None)


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


# -- several


class SeveralKind(Kind[sections.MeanTeacher | sections.BestTeacher]):
    """Teachers at once; a list is ordered by the mean of their scores."""

    titled = "{} is made of {}"

    @property
    def parts(self) -> tuple[Kind[Any], ...]:
        """The teachers that it is made of."""
        return tuple(kind_of(name, self.teachers) for name in self.section.of)

    def open(self, texts: Texts, folders: Folders | None = None) -> Teacher:
        """Open all of them; outside of a ladder each is asked alone."""
        if folders is None:
            return super().open(texts)
        return Several([part.open(texts, folders) for part in self.parts], getattr(self.section, "standardise", True))

    def targets(self, teacher: Teacher, queries: Rows, candidates: Rows, progress: Progress = SILENT) -> Scores:
        """Return the mean (Q, K), or every teacher's own scores (T, Q, K) where the loss puts them together."""
        if self.together is None:
            return super().targets(teacher, queries, candidates, progress)
        assert isinstance(teacher, Several)  # as `open` gives it
        return teacher.each(queries, candidates, progress)


KINDS: dict[str, type[Kind[Any]]] = {
    "dual-encoder": DualEncoder,
    "cross-encoder": CrossEncoder,
    "late-interaction": Late,
    "scores": ScoresFile,
    "http": Hosted,
    "mean": SeveralKind,
    "best": SeveralKind,
    "vectors": VectorsFile,
    "embeddings-api": Api,
}


def kind_of(name: str, teachers: Mapping[str, sections.AnyTeacher]) -> Kind[Any]:
    """Return a teacher of a recipe, not open yet."""
    section = teachers[name]
    return KINDS[section.kind](name, section, teachers)
