"""Teachers of every kind in a ladder, and candidates of which a teacher has no score."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conftest import write_recipe
from stepwell import api
from stepwell.distil.candidates import Candidates
from stepwell.errors import StepwellError
from stepwell.evaluation import Evaluation
from stepwell.files import read_json
from stepwell.jobs.scoring import read_pairs
from stepwell.ladder import scoring
from stepwell.ladder.build import stages_of
from stepwell.ladder.run import prepare
from stepwell.ladder.stage import Job, Settings
from stepwell.ladder.trainings import build_dense
from stepwell.models.build import build_static, build_student
from stepwell.models.encoder import Encoder
from stepwell.models.late_interaction import LateInteraction
from stepwell.models.opening import save_model
from stepwell.recipe import Recipe
from stepwell.recipe.yaml_file import load_recipe
from stepwell.teachers.from_file import content_fingerprint
from stepwell.teachers.opening import kind_of
from stepwell.teachers.protocol import Several

RECIPE = """\
name: every-teacher
collection: {path: COLLECTION}
tokens: {query: 16, passage: 24, pair: 40}
student: {from: MODEL, layers: 1}
teachers:
  de: {kind: dual-encoder, from: MODEL}
  colbert:
    kind: late-interaction
    from: MODEL
    layers: 1
    imitate: de
    train: {imitate_epochs: 0.2, steps: 3, batch: 4, candidates: 4}
  ce: {kind: cross-encoder, from: MODEL, layers: 1, train: {steps: 2, batch: 4, candidates: 4}}
  file: {kind: scores, file: scores.tsv, missing: floor}
  all: {kind: mean, of: [de, colbert, file]}
  pick: {kind: best, of: [de, colbert], by: batch}
  hosted: {kind: http, url: URL, batch: 4, logit: true}
mining: {depth: 20, last: 10, near_duplicate: null}
ladder:
  - {teacher: de, loss: embedding, steps: 2, force: true}
  - {teacher: colbert, loss: candidates, candidates: 4, steps: 2, batch: 8, force: true}
  - {teacher: ce, loss: candidates, candidates: 4, steps: 2, batch: 8, force: true}
  - {teacher: file, loss: candidates, candidates: 4, steps: 2, batch: 8}
  - {teacher: all, loss: candidates, candidates: 4, steps: 2, batch: 8, force: true}
  - {teacher: pick, loss: candidates, candidates: 4, steps: 2, batch: 8, force: true}
  - {teacher: hosted, loss: candidates, candidates: 4, steps: 2, batch: 8, force: true}
refine: {teacher: colbert, depth: 10, steps: 2, candidates: 4, batch: 4, rule: better, worst: 30, force: true}
judging: {rerank: 4, depth: 20, level: 0, headroom_queries: 2}
proof: quick
proof_rates: [1]
"""


class Overlap(BaseHTTPRequestHandler):
    """A hosted re-ranker: the share of the query's words that a document has."""

    asked: list[int] = []  # noqa: RUF012 (shared on purpose)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        words = set(body["query"].split())
        found = [len(words & set(text.split())) / len(words) for text in body["documents"]]
        self.asked.append(len(found))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(
            json.dumps({"results": [{"index": i, "relevance_score": s} for i, s in enumerate(found)]}).encode()
        )

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    http = ThreadingHTTPServer(("127.0.0.1", 0), Overlap)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}/rerank"
    http.shutdown()
    http.server_close()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, tiny_path, tiny_model, tiny_collection, server):
    """Return the recipe file, with a file of scores of the training queries beside it."""
    folder = tmp_path_factory.mktemp("teachers")
    lines = []
    for query in tiny_collection.qrels("train").query_rows:
        right = set(tiny_collection.qrels("train").positives(int(query)).tolist())
        for passage in sorted(right) + [p for p in range(0, 60, 7) if p not in right]:
            name = tiny_collection.query_ids[int(query)], tiny_collection.passage_ids[passage]
            lines.append(f"{name[0]}\t{name[1]}\t{3.0 if passage in right else -passage / 60}")
    (folder / "scores.tsv").write_text("".join(f"{line}\n" for line in lines))
    return write_recipe(folder / "recipe.yaml", tiny_path, tiny_model, RECIPE.replace("URL", server))


