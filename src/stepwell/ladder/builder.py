"""What all parts of a ladder share while its stages are listed: vectors, runs, candidates, and who needs what."""

from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stepwell import distributed
from stepwell.display import SILENT
from stepwell.distil.negatives import mine
from stepwell.ladder.prices import Prices, Work
from stepwell.ladder.stage import Context, Job, Settings, Stage, Surroundings
from stepwell.models.files import content_digest
from stepwell.recipe import Mining, Rung
from stepwell.retrieval.bm25 import bm25_of
from stepwell.retrieval.run import Run
from stepwell.retrieval.search import retrieve
from stepwell.retrieval.vectors import write_vectors
from stepwell.systems import records
from stepwell.teachers.kinds import Kind
from stepwell.teachers.opening import kind_of


class Builder:
    """Keeps the stages in order; what another stage has asked for already is not added twice.

    ``student@i`` stands for the student after rung i (0: the start), whichever stage made it: the decision
    ``promote-i`` says which.
    """

    def __init__(self, ctx: Context) -> None:
        self.ctx, self.recipe = ctx, ctx.recipe
        self.stages: dict[str, Stage] = {}
        self.rungs = len(self.recipe.ladder)
        self.last = self.rungs + self.recipe.refine.rounds
        self._gates: tuple[str, ...] = ()

    def add(self, stage: Stage) -> str:
        """Add a stage unless it is there; return its name."""
        if stage.name not in self.stages:
            self.stages[stage.name] = stage if stage.only_if is not None else replace(stage, only_if=self._gates)
        return stage.name

    @contextmanager
    def only_if(self, *gates: str) -> Iterator[None]:
        """Leave out what is added meanwhile when a decision of the stages ``gates`` is not to go."""
        before, self._gates = self._gates, gates
        try:
            yield
        finally:
            self._gates = before

    # -- what several stages read of the recipe ---------------------------------------------------------------

    @property
    def student(self) -> dict[str, Any]:
        """The settings that every training of the student depends on."""
        return {"student": self.recipe.student.model_dump(), "tokens": self.recipe.tokens.longest}

    @property
    def judging(self) -> dict[str, Any]:
        """The settings that all figures depend on."""
        own = {"measures"} if self.recipe.judging.measures else set[str]()
        return self.recipe.judging.model_dump(include={"measure", "depth"} | own)

    @property
    def ranks(self) -> dict[str, str]:
        """The setting by which refine ranks; none where it goes by the qrels."""
        by_answers = self.recipe.refine.ranks != "qrels" and self.ctx.splits.train.answered
        return {"ranks": "answers"} if by_answers else {}

    def mining(self, exclude: Set[str] = frozenset()) -> dict[str, Any]:
        """Return the settings of mining; `answers` is among them only where passages are dropped for it."""
        own = self.recipe.mining.model_dump(exclude={*exclude, "answers"})
        by_answers = self.recipe.mining.answers is not False and self.ctx.splits.train.answered
        return {**own, "answers": True} if by_answers else own

    @staticmethod
    def content(base: str) -> dict[str, str]:
        """Return what the stage that opens a local model depends on besides its name: what is in the directory."""
        digest = content_digest(base)
        return {} if digest is None else {"content": digest}

    @property
    def refine_teacher(self) -> str:
        """The teacher of refine: the recipe's, or the last rung's."""
        return self.recipe.refine.teacher or self.recipe.ladder[-1].teacher

    # -- teachers ---------------------------------------------------------------------------------------------

    def kind(self, name: str) -> Kind[Any]:
        """Return a teacher of the recipe, not open yet."""
        return kind_of(name, self.recipe.teachers)

    def embeds(self, name: str, queries: bool = False) -> bool:
        """Return whether a teacher has vectors; with ``queries``, of queries too."""
        section = self.recipe.teachers[name]
        return section.embeds_queries if queries else section.embeds

    def opens(self, name: str) -> dict[str, str]:
        """Return the inputs of a stage that a teacher is opened for; the role ``teacher`` says which."""
        first, *others = self.kind(name).inputs()
        return {"teacher": first, **{stage: stage for stage in others}}

    def scoring(self, name: str, prices: Prices, queries: float, k: int) -> Work:
        """Return what a teacher's scores of K candidates of so many queries cost, when none of them is there yet."""
        return prices.scoring(self.kind(name).cost(queries, k), queries, k)

    # -- what finds passages ----------------------------------------------------------------------------------

    def bm25(self) -> str:
        """Add BM25's lists of the training queries, to mine from."""
        settings = {"depth": self.recipe.mining.depth}
        reads = ("train_rows",)
        return self.add(Stage("bm25", "bm25", "BM25 retrieves", settings, {}, search_bm25, reads=reads, only_if=()))

    def vectors(self, model: str, title: str, section: Any, scale: float | None = None) -> str:
        """Add the vectors of all texts under a model, whose logits are similarities times ``scale``."""
        name, title, settings, inputs = f"{model}.vectors", f"encode with {title}", {"scale": scale}, {"model": model}
        cost = partial(Prices.encode, model=section)
        return self.add(Stage(name, "vectors", title, settings, inputs, encode, reads=("query_rows",), cost=cost))

    def training_run(self, model: str, title: str) -> str:
        """Add the lists of the training queries by a model's vectors."""
        settings = {"depth": self.recipe.mining.depth}
        name, title, inputs = f"{model}.train", f"{title} retrieves", {"vectors": f"{model}.vectors"}
        return self.add(Stage(name, "search-train", title, settings, inputs, search_train, reads=("train_rows",)))

    def candidates(self, name: str, source: str, k: int, teacher: str | None = None, limit: int | None = None) -> str:
        """Add K candidates a query from the lists of the stage ``source``; of ``limit`` queries only, where given."""
        mining: Mining = self.recipe.mining  # a teacher that does not embed says what is no negative: `denoise`
        denoises = mining.denoise is not None and teacher is not None and not self.embeds(teacher)
        without = "" if denoises or mining.denoise is None else ", not denoised: no teacher is there to score yet"
        title = f"mine {k} candidates a query from {source.removesuffix('.train')}{without}"
        settings = {**self.mining(set() if denoises else {"denoise"}), "k": k, "limit": limit}
        inputs = {"run": source, **(self.opens(teacher) if denoises and teacher else {})}
        reads: tuple[str, ...] = ("train",) if limit is None and mining.sampling == "hardest" else ("train", "seed")
        return self.add(Stage(name, "mine", title, settings, inputs, mine_candidates, say_mining, reads=reads))

    def more(self, rung: Rung) -> tuple[int, int]:
        """Return how many texts from elsewhere a rung learns from: passages and queries."""
        texts = self.ctx.more(rung)
        return len(texts.get("document", ())), len(texts.get("query", ()))


