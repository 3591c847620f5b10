"""One rung: may it pay, candidates, the teacher's scores, distillation, dev, and which student goes on."""

from stepwell.ladder.builder import Builder
from stepwell.ladder.judging import headroom, judged, promotion
from stepwell.ladder.scoring import learns_from_scores, scored
from stepwell.ladder.stage import Stage, recorded
from stepwell.ladder.teacher import miner_lists, teacher, teacher_lists
from stepwell.ladder.trainings import distil, imitate, more_vectors, start
from stepwell.recipe import Rung
from stepwell.recipe.ladder import MORE
from stepwell.systems.records import Training


def bottom(b: Builder) -> None:
    """Add what lies below the first rung: BM25's lists, and the student at the start."""
    miner = b.bm25()
    if b.recipe.warmup.further is not None:
        dense = [rung.teacher for rung in b.recipe.ladder if b.embeds(rung.teacher)]
        miner = teacher_lists(b, dense[0]) if dense else miner
    start(b, miner)
    judged(b, "start", "the student at the start")


def climb(b: Builder, number: int, rung: Rung) -> None:
    """Add rung ``number``: its teacher, headroom, candidates, scores, distillation, dev figures, promotion."""
    lists = miner_lists(b, number, rung)
    teacher(b, rung.teacher, lists)
    for name in _beside(b, rung).values():
        teacher(b, name)
    gate = b.add(headroom(b, number, rung))
    with b.only_if(gate):
        if rung.loss == "embedding":
            b.add(embedding_rung(b, f"rung-{number}", rung, f"student@{number - 1}"))
        else:
            k, denoiser = rung.candidates, None if b.embeds(rung.teacher) else rung.teacher
            found = b.candidates(f"candidates-{number}", lists, k, teacher=denoiser)
            if learns_from_scores(b, rung.teacher, rung):
                found = scored(b, f"scores-{number}", rung.teacher, rung, found)
            b.add(distillation(b, number, rung, found))
        judged(b, f"rung-{number}", f"the student after rung {number}")
    b.add(promotion(b, number))


def embedding_rung(b: Builder, name: str, rung: Rung, student: str) -> Stage:
    """Return the training that pulls the student's vectors to a teacher's."""
    section, more = b.recipe.student, b.more(rung)
    return Stage(
        name,
        "distil",
        f"rung {name.removeprefix('rung-')}: {rung.teacher} teaches (embedding)",
        {**rung.model_dump(exclude={"force", "negatives", *MORE.values()}), **b.student},
        {"student": student, **b.opens(rung.teacher), **more_vectors(b, name, rung)},
        run=imitate,
        says=recorded(Training),
        cost=lambda prices: prices.embedding(section, rung, more),
        collective=True,
    )


def distillation(b: Builder, number: int, rung: Rung, found: str) -> Stage:
    """Return the training of a rung, on the candidates or scores of the stage ``found``."""
    before, section = f"student@{number - 1}", b.recipe.student
    learns = learns_from_scores(b, rung.teacher, rung)
    inputs = {"student": before, **({"scores": found} if learns else {"candidates": found, **b.opens(rung.teacher)})}
    if rung.gamma:
        inputs["start"] = f"{before}.vectors"
    inputs |= {role: f"teacher.{name}.vectors" for role, name in _beside(b, rung).items()}
    return Stage(
        f"rung-{number}",
        "distil",
        f"rung {number}: {rung.teacher} teaches ({rung.loss})",
        {**rung.model_dump(exclude={"force", "negatives", *MORE.values()}), **b.student},
        inputs,
        run=distil,
        says=recorded(Training),
        cost=lambda prices: prices.dense(section, rung, rung.candidates),
        collective=True,
    )


def _beside(b: Builder, rung: Rung) -> dict[str, str]:
    """Return the dual encoders whose vectors a rung needs besides those of its own teacher, by role."""
    found = {"beside": rung.beside, "hold": b.recipe.embedding_teacher if rung.hold else None}
    return {role: name for role, name in found.items() if name is not None}