@pytest.fixture
def towers(tiny_model, tmp_path):
    """Return the directory of a dual encoder whose towers differ."""
    model = build_student(str(tiny_model), None, "first", None, None, 2, 32)
    with torch.no_grad():
        next(model[0].sub_modules["query"].parameters()).mul_(-2)
    save_model(model, tmp_path / "towers")
    return tmp_path / "towers"


@pytest.mark.parametrize("train", ["", ", train: {steps: 1, batch: 4}"])
def test_a_dual_encoder_with_two_towers_teaches_with_both(recipe, towers, tmp_path, train):
    text = recipe.read_text()
    old = text[text.index("de: {kind: dual-encoder") : text.index("\n  colbert:")]
    (tmp_path / "recipe.yaml").write_text(text.replace(old, f"de: {{kind: dual-encoder, from: {towers}{train}}}"))
    ctx = prepare(load_recipe(tmp_path / "recipe.yaml"))
    encoder = build_dense(ctx.recipe.teachers["de"], ctx.recipe.tokens.longest, tmp_path)
    whole, saved = Encoder.open(towers), Encoder.open(tmp_path / "model")
    for side in ("query", "document"):
        expected = whole.encode(whole.tokenise(["the old river"], side), side)
        for made in (encoder, saved):
            assert np.array_equal(made.encode(made.tokenise(["the old river"], side), side), expected)


def one_teacher(recipe, tmp_path, said):
    """Write the recipe with another dual encoder."""
    text = recipe.read_text().replace("scores.tsv", str(recipe.parent / "scores.tsv"))
    old = text[text.index("de: {kind: dual-encoder") : text.index("\n  colbert:")]
    (tmp_path / "recipe.yaml").write_text(text.replace(old, f"de: {{kind: dual-encoder, {said}}}"))
    return tmp_path / "recipe.yaml"


def test_a_teacher_that_is_trained_may_have_two_towers(recipe, tiny_model, tmp_path):
    file = one_teacher(recipe, tmp_path, f"from: {tiny_model}, towers: 2, train: {{steps: 3, batch: 4, lr: 0.01}}")
    ctx = prepare(load_recipe(file))
    stage = next(stage for stage in stages_of(ctx) if stage.name == "teacher.de")
    assert stage.settings["towers"] == 2
    encoder = build_dense(ctx.recipe.teachers["de"], ctx.recipe.tokens.longest, tmp_path)
    vectors = [encoder.encode(encoder.tokenise(["the old river"], side), side) for side in ("query", "document")]
    assert np.array_equal(*vectors)  # they begin alike
    weights = dict(encoder.model.named_parameters())
    assert len({id(weight) for name, weight in weights.items() if name.endswith("word_embeddings.weight")}) == 2


def test_two_towers_of_a_teacher_have_the_weights_of_two_in_the_plan(recipe, tiny_model, tmp_path):
    plans = []
    for towers in (1, 2):
        said = f"from: {tiny_model}, towers: {towers}, train: {{steps: 3, batch: 4}}"
        (tmp_path / str(towers)).mkdir()
        plans.append(api.plan(one_teacher(recipe, tmp_path / str(towers), said), tmp_path / "run"))
    works = [next(work for stage, work, *_ in plan.lines() if stage.name == "teacher.de") for plan in plans]
    assert (works[1].disk, works[1].training) == (2 * works[0].disk, works[0].training)
    assert plans[1].memory > plans[0].memory


