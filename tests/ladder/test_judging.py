"""Judging: the teacher's headroom, which student goes on, and the order of a reranked list."""

from types import SimpleNamespace

import numpy as np
import pytest

from stepwell import distributed
from stepwell.errors import StepwellError
from stepwell.evaluation import Evaluation
from stepwell.files import read_json
from stepwell.ladder import baselines, judging
from stepwell.ladder.build import stages_of
from stepwell.ladder.run import prepare
from stepwell.ladder.stage import Job, Settings
from stepwell.recipe import Judging
from stepwell.recipe.yaml_file import load_recipe
from stepwell.retrieval.run import Run

MEASURE = "nDCG@10"


def answers(monkeypatch, logits):
    """Have every teacher that is opened give what ``logits`` gives for queries (Q,) and passages (Q, K)."""

    def score(queries, passages, progress=None):
        return np.asarray(logits(queries, passages), dtype=np.float32)

    monkeypatch.setattr(Job, "teacher", lambda self, role="teacher": SimpleNamespace(score=score))


def evaluation(values, start=0):
    return Evaluation(np.arange(start, start + len(values), dtype=np.int32), {MEASURE: np.array(values, dtype=float)})


@pytest.fixture
def world(tiny_collection, tmp_path):
    """A job of a stage that judges on dev, and a way to lay results into the folders of its inputs."""
    splits = SimpleNamespace(dev=tiny_collection.qrels("dev"))
    around = SimpleNamespace(collection=tiny_collection, splits=splits, seed=1)
    (tmp_path / "out").mkdir()
    judging = Judging(measure=MEASURE, level=0.05, headroom_queries=200, rerank=3, depth=10)

    def job(**settings):
        own = {**judging.model_dump(exclude={"measures"}), **settings}
        return Job("stage", Settings("stage", own), inputs, tmp_path / "out", around, names)

    def lay(role, values, run=None, real=None):
        folder = tmp_path / role
        folder.mkdir()
        result = values if isinstance(values, Evaluation) else evaluation(values)
        result.save(folder / "evaluation.parquet", tiny_collection)
        if run is not None:
            run.save(folder / "run.parquet", tiny_collection)
        inputs[role], names[role] = folder, real or role

    inputs, names = {}, {}
    inputs["teacher"] = tmp_path / "a cross-encoder"
    return SimpleNamespace(
        splits=splits, job=job, lay=lay, decision=lambda: read_json(tmp_path / "out" / "decision.json")
    )


@pytest.mark.parametrize("theirs, force, go", [(0.7, False, True), (0.4, False, False), (0.5, False, False)])
def test_a_rung_without_headroom_is_skipped(world, theirs, force, go):
    world.lay("student", [0.5] * 8)
    world.lay("teacher", [theirs] * 8)
    judging.decide_headroom(world.job(force=force))
    decision = world.decision()
    assert decision["go"] is go and decision["forced"] is False and decision["queries"] == 8
    assert decision["headroom"] == pytest.approx(theirs - 0.5)


def test_unless_it_is_forced(world):
    world.lay("student", [0.5] * 8)
    world.lay("teacher", [0.1] * 8)
    judging.decide_headroom(world.job(force=True))
    assert world.decision()["go"] is True and world.decision()["forced"] is True


def test_a_cross_encoders_headroom_is_that_of_reranking_on_the_same_queries(world, monkeypatch):
    qrels = world.splits.dev
    rows = qrels.query_rows
    wrong = [[p for p in range(60) if p not in set(qrels.positives(int(q)))][:2] for q in rows]
    lists = np.array([[*bad, qrels.positives(int(q))[0]] for bad, q in zip(wrong, rows, strict=True)], dtype=np.int32)
    run = Run(rows, lists, np.tile(np.float32([3, 2, 1]), (len(rows), 1)))
    world.lay("student", judging.evaluate(run, qrels, (MEASURE,)), run)

    answers(monkeypatch, lambda queries, passages: qrels.is_positive(queries[:, None], passages))
    judging.decide_headroom(world.job(force=False, headroom_queries=3))
    decision = world.decision()
    assert decision["go"] and decision["queries"] == 3 and decision["teacher"] > decision["student"] > 0


@pytest.mark.parametrize("main", [True, False])
def test_the_strength_of_a_teacher_is_written_by_the_main_process_alone(world, monkeypatch, main):
    qrels = world.splits.dev
    rows = qrels.query_rows
    lists = np.array([[int(qrels.positives(int(query))[0])] for query in rows], dtype=np.int32)
    world.lay("student", [0.5] * len(rows), Run(rows, lists, np.ones(lists.shape, np.float32)))
    answers(monkeypatch, lambda queries, passages: np.ones(passages.shape))
    monkeypatch.setattr(distributed, "is_main", lambda: main)
    baselines.measure_strength(job := world.job())
    assert (job.folder / "evaluation.parquet").is_file() is main


