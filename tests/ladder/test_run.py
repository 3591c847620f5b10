"""A whole ladder from one end to the other."""

import itertools
import json
import shutil
from importlib import import_module
from pathlib import Path
from types import FunctionType, SimpleNamespace

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Router
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

from common import Killed
from stepwell import api
from stepwell.distil import training
from stepwell.distil.candidates import Candidates
from stepwell.errors import StepwellError
from stepwell.evaluation import Evaluation
from stepwell.files import read_json
from stepwell.ladder import builder, trainings, workspace
from stepwell.ladder.build import stages_of
from stepwell.ladder.run import prepare, shared_facts
from stepwell.ladder.stage import Job, Settings
from stepwell.ladder.workspace import Workspace, damage
from stepwell.models import shape
from stepwell.models.build import build_cross_encoder, build_student
from stepwell.models.encoder import Encoder
from stepwell.models.opening import open_sentence_transformer, save_model
from stepwell.models.reranker import Reranker
from stepwell.models.shape import vector_width
from stepwell.models.token_store import both_tokens
from stepwell.recipe import Rung, StudentSection
from stepwell.recipe.teachers import DualEncoderTeacher
from stepwell.recipe.yaml_file import load_recipe
from stepwell.retrieval.run import Run
from stepwell.systems.folder import RunFolder
from stepwell.systems.records import Promotion, Rate, Strongest, Training, Updates
from stepwell.systems.searcher import Searcher
from stepwell.teachers.scoring import Stored

pytestmark = pytest.mark.usefixtures("without_report")


@pytest.fixture(scope="module")
def facts(tiny_run):
    return read_json(tiny_run / "results.json")


def manifests(folder):
    return {m["name"]: m for m in map(read_json, folder.glob("stages/*/manifest.json"))}


def names(recipe):
    return [stage.name for stage in stages_of(prepare(recipe))]


def test_every_stage_is_whole_and_comes_after_its_inputs(tiny_run, tiny_recipe, facts):
    assert not list(tiny_run.glob("stages/*.partial")) and not list(tiny_run.rglob("*.draft"))
    assert all(damage(place) is None for place in (tiny_run / "stages").iterdir())
    stages = stages_of(prepare(load_recipe(tiny_recipe)))
    seen = set()
    for stage in stages:
        assert {name for name in stage.inputs.values() if "@" not in name} <= seen
        seen.add(stage.name)
    decided = {stage.name for stage in stages if stage.only_if and stage.only_if[-1].startswith("strongest-")}
    assert {stage.name for stage in stages if "@" not in stage.name} - decided <= set(facts["stages"])
    assert len(decided & set(facts["stages"])) == 4 < len(decided)  # training, vectors, dev and test of one of two


def test_a_model_that_changed_in_its_directory_is_another_one(variant, tiny_model, tmp_path):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    recipe = load_recipe(variant(("from: MODEL", f"from: {model}")))

    def settings():
        return {stage.name: stage.settings for stage in stages_of(prepare(recipe))}

    before = settings()
    (model / "README.md").write_text("words")
    (model / "trainer_state.json").write_text("{}")
    assert settings() == before
    weights = model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    after = settings()
    assert {name for name in before if before[name] != after[name]} == {"start", "teacher.de", "teacher.ce", "base"}


def test_a_measure_that_reranking_cant_change_decides_nothing(variant):
    def build(measure, *changes):
        judging = ("judging: {", f"judging: {{measure: {measure}, ")
        return names(load_recipe(variant(judging, *changes)))

    climb = (", candidates: 4, force: true}", ", candidates: 4}")
    with pytest.raises(StepwellError, match=r"R@10 .* ce only reorders the first 10 .* `rerank` above 10"):
        build("R@10", climb)
    assert build("R@9", climb) == build("nDCG@10", climb) == build("R@10")


def test_what_a_user_looks_for_lies_in_the_folder(tiny_run, facts):
    assert {path.name for path in tiny_run.iterdir()} == {
        *("model", "runs", "stages", "recipe.yaml", "results.json", "results.txt", ".lock"),
        *("report.html", "report.json"),
    }
    systems = facts["comparison"]["systems"]
    assert {
        *("BM25", "base model, untuned", "student, untrained", "teacher de", "contrastive only"),
        *("rung 1 alone, de embedding", "rung 1, then ce candidates", "straight from de, in-batch"),
        *("ladder", "ladder + refine", "ladder + refine, passages by de"),
        *("BM25 and ladder + refine, fused", "ce reranks its top 10"),
    } == set(systems)
    text = (tiny_run / "results.txt").read_text()
    assert all(label in text for label in systems)
    assert len(list((tiny_run / "runs").glob("*.trec"))) == len(systems)
    rows = {row["name"]: row["values"]["nDCG@10"] for row in facts["comparison"]["rows"]}
    gain = rows["BM25 and ladder + refine, fused"] - rows["BM25"]
    assert f"BM25 and ladder + refine, fused against BM25: nDCG@10 {gain:+.3f} [" in text


