"""Stages that train the student: built and warmed up, distilled, pulled to a teacher's vectors."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers.base.modules import Transformer

from stepwell import distributed
from stepwell.display import warn
from stepwell.distil.candidates import Candidates, Draw
from stepwell.distil.head import with_head
from stepwell.distil.objectives import EmbeddingObjective, Imitated, StudentObjective, Terms
from stepwell.distil.training import Objective, TrainingLog, train
from stepwell.errors import CollectionError, RecipeError
from stepwell.files import sync_all
from stepwell.ladder.builder import Builder
from stepwell.ladder.prices import Prices, Work
from stepwell.ladder.scoring import Scores, refuse_no_numbers, warn_of
from stepwell.ladder.stage import Job, Stage, recorded
from stepwell.models.build import build_static, build_student
from stepwell.models.encoder import Encoder
from stepwell.models.engines.flops import layer_peak, layer_products, operations
from stepwell.models.engines.machine import precision
from stepwell.models.late_interaction import LateInteraction
from stepwell.models.reranker import Reranker
from stepwell.models.token_store import both_tokens, unlabelled_tokens
from stepwell.recipe import DenseSection, DenseTraining, Optimiser, Refine, Rung, StudentSection, teacher_temperature
from stepwell.retrieval.vectors import Vectors, write_texts
from stepwell.systems.records import Manifest, TeacherScores, Training, Updates
from stepwell.teachers.kinds import Lot
from stepwell.teachers.spread import histogram

MORE = "texts.npy"
"""The file with a teacher's vectors of texts from elsewhere."""

FIRST = 512
"""Queries whose in-batch scores are looked at before a training."""

# -- the student at the start -------------------------------------------------------------------------------


def start(b: Builder, miner: str) -> None:
    """Add the student at the start: built, and warmed up where the recipe asks for it, at last on ``miner``'s lists."""
    warmup, student = b.recipe.warmup, b.recipe.student
    inputs = {}
    if warmup.trains:
        inputs = {"candidates": b.candidates("candidates.warmup", b.bm25(), 1 + warmup.negatives)}
    settings = {**b.student, "warmup": warmup.model_dump(exclude={"further"}) if inputs else None}
    settings |= b.content(student.base)

    def cost(prices: Prices) -> Work:
        return prices.dense(student, warmup, 1 + warmup.negatives) if inputs else Work()

    title = "build and warm up the student" if inputs else "build the student"
    first = "start" if warmup.further is None else "start.first"
    reads: tuple[str, ...] = ("seed", "train") if inputs else ()
    b.add(Stage(first, "start", title, settings, inputs, start_student, recorded(Training), cost, reads=reads))
    if warmup.further is not None:
        go_on(b, "start", miner, f"warm up the student on what {miner.removesuffix('.train')} finds", warmup, student)


def go_on(b: Builder, name: str, miner: str, title: str, training: DenseTraining, section: DenseSection) -> None:
    """Add the second contrastive training, behind the stage ``NAME.first``, on the lists of the stage ``miner``."""
    k, further = 1 + training.negatives, training.further
    assert further is not None
    inputs = {"model": f"{name}.first", "candidates": b.candidates(f"candidates.{name}", miner, k)}
    scale = section.loss_scale if isinstance(section, StudentSection) else section.scale
    settings = {"train": training.model_dump(), "scale": scale}
    cost = partial(Prices.dense, model=section, settings=further, k=k)
    says, reads = recorded(Training), ("seed", "train")
    b.add(Stage(name, "train-dense", title, settings, inputs, train_further, says, cost, reads=reads))


def open_student(job: Job) -> Encoder:
    """Open the student that a training goes on with."""
    return job.encoder("student", job.settings.part("student").read(StudentSection).loss_scale)


def start_student(job: Job) -> None:
    """Build the student, and warm it up where there are candidates for that."""
    section = job.settings.part("student").read(StudentSection)
    encoder = build_dense(section, job.settings["tokens"], job.folder)
    if "candidates" in job.inputs:
        contrast(job, encoder, job.settings.part("warmup").read(DenseTraining))


