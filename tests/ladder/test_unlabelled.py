"""A student that learns from texts outside of its collection too."""

import math

import numpy as np
import pytest

from conftest import TOPICS, TRAITS, write_recipe
from stepwell import api
from stepwell.errors import StepwellError
from stepwell.files import read_json
from stepwell.ladder.baselines import straight_rungs
from stepwell.ladder.build import stages_of
from stepwell.ladder.builder import Builder
from stepwell.ladder.plan import prices_of
from stepwell.ladder.run import prepare
from stepwell.models.encoder import Encoder
from stepwell.recipe.yaml_file import load_recipe

pytestmark = pytest.mark.usefixtures("without_report")

RECIPE = """\
name: more
collection: {path: COLLECTION}
tokens: {query: 12, passage: 32}
student: {from: MODEL, layers: 1}
teachers: {de: {kind: dual-encoder, from: MODEL}}
ladder:
  - {teacher: de, loss: embedding, batch: 16, force: true, more_passages: more.jsonl, more_queries: log.txt}
refine: {rounds: 0}
judging: {level: 0}
proof: none
"""
PASSAGES = [f"the {topic} is {trait} and {topic}" for topic in TOPICS[:7] for trait in TRAITS[:3]]
QUERIES = [f"which {topic} is broken" for topic in TOPICS]


def write(folder, collection, model, text=RECIPE):
    (folder / "more.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in PASSAGES))
    (folder / "log.txt").write_text("\n".join(QUERIES))
    return write_recipe(folder / "more.yaml", collection, model, text)


@pytest.fixture(scope="module")
def done(tiny_path, tiny_model, tmp_path_factory):
    """Return the recipe and the folder of a finished run."""
    home = tmp_path_factory.mktemp("more")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPWELL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.setattr("stepwell.api._report_at_the_end", lambda folder: None)
        recipe = write(home, tiny_path, tiny_model)
        api.run(recipe, home / "run")
    return recipe, home / "run"


def place(folder, stage):
    return folder / read_json(folder / "results.json")["stages"][stage]


def test_the_teacher_embeds_them_on_their_side_and_the_rung_goes_over_all(done):
    _, folder = done
    teacher = Encoder.open(place(folder, "teacher.de") / "model")
    for side, texts in (("document", PASSAGES), ("query", QUERIES)):
        vectors = np.load(place(folder, f"rung-1.more-{side}") / "texts.npy")
        expected = teacher.encode(teacher.tokenise(texts, side), side)
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
    steps = read_json(place(folder, "rung-1") / "training.json")["steps"]
    assert steps == math.ceil((60 + 28 + len(PASSAGES) + len(QUERIES)) / 16)


def test_they_are_searched_nowhere(done):
    _, folder = done
    assert len(np.load(place(folder, "rung-1.vectors") / "passages.npy", mmap_mode="r")) == 60


def test_their_content_and_not_their_name_counts_for_resume(done):
    recipe, folder = done
    log = recipe.with_name("log.txt")
    log.rename(recipe.with_name("renamed.txt"))
    recipe.write_text(recipe.read_text().replace("log.txt", "renamed.txt"))
    assert all(api.plan(recipe, folder).done)
    recipe.with_name("renamed.txt").write_text("\n".join(QUERIES[1:]))
    plan = api.plan(recipe, folder)
    again = {stage.name for stage, done in zip(plan.stages, plan.done, strict=True) if not done}
    assert {"rung-1.more-query", "rung-1"} <= again
    assert not again & {"bm25", "start", "teacher.de", "teacher.de.vectors", "rung-1.more-document", "headroom-1"}


def test_a_baseline_taught_in_the_same_way_gets_the_same_texts(tiny_path, tiny_model, tmp_path):
    text = RECIPE.replace("proof: none", "proof: full\nproof_rates: [1]").replace(
        "refine:", "  - {teacher: de, loss: in-batch}\nrefine:"
    )
    ctx = prepare(load_recipe(write(tmp_path, tiny_path, tiny_model, text)))
    stages = {stage.name: stage for stage in stages_of(ctx)}
    more = {"first-alone.more-document", "first-alone.more-query"}
    assert more <= set(stages["first-alone"].inputs.values()) and more <= set(stages)
    assert not [name for name in stages["straight-de-in-batch"].inputs.values() if ".more-" in name]
    builder, prices = Builder(ctx), prices_of(ctx)
    rung, (other,) = ctx.recipe.ladder[0], straight_rungs(builder)
    assert builder.more(rung) == (len(PASSAGES), len(QUERIES)) and builder.more(other) == (0, 0)
    assert prices.climb([(rung, sum(builder.more(rung)))], ctx.recipe.refine) == math.ceil(
        (60 + 28 + len(PASSAGES) + len(QUERIES)) / 16
    )


def test_a_recipe_without_them_keeps_its_stages(tiny_recipe):
    rung = next(stage for stage in stages_of(prepare(load_recipe(tiny_recipe))) if stage.name == "rung-1")
    assert not [key for key in rung.settings if key.startswith("more")]


def test_only_the_embedding_rung_can_use_them(tiny_path, tiny_model, tmp_path):
    recipe = write(tmp_path, tiny_path, tiny_model, RECIPE.replace("loss: embedding", "loss: in-batch"))
    with pytest.raises(StepwellError, match=r"rung 1 of the ladder.*more_queries.*only `embedding`"):
        load_recipe(recipe)


def test_a_file_that_is_not_there_is_told_before_anything_runs(tiny_path, tiny_model, tmp_path):
    recipe = write(tmp_path, tiny_path, tiny_model)
    (tmp_path / "log.txt").unlink()
    with pytest.raises(StepwellError, match=r"unlabelled texts log\.txt can't be read"):
        api.plan(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "stages").exists()