def test_the_trec_files_give_the_tables_figures(tiny_run, tiny_collection, facts):
    rows = {row["name"]: row for row in facts["comparison"]["rows"]}
    for label, name in (("BM25", "bm25"), ("ladder + refine", "ladder-refine"), ("ladder", "ladder")):
        evaluation, _ = api.evaluate_system(tiny_run / "runs" / f"{name}.trec", tiny_collection.path, "test")
        assert evaluation.mean("nDCG@10") == pytest.approx(rows[label]["values"]["nDCG@10"], abs=1e-12)


def test_the_recipe_in_the_folder_is_the_one_that_was_run(tiny_run, tiny_recipe):
    assert load_recipe(tiny_run / "recipe.yaml") == load_recipe(tiny_recipe)


def test_a_training_says_what_went_through_the_model(tiny_run, tiny_collection, facts):
    log = read_json(tiny_run / facts["stages"]["rung-1"] / "training.json")
    assert log["texts"] == 16 * log["steps"]  # of the embedding rung, the batch
    assert 3 * log["texts"] <= log["tokens"] <= log["padded"] <= 34 * log["texts"]  # two special tokens in each
    assert log["tokens"] ** 2 / log["texts"] <= log["squares"]
    assert log["peak"] > 0


def test_a_second_run_does_nothing_again(tiny_run, tiny_recipe, monkeypatch):
    def never(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(training, "train", never)
    monkeypatch.setattr("stepwell.ladder.trainings.train", never)
    monkeypatch.setattr(Encoder, "encode", never)
    before = {path: path.stat().st_mtime_ns for path in (tiny_run / "stages").rglob("*")}
    first = read_json(tiny_run / "results.json")
    again = api.run(tiny_recipe, tiny_run).to_json()
    assert {path: path.stat().st_mtime_ns for path in (tiny_run / "stages").rglob("*")} == before
    assert first["comparison"] == again["comparison"] and first["stages"] == again["stages"]


def test_a_plan_of_a_finished_run_costs_nothing(tiny_run, tiny_recipe):
    plan = api.plan(tiny_recipe, tiny_run)
    assert all(plan.done) and plan.total == 0
    fresh = api.plan(tiny_recipe, tiny_run.parent / "nowhere")
    assert not any(fresh.done) and fresh.total > 0 and fresh.disk > 0 and fresh.memory > 1e8
    assert not (tiny_run.parent / "nowhere").exists()


def test_the_same_recipe_gives_the_same_weights_and_no_rung_is_idle(tiny_run, facts):
    place = {name: tiny_run / folder for name, folder in facts["stages"].items()}
    weights = [(place[name] / "model" / "model.safetensors").read_bytes() for name in ("start", "rung-1", "rung-2")]
    assert len(set(weights)) == 3
    for name in ("rung-1", "rung-2", "rung-3", "teacher.de", "teacher.ce", "contrastive"):
        log = read_json(place[name] / "training.json")
        assert log["steps"] == len(log["losses"]) > 0 and np.isfinite(log["losses"]).all()
    imitation = read_json(place["teacher.ce"] / "imitation" / "training.json")
    assert imitation["steps"] > 0 and list(imitation["parts"]) == ["imitate"]


def test_a_training_reads_as_much_of_a_text_as_its_vectors_are_made_of(tiny_recipe, tiny_run, facts):
    ctx = prepare(load_recipe(tiny_recipe, {"tokens.query": 4}))  # shorter than most queries
    encoder = Encoder.open(tiny_run / facts["stages"]["start"] / "model")
    for tokens, side, texts in zip(
        both_tokens(ctx.collection, encoder),
        ("query", "document"),
        (ctx.collection.query_texts(), ctx.collection.passage_texts()),
        strict=True,
    ):
        assert tokens.lengths.tolist() == encoder.tokenise(texts, side).lengths.tolist()
        assert tokens.lengths.max() > 4


def test_the_embedding_rung_brings_the_student_nearer_to_the_teachers_space(tiny_run, facts):
    losses = read_json(tiny_run / facts["stages"]["rung-1"] / "training.json")["losses"]
    assert np.mean(losses[-2:]) < np.mean(losses[:2])


def test_a_baseline_gets_the_ladders_number_of_updates(tiny_run, facts):
    place = {name: tiny_run / folder for name, folder in facts["stages"].items()}
    steps = {
        name: read_json(place[name] / "training.json")["steps"]
        for name in place
        if name.startswith("rung-") and "." not in name
    }
    assert len(steps) == 3
    behind = sum(steps.values()) - steps["rung-1"]  # a baseline that starts behind the first rung has its updates too
    baselines = {"contrastive": 0, "first-alone": 0, "first-then-last": 1, "straight-de-in-batch": 1}
    for baseline, later in baselines.items():
        taken = read_json(place[baseline] / "training.json")["steps"]
        assert taken == (behind if later else sum(steps.values())) and taken > 0
    rows = {row["system"]: row for row in facts["comparison"]["trained"]}
    assert rows["ladder + refine"]["updates"] == rows["contrastive only"]["updates"] == sum(steps.values())
    assert rows["rung 1, then ce candidates"]["updates"] == behind and all(row["texts"] > 0 for row in rows.values())
    assert rows["ladder + refine"]["learned"] == "de (embedding), ce (candidates), ce (refine), labels"
    assert "The student learned from de (embedding)" in facts["comparison"]["notes"][0]


def test_no_two_trainings_of_a_model_draw_in_one_order(tiny_run, facts):
    def turn(stage, *inner):
        return read_json(tiny_run.joinpath(facts["stages"][stage], *inner, "training.json"))["turn"]

    rungs = [turn(stage) for stage in ("rung-1", "rung-2", "rung-3")]
    assert rungs == [0, 1, 2] and [turn("teacher.ce", "imitation"), turn("teacher.ce")] == [0, 1]
    assert [turn(stage) for stage in ("contrastive", "first-alone", "teacher.de")] == [0, 0, 0]


def test_the_order_follows_from_seed_and_turn_and_from_no_name(tmp_path):
    for turn in (0, 1):
        (tmp_path / str(turn)).mkdir()
        Training(training.TrainingLog(turn=turn)).save(tmp_path / str(turn))
    (tmp_path / "untrained").mkdir()

    def order(seed, name="rung-1", **inputs):
        folders = {role: tmp_path / place for role, place in inputs.items()}
        job = Job(name, Settings(name, {}), folders, tmp_path, SimpleNamespace(seed=seed))
        ((_, examples),) = training.batches(40, 40, trainings.stream(job), 0, 1)
        return tuple(examples)

    first = order(13)
    assert order(13, student="untrained") == order(13, "straight", student="untrained") == first
    assert order(13, student="0") == order(13, model="0")
    assert len({first, order(13, student="0"), order(13, student="1"), order(14), order(14, student="0")}) == 5


def test_refine_selected_some_queries(tiny_run, facts):
    decision = read_json(tiny_run / facts["stages"]["select-3"] / "decision.json")
    assert decision["go"] and 0 < decision["selected"] <= decision["asked"] <= decision["queries"] == 28


def test_the_final_model_is_plain_sentence_transformers_and_ranks_as_the_searcher_does(tiny_run, tiny_collection):
    model = SentenceTransformer(str(tiny_run / "model"), device="cpu")
    assert len(model[0].auto_model.encoder.layer) == 1
    passages = model.encode_document(tiny_collection.passage_texts())
    texts = tiny_collection.query_texts(tiny_collection.qrels("test").query_rows)
    scores = model.similarity(model.encode_query(texts), passages).numpy()
    searcher = Searcher.open(tiny_run)
    for text, row in zip(texts, scores, strict=True):
        hits = searcher.search(text, 60)
        order = np.argsort(-row, kind="stable")
        assert [hit.passage_id for hit in hits] == [tiny_collection.passage_ids[int(i)] for i in order]
        assert [hit.score for hit in hits] == pytest.approx(row[order].tolist(), abs=1e-5)


def test_the_searchers_modes_give_the_tables_runs(tiny_run, tiny_collection, facts):
    rows = tiny_collection.qrels("test").query_rows
    labels = {"student": "ladder + refine", "asymmetric": "ladder + refine, passages by de", "bm25": "BM25"}
    labels["fused"] = "BM25 and ladder + refine, fused"
    for mode, label in labels.items():
        stage = facts["stages"][facts["comparison"]["systems"][label]]
        run = Run.load(tiny_run / stage / "run.parquet", tiny_collection)
        searcher = Searcher.open(tiny_run, mode)
        for query, passages in zip(rows, run.passages, strict=True):
            hits = searcher.search(tiny_collection.query_texts([int(query)])[0], 10)
            expected = [tiny_collection.passage_ids[int(p)] for p in passages[:10] if p >= 0]
            assert [hit.passage_id for hit in hits] == expected, mode
            assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))