def train_further(job: Job) -> None:
    """Go on with a contrastive training, on other candidates."""
    settings = job.settings.part("train").read(DenseTraining)
    assert settings.further is not None
    encoder = job.encoder("model", job.settings["scale"])
    contrast(job, encoder, settings.model_copy(update=dict(settings.further)))


def build_dense(section: DenseSection, max_tokens: int, folder: Path) -> Encoder:
    """Build a student, or the base of a dual-encoder teacher, and save it."""
    pick = section.pick if isinstance(section, StudentSection) else "first"
    shape = section.layers, pick, section.pooling, section.similarity, section.towers, max_tokens
    said = section.prompts, section.dimensions
    if isinstance(section, StudentSection) and section.static:
        encoder = Encoder(build_static(section.base, section.similarity, *said), section.scale)
    else:
        encoder = Encoder(build_student(section.base, *shape, *said), section.scale)
    if distributed.is_main():
        encoder.save(folder / "model")
    distributed.barrier()
    return encoder


def contrast(job: Job, encoder: Encoder, settings: DenseTraining) -> None:
    """Train a dual encoder contrastively on the job's candidates, and save it."""
    around, draw = job.surroundings, Draw(1 + settings.negatives, stream(job))
    texts, qrels = both_tokens(around.collection, encoder), around.splits.train
    learn(job, StudentObjective(encoder, *texts, job.candidates(), qrels, Terms(), draw), settings, encoder)


def turn_of(job: Job) -> int:
    """Return how many trainings are behind the model that a training goes on with."""
    before = next((job.inputs[role] for role in ("student", "model") if role in job.inputs), None)
    return 0 if before is None or not (before / Training.file).is_file() else Training.load(before).log.turn + 1


def stream(job: Job, more: int = 0) -> int:
    """Return the seed of a training's draws; ``more`` trainings of its own stage come before it.

    It follows from the recipe's seed and from how many trainings the model has behind it, so no two of them see queries
    and candidates in one order. Both are the same wherever a stage has the same key.
    """
    return int(np.random.SeedSequence([job.surroundings.seed, turn_of(job) + more]).generate_state(1, np.uint64)[0])


def learn(
    job: Job, objective: Objective, settings: Optimiser, model: Encoder | Reranker | LateInteraction, more: int = 0
) -> None:
    """Run a training to its end, save the model and the log; ``more`` trainings of the stage come before it."""
    model.gradient_cache = settings.gradient_cache
    around = job.surroundings
    follow = around.tracking.training(job.stage, job.folder)
    log = train(objective, settings, job.folder, stream(job, more), job.progress, follow)
    if distributed.is_main():
        log.peak, log.turn = _share_of_peak(model, log), turn_of(job) + more
        model.save(job.folder / "model")
        sync_all(job.folder / "model")
        job.leave(Training(log))  # the last: where it is, all is, see `Workspace`
    distributed.barrier()


def _share_of_peak(model: Encoder | Reranker | LateInteraction, log: TrainingLog) -> float | None:
    """Return a training's operations a second over those of bare matrix products; backward counts twice forward."""
    bodies = [part.auto_model for part in model.model.modules() if isinstance(part, Transformer)]
    if not log.seconds or not bodies or not hasattr(config := bodies[0].config, "hidden_size"):
        return None
    peak = layer_peak(precision(), tuple(layer_products(config, 1_024)))
    return 3 * operations(config, log.tokens, log.squares) / log.seconds / peak


# -- distillation -------------------------------------------------------------------------------------------


def reads_of(rung: Rung | Refine) -> tuple[str, ...]:
    """Return what distillation reads: the texts of an embedding rung, or which passages are right."""
    texts = isinstance(rung, Rung) and rung.loss == "embedding"
    return ("seed", "train_rows", "unlabelled") if texts else ("seed", "train")