@pytest.mark.parametrize(
    ("base", "train", "told"),
    [
        ("MODEL", "", r"'de': `towers: 2` .*add `train`, or leave `towers` out"),
        ("TOWERS", ", train: {steps: 1}", r"'de': .*has two towers already.*leave `towers` out"),
        ("STATIC", ", train: {steps: 1}", r"'de': .*is a static model.*leave `towers` out"),
    ],
)
def test_two_towers_where_they_make_no_sense_are_refused(recipe, tiny_model, towers, tmp_path, base, train, told):
    save_model(build_static(str(tiny_model), None), tmp_path / "static")
    place = {"MODEL": tiny_model, "TOWERS": towers, "STATIC": tmp_path / "static"}[base]
    file = one_teacher(recipe, tmp_path, f"from: {place}, towers: 2{train}")
    with pytest.raises(StepwellError, match=told):
        api.plan(file, tmp_path / "run")


def test_a_student_from_two_towers_is_refused_by_the_plan(recipe, towers, tmp_path):
    text = recipe.read_text()
    old = text[text.index("student: {from: ") : text.index(", layers: 1}")]
    text = text.replace("scores.tsv", str(recipe.parent / "scores.tsv"))
    (tmp_path / "recipe.yaml").write_text(text.replace(old, f"student: {{from: {towers}"))
    with pytest.raises(StepwellError, match=r"two towers.*Name the directory of one tower"):
        api.plan(tmp_path / "recipe.yaml", tmp_path / "run")


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.getbasetemp() / "cache"
        patch.setenv("STEPWELL_CACHE", str(cache))
        patch.setattr("stepwell.api._report_at_the_end", lambda folder: None)
        folder = tmp_path_factory.mktemp("teachers-run") / "run"
        facts = api.run(recipe, folder).to_json()
    return SimpleNamespace(facts=facts, cache=cache, place=lambda stage: folder / facts["stages"][stage])


def test_the_recipe_in_the_repository_is_of_this_kind():
    recipe = load_recipe(Path(__file__).parents[2] / "recipes" / "colbert-ladder.yaml")
    kinds = [recipe.teachers[rung.teacher].kind for rung in recipe.ladder]
    assert kinds == ["dual-encoder", "late-interaction", "cross-encoder"]


def test_every_kind_of_teacher_teaches(run):
    for number in range(1, 8):
        log = read_json(run.place(f"rung-{number}") / "training.json")
        assert log["steps"] == 2 and np.isfinite(log["losses"]).all()
        assert number == 1 or log["parts"]["soft"][0] > 0
    systems = set(run.facts["comparison"]["systems"])
    assert {"rung 1, then hosted candidates", "colbert reranks its top 4"} <= systems
    assert len([label for label in systems if label.startswith("straight from ")]) == 1
    assert read_json(run.place("select-8") / "decision.json")["asked"] > 0  # late interaction reranks for refine


def test_the_training_is_told_how_several_teachers_go_together(run):
    assert read_json(run.place("scores-5") / "spread.json")["together"] is None
    assert read_json(run.place("scores-6") / "spread.json")["together"] == "larger of a batch"
    assert np.load(run.place("scores-6") / "scores.npy").ndim == 3


@pytest.mark.parametrize(
    ("said", "together"),
    [
        ({"kind": "mean"}, None),
        ({"kind": "mean", "average": "softmaxes"}, "mean of softmaxes"),
        ({"kind": "best"}, "larger of a query"),
        ({"kind": "best", "by": "batch"}, "larger of a batch"),
    ],
)
def test_all_scores_are_given_where_the_loss_puts_them_together(said, together):
    parts = {name: {"kind": "dual-encoder", "from": "m"} for name in ("a", "b")}
    recipe = load_recipe_of({**parts, "both": {**said, "of": ["a", "b"]}}, "both")
    kind = kind_of("both", recipe.teachers)
    tables = [SimpleNamespace(score=lambda q, c, progress, x=x: np.float32([[x, 0]])) for x in (1, 3)]
    found = kind.targets(Several(tables, False), np.int32([0]), np.int32([[5, 6]]))
    assert kind.together == together
    assert found.tolist() == ([[2, 0]] if together is None else [[[1, 0]], [[3, 0]]])