def test_changing_the_second_rung_keeps_all_before_it(tiny_run, variant, tmp_path):
    old = load_recipe(tiny_run / "recipe.yaml")
    new = load_recipe(variant(("tau: 0.5, epochs: 1", "tau: 0.7, epochs: 1")))
    plan = api.plan(new, tiny_run)
    todo = [stage.name for stage, done in zip(plan.stages, plan.done, strict=True) if not done]
    assert todo[0] == "scores-2" and "rung-2" in todo and "rung-3" in todo
    assert not {"start", "teacher.de", "teacher.ce", "rung-1", "rung-1.dev", "promote-1", "candidates-2"} & set(todo)
    assert names(old) == names(new)


@pytest.mark.parametrize(
    ("key", "value", "again", "kept"),
    [
        ("judging.depth", 59, {"start.dev", "bm25.test"}, {"bm25", "teacher.de", "teacher.ce", "rung-1", "rung-2"}),
        ("mining.denoise", 3.0, {"candidates-2", "rung-2"}, {"candidates.de", "teacher.de", "teacher.ce", "rung-1"}),
        ("tokens.pair", 50, {"teacher.ce", "rung-2"}, {"start", "teacher.de", "candidates.ce", "rung-1", "base"}),
        ("tokens.query", 20, set(), {"start", "teacher.de", "teacher.ce", "rung-1", "rung-2", "table"}),
        ("tokens.passage", 30, {"start", "teacher.de", "rung-1"}, {"bm25", "candidates.de"}),
    ],
)
def test_a_changed_setting_does_again_what_it_is_in_and_no_more(tiny_run, tiny_recipe, key, value, again, kept):
    plan = api.plan(load_recipe(tiny_recipe, {key: value}), tiny_run)
    done = {stage.name for stage, done in zip(plan.stages, plan.done, strict=True) if done}
    assert again.isdisjoint(done) and kept <= done