def distil(job: Job) -> None:
    """Climb a rung, or a round of refine: distil a teacher into the student.

    Roles: ``student``; ``scores`` of candidates, or ``candidates`` and (in-batch) the ``teacher``'s vectors; vectors of
    the student at the ``start`` of the rung for keep; those of a teacher ``beside``, and those to ``hold`` on to. An
    embedding rung has the ``teacher``'s vectors and those of ``more-`` texts, a baseline the ladder's ``updates``.
    """
    steps = {"steps": updates(job)} if "updates" in job.inputs else {}
    if "loss" not in job.settings:
        _distil(job, job.settings.read(Refine))
    elif (rung := job.settings.read(Rung, **steps)).loss == "embedding":
        _imitate(job, rung)
    else:
        _distil(job, rung)


def updates(job: Job) -> int:
    """Return how many steps a baseline takes: all of ladder and refine, but those of a first rung that it is behind."""
    counted = Updates.load(job.inputs["updates"])
    behind = job.settings.get("behind", False) and job.names["student"] == "rung-1"  # which may not have gone on
    return max(1, counted.steps - (counted.of.get("rung-1", 0) if behind else 0))


def _distil(job: Job, rung: Rung | Refine) -> None:
    around, encoder = job.surroundings, open_student(job)
    in_batch = isinstance(rung, Rung) and rung.loss == "in-batch"
    given = Scores.of(job) if "scores" in job.inputs else None
    candidates = given.candidates if given is not None else job.candidates()
    if not len(candidates.queries):
        raise CollectionError(
            "there are no training queries with candidates for this rung; check the qrels of the training split."
        )
    if given is None and rung.beta and not in_batch:  # a teacher that embeds scores by its vectors
        vectors = job.vectors("teacher")
        assert vectors is not None
        given = Scores(candidates, vectors.score(candidates.queries, candidates.passages))
        refuse_no_numbers(job, candidates, given.scores)
        if distributed.is_main():
            warn_of(job.kind().name, given.tables, teacher_temperature(rung))
    if given is not None:
        job.leave(TeacherScores(histogram(given.tables)))
    draw, teacher = Draw(rung.candidates, stream(job)), job.vectors("teacher") if in_batch else None
    if teacher is not None and rung.beta and distributed.is_main():
        scores = _in_batch_scores(teacher, candidates, draw, rung.batch)
        warn_of(job.kind().name, scores, teacher_temperature(rung))
    terms, hold = terms_of(rung, "batch" if in_batch else "candidates"), job.vectors("hold")
    if hold is not None and hold.passages.shape[1] != encoder.dimension:
        warn(
            f"the student's vectors have {encoder.dimension:,} numbers, as no embedding rung has widened it to the "
            f"{hold.passages.shape[1]:,} of its teacher: `hold` is left out of this rung."
        )
        terms, hold = replace(terms, hold=0.0), None
        if not (terms.alpha or terms.beta or terms.beside):
            raise RecipeError("without `hold`, nothing is left to learn from in this rung: set `beta` or `alpha`.")
    objective = StudentObjective(
        encoder,
        *both_tokens(around.collection, encoder),
        candidates,
        around.splits.train,
        terms,
        draw,
        teacher_scores=None if given is None else given.scores,
        together=None if given is None else given.together,
        teacher=teacher,
        start=job.vectors("start"),
        beside=job.vectors("beside"),
        hold=hold,
    )
    learn(job, objective, rung, encoder)


def _in_batch_scores(teacher: Vectors, candidates: Candidates, draw: Draw, batch: int) -> NDArray[np.float32]:
    """Return a teacher's scores of all passages in a training's first batches: (Q, P), NaN where one has fewer."""
    tables = []
    for begin in range(0, min(FIRST, len(candidates)), batch):
        examples = np.arange(begin, min(begin + batch, len(candidates)))
        drawn = np.take_along_axis(candidates.passages[examples], draw.columns(candidates, examples, 0), axis=1)
        passages = np.unique(drawn[drawn >= 0])
        queries = teacher.of_queries(candidates.queries[examples][:FIRST])
        tables.append(queries @ np.asarray(teacher.passages[passages]).T * teacher.scale)
    width = max(table.shape[1] for table in tables)
    padded = [np.pad(table, ((0, 0), (0, width - table.shape[1])), constant_values=np.nan) for table in tables]
    return np.concatenate(padded).astype(np.float32)


