"""Every setting is in the key of the stage that reads it: else a changed recipe would go on with stale work."""

import shutil

import pytest

import slices
from stepwell.errors import RecipeError
from stepwell.ladder.build import stages_of
from stepwell.ladder.plan import Speed, make_plan
from stepwell.ladder.run import prepare, shared_facts
from stepwell.ladder.workspace import Workspace
from stepwell.recipe import Refine, Rung
from stepwell.recipe.yaml_file import load_recipe

TRAINING = {
    "epochs": 4,
    "steps": 3,
    "lr": 2e-3,
    "batch": 9,
    "warmup": 0.2,
    "weight_decay": 0.1,
    "clip": 1.0,
    "dropout": True,
    "freeze_words": True,
}
LOSS = {
    "alpha": 0.3,
    "beta": 0.5,
    "gamma": 0.5,
    "tau": 0.9,
    "teacher_tau": 2.0,
    "soft": "decoupled",
    "target": 0.5,
    "rest": 0.5,
    "candidates": 3,
    "keep_over": "batch",
}
RUNG = {**TRAINING, **LOSS, "head": "none", "beside": "de", "beside_weight": 0.25, "hold": 0.5}
OF_RUNG_ELSEWHERE = {"teacher", "loss", "negatives", "more_passages", "more_queries", "force"}  # in other stages' keys
REFINE = {**TRAINING, **LOSS}
SAME_RESULT = {"gradient_cache"}  # another way to the same weights: in no key
SELECTION = {"depth": 9, "rule": "top", "worst": 29}
OF_REFINE_ELSEWHERE = {"rounds", "teacher", "force"}  # stages of their own
OF_ANSWERS = {"ranks"}  # where queries have answers

CHANGES = [
    ("seed", 14, "candidates.de"),
    ("seed", 14, "candidates.ce"),
    ("seed", 14, "teacher.de"),
    ("seed", 14, "teacher.ce"),
    ("seed", 14, "headroom-2"),
    ("collection.dev_queries", 5, "start.dev"),
    ("collection.dev_queries", 5, "start.vectors"),
    ("collection.train_queries", 20, "bm25"),
    ("collection.test_queries", 3, "bm25.test"),
    ("collection.relevant_from", 2, "bm25.test"),
    ("tokens.passage", 30, "start"),
    ("tokens.pair", 50, "teacher.ce"),
    ("student.layers", 2, "start"),
    ("student.scale", 30.0, "rung-1"),
    ("warmup.epochs", 1, "start"),
    ("teachers.de.train.lr", 2e-3, "teacher.de"),
    ("teachers.de.towers", 2, "teacher.de"),
    ("teachers.ce.train.candidates", 3, "teacher.ce"),
    ("teachers.ce.train.train_queries", 9, "candidates.ce"),
    ("mining.depth", 29, "bm25"),
    ("mining.last", 19, "candidates-2"),
    ("mining.sampling", "hardest", "candidates-2"),
    ("mining.denoise", 1.0, "candidates-2"),
    ("judging.depth", 59, "start.dev"),
    ("judging.depth", 59, "bm25.test"),
    ("judging.rerank", 9, "headroom-2"),
    ("judging.rerank", 9, "reranked.test"),
    ("judging.headroom_queries", 3, "headroom-2"),
    ("judging.level", 0.5, "promote-1"),
    ("ladder.2.force", False, "headroom-2"),
    ("refine.force", False, "headroom-3"),
    *((f"ladder.2.{key}", value, "rung-2") for key, value in RUNG.items()),
    *((f"refine.{key}", value, "rung-3") for key, value in REFINE.items()),
    *((f"refine.{key}", value, "select-3") for key, value in SELECTION.items()),
]


def keys_of(recipe, out):
    ctx = prepare(recipe)
    workspace = Workspace(out, shared_facts(ctx))
    make_plan(ctx, stages_of(ctx), workspace, Speed(1e9, 1e9))
    return dict(workspace.keys)


@pytest.fixture(scope="module")
def plain(tiny_recipe, tmp_path_factory):
    return keys_of(load_recipe(tiny_recipe), tmp_path_factory.mktemp("nowhere"))


def test_every_setting_of_a_rung_and_of_refine_is_tried():
    assert RUNG.keys() | OF_RUNG_ELSEWHERE | SAME_RESULT == Rung.model_fields.keys()
    of_refine = REFINE.keys() | SELECTION.keys() | OF_REFINE_ELSEWHERE | OF_ANSWERS | SAME_RESULT
    assert of_refine == Refine.model_fields.keys()


@pytest.mark.parametrize(("change", "value", "stage"), CHANGES)
def test_a_setting_is_in_the_key_of_the_stage_that_reads_it(tiny_recipe, plain, tmp_path, change, value, stage):
    assert keys_of(load_recipe(tiny_recipe, {change: value}), tmp_path)[stage] != plain[stage]