def test_late_interaction_imitates_and_is_trained_on_labels(run):
    folder = run.place("teacher.colbert")
    assert list(read_json(folder / "imitation" / "training.json")["parts"]) == ["imitate"]
    assert list(read_json(folder / "training.json")["parts"]) == ["listwise"]
    assert LateInteraction.open(folder / "model", 16, 24).limits == {"query": 16, "document": 24}


def test_a_file_that_has_no_dev_query_is_climbed_without_headroom(run):
    decision = read_json(run.place("headroom-4") / "decision.json")
    assert decision["go"] is True and decision["headroom"] is None
    assert read_json(run.place("scores-4") / "spread.json")["missing"] == 0  # the floor fills it up
    assert read_json(run.place("teacher.file") / "scores.json")["unknown"] == 0


def test_a_headroom_of_scores_is_measured_on_the_queries_that_may_be_asked(run):
    for number in (2, 3, 5, 6, 7):
        assert read_json(run.place(f"headroom-{number}") / "decision.json")["queries"] in (0, 2)


def opened(ctx, stage, run):
    """Open the teacher behind a stage, as a stage that has it for an input."""
    names, inputs = {"teacher": stage}, {"teacher": run.place(stage)}
    return Job("stage", Settings("stage", {}), inputs, run.place(stage), ctx.surroundings, names).teacher()


def test_a_dual_encoder_gives_scores_and_vectors_without_running(run, recipe, monkeypatch):
    monkeypatch.setenv("STEPWELL_CACHE", str(run.cache))
    teacher = opened(prepare(load_recipe(recipe)), "teacher.de.vectors", run)
    queries, passages = np.int32([0, 3]), np.int32([[5, 7], [9, -1]])
    q, p = teacher.of_queries(queries), teacher.passages[[5, 7, 9]]
    expected = 20 * np.array([[q[0] @ p[0], q[0] @ p[1]], [q[1] @ p[2], 0]])
    assert teacher.score(queries, passages) == pytest.approx(expected, abs=1e-4)


def test_a_hosted_pair_is_asked_for_once(run, recipe, monkeypatch):
    monkeypatch.setenv("STEPWELL_CACHE", str(run.cache))
    asked = sum(Overlap.asked)
    assert asked > 0
    ctx = prepare(load_recipe(recipe))
    found = Candidates.load(run.place("candidates-7") / "candidates.parquet", ctx.collection)
    teacher = opened(ctx, "teacher.hosted", run)
    scores = teacher.score(found.queries, found.passages)
    assert np.isfinite(scores).all() and scores.min() < 0  # the logits of what was below a half
    assert sum(Overlap.asked) == asked


def test_the_plan_prices_every_kind_and_asks_nobody(run, recipe, tmp_path):
    asked = sum(Overlap.asked)
    plan = api.plan(recipe, tmp_path / "nowhere")
    seconds = {stage.name: seconds for stage, seconds in zip(plan.stages, plan.seconds, strict=True)}
    assert seconds["scores-7"] > 3  # requests take their time
    assert seconds["scores-2"] > seconds["scores-4"]
    assert sum(Overlap.asked) == asked


def test_other_scores_in_the_file_make_what_follows_again_and_nothing_before(recipe, tmp_path):
    (tmp_path / "scores.tsv").write_text((recipe.parent / "scores.tsv").read_text().replace("3.0", "4.0"))
    changed = recipe.read_text().replace("scores.tsv", str(tmp_path / "scores.tsv"))
    (tmp_path / "recipe.yaml").write_text(changed)
    settings = [
        {stage.name: stage.settings for stage in stages_of(prepare(load_recipe(path)))}
        for path in (recipe, tmp_path / "recipe.yaml")
    ]
    assert {name for name in settings[0] if settings[0][name] != settings[1][name]} == {"teacher.file"}
    assert settings[0]["teacher.file"]["sha256"] == content_fingerprint(recipe.parent / "scores.tsv")


