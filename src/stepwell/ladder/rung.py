"""One rung: may it pay, candidates, the teacher's scores, distillation, dev, and which student goes on."""

from functools import partial

from stepwell.ladder.builder import Builder
from stepwell.ladder.judging import headroom, judged, promotion
from stepwell.ladder.prices import Prices
from stepwell.ladder.scoring import lessons
from stepwell.ladder.stage import Stage, recorded
from stepwell.ladder.teacher import miner_lists, teacher, teacher_lists
from stepwell.ladder.trainings import distil, more_vectors, start
from stepwell.recipe import MORE, Rung
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
    before, after, lists = f"student@{number - 1}", f"rung-{number}", miner_lists(b, number, rung)
    teacher(b, rung.teacher, lists)
    named = {"beside": rung.beside, "hold": b.recipe.embedding_teacher if rung.hold else None}
    beside = {role: f"{teacher(b, name)}.vectors" for role, name in named.items() if name is not None}
    gate = b.add(headroom(b, number, rung))
    with b.only_if(gate):
        inputs = {"student": before}
        if rung.loss == "embedding":
            inputs |= {**b.opens(rung.teacher), **more_vectors(b, after, rung)}
        else:
            found = b.candidates(f"candidates-{number}", lists, rung.candidates, rung.teacher)
            start_of_rung = {"start": f"{before}.vectors"} if rung.gamma else {}
            inputs |= {**lessons(b, f"scores-{number}", rung, found), **start_of_rung, **beside}
        settings = {**rung.model_dump(exclude={"force", "negatives", *MORE.values()}), **b.student}
        title = f"rung {number}: {rung.teacher} teaches ({rung.loss})"
        cost = partial(Prices.distil, model=b.recipe.student, rung=rung, more=b.more(rung))
        b.add(Stage(after, "distil", title, settings, inputs, distil, recorded(Training), cost))
        judged(b, after, f"the student after rung {number}")
    b.add(promotion(b, number))