def test_a_second_seed_in_the_folder_shares_what_nothing_is_drawn_for(variant, tiny_model, tmp_path, monkeypatch):
    """Teachers that are taken as they are embed once and score a pair once, whatever the number of seeds."""
    Reranker(build_cross_encoder(str(tiny_model), 2, 56, seed=1), 56).save(tmp_path / "ce")
    trained = "layers: 2\n    imitate: de\n    train: {epochs: 1, batch: 4, candidates: 4, imitate_epochs: 1}\n"
    recipe = load_recipe(
        variant(
            (", train: {epochs: 1, lr: 1.0e-3, batch: 8}}", "}"),
            (f"from: MODEL\n    {trained}", f"from: {tmp_path / 'ce'}\n"),
            ("mining: {", "mining: {sampling: hardest, "),
            ("refine: {", "refine: {rounds: 0, "),
            ("proof: quick", "proof: none"),
        )
    )
    encoded, scored, write, fill = list[str](), list[tuple[object, ...]](), builder.write_vectors, Stored.fill

    def note(encoder, collection, rows, folder, progress):
        encoded.append(f"stages/{folder.name.removesuffix('.partial')}")
        write(encoder, collection, rows, folder, progress)

    def count(self, queries, passages, progress):
        scored.extend((self.fingerprint, *pair) for pair in zip(queries.tolist(), passages.tolist(), strict=True))
        fill(self, queries, passages, progress)

    monkeypatch.setenv("STEPWELL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(builder, "write_vectors", note)
    monkeypatch.setattr(Stored, "fill", count)
    one = api.run(recipe, tmp_path / "run").stages
    encoded.clear()
    two = api.run(recipe.model_copy(update={"seed": 2}), tmp_path / "run").stages
    again = {name for name, folder in two.items() if one.get(name) != folder}
    students = {f"{rung}{part}" for rung in ("rung-1", "rung-2") for part in ("", ".vectors", ".dev")}
    final = {"rung-2.test", "fused.test", "reranked.test", "asymmetric.test", "overlap", "same-width", "search.vectors"}
    assert students <= again <= students | final | {"headroom-2", "promote-1", "promote-2", "table", "updates"}
    assert set(encoded) == {two[name] for name in again if name.endswith(".vectors")}
    assert scored and len(scored) == len(set(scored))


def test_a_rung_without_headroom_is_left_out_and_the_student_before_it_goes_on(variant, tmp_path, capsys):
    recipe = variant(
        (", batch: 16, force: true", ", batch: 16"),
        ("train: {epochs: 1, lr: 1.0e-3, batch: 8}}", "layers: 1}"),  # the teacher is the student as it starts
        ("candidates: 4, force: true}", "candidates: 4, force: true, negatives: bm25}"),
        ("refine: {", "refine: {rounds: 0, "),
        ("proof: quick", "proof: none"),
    )
    facts = api.run(recipe, tmp_path / "run").to_json()
    assert "rung-1" not in facts["stages"] and "rung-2" in facts["stages"]
    decision = read_json(tmp_path / "run" / facts["stages"]["promote-1"] / "decision.json")
    assert decision["student"] == "start" and decision["after"] is None
    assert facts["final"] == "rung-2"
    assert "no headroom" in capsys.readouterr().err
    assert "contrastive only" not in facts["comparison"]["systems"]
    plan = api.plan(recipe, tmp_path / "run")
    assert all(plan.done) and plan.total == 0 and plan.left_out == {"rung-1", "rung-1.vectors", "rung-1.dev"}
    assert [row[2] for row in plan.table().rows].count("left out") == 3
    # and it can be searched, also with the vectors of the student behind the name
    assert Searcher.open(tmp_path / "run").search("river", 3)


def test_the_paper_s_ladder_in_two_towers_with_a_dot_product(variant, tmp_path, capsys):
    """In-batch rung, a rung with another teacher beside and keep over the batch, students mining for themselves."""
    recipe = variant(
        ("layers: 1}", "layers: 1, towers: 2, pooling: cls, similarity: dot}"),
        ("loss: embedding, epochs: 1", "loss: in-batch, gamma: 0, tau: 900, epochs: 1"),
        ("batch: 4, tau: 0.5, rule", "batch: 4, tau: 0.5, teacher_tau: 800, rule"),
        ("loss: candidates,", "loss: candidates, beside: de, keep_over: batch, negatives: student,"),
        ("mining: {", "warmup: {epochs: 1, batch: 8}\nmining: {pool: 6, denoise: 0.1, sampling: simans, "),
        ("proof: quick", "proof: none"),
    )
    facts = api.run(recipe, tmp_path / "run").to_json()
    log = read_json(tmp_path / "run" / facts["stages"]["rung-2"] / "training.json")
    assert set(log["parts"]) == {"hard", "soft", "keep", "beside"}
    assert facts["asymmetric"] is None
    said = " ".join(capsys.readouterr().err.split())  # of both, that so large a temperature leaves nothing to learn
    assert "the plan had said" in said
    assert "at tau 900 the softmax of 100%" in said and "at tau 800 the softmax of 100%" in said
    with pytest.raises(StepwellError, match="no asymmetric retriever"):
        Searcher.open(tmp_path / "run", "asymmetric")
    model = SentenceTransformer(str(tmp_path / "run" / "model"), device="cpu")
    assert not np.allclose(model.encode_query("the river"), model.encode_document("the river"))


def test_scores_that_teach_nothing_are_named_once(variant, tmp_path, capsys):
    """By the stage of scores, also where the rung begins the ladder; the straight baseline has the same ones."""
    only = ("  - {teacher: de, loss: embedding, epochs: 1", "  # {teacher: de, loss: embedding, epochs: 1")
    recipe = variant(
        only, ("loss: candidates, tau: 0.5", "loss: candidates, tau: 900"), ("{depth: 10", "{rounds: 0, depth: 10")
    )
    api.run(recipe, tmp_path / "run")
    assert capsys.readouterr().err.count("at tau 900") == 1


def test_full_proof_adds_every_teacher_by_every_loss(variant):
    recipe = load_recipe(variant(("proof: quick", "proof: full")))
    wanted = {"contrastive", "first-alone", "first-then-last", "straight-ce-candidates", "straight-de-in-batch"}
    stages = {stage.name: stage for stage in stages_of(prepare(recipe))}
    assert wanted <= stages.keys() and "straight-de-embedding" not in stages  # which is the first rung alone
    assert stages["straight-ce-candidates"].only_if == ("updates",)


def test_dev_says_which_teacher_is_the_strongest_and_which_rate_is_taken(variant, tmp_path):
    """On the same dev queries; and of three trainings that which is the best on dev stands in the table."""
    place = tmp_path / "run"
    api.run(variant(("proof_rates: [1]", "proof_rates: [0.1, 1, 10]")), place)
    run = RunFolder(place)
    figures = run.read("strongest-de", Strongest).figures
    best = max(figures, key=figures.get)
    assert {name: run.read(f"strongest-{name}", Strongest).go for name in figures} == {
        name: name == best for name in ("de", "ce")
    }
    rate = run.read("rate-contrastive", Rate)
    assert [value for value, _ in rate.rates.values()] == pytest.approx([5e-6, 5e-5, 5e-4])
    assert rate.rates[rate.student][1] == max(figure for _, figure in rate.rates.values())
    found = run.results.table
    assert found.systems["contrastive only"] == f"{rate.student}.test"
    assert {row.system: row.lr for row in found.trained}["contrastive only"] == rate.rates[rate.student][0]


def test_a_first_rung_s_own_teacher_may_be_the_strongest_too(variant):
    """Where a ladder begins with the usual loss of its teacher, that has no straight row of its own, and is judged."""
    recipe = load_recipe(variant(("loss: embedding, epochs: 1", "loss: in-batch, epochs: 1")))
    stages = {stage.name: stage for stage in stages_of(prepare(recipe))}
    assert "straight-de-in-batch" not in stages and "first-alone" in stages
    assert stages["strongest-ce"].settings["of"] == ["de", "ce"]
    assert "teacher.de.dev" in stages["strongest-ce"].inputs.values()
    assert "strongest-ce" in stages["straight-ce-candidates"].only_if


def test_a_ladder_of_which_only_the_first_rung_was_climbed_has_nothing_behind_it(variant, tmp_path):
    second = "epochs: 1, lr: 1.0e-3, batch: 8, candidates: 4, force: true}"
    changes = (second, second.replace("1", "0", 1)), ("{depth: 10", "{rounds: 0, depth: 10")
    api.run(variant(*changes), tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    systems = run.results.table.systems
    assert "rung 1 alone, de embedding" in systems and "rung 1, then ce candidates" not in systems
    assert run.read("updates", Updates).go is False


def test_a_first_rung_that_did_not_go_on_is_no_baselines_start(variant, tmp_path):
    """What would go on behind it starts where the ladder did, and has all updates, also those that were taken back."""
    api.run(variant((", batch: 16, force: true", ", batch: 16")), tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    assert run.read("promote-1", Promotion).student == "start"
    rows = {row.system: row for row in run.results.table.trained}
    begins = {row.start for row in rows.values()}
    assert begins == {"start"} and rows["rung 1, then ce candidates"].updates == rows["ladder + refine"].updates > 0


@pytest.mark.parametrize(("student", "steps"), [("start", 14), ("rung-1", 8)])
def test_a_baseline_lacks_the_updates_of_a_first_rung_that_it_is_behind_alone(tmp_path, student, steps):
    Updates(True, 14, {"rung-1": 6, "rung-2": 8}).save(tmp_path)
    names = {"student": student, "updates": "updates"}
    job = Job("straight", Settings("straight", {"behind": True}), {"updates": tmp_path}, tmp_path, None, names)
    assert trainings.updates(job) == steps


FIRST = "  - {teacher: de, loss: embedding, epochs: 1, lr: 1.0e-3, batch: 16, force: true}\n"
SECOND = "  - {teacher: ce, loss: candidates, tau: 0.5, epochs: 1, lr: 1.0e-3, batch: 8, candidates: 4, force: true}\n"


@pytest.mark.parametrize(
    ("changes", "expected"), [([(SECOND, "")], (5e-5, 16)), ([(FIRST + SECOND, SECOND + FIRST)], (1e-3, 8))]
)
def test_no_baseline_learns_scores_at_the_rate_of_vectors(variant, changes, expected):
    recipe = load_recipe(variant(*changes, ("{depth: 10", "{rounds: 0, depth: 10")))
    stages = {stage.name: stage for stage in stages_of(prepare(recipe))}
    settings = stages["straight-de-in-batch"].settings
    assert (settings["lr"], settings["batch"]) == expected


def test_the_teacher_of_refine_alone_has_a_baseline_too(variant):
    recipe = load_recipe(variant((SECOND, ""), ("refine: {", "refine: {teacher: ce, ")))
    stages = {stage.name: stage for stage in stages_of(prepare(recipe))}
    assert stages["strongest-ce"].settings["of"] == ["ce", "de"]  # where nothing is known: the last of the ladder
    straight = stages["straight-ce-candidates"]
    assert straight.only_if == ("updates", "strongest-ce") and straight.settings["teacher"] == "ce"


def test_a_second_round_of_refine_waits_for_the_first(variant):
    recipe = load_recipe(variant(("refine: {", "refine: {rounds: 2, ")))
    stages = {stage.name: stage for stage in stages_of(prepare(recipe))}
    gates = {name: stages[name].only_if for name in ("select-3", "rung-3", "select-4", "rung-4")}
    assert gates["select-3"] == ("headroom-3",) and gates["select-4"] == ("promote-3",)
    assert gates["rung-3"] == ("select-3",) and gates["rung-4"] == ("select-4",)
    assert stages["rung-4"].inputs["student"] == "student@3"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("alpha", 0.3),
        ("beta", 0.4),
        ("gamma", 0.7),
        ("tau", 3.0),
        ("keep_over", "batch"),
        ("soft", "decoupled"),
        ("teacher_tau", 2.0),
        ("target", 0.2),
        ("rest", 0.6),
        ("hold", 0.5),
    ],
)
def test_what_a_rung_says_of_its_loss_reaches_the_loss(key, value):
    terms = trainings.terms_of(Rung(teacher="t", loss="candidates", **{key: value}), "candidates")
    plain = trainings.terms_of(Rung(teacher="t", loss="candidates"), "candidates")
    assert getattr(terms, key) == value and terms != plain


def test_a_training_on_a_part_of_the_queries_and_on_grades(variant, tmp_path):
    """The recipe's `train_queries` and `labels` change what a cross-encoder learns from."""
    losses = []
    for labels in ("positives", "grades"):
        recipe = variant(
            ("imitate: de", ""),
            ("candidates: 4, imitate_epochs: 1}", f"candidates: 4, steps: 2, train_queries: 9, labels: {labels}}}"),
        )
        ctx = prepare(load_recipe(recipe))
        with Workspace(tmp_path, shared_facts(ctx)) as workspace:
            for stage in stages_of(ctx):
                workspace.do(stage, ctx.surroundings)
                if stage.name == "teacher.ce":
                    break
            found = Candidates.load(workspace.folders["candidates.ce"] / "candidates.parquet", ctx.collection)
            losses.append(read_json(workspace.folders["teacher.ce"] / "training.json")["losses"])
        assert len(found) == 9
    assert losses[0] != losses[1]


def test_a_teacher_that_was_killed_behind_its_imitation_goes_on_from_it(
    tiny_run, facts, tiny_recipe, tmp_path, monkeypatch
):
    train = trainings.train

    def stop_at(call):
        calls = itertools.count(1)

        def killed(*arguments):
            if next(calls) == call:
                raise Killed
            return train(*arguments)

        monkeypatch.setattr(trainings, "train", killed)
        with pytest.raises(Killed):
            api.run(tiny_recipe, tmp_path / "run")

    stop_at(4)  # 1: de, 2: rung 1, 3: ce imitates, 4: ce on labels
    assert not (tmp_path / "run" / facts["stages"]["teacher.ce"]).exists()
    stop_at(2)  # 1: ce on labels, 2: the rung behind it
    whole, ours = (root / facts["stages"]["teacher.ce"] for root in (tiny_run, tmp_path / "run"))
    assert (ours / "model/model.safetensors").read_bytes() == (whole / "model/model.safetensors").read_bytes()


INSTANTS = {  # what is called when model and log lie in the folder; whether before or behind it
    "before the manifest": (Workspace, "_seal", False),
    "behind the manifest": (Workspace, "_seal", True),
    "before the rename": (workspace, "remove", False),
}


@pytest.mark.parametrize("instant", INSTANTS)
@pytest.mark.parametrize("stage", ["teacher.de", "teacher.ce", "rung-2"])
def test_a_training_that_was_killed_behind_its_last_step_takes_no_step_again(
    tiny_run, facts, tiny_recipe, tmp_path, monkeypatch, stage, instant
):
    monkeypatch.setenv("STEPWELL_CHECKPOINT_SECONDS", "0")
    out, steps, backward = shutil.copytree(tiny_run, tmp_path / "run"), [], training._backward
    place = out / facts["stages"][stage]
    shutil.rmtree(place)

    def counted(*given):
        steps.append(1)
        return backward(*given)

    owner, name, behind = INSTANTS[instant]
    original = getattr(owner, name)

    def killed(*given):
        if behind:
            original(*given)
        raise Killed

    monkeypatch.setattr(training, "_backward", counted)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, name, killed)
        api.run(tiny_recipe, out)
    half, taken = place.with_name(f"{place.name}.partial"), len(steps)
    assert taken > 0 and (half / "checkpoint.safetensors").is_file() == (instant != "before the rename")
    api.run(tiny_recipe, out)
    assert len(steps) == taken and damage(place) is None and not half.exists()
    assert not (place / "checkpoint.safetensors").exists()
    own, whole = (
        {str(path.relative_to(root)): path.read_bytes() for path in root.glob("model/**/*.safetensors")}
        for root in (place, tiny_run / facts["stages"][stage])
    )
    assert own == whole


