"""Judging: the teacher's headroom, which student goes on, and the order of a reranked list."""

from types import SimpleNamespace

import numpy as np
import pytest

from stepwell.errors import StepwellError
from stepwell.evaluation import Evaluation
from stepwell.ladder import judging
from stepwell.ladder.workspace import Job, read_json
from stepwell.retrieval.run import Run

MEASURE = "nDCG@10"


def answers(monkeypatch, logits):
    """Have every teacher that is opened give what ``logits`` gives for queries (Q,) and passages (Q, K)."""

    def score(queries, passages, progress=None):
        return np.asarray(logits(queries, passages), dtype=np.float32)

    monkeypatch.setattr(judging, "opened", lambda ctx, name, inputs: SimpleNamespace(score=score))


def evaluation(values, start=0):
    return Evaluation(np.arange(start, start + len(values), dtype=np.int32), {MEASURE: np.array(values, dtype=float)})


@pytest.fixture
def world(tiny_collection, tmp_path):
    """A context with a dual encoder `de` and a cross-encoder `ce`, and a way to lay results into input folders."""
    kinds = {"de": SimpleNamespace(embeds=True), "ce": SimpleNamespace(embeds=False)}
    settings = SimpleNamespace(measure=MEASURE, measures=[], level=0.05, headroom_queries=200, rerank=3, depth=10)
    ctx = SimpleNamespace(
        collection=tiny_collection,
        recipe=SimpleNamespace(judging=settings, seed=1),
        teacher=kinds.__getitem__,
        splits=SimpleNamespace(dev=tiny_collection.qrels("dev")),
    )
    (tmp_path / "out").mkdir()
    job = Job(tmp_path / "out", {})

    def lay(name, values, run=None, real=None):
        folder = tmp_path / name
        folder.mkdir()
        result = values if isinstance(values, Evaluation) else evaluation(values)
        result.save(folder / "evaluation.parquet", tiny_collection)
        if run is not None:
            run.save(folder / "run.parquet", tiny_collection)
        job.inputs[name], job.names[name] = folder, real or name

    return SimpleNamespace(ctx=ctx, job=job, lay=lay, decision=lambda: read_json(job.folder / "decision.json"))


@pytest.mark.parametrize("theirs, force, go", [(0.7, False, True), (0.4, False, False), (0.5, False, False)])
def test_a_rung_without_headroom_is_skipped(world, theirs, force, go):
    world.lay("student@0.dev", [0.5] * 8)
    world.lay("teacher.de.dev", [theirs] * 8)
    judging.headroom(world.ctx, "de", "student@0.dev", force, world.job)
    decision = world.decision()
    assert decision["go"] is go and decision["forced"] is False and decision["queries"] == 8
    assert decision["headroom"] == pytest.approx(theirs - 0.5)


def test_unless_it_is_forced(world):
    world.lay("student@0.dev", [0.5] * 8)
    world.lay("teacher.de.dev", [0.1] * 8)
    judging.headroom(world.ctx, "de", "student@0.dev", True, world.job)
    assert world.decision()["go"] is True and world.decision()["forced"] is True


def test_a_cross_encoders_headroom_is_that_of_reranking_on_the_same_queries(world, monkeypatch):
    qrels = world.ctx.splits.dev
    rows = qrels.query_rows
    wrong = [[p for p in range(60) if p not in set(qrels.positives(int(q)))][:2] for q in rows]
    lists = np.array([[*bad, qrels.positives(int(q))[0]] for bad, q in zip(wrong, rows, strict=True)], dtype=np.int32)
    run = Run(rows, lists, np.tile(np.float32([3, 2, 1]), (len(rows), 1)))
    world.lay("student@0.dev", judging.evaluate(run, qrels, (MEASURE,)), run)

    answers(monkeypatch, lambda queries, passages: qrels.is_positive(queries[:, None], passages))
    world.ctx.recipe.judging.headroom_queries = 3
    judging.headroom(world.ctx, "ce", "student@0.dev", False, world.job)
    decision = world.decision()
    assert decision["go"] and decision["queries"] == 3 and decision["teacher"] > decision["student"] > 0