def search_bm25(job: Job) -> None:
    """Retrieve for the training queries with BM25. Each process takes a share of the queries."""
    collection, queries = job.surroundings.collection, job.surroundings.splits.train_rows
    run = bm25_of(collection).run(collection, queries, job.settings["depth"])
    if distributed.is_main():
        run.save(job.folder / "train.parquet", collection)


def encode(job: Job) -> None:
    """Encode all passages, and the queries of all splits."""
    collection, encoder = job.surroundings.collection, job.encoder("model", job.settings["scale"])
    if job.settings.get("exact"):  # to search in a finished run: in fp32, and passages alone
        encoder.inference.be_exact()
        rows = np.zeros(0, np.int32)
    else:
        rows = job.surroundings.query_rows
    job.progress.start(collection.n_passages + len(rows), "texts")
    write_vectors(encoder, collection, rows, job.folder, job.progress)


def search_train(job: Job) -> None:
    """Retrieve passages for every training query with vectors. Each process takes a share of the queries."""
    vectors = job.vectors("vectors")
    assert vectors is not None
    run = retrieve(vectors, job.surroundings.splits.train_rows, job.settings["depth"])
    if distributed.is_main():
        run.save(job.folder / "train.parquet", job.surroundings.collection)


def mine_candidates(job: Job) -> None:
    """Mine K candidates of each training query; with ``limit`` only of so many, spread evenly over them."""
    run, limit = job.training_run("run"), job.settings["limit"]
    if limit is not None and limit < len(run.queries):
        order = np.random.default_rng(job.surroundings.seed).permutation(len(run.queries))[:limit]
        run = run.select(run.queries[np.sort(order)])
    mine_from(job, run, mining_of(job.settings), job.settings["k"])


def mining_of(settings: Settings) -> Mining:
    """Return the settings of mining as :meth:`Builder.mining` gives them; what is not among them is off."""
    return settings.read(Mining, denoise=settings.get("denoise"), answers=settings.get("answers", False))


def mine_from(job: Job, run: Run, settings: Mining, k: int) -> None:
    """Mine K candidates of each query of a run; write them and the report of what was dropped.

    The hardest are the same for every seed, also where equals or what fills a short list are drawn.
    """
    denoiser = None
    if settings.denoise is not None:  # the job's teacher says what is no negative
        judge = job.teacher()

        def denoiser(queries: np.ndarray, passages: np.ndarray) -> np.ndarray:
            return judge.score(queries, passages[:, None], job.progress)[:, 0]

    around = job.surroundings
    progress = job.progress if denoiser is None else SILENT
    seed = 0 if settings.sampling == "hardest" else around.seed
    found, report = mine(run, around.splits.train, around.collection, settings, k, seed, denoiser, progress)
    if distributed.is_main():
        found.save(job.folder / "candidates.parquet", around.collection)
        job.leave(records.Mining(report))


def say_mining(folder: Path, surroundings: Surroundings) -> Iterable[str]:
    """Say what mining took, what it dropped and why, with examples."""
    return records.Mining.load(folder).lines(surroundings.splits.synthetic.get("train", 0))