def test_a_training_whose_files_were_damaged_when_it_was_killed_is_done_again(
    tiny_run, facts, tiny_recipe, tmp_path, monkeypatch
):
    out = shutil.copytree(tiny_run, tmp_path / "run")
    place = out / facts["stages"]["rung-2"]
    place.rename(half := place.with_name(f"{place.name}.partial"))
    (half / "model" / "model.safetensors").write_bytes(b"cut off")
    api.run(tiny_recipe, out)
    assert damage(place) is None
    own, whole = (root / facts["stages"]["rung-2"] / "model/model.safetensors" for root in (out, tiny_run))
    assert own.read_bytes() == whole.read_bytes()


def test_a_rung_that_lives_on_what_a_baseline_has_not_is_climbed_alone_by_its_own_loss(variant):
    recipe = load_recipe(variant(("loss: candidates,", "loss: candidates, alpha: 0, beta: 0, hold: 1,")))
    straight = next(stage for stage in stages_of(prepare(recipe)) if stage.name == "straight-ce-candidates")
    weights = {name: straight.settings[name] for name in ("alpha", "beta", "gamma", "hold")}
    assert weights == {"alpha": 0.1, "beta": 0.9, "gamma": 0, "hold": 0}  # labels are never left out


def test_baselines_get_negatives_as_clean_as_those_of_the_ladder(variant):
    recipe = load_recipe(variant(("mining: {", "mining: {denoise: 0.1, ")))
    stages = {stage.name: stage for stage in stages_of(prepare(recipe))}
    ladder, baseline = stages["candidates-2"], stages["candidates.proof"]
    assert (ladder.settings, ladder.inputs) == (baseline.settings, baseline.inputs)
    assert baseline.inputs["teacher"] == "teacher.ce"