def test_headroom_is_counted_over_the_asked_queries_and_no_deeper_than_the_table_reranks(world, monkeypatch):
    qrels = world.ctx.splits.dev
    rows = qrels.query_rows
    right = [int(qrels.positives(int(query))[0]) for query in rows]
    wrong = [[p for p in range(60) if p not in set(qrels.positives(int(query)))][:3] for query in rows]
    lists = [[good, *bad] if i < 3 else [*bad, good] for i, (good, bad) in enumerate(zip(right, wrong, strict=True))]
    run = Run(rows, np.array(lists, np.int32), np.tile(np.float32([4, 3, 2, 1]), (len(rows), 1)))
    mine = judging.evaluate(run, qrels, (MEASURE,))
    world.lay("student@0.dev", mine, run)
    world.ctx.recipe.judging.rerank = 3  # from the fourth query on the answer is behind it

    def logits(queries, passages):
        return np.where(np.isin(queries, rows[3:5])[:, None], qrels.is_positive(queries[:, None], passages), np.nan)

    answers(monkeypatch, logits)
    judging.headroom(world.ctx, "ce", "student@0.dev", False, world.job)
    decision = world.decision()
    assert decision["queries"] == 2 and decision["go"] is False
    assert decision["teacher"] == decision["student"] == pytest.approx(mine.of(MEASURE)[3:5].mean())
    assert decision["student"] != pytest.approx(mine.mean(MEASURE))


OLD = [0.5, 0.6, 0.4, 0.5, 0.7, 0.5, 0.6, 0.4]


@pytest.mark.parametrize(
    "new, student, go",
    [
        ([v - 0.2 - 0.01 * i for i, v in enumerate(OLD)], "rung-1", False),  # judged below: significantly worse
        ([v + 0.1 for v in OLD], "rung-2", True),
        ([OLD[0] - 0.1, *OLD[1:]], "rung-2", False),  # worse by chance: goes on, but refine would stop
        (OLD, "rung-2", False),
    ],
)
def test_only_a_significantly_worse_student_is_not_promoted(world, new, student, go):
    world.lay("student@1.dev", OLD, real="rung-1.dev")
    world.lay("rung-2.dev", new)
    judging.promote(world.ctx, 2, "student@1", world.job)
    decision = world.decision()
    assert (decision["student"], decision["go"]) == (student, go)
    assert decision["before"] == pytest.approx(np.mean(OLD)) and decision["after"] == pytest.approx(np.mean(new))


def test_the_recipes_level_says_what_is_significant(world):
    world.lay("student@1.dev", OLD, real="rung-1.dev")
    world.lay("rung-2.dev", [value - 0.2 - 0.01 * i for i, value in enumerate(OLD)])
    world.ctx.recipe.judging.level = 0.0
    judging.promote(world.ctx, 2, "student@1", world.job)
    assert world.decision()["student"] == "rung-2"


def test_when_the_rung_was_left_out_the_student_before_goes_on(world):
    world.lay("student@1.dev", OLD, real="start.dev")
    judging.promote(world.ctx, 2, "student@1", world.job)
    assert world.decision()["student"] == "start" and world.decision()["after"] is None


@pytest.fixture
def rerank(world, monkeypatch):
    """Rerank with given logits of passages."""

    def rerank(passages, logits, depth):
        run = Run(
            np.array([0], dtype=np.int32),
            np.array([passages], dtype=np.int32),
            np.array([[-np.inf if p < 0 else 9.0 - i for i, p in enumerate(passages)]], dtype=np.float32),
        )

        answers(monkeypatch, lambda _, rows: [[logits.get(int(p), 0.0) for p in row] for row in rows])
        return judging.reranked(world.ctx, run, "ce", depth, world.job)[0]

    return rerank


