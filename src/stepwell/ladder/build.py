"""The table of contents: from a recipe to the list of its stages, before anything runs, or why it can't be run."""

from dataclasses import replace
from functools import partial

from stepwell.errors import RecipeError
from stepwell.evaluation import cutoff_of, cutoff_of_set, reached
from stepwell.ladder.builder import Builder, encode
from stepwell.ladder.judging import headroom, judged, measures_of, promotion, searched
from stepwell.ladder.prices import Prices, Work
from stepwell.ladder.proof import proof
from stepwell.ladder.refine import refinement
from stepwell.ladder.rungs import learned
from stepwell.ladder.stage import Context, Stage, recorded
from stepwell.ladder.teacher import miner_lists, teacher, teacher_lists
from stepwell.ladder.tracking import refuse_missing
from stepwell.ladder.trainings import cut_and_widened, distil, reads_of, start
from stepwell.models.build import pick_layers
from stepwell.models.engines import machine
from stepwell.models.files import modules_of
from stepwell.models.shape import depth_of, vector_width
from stepwell.recipe import MORE, DualEncoderTeacher, Rung
from stepwell.systems.folder import SEARCHED
from stepwell.systems.records import Training


def stages_of(ctx: Context, to_search: bool = False) -> list[Stage]:
    """Return all stages of a run, each after its inputs; ``to_search``: also what only a search in it needs."""
    b = _climbed(ctx)
    proof(b)
    if to_search:
        _for_search(b)
    return list(b.stages.values())


def stages_of_variant(ctx: Context) -> list[Stage]:
    """Return the ladder, refine, and the test of the last student alone, without any other system."""
    b = _climbed(ctx)
    searched(b, "test", f"student@{b.last}", "the student")
    return list(b.stages.values())


def _climbed(ctx: Context) -> Builder:
    b = Builder(ctx)
    _check(b)
    miner = b.bm25()
    if b.recipe.warmup.further is not None:
        dense = [rung.teacher for rung in b.recipe.ladder if b.embeds(rung.teacher, queries=True)]
        miner = teacher_lists(b, dense[0]) if dense else miner
    start(b, miner)
    judged(b, "start", "the student at the start")
    for number, rung in enumerate(ctx.recipe.ladder, start=1):
        _climb(b, number, rung)
    refinement(b)
    return b


def _climb(b: Builder, number: int, rung: Rung) -> None:
    """Add rung ``number``: its teacher, headroom, candidates, scores, distillation, dev figures, promotion."""
    before, after, lists = f"student@{number - 1}", f"rung-{number}", miner_lists(b, number, rung)
    teacher(b, rung.teacher, lists)
    for other in (rung.beside, b.recipe.embedding_teacher if rung.hold else None):
        if other is not None:
            teacher(b, other)
    gate = b.add(headroom(b, number, rung.teacher, rung.force))
    with b.only_if(gate):
        found = ""
        if rung.loss != "embedding":
            found = b.candidates(f"candidates-{number}", lists, rung.candidates, rung.teacher)
        inputs = learned(b, after, rung, before, found, f"scores-{number}", known=False)
        settings = {**rung.model_dump(exclude={"force", "negatives", *MORE.values()}), **b.student}
        title = f"rung {number}: {rung.teacher} teaches ({rung.loss})"
        cost = partial(Prices.distil, model=b.recipe.student, rung=rung, more=b.more(rung))
        b.add(Stage(after, "distil", title, settings, inputs, distil, recorded(Training), cost, reads=reads_of(rung)))
        judged(b, after, f"the student after rung {number}")
    b.add(promotion(b, number))


def _for_search(b: Builder) -> None:
    """Add the final student's vectors of the passages in fp32, where its others are in bf16."""
    if not machine.searches_exactly():
        return
    student = b.recipe.student

    def cost(prices: Prices) -> Work:
        work = prices.encode(student)
        return replace(work, forward=work.forward * max(1.0, machine.bf16_gain()))

    title, settings = "encode with the final student in fp32, to search", {"scale": student.loss_scale, "exact": True}
    inputs = {"model": f"student@{b.last}"}
    b.add(Stage(SEARCHED, "vectors", title, settings, inputs, run=encode, cost=cost, only_if=()))


# -- what is refused: settings that can't work with these models and this collection ------------------------