def test_a_teacher_that_only_stands_beside_a_rung_is_made_too(variant):
    recipe = load_recipe(
        variant(
            ("teachers:\n", "teachers:\n  other: {kind: dual-encoder, from: MODEL}\n"),
            ("loss: candidates,", "loss: candidates, beside: other, hold: 0.5,"),
        )
    )
    stages = {stage.name: stage for stage in stages_of(prepare(recipe))}
    order = list(stages)
    assert order.index("teacher.other.vectors") < order.index("rung-2")
    assert {"teacher.other.vectors", "teacher.de.vectors"} <= set(stages["rung-2"].inputs.values())
    assert "teacher.other.vectors" not in stages["rung-1"].inputs.values()


@pytest.fixture
def narrow(tiny_model, tmp_path):
    """Return the directory of an encoder whose head makes vectors of 24 numbers of those of 32."""
    base = open_sentence_transformer(str(tiny_model))
    base.append(Dense(32, 24))
    save_model(base, tmp_path / "narrow")
    return tmp_path / "narrow"


@pytest.mark.parametrize(
    "student, teacher",
    [("from: MODEL", "from: NARROW"), ("from: NARROW, pooling: cls", "from: NARROW"), ("from: NARROW", "from: MODEL")],
)
def test_hold_is_refused_before_anything_runs_where_no_head_brings_vectors_to_one_width(
    variant, narrow, tmp_path, student, teacher
):
    changes = [
        ("student: {from: MODEL", "student: {" + student.replace("NARROW", str(narrow))),
        ("de: {kind: dual-encoder, from: MODEL", "de: {kind: dual-encoder, " + teacher.replace("NARROW", str(narrow))),
    ]
    kept = names(load_recipe(variant(*changes, ("loss: candidates,", "loss: candidates, hold: 0.5,"))))
    assert {"asymmetric.test", "same-width"} <= set(kept)  # behind a head all of it works
    changes.append(("loss: embedding,", "loss: embedding, head: none,"))
    widths = (24, 32) if student == "from: NARROW" else (32, 24)
    held = variant(*changes, ("loss: candidates,", "loss: candidates, hold: 0.5,"))
    told = rf"rung 2 of the ladder: `hold` .*'de'.* have {widths[0]} numbers, .* {widths[1]}\. Keep the head"
    for start in (api.plan, api.run):
        with pytest.raises(StepwellError, match=told):
            start(held, tmp_path / "run")
    assert not list(tmp_path.glob("run/stages/*"))
    assert "asymmetric.test" not in names(load_recipe(variant(*changes)))


