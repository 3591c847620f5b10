"""Teachers of which vectors are to be had, and no model: in files, or behind an HTTP API."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from stepwell.collection import Collection
from stepwell.display import SILENT, Progress, warn
from stepwell.errors import RunError
from stepwell.files import write_json
from stepwell.recipe import teachers as sections
from stepwell.recipe.training import Prompts
from stepwell.retrieval.run import Floats
from stepwell.retrieval.shards import write_array
from stepwell.retrieval.vectors import BLOCK, Vectors
from stepwell.teachers.embeddings import Bill, Embeddings, Sent
from stepwell.teachers.kinds import Folders, Kind, Lot, Making, Texts, queries_of
from stepwell.teachers.protocol import Rows, Teacher
from stepwell.teachers.vector_files import Shape, VectorFile, import_vectors

VectorSection = TypeVar("VectorSection", bound=sections.VectorsTeacher | sections.EmbeddingsTeacher)
HOW = {"similarity", "dimensions", "scale"}  # what becomes of vectors as they come
SEEN, ALIKE = 8, 0.95  # passages that are embedded again beside vectors that were given; how near these have to be


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