# -- candidates without a score

CANDIDATES = Candidates(
    np.int32([0, 1, 2]), np.int32([[3, 5, 7], [4, 6, -1], [8, 9, 10]]), np.int32([[1, 0, 0], [2, 0, 0], [1, 0, 0]])
)
NAN = np.nan


@pytest.fixture
def ask(tiny_collection, tmp_path, monkeypatch):
    """Return what a rung learns from a teacher that gives some scores."""

    def ask(scores, missing="error", kind="scores"):
        made = {
            "file": {"kind": "scores", "file": "x", "missing": missing},
            "de": {"kind": "dual-encoder", "from": "m"},
        }
        made["several"] = {"kind": "best", "of": ["file", "de"]}
        recipe = load_recipe_of(made, "file" if kind == "scores" else "several")
        fake = SimpleNamespace(score=lambda q, c, progress: np.float32(scores))
        both = Several([fake, SimpleNamespace(score=lambda q, c, progress: np.ones(c.shape, np.float32))], True)
        monkeypatch.setattr(Job, "teacher", lambda self: fake if kind == "scores" else both)
        around = SimpleNamespace(collection=tiny_collection, teachers=recipe.teachers)
        names = {"teacher": f"teacher.{recipe.ladder[0].teacher}"}
        return scoring.scores_of(Job("scores-1", Settings("scores-1", {}), {}, tmp_path, around, names), CANDIDATES)

    return ask


def load_recipe_of(made, teacher):
    ladder = [{"teacher": teacher, "loss": "candidates"}]
    return Recipe(collection={"path": "demo"}, student={"from": "demo"}, teachers=made, ladder=ladder)


HOLES = [[1, NAN, 2], [NAN, 3, 0], [NAN, 5, 6]]


def test_missing_scores_stop_the_rung_and_are_listed(ask, tmp_path, tiny_collection):
    with pytest.raises(StepwellError, match=r"no score of 3 of the 8 candidates.*set `missing`"):
        ask(HOLES)
    queries, passages = read_pairs(tmp_path / "missing.jsonl", tiny_collection)  # as `stepwell score` reads them
    assert list(zip(queries.tolist(), passages.tolist(), strict=True)) == [(0, 5), (1, 4), (2, 8)]


@pytest.mark.parametrize("kind", ["scores", "several"])
def test_a_candidate_without_a_score_is_padding_and_a_query_without_a_positive_is_left_out(ask, kind):
    found = ask(HOLES, "drop", kind)
    assert found.candidates.queries.tolist() == [0] and (found.missing, found.left_out) == (3, 2)
    assert found.candidates.passages.tolist() == [[3, -1, 7]] and found.candidates.grades.tolist() == [[1, 0, 0]]
    own = found.scores if kind == "scores" else found.scores[0]
    assert own.tolist() == [[1, 0, 2]]


def test_a_query_with_one_score_has_nothing_to_compare(ask):
    assert ask([[1, 2, 3], [1, NAN, NAN], [1, 2, NAN]], "drop").candidates.queries.tolist() == [0, 2]


def test_nothing_left_is_no_training(ask):
    with pytest.raises(StepwellError, match="nothing to learn"):
        ask(np.full((3, 3), NAN), "drop")


@pytest.mark.parametrize("kind", ["scores", "several"])
def test_an_infinite_score_is_refused_and_never_taken_for_an_unknown_one(ask, kind, tiny_collection):
    pair = tiny_collection.query_ids[1], tiny_collection.passage_ids[6]
    told = rf"no finite number for 1 of 8 pairs, such as -inf for the query '{pair[0]}' with the passage '{pair[1]}'"
    with pytest.raises(StepwellError, match=told):
        ask([[1, NAN, 2], [4, -np.inf, 0], [1, 2, 3]], "drop", kind)