def test_hold_and_the_asymmetric_retriever_ask_for_the_width_of_vectors_not_of_layers(variant, narrow):
    recipe = variant(
        ("student: {from: MODEL", f"student: {{from: {narrow}"),
        ("de: {kind: dual-encoder, from: MODEL", f"de: {{kind: dual-encoder, from: {narrow}"),
        ("loss: candidates,", "loss: candidates, hold: 0.5,"),
    )
    assert "asymmetric.test" in names(load_recipe(recipe))


@pytest.mark.parametrize("head", ["none", "plain", "dense", "two poolings", "norm"])
def test_the_width_of_vectors_is_told_without_opening_the_model(tiny_model, tmp_path, monkeypatch, head):
    base, place = open_sentence_transformer(str(tiny_model)), str(tmp_path / "base")
    if head == "two poolings":
        base[1] = Pooling(32, ("mean", "max"))
    for module in {"dense": [Dense(32, 24)], "norm": [LayerNorm(32), Normalize()]}.get(head, []):
        base.append(module)
    save_model(base, tmp_path / "base")
    if head == "none":  # a model of transformers alone
        (tmp_path / "base" / "modules.json").unlink()
    sections = [
        DualEncoderTeacher(kind="dual-encoder", base=place),
        DualEncoderTeacher(kind="dual-encoder", base=place, layers=1),
        StudentSection(base=place, layers=2),
        StudentSection(base=place, pooling="cls"),
    ]
    expected = [width_of(section) for section in sections]
    for opening in ("open_sentence_transformer", "build_student"):
        monkeypatch.setattr(shape, opening, None)
    assert [vector_width(section) for section in sections] == expected