def test_the_head_is_in_the_teachers_order_and_the_tail_stays_behind(rerank):
    got = rerank([7, 3, 9, 4, 5], {7: -2.0, 3: 5.0, 9: -1.0}, depth=3)
    assert got.passages.tolist() == [[3, 9, 7, 4, 5]]
    assert got.scores[0, :3].tolist() == [5.0, -1.0, -2.0]
    assert (np.diff(got.scores[0]) < 0).all()


def test_equal_scores_keep_the_students_order(rerank):
    assert rerank([7, 3, 9, 4], {7: 1.0, 3: 1.0, 9: 1.0}, depth=3).passages.tolist() == [[7, 3, 9, 4]]


def test_what_fills_a_short_list_stays_last(rerank):
    got = rerank([7, 3, -1, -1], {7: -5.0, 3: -1.0, -1: 100.0}, depth=3)
    assert got.passages.tolist() == [[3, 7, -1, -1]]
    assert np.isneginf(got.scores[0, 2:]).all()


def test_what_the_teacher_has_no_score_of_comes_after_what_it_has(rerank):
    got = rerank([7, 3, 9, 4, -1], {7: np.nan, 3: -5.0, 9: np.nan, 4: 2.0}, depth=4)
    assert got.passages.tolist() == [[4, 3, 7, 9, -1]]
    assert got.scores[0, :4].tolist() == [2.0, -5.0, -6.0, -8.0] and np.isneginf(got.scores[0, 4])
    nothing = rerank([7, 3, 9, 4], {7: np.nan, 3: np.nan}, depth=2)
    assert nothing.passages.tolist() == [[7, 3, 9, 4]] and (np.diff(nothing.scores[0]) < 0).all()


@pytest.mark.parametrize("known", [0, 2])
def test_the_headroom_of_a_file_is_that_of_the_dev_queries_in_it(world, monkeypatch, known):
    qrels = world.ctx.splits.dev
    rows = qrels.query_rows
    lists = np.array([[p for p in range(60) if p not in set(qrels.positives(int(q)))][:2] for q in rows])
    lists = np.concatenate([lists, [[qrels.positives(int(q))[0]] for q in rows]], axis=1).astype(np.int32)
    run = Run(rows, lists, np.tile(np.float32([3, 2, 1]), (len(rows), 1)))
    world.lay("student@0.dev", judging.evaluate(run, qrels, (MEASURE,)), run)

    def logits(queries, passages):
        right = qrels.is_positive(queries[:, None], passages)
        return np.where(np.isin(queries, rows[:known])[:, None], right, np.nan)

    answers(monkeypatch, logits)
    judging.headroom(world.ctx, "ce", "student@0.dev", False, world.job)
    decision = world.decision()
    assert decision["go"] and decision["queries"] == known
    assert decision["teacher"] == (pytest.approx(1.0, abs=0.4) if known else None)


def test_the_deciding_measure_comes_first_in_all_tables(world):
    world.ctx.recipe.judging.measure = "MRR@10"
    names = judging.measures_of(world.ctx)
    assert names[0] == "RR@10" and len(names) == len(set(names))
    world.ctx.recipe.judging.measures = ["R@50", "RR@10", "R@1000"]
    assert judging.measures_of(world.ctx) == ("RR@10", "R@50", "R@1000")


def test_no_measure_looks_deeper_than_the_lists(world):
    section, world.ctx.recipe.ladder = world.ctx.recipe.judging, []
    section.depth = 20
    judging.check_measures(world.ctx)
    assert set(judging.measures_of(world.ctx)) == {"nDCG@10", "RR@10", "R@5", "R@20"}
    section.measures = ["AP", "R@20", "nDCG@50"]
    with pytest.raises(StepwellError, match=r"nDCG@50 looks at the first 50 .* 20 are retrieved"):
        judging.check_measures(world.ctx)
    section.measures = None
    section.measure = "R@21"
    with pytest.raises(StepwellError, match=r"Set `depth` to 21"):
        judging.check_measures(world.ctx)