def terms_of(rung: Rung | Refine, over: str) -> Terms:
    """Return the weights of a rung's loss."""
    names = ("alpha", "beta", "gamma", "tau", "keep_over", "soft", "teacher_tau", "target", "rest")
    weights: dict[str, Any] = {name: getattr(rung, name) for name in names}
    if isinstance(rung, Rung):
        weights |= {"beside": rung.beside_weight if rung.beside else 0.0, "hold": rung.hold}
    return Terms(over=over, **weights)


# -- the embedding rung -------------------------------------------------------------------------------------


def _imitate(job: Job, rung: Rung) -> None:
    """Pull the student's vectors to its teacher's."""
    around, encoder, teacher = job.surroundings, open_student(job), job.vectors("teacher")
    assert teacher is not None
    learned = np.union1d(around.splits.train_rows, around.splits.unlabelled)
    # a file may have vectors of few queries, or of none
    rows: NDArray[np.int64] = np.intersect1d(learned, teacher.query_rows).astype(np.int64)
    more = []
    for folder in (folder for role, folder in job.inputs.items() if role.startswith("more-")):
        made = Manifest.load(folder).settings
        side, others, vectors = made["side"], around.texts[made["texts"]], np.load(folder / MORE, mmap_mode="r")
        own = unlabelled_tokens(others, encoder, side)
        more.append(Imitated(side, own, np.arange(len(others)), vectors.__getitem__))
    texts, width = both_tokens(around.collection, encoder), int(teacher.passages.shape[1])
    if rung.head == "keep" and width != encoder.dimension:
        if job.settings["student"]["dimensions"] is not None:
            raise RecipeError(cut_and_widened(job.kind().name, width))
        encoder = with_head(encoder, texts, teacher, rows)
    learn(job, EmbeddingObjective(encoder, *texts, teacher, rows, stream(job), more), rung, encoder)


def cut_and_widened(teacher: str, width: int) -> str:
    """Say that a student can't be both cut and widened."""
    return (
        f"the student is cut to `dimensions`, and the embedding rung of {teacher!r} would give it {width:,} numbers, "
        "as its teacher has: leave `dimensions` of the student out, set the same `dimensions` for the teacher, or set "
        "`head: none` in the rung."
    )


def more_vectors(b: Builder, stage: str, rung: Rung) -> dict[str, str]:
    """Add a teacher's vectors of the texts from elsewhere that an embedding rung learns from; return the inputs."""
    kind, found = b.kind(rung.teacher), {}
    inputs = {"model": f"teacher.{rung.teacher}" if kind.model else kind.inputs()[0]}
    for side, texts in b.ctx.more(rung).items():
        things, sizes = ("queries", (0, len(texts))) if side == "query" else ("passages", (len(texts), 0))
        name, title = f"{stage}.more-{side}", f"encode {len(texts):,} further {things} with {rung.teacher}"
        settings = {"texts": texts.fingerprint, "side": side}
        bill = partial(kind.bill, [Lot(side, len(texts), texts.slice)])
        encoding = partial(Prices.encode, model=kind.section, texts=sizes)
        cost = encoding if kind.model else partial(Prices.asking, kind=kind, texts=len(texts))
        stage_ = Stage(name, "more-vectors", title, settings, inputs, encode_more, cost=cost, bill=bill)
        found[f"more-{side}"] = b.add(stage_)
    return found


def encode_more(job: Job) -> None:
    """Encode texts from elsewhere that a rung learns from with its teacher."""
    texts, side = job.surroundings.texts[job.settings["texts"]], job.settings["side"]
    kind: Any = job.kind("model")
    job.progress.start(len(texts), "texts")
    if kind.model is None:
        if distributed.is_main():
            kind.embed([Lot(side, len(texts), texts.slice)], [job.folder / MORE], job.progress)
        return
    encoder = job.encoder("model")
    tokens, rows = unlabelled_tokens(texts, encoder, side), range(len(texts))
    write_texts(encoder, tokens, rows, side, job.folder / MORE, job.progress)