def width_of(section):
    """The width of a vector that was made."""
    shape = section.layers, "first", section.pooling, section.similarity, 1, 32
    encoder = Encoder(build_student(section.base, *shape))
    return encoder.encode(encoder.tokenise(["sail"], "query"), "query").shape[1]


def test_the_width_of_vectors_of_two_towers_is_that_of_their_heads(tiny_model, tmp_path):
    towers = ([*open_sentence_transformer(str(tiny_model)), Dense(32, 8)] for _ in range(2))
    model = SentenceTransformer(modules=[Router.for_query_document(*towers)], device="cpu")
    save_model(model, tmp_path / "towers")
    section = DualEncoderTeacher(kind="dual-encoder", base=str(tmp_path / "towers"))
    assert vector_width(section) == width_of(section) == 8


def test_a_broken_head_is_told_before_anything_runs(variant, narrow):
    (narrow / "2_Dense" / "config.json").write_text("{}")
    recipe = variant(("de: {kind: dual-encoder, from: MODEL", f"de: {{kind: dual-encoder, from: {narrow}"))
    with pytest.raises(StepwellError, match=r"can't open .*narrow as encoder"):
        names(load_recipe(recipe))


def test_refine_with_a_dual_encoder_is_refused_before_anything_runs(variant, tmp_path):
    recipe = load_recipe(variant(("refine: {", "refine: {teacher: de, ")))
    with pytest.raises(StepwellError, match=r"refine needs a cross-encoder.*'de'"):
        api.plan(recipe, tmp_path / "run")


def test_evaluations_are_kept_by_query(tiny_run, tiny_collection, facts):
    for stage in facts["comparison"]["systems"].values():
        evaluation = Evaluation.load(tiny_run / facts["stages"][stage] / "evaluation.parquet", tiny_collection)
        assert np.array_equal(evaluation.queries, tiny_collection.qrels("test").query_rows)


def test_the_results_are_json_that_names_versions_and_the_collection(tiny_run, tiny_collection):
    facts = json.loads((tiny_run / "results.json").read_text(encoding="utf-8"))
    assert facts["collection"]["fingerprint"] == tiny_collection.fingerprint
    assert Path(facts["collection"]["path"]) == tiny_collection.path
    assert {"stepwell", "torch", "python"} <= set(facts["versions"])
    assert manifests(tiny_run)["rung-1"]["shared"].keys() == {"collection", "seed", "train_rows", "unlabelled"}
    assert manifests(tiny_run)["rung-1"]["shared"]["seed"] == 13


def test_every_score_of_a_model_is_on_its_own_scale(variant, tmp_path):
    recipe = variant(
        ("layers: 1}", "layers: 1, scale: 5}"),
        ("de: {kind: dual-encoder,", "de: {kind: dual-encoder, scale: 7,"),
        ("refine: {", "refine: {rounds: 0, "),
        ("proof: quick", "proof: none"),
    )
    stages = api.run(recipe, tmp_path / "run").stages

    def of(stage, name):
        return read_json(tmp_path / "run" / stages[stage] / name)

    assert [of(f"{model}.vectors", "vectors.json")["scale"] for model in ("teacher.de", "start", "rung-1")] == [7, 5, 5]
    assert of("rung-2", "training.json")["parts"]["keep"][0] == pytest.approx(0, abs=1e-4)  # it starts from itself


def test_a_stage_can_hold_no_recipe(tiny_recipe):
    """What runs is a plain function of a module: all that it can read is in its settings, and so in its key."""
    for stage in stages_of(prepare(load_recipe(tiny_recipe)), to_search=True):
        assert isinstance(stage.run, FunctionType) and stage.run.__closure__ is None and not stage.run.__defaults__
        assert vars(import_module(stage.run.__module__))[stage.run.__name__] is stage.run