def test_a_model_has_no_unknown_scores(tiny_collection, tmp_path, monkeypatch):
    recipe = load_recipe_of({"ce": {"kind": "cross-encoder", "from": "m"}}, "ce")
    broken = SimpleNamespace(score=lambda q, c, progress: np.full(c.shape, np.nan, np.float32))
    monkeypatch.setattr(Job, "teacher", lambda self: broken)
    around = SimpleNamespace(collection=tiny_collection, teachers=recipe.teachers)
    job = Job("scores-1", Settings("scores-1", {}), {}, tmp_path, around, {"teacher": "teacher.ce"})
    with pytest.raises(StepwellError, match=r"'ce' gives no finite number for 8 of 8 pairs, such as nan.*fp32"):
        scoring.scores_of(job, CANDIDATES)


def test_complete_scores_are_left_as_they_are(ask):
    found = ask([[1, 2, 3], [4, 5, 0], [6, 7, 8]])
    assert found.candidates is CANDIDATES and found.missing == 0


@pytest.mark.parametrize(
    "change, told",
    [
        (("of: [de, colbert]", "of: [de, all]"), "'all' is made of teachers itself"),
        (("of: [de, colbert]", "of: [de]"), "teachers.pick.of: needs at least 2"),
        (("of: [de, colbert]", "of: [de, nobody]"), "'nobody', which is not among the teachers"),
        (("imitate: de", "imitate: ce"), "`imitate` needs a dual-encoder teacher"),
        (("teacher: colbert, loss: candidates", "teacher: colbert, loss: in-batch"), "is of kind `late-interaction`"),
        (("url: http", "url: ftp"), "begins with http:// or https://"),
        (("refine: {teacher: colbert", "refine: {teacher: nobody"), "refine names the teacher 'nobody'"),
    ],
)
def test_mistakes_are_named_before_anything_runs(recipe, tmp_path, change, told):
    text = recipe.read_text()
    assert change[0] in text
    (tmp_path / "recipe.yaml").write_text(text.replace(*change))
    with pytest.raises(StepwellError, match=told):
        load_recipe(tmp_path / "recipe.yaml")


def test_a_file_that_is_not_there_is_said_by_the_plan(recipe, tmp_path):
    (tmp_path / "recipe.yaml").write_text(recipe.read_text().replace("scores.tsv", "nowhere.tsv"))
    with pytest.raises(StepwellError, match=r"nowhere\.tsv can't be read.*counts from the recipe"):
        api.plan(tmp_path / "recipe.yaml", tmp_path / "run")


def test_evaluations_of_reranking_teachers_are_in_the_table(run, tiny_collection):
    stage = run.facts["comparison"]["systems"]["colbert reranks its top 4"]
    evaluation = Evaluation.load(run.place(stage) / "evaluation.parquet", tiny_collection)
    assert len(evaluation.queries) == len(tiny_collection.qrels("test").query_rows)


@pytest.mark.parametrize("where", ["rung 1 of the ladder", "refine"])
def test_a_loss_of_logits_cant_learn_the_mean_of_softmaxes(where):
    parts = {name: {"kind": "cross-encoder", "from": "m"} for name in ("a", "b")}
    made = {**parts, "both": {"kind": "mean", "average": "softmaxes", "of": ["a", "b"]}}
    rung = {"teacher": "both", "loss": "candidates", "soft": "mse" if where != "refine" else "kl"}
    content = {"collection": {"path": "demo"}, "student": {"from": "demo"}, "teachers": made, "ladder": [rung]}
    with pytest.raises(ValueError, match=rf"{where}: `soft: mse` compares logits, and 'both' .*average: scores"):
        Recipe.model_validate({**content, "refine": {"soft": "mse"} if where == "refine" else {"rounds": 0}})