def test_answers_are_in_keys_only_where_they_are_gone_by(tiny_recipe, tiny_path, plain, tmp_path):
    assert keys_of(load_recipe(tiny_recipe, {"mining.answers": False}), tmp_path) == plain
    assert keys_of(load_recipe(tiny_recipe, {"refine.ranks": "qrels"}), tmp_path) == plain
    for change in ({"mining.answers": True}, {"refine.ranks": "answers"}):
        with pytest.raises(RecipeError, match=r"no training query of tiny has answers.*Leave it out"):
            keys_of(load_recipe(tiny_recipe, change), tmp_path)
    home = {"collection.path": str(slices.dpr(tiny_path, tmp_path / "nq"))}
    by_answers, off, asked = (
        keys_of(load_recipe(tiny_recipe, home | changes), tmp_path)
        for changes in ({}, {"mining.answers": False}, {"mining.answers": True})
    )
    assert asked == by_answers
    changed = {stage for stage in off if off[stage] != by_answers[stage]}
    assert {"candidates-2", "candidates.ce", "select-3", "rung-2"} <= changed
    assert not changed & {"bm25", "bm25.test", "start"}
    by_qrels = keys_of(load_recipe(tiny_recipe, home | {"refine.ranks": "qrels"}), tmp_path)
    changed = {stage for stage in off if by_qrels[stage] != by_answers[stage]}
    assert {"select-3", "rung-3", "outcome-3"} <= changed and not changed & {"candidates-2", "rung-2"}


ASKED = {"headroom-2", "headroom-3", "strength.ce", "strongest-de", "strongest-ce"}
"""The stages that ask a teacher that reranks about dev queries."""

CHANGED_BY = [
    ("ladder.2.gradient_cache", True, set()),
    ("refine.gradient_cache", True, set()),
    ("teachers.de.train.gradient_cache", True, set()),
    ("judging.level", 0.5, {"promote-1", "promote-2", "promote-3", "table"}),  # which says what was promoted
    ("judging.headroom_queries", 3, ASKED),
    ("judging.rerank", 9, {*ASKED, "reranked.test", "table"}),  # whose row is called by that number
]


@pytest.mark.parametrize(("change", "value", "stages"), CHANGED_BY)
def test_a_setting_is_in_no_other_key(tiny_recipe, plain, tmp_path, change, value, stages):
    changed = keys_of(load_recipe(tiny_recipe, {change: value}), tmp_path)
    assert {name for name, key in plain.items() if changed[name] != key} == stages


def test_how_the_test_is_judged_is_in_the_keys_of_test_stages_alone(tiny_recipe, plain, tmp_path):
    changed = keys_of(load_recipe(tiny_recipe, {"collection.relevant_from": 2}), tmp_path)
    others = {name for name, key in plain.items() if changed[name] != key}
    assert others == {"table", *(name for name in plain if name.endswith(".test"))}


def test_another_seed_leaves_what_nothing_is_drawn_for(tiny_recipe, plain, tmp_path):
    changed = keys_of(load_recipe(tiny_recipe, {"seed": 14}), tmp_path)
    start, base = ({model, *(f"{model}.{part}" for part in ("vectors", "dev", "test"))} for model in ("start", "base"))
    assert {name for name, key in plain.items() if changed[name] == key} == {"bm25", "bm25.test", *start, *base}


def test_the_hardest_negatives_and_untrained_teachers_are_the_same_for_every_seed(variant, tmp_path):
    recipe = variant(
        (", train: {epochs: 1, lr: 1.0e-3, batch: 8}}", "}"),
        ("    layers: 2\n    imitate: de\n    train: {epochs: 1, batch: 4, candidates: 4, imitate_epochs: 1}\n", ""),
        ("mining: {", "mining: {sampling: hardest, "),
    )
    one, two = (keys_of(load_recipe(recipe, {"seed": seed}), tmp_path) for seed in (13, 14))
    same = {name for name, key in one.items() if two[name] == key}
    teachers = {"teacher.ce", *(f"teacher.de{part}" for part in ("", ".vectors", ".dev", ".test", ".train"))}
    assert {*teachers, "headroom-1", "candidates-2", "scores-2"} <= same
    assert not {"headroom-2", "rung-1", "rung-2", "contrastive"} & same


def test_other_texts_are_other_work_altogether(tiny_recipe, tiny_path, plain, tmp_path):
    other = shutil.copytree(tiny_path, tmp_path / "other")
    with (other / "corpus.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"_id": "new", "title": "", "text": "one more"}\n')
    changed = keys_of(load_recipe(tiny_recipe, {"collection.path": str(other)}), tmp_path)
    assert changed.keys() == plain.keys() and not set(changed.values()) & set(plain.values())
