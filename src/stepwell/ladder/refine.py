"""The stages of refine (PROD, section 3.3), round after round: select, distil, judge, count what was fixed."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from stepwell.display import Table
from stepwell.distil.refine import Ranks, can_be_selected, first_answer_ranks, first_positive_ranks, funnel, selected
from stepwell.ladder.builder import Builder, mine_from, mining_of, say_mining
from stepwell.ladder.judging import headroom, judged, promotion, reranked
from stepwell.ladder.prices import Prices, Work, refine_steps
from stepwell.ladder.scoring import lessons
from stepwell.ladder.stage import Job, Stage, Surroundings, recorded
from stepwell.ladder.teacher import last_miner, teacher
from stepwell.ladder.trainings import distil, reads_of
from stepwell.recipe import Refine
from stepwell.retrieval.run import Run
from stepwell.systems.records import Outcome, Selection, Training

ASKED = 0.4
"""Share of the training queries that the teacher is guessed to be asked about."""


def refinement(b: Builder) -> None:
    """Add rounds of data progressive distillation: the first if the teacher is ahead, each other if dev got better."""
    for round_ in range(1, b.recipe.refine.rounds + 1):
        number = b.rungs + round_
        before, after = f"student@{number - 1}", f"rung-{number}"
        if round_ == 1:
            teacher(b, b.refine_teacher, last_miner(b))
            known = b.add(headroom(b, number, b.refine_teacher, b.recipe.refine.force))
        with b.only_if(known if round_ == 1 else f"promote-{number - 1}"):
            b.training_run(before, "the student")
            gate = b.add(selection(b, round_, before))
        with b.only_if(gate):
            _distillation(b, round_, before, gate)
            judged(b, after, f"the student after refine {round_}")
            b.training_run(after, "the student")
            name, title, says = f"outcome-{number}", f"refine, round {round_}: fixed and broken", recorded(Outcome)
            inputs = {"before": f"{before}.train", "after": f"{after}.train", "selection": gate}
            count = Stage(
                name, "outcome", title, b.ranks, inputs, count_outcome, says, reads=("train",), collective=False
            )
            b.add(count)
        b.add(promotion(b, number))


def selection(b: Builder, round_: int, before: str) -> Stage:
    """Return what chooses the queries of a round by the lists of the student ``before``."""
    depth, name = b.recipe.refine.depth, b.refine_teacher
    title, inputs = f"refine, round {round_}: {name} selects queries", {"run": f"{before}.train", **b.opens(name)}

    def cost(prices: Prices) -> Work:
        return b.scoring(name, prices, ASKED * prices.train, depth)

    stage, says, reads = f"select-{b.rungs + round_}", say_selection, ("train",)
    return Stage(stage, "select", title, _settings(b), inputs, select, says, cost, reads=reads)


def _distillation(b: Builder, round_: int, before: str, gate: str) -> None:
    """Add the training of a round, on the candidates of the stage ``gate``."""
    settings, name, section, number = b.recipe.refine, b.refine_teacher, b.recipe.student, b.rungs + round_
    inputs = {"student": before, **lessons(b, f"scores-{number}", name, settings, gate, known=True)}

    def cost(prices: Prices) -> Work:
        return prices.dense(section, settings, settings.candidates, refine_steps(settings, prices.train))

    inputs |= {"start": f"{before}.vectors"} if settings.gamma else {}
    title, own = f"refine, round {round_}: {name} teaches", {**_settings(b), **b.student}
    says, reads = recorded(Training), reads_of(settings)
    b.add(Stage(f"rung-{number}", "distil", title, own, inputs, distil, says, cost, reads=reads))


def _settings(b: Builder) -> dict[str, Any]:
    own = b.recipe.refine.model_dump(exclude={"rounds", "force", "ranks"})
    return {**own, **b.ranks, "mining": b.mining(), "teacher": b.refine_teacher}


def select(job: Job) -> None:
    """Let the teacher rerank the student's lists of the training queries, select by the rule, and mine.

    Writes the candidates of the selected queries, hardest first, and the funnel: how many queries stand at each pair of
    rank groups.
    """
    settings, run = job.settings.read(Refine), job.training_run("run")
    student_ranks = ranks_of(job, run)
    open_ = can_be_selected(student_ranks, settings.rule, settings.worst, settings.depth)
    teacher_ranks = np.full(len(student_ranks), -1, dtype=np.int64)  # -1: not asked
    if open_.any():
        head = Run(run.queries[open_], run.passages[open_], run.scores[open_]).top(settings.depth)
        found, _ = reranked(job, head, settings.depth)
        teacher_ranks[open_] = ranks_of(job, found)
    chosen = open_ & selected(teacher_ranks, student_ranks, settings.rule, settings.worst)
    how = mining_of(job.settings.part("mining")).model_copy(update={"sampling": "hardest", "first": 1, "pool": None})
    mine_from(job, run.select(run.queries[chosen]), how, settings.candidates)
    counts = {"queries": len(chosen), "asked": int(open_.sum()), "selected": int(chosen.sum())}
    rows, groups = run.queries[chosen].tolist(), funnel(student_ranks, teacher_ranks)
    ranks = job.settings.get("ranks", "qrels")
    job.leave(Selection(bool(rows), settings.rule, **counts, selected_queries=rows, funnel=groups, ranks=ranks))


def ranks_of(job: Job, run: Run) -> Ranks:
    """Return the rank of each query's first passage that is right: by its answers or by the qrels (Q,)."""
    qrels = job.surroundings.splits.train
    if job.settings.get("ranks") != "answers":
        return first_positive_ranks(run, qrels)
    return first_answer_ranks(run, qrels, job.progress.start(100).part(1))  # beside a teacher's time it is nothing


def say_selection(folder: Path, surroundings: Surroundings) -> Iterable[str | Table]:
    """Show the queries at each pair of rank groups of student and teacher, and what was mined."""
    yield Selection.load(folder).table()
    yield from say_mining(folder, surroundings)


def count_outcome(job: Job) -> None:
    """Count what a round did to the training queries: how many it fixed, how many it broke."""
    old = job.training_run("before")
    new = job.training_run("after").select(old.queries)
    was, now = ranks_of(job, old), ranks_of(job, new)
    rows = Selection.load(job.inputs["selection"]).selected_queries
    chosen = np.isin(old.queries, np.array(rows, dtype=np.int32))
    what = {"selected": chosen, "fixed": chosen & (now == 1), "nearer": chosen & (now < was)}
    what |= {"farther": chosen & (now > was), "broken": (was == 1) & (now > 1)}
    what |= {"right_before": was == 1, "right_after": now == 1}
    job.leave(Outcome(**{name: int(queries.sum()) for name, queries in what.items()}))