def test_headroom_is_counted_over_the_asked_queries_and_no_deeper_than_the_table_reranks(world, monkeypatch):
    qrels = world.splits.dev
    rows = qrels.query_rows
    right = [int(qrels.positives(int(query))[0]) for query in rows]
    wrong = [[p for p in range(60) if p not in set(qrels.positives(int(query)))][:3] for query in rows]
    lists = [[good, *bad] if i < 3 else [*bad, good] for i, (good, bad) in enumerate(zip(right, wrong, strict=True))]
    run = Run(rows, np.array(lists, np.int32), np.tile(np.float32([4, 3, 2, 1]), (len(rows), 1)))
    mine = judging.evaluate(run, qrels, (MEASURE,))
    world.lay("student", mine, run)

    def logits(queries, passages):
        return np.where(np.isin(queries, rows[3:5])[:, None], qrels.is_positive(queries[:, None], passages), np.nan)

    answers(monkeypatch, logits)
    judging.decide_headroom(world.job(force=False))
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
    world.lay("before", OLD, real="rung-1.dev")
    world.lay("after", new, real="rung-2.dev")
    judging.decide_promotion(world.job())
    decision = world.decision()
    assert (decision["student"], decision["go"]) == (student, go)
    assert decision["before"] == pytest.approx(np.mean(OLD)) and decision["after"] == pytest.approx(np.mean(new))


@pytest.mark.parametrize("change, student", [(-0.001, "rung-1"), (0.0, "rung-2"), (0.001, "rung-2")])
def test_where_the_recipe_says_nothing_the_better_one_goes_on(world, change, student):
    world.lay("before", OLD, real="rung-1.dev")
    world.lay("after", [OLD[0] + change, *OLD[1:]], real="rung-2.dev")
    judging.decide_promotion(world.job(level=Judging().level))
    assert world.decision()["student"] == student


def test_a_decision_says_what_so_few_queries_can_see(world):
    """Of 20 queries whose differences have a standard deviation of 0.1 (computed again by simulation)."""
    gaps = np.resize([0.1, -0.1], 20) * np.sqrt(19 / 20)  # a sample deviation of 0.1
    world.lay("before", [0.5] * 20, real="rung-1.dev")
    world.lay("after", 0.5 + gaps, real="rung-2.dev")
    judging.decide_promotion(world.job())
    decision = world.decision()
    low, high = decision["interval"]
    assert low < 0 < high and -0.06 < low < -0.03 and decision["queries"] == 20
    draws = np.random.default_rng(0).normal(-decision["seen"], 0.1, (20_000, 20))
    t = draws.mean(1) / (draws.std(1, ddof=1) / np.sqrt(20))
    assert np.mean(np.abs(t) > 2.093) == pytest.approx(0.8, abs=0.02)  # t(0.975) of 19 degrees of freedom


def test_the_recipes_level_says_what_is_significant(world):
    world.lay("before", OLD, real="rung-1.dev")
    world.lay("after", [value - 0.2 - 0.01 * i for i, value in enumerate(OLD)], real="rung-2.dev")
    judging.decide_promotion(world.job(level=0.0))
    assert world.decision()["student"] == "rung-2"


def test_when_the_rung_was_left_out_the_student_before_goes_on(world):
    world.lay("before", OLD, real="start.dev")
    judging.decide_promotion(world.job())
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
        return judging.reranked(world.job(), run, depth)[0]

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
    qrels = world.splits.dev
    rows = qrels.query_rows
    lists = np.array([[p for p in range(60) if p not in set(qrels.positives(int(q)))][:2] for q in rows])
    lists = np.concatenate([lists, [[qrels.positives(int(q))[0]] for q in rows]], axis=1).astype(np.int32)
    run = Run(rows, lists, np.tile(np.float32([3, 2, 1]), (len(rows), 1)))
    world.lay("student", judging.evaluate(run, qrels, (MEASURE,)), run)

    def logits(queries, passages):
        right = qrels.is_positive(queries[:, None], passages)
        return np.where(np.isin(queries, rows[:known])[:, None], right, np.nan)

    answers(monkeypatch, logits)
    judging.decide_headroom(world.job(force=False))
    decision = world.decision()
    assert decision["go"] and decision["queries"] == known
    assert decision["teacher"] == (pytest.approx(1.0, abs=0.4) if known else None)


def test_the_deciding_measure_comes_first_in_all_tables(world):
    names = judging.measures_of(world.job(measure="MRR@10").settings)
    assert names[0] == "RR@10" and len(names) == len(set(names))
    own = world.job(measure="MRR@10", measures=["R@50", "RR@10", "R@1000"]).settings
    assert judging.measures_of(own) == ("RR@10", "R@50", "R@1000")


def test_no_measure_looks_deeper_than_the_lists(world, tiny_recipe):
    assert set(judging.measures_of(world.job(depth=20).settings)) == {"nDCG@10", "RR@10", "R@5", "R@20"}
    for changes, sentence in (
        ({"judging.measures": ["AP", "R@20", "nDCG@50"]}, r"nDCG@50 looks at the first 50 .* 20 are retrieved"),
        ({"judging.measure": "R@21"}, r"Set `depth` to 21"),
    ):
        recipe = load_recipe(tiny_recipe, {"judging.depth": 20, **changes})
        with pytest.raises(StepwellError, match=sentence):
            stages_of(prepare(recipe))