def _check(b: Builder) -> None:
    """Refuse what can't be run."""
    refuse_missing(b.recipe.track)
    _answers(b)
    _measures(b)
    _layers(b)
    _towers(b)
    for number, rung in enumerate(b.recipe.ladder, start=1):
        _hold(b, number, rung)
    if b.recipe.refine.rounds and b.embeds(b.refine_teacher):
        raise RecipeError(
            f"refine needs a cross-encoder or another teacher that reranks the student's lists, and "
            f"{b.refine_teacher!r} has vectors and reranks nothing: name one in `refine.teacher`, or leave refine out "
            "with `refine: {rounds: 0}`."
        )


def _answers(b: Builder) -> None:
    """Refuse to go by answers where there are none."""
    mining, refine = b.recipe.mining, b.recipe.refine
    wanted = {"mining: `answers: true`": mining.answers, "refine: `ranks: answers`": refine.ranks == "answers"}
    asked = [key for key, on in wanted.items() if on]
    if asked and not b.ctx.splits.train.answered:
        raise RecipeError(
            f"{asked[0]} goes by passages that hold an answer, and no training query of {b.ctx.collection.name} has "
            "answers to look for. Leave it out: they are looked for where there are any."
        )


def _measures(b: Builder) -> None:
    """Refuse measures that look deeper than the lists, and a deciding one that reranking can't change."""
    judging, ladder = b.recipe.judging, b.recipe.ladder
    measures = measures_of(b.judging)
    if too_deep := sorted(set(measures) - set(reached(judging.depth, measures)), key=measures.index):
        deepest = cutoff_of(too_deep[0])
        raise RecipeError(
            f"judging: {too_deep[0]} looks at the first {deepest} passages, and {judging.depth} are retrieved a query "
            f"(judging.depth): the figure would be another measure's. Set `depth` to {deepest}, or leave it out."
        )
    cutoff = cutoff_of_set(judging.measure)
    gated = [rung.teacher for rung in ladder if not (rung.force or b.embeds(rung.teacher))]
    gated += [b.refine_teacher] if b.recipe.refine.rounds and not b.recipe.refine.force else []
    if gated and cutoff is not None and cutoff >= judging.rerank:
        raise RecipeError(
            f"judging.measure: {judging.measure} asks what is among the first {cutoff} passages, in any order, and "
            f"{gated[0]} only reorders the first {judging.rerank} of the student's list (judging.rerank): it could "
            f"never be ahead, and what it teaches would always be left out. Set `rerank` above {cutoff}, decide by a "
            "measure that sees the order (nDCG@10), or give the rung (or refine) `force: true`."
        )


def _layers(b: Builder) -> None:
    """Refuse layers that a base model has not."""
    student = b.recipe.student
    pick_layers(depth_of(student.base), student.layers, student.pick)
    for name in b.recipe.teachers:
        kind = b.kind(name)
        if kind.model is not None and kind.section.layers is not None:
            pick_layers(depth_of(kind.section.base), kind.section.layers, "first")


def _towers(b: Builder) -> None:
    """Refuse two towers from a base that can't be one of them."""
    for name, section in b.recipe.teachers.items():
        if not isinstance(section, DualEncoderTeacher) or section.towers == 1:
            continue
        kinds = {kind for kind, _ in modules_of(section.base)}
        if "Router" in kinds:
            raise RecipeError(
                f"teacher {name!r}: {section.base} has two towers already, and `towers: 2` makes two of one: leave "
                "`towers` out to train both as they are, or name the directory of one tower in `from`."
            )
        if "StaticEmbedding" in kinds:
            raise RecipeError(
                f"teacher {name!r}: {section.base} is a static model, a table of words, and `towers: 2` is for models "
                "with layers: leave `towers` out."
            )


def _hold(b: Builder, number: int, rung: Rung) -> None:
    """Refuse to keep the student's vectors near others of another width, and a student that is cut and widened."""
    name, own = b.recipe.embedding_teacher, vector_width(b.recipe.student)
    if rung.loss == "embedding":
        theirs = b.kind(rung.teacher).width()
        if rung.head == "keep" and b.recipe.student.dimensions is not None and theirs not in (None, own):
            raise RecipeError(f"rung {number} of the ladder: {cut_and_widened(rung.teacher, theirs)}")
    elif rung.hold and name is not None:
        theirs = b.kind(name).width()
        before = [other for other in b.recipe.ladder[: number - 1] if other.loss == "embedding"]
        if theirs not in (None, own) and not any(other.teacher == name and other.head == "keep" for other in before):
            raise RecipeError(
                f"rung {number} of the ladder: `hold` keeps the student's vectors near those of {name!r}, and they "
                f"can't be compared: the student's (from {b.recipe.student.base}) have {own} numbers, the teacher's "
                f"{theirs}. Keep the head of the embedding rung, which must come before (`head: keep`), or set "
                "`hold: 0` in this rung."
            )
