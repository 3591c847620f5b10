"""Teachers of which vectors are there and no model, in a ladder."""

import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer
from typer.testing import CliRunner

from conftest import write_recipe
from embedding_server import EmbeddingServer, status
from stepwell import api
from stepwell.cli import app
from stepwell.collection import open_collection
from stepwell.distil.objectives import EmbeddingObjective
from stepwell.errors import StepwellError
from stepwell.indexes.settings import IndexSettings
from stepwell.intake.contents import look
from stepwell.ladder import trainings
from stepwell.ladder.build import stages_of
from stepwell.ladder.run import prepare
from stepwell.models.encoder import Encoder
from stepwell.recipe.yaml_file import load_recipe
from stepwell.retrieval.vectors import Vectors
from stepwell.systems.folder import RunFolder
from stepwell.systems.records import Training

pytestmark = pytest.mark.usefixtures("without_report")  # that of `taught` is drawn, and looked at

RECIPE = """\
name: given
collection: {path: COLLECTION}
tokens: {query: 24, passage: 32, pair: 56}
student: {from: MODEL, layers: 1}
teachers:
  given: TEACHER
mining: {depth: 20, last: 10, near_duplicate: null}
ladder:
  - {teacher: given, loss: embedding, steps: 3, batch: 16, force: true}
  - {teacher: given, loss: in-batch, candidates: 4, steps: 2, batch: 8, hold: 0.5, force: true}
refine: {rounds: 0}
judging: {depth: 20, level: 0}
proof: full
proof_rates: [1]
"""
FILES = "{kind: vectors, passages: passages.parquet, queries: queries.parquet}"
ALONE = "".join(line for line in RECIPE.splitlines(keepends=True) if "in-batch" not in line)
"""The embedding rung alone."""


@pytest.fixture(scope="module")
def taught(tmp_path_factory, tiny_path, tiny_model):
    """Return the folder of a run in which a model teaches."""
    place = tmp_path_factory.mktemp("model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPWELL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        api.run(recipe(place, tiny_path, tiny_model, "{kind: dual-encoder, from: MODEL}"), place / "run")
    return place / "run"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_collection, taught):
    """Return a folder with that model's vectors as files, in another order."""
    place, run = tmp_path_factory.mktemp("given"), RunFolder(taught)
    vectors = Vectors.open(run.folder_of("teacher.given.vectors"))
    named = {"passages": tiny_collection.passage_ids, "queries": tiny_collection.query_ids}
    for name, ids in named.items():
        table = np.asarray(getattr(vectors, name))
        order = np.random.default_rng(0).permutation(len(table))
        content = {"id": [ids[int(row)] for row in order], "vector": list(table[order])}
        pq.write_table(pa.table(content), place / f"{name}.parquet")
    return place


def recipe(folder, tiny_path, tiny_model, teacher, text=RECIPE, name="recipe"):
    return write_recipe(folder / f"{name}.yaml", tiny_path, tiny_model, text.replace("TEACHER", teacher))


def test_files_of_vectors_teach_what_the_model_itself_teaches(folder, taught, tiny_path, tiny_model, tmp_path):
    plain = FILES.replace("}", ", similarity: dot, scale: 20}")  # as they are, to the bit
    result = api.run(recipe(folder, tiny_path, tiny_model, plain), tmp_path / "run")
    weights = [load_file(run / "model" / "model.safetensors") for run in (taught, tmp_path / "run")]
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0].keys() | weights[1].keys())
    assert result.asymmetric == "teacher.given.vectors" and "teacher.given.dev" in result.stages
    assert result.table.systems.keys() == RunFolder(taught).results.table.systems.keys() > {"teacher given"}
    found = [api.search(run, "an old river", mode="asymmetric")[0] for run in (taught, tmp_path / "run")]
    assert found[0] == found[1]


def test_lists_are_compared_with_the_teachers_own(taught, tiny_collection):
    run = RunFolder(taught)
    ours = Vectors.open(run.folder_of(f"{run.results.final}.vectors"))
    theirs = Vectors.open(run.folder_of("teacher.given.vectors"))
    rows = tiny_collection.qrels("test").query_rows

    def firsts(queries, passages, k):
        return [set(row[:k].tolist()) for row in np.argsort(-(queries @ passages.T), axis=1, kind="stable")]

    found = run.results.overlap
    assert (found.teacher, found.queries, found.held_out_of) == ("given", len(rows), "test")
    for at, k in enumerate((10, 100)):
        own = firsts(theirs.of_queries(rows), theirs.passages, k)
        mixed, alone = (firsts(ours.of_queries(rows), side.passages, k) for side in (theirs, ours))
        for system, lists in {"ladder, passages by given": mixed, "ladder": alone}.items():
            share = np.mean([len(a & b) / len(a) for a, b in zip(own, lists, strict=True)])
            mean, low, high = list(found.systems[system].values())[at]
            assert mean == pytest.approx(share) and low <= mean <= high
    assert "Overlap with the lists of given" in (taught / "results.txt").read_text()
    assert "--mode asymmetric" in (taught / "report.html").read_text()


def test_vectors_teach_a_querys_own_candidates(folder, taught, tiny_path, tiny_model, tmp_path):
    text = RECIPE.replace("loss: in-batch, candidates: 4", "loss: candidates, beta: 1, alpha: 0, candidates: 4")
    text = text.replace("full", "quick")
    plain = FILES.replace("}", ", similarity: dot, scale: 20}")
    runs = {"{kind: dual-encoder, from: MODEL}": tmp_path / "model", plain: tmp_path / "files"}
    for teacher, out in runs.items():
        result = api.run(recipe(folder, tiny_path, tiny_model, teacher, text, out.name), out)
        assert "straight from given, candidates" in result.table.systems
    logs = [Training.load(RunFolder(run).folder_of("rung-2")).log for run in runs.values()]
    assert logs[0].parts["soft"] == logs[1].parts["soft"] and min(logs[0].parts["soft"]) > 0


def test_passages_alone_teach_the_embedding_rung(folder, tiny_path, tiny_model, tmp_path):
    alone = recipe(folder, tiny_path, tiny_model, "{kind: vectors, passages: passages.parquet}", ALONE, "alone")
    stages = {stage.name for stage in stages_of(prepare(load_recipe(alone)))}
    assert "teacher.given.vectors" in stages
    assert not stages & {"teacher.given.dev", "teacher.given.test", "teacher.given.train", "straight-given-in-batch"}
    result = api.run(alone, tmp_path / "run")
    assert "teacher given" not in result.table.systems
    assert "ladder, passages by given" in result.table.systems


def test_what_needs_vectors_of_queries_is_refused_without_them(folder, tiny_path, tiny_model):
    for rung, says in {
        "{teacher: given, loss: in-batch}": "the loss `in-batch` needs vectors of queries",
        "{teacher: given, loss: embedding, negatives: given}": "`negatives` needs vectors of queries",
        "{teacher: given, loss: embedding, more_passages: m.txt}": "is a file of vectors, which has none of them",
    }.items():
        text = ALONE.replace("{teacher: given, loss: embedding, steps: 3, batch: 16, force: true}", rung)
        wrong = recipe(folder, tiny_path, tiny_model, "{kind: vectors, passages: passages.parquet}", text, "wrong")
        with pytest.raises(StepwellError, match=says):
            load_recipe(wrong)


def test_other_vectors_make_what_follows_again_and_another_place_does_not(folder, tiny_path, tiny_model, tmp_path):
    def settings(place):
        given = recipe(place, tiny_path, tiny_model, FILES)
        stages = {stage.name: stage for stage in stages_of(prepare(load_recipe(given)))}
        return stages["teacher.given.vectors"].settings

    for name in ("passages", "queries"):
        (tmp_path / f"{name}.parquet").write_bytes((folder / f"{name}.parquet").read_bytes())
    before = settings(tmp_path)
    assert before == settings(folder)
    (tmp_path / "queries.parquet").write_bytes((folder / "passages.parquet").read_bytes())
    assert settings(tmp_path) != before


# -- queries that nobody has judged ---------------------------------------------------------------------------


@pytest.fixture
def asked(tmp_path, tiny_path, tiny_collection):
    """Return a collection with 60 more queries, which no split judges."""
    place = tmp_path / "asked"
    shutil.copytree(tiny_path, place)
    texts = tiny_collection.passage_texts(range(60))
    more = [{"_id": f"u{i}", "text": f"tell me of {text[:40]}"} for i, text in enumerate(texts)]
    again = {"_id": "again", "text": tiny_collection.query_texts(tiny_collection.qrels("test").query_rows[:1])[0]}
    with (place / "queries.jsonl").open("a") as file:
        file.writelines(json.dumps(query) + "\n" for query in [*more, again])
    return place


def test_queries_without_labels_teach_and_a_part_of_them_is_held_out(asked, tiny_model, tmp_path, monkeypatch):
    learned = []
    monkeypatch.setattr(
        trainings, "EmbeddingObjective", lambda *given: learned.append(given[4]) or EmbeddingObjective(*given)
    )
    text = ALONE.replace("{path: COLLECTION}", "{path: COLLECTION, unlabelled_queries: true}")
    text = text.replace("proof: full", "proof: none")
    vectors = "{kind: vectors, passages: passages.parquet, queries: queries.parquet, queries_cover: unlabelled}"
    collection, encoder = open_collection(asked), Encoder.open(str(tiny_model))
    rows = {"passages": collection.passage_ids, "queries": [f"u{i}" for i in range(60)]}
    for name, ids in rows.items():
        side, texts = ("document", collection.passage_texts(range(60))) if name == "passages" else ("query", None)
        texts = texts or collection.query_texts([collection.find_query(one) for one in ids])
        found = encoder.encode(encoder.tokenise(texts, side), side)
        pq.write_table(pa.table({"id": list(ids), "vector": list(found)}), tmp_path / f"{name}.parquet")
    results = {
        kind: api.run(recipe(tmp_path, asked, tiny_model, teacher, text, kind), tmp_path / kind)
        for kind, teacher in {"model": "{kind: dual-encoder, from: MODEL}", "vectors": vectors}.items()
    }
    for result in results.values():
        assert (result.overlap.queries, result.overlap.held_out_of) == (20, "unlabelled")
    assert results["vectors"].overlap.systems == results["model"].overlap.systems
    by_model, by_file = ({collection.query_ids[row] for row in rows} for rows in learned)
    unjudged = {f"u{i}" for i in range(60)}
    assert len(by_file) == 40 and by_file < unjudged and by_model == by_file | (by_model - unjudged)
    assert len(by_model - unjudged) == len(collection.qrels("train").query_rows)
    assert "teacher given" in results["model"].table.systems and "teacher given" not in results["vectors"].table.systems


def test_from_two_tables_with_vectors_and_no_label_to_a_run(tiny_collection, tiny_model, tmp_path, capsys):
    home, encoder = tmp_path / "mine", Encoder.open(str(tiny_model))
    home.mkdir()
    rows = range(tiny_collection.n_passages)
    texts = [f"{text}. And {text} comes back." for text in tiny_collection.passage_texts(rows)]
    asked = [f"where is {text[:25]}" for text in texts]
    for name, side, content in (("passages", "document", texts), ("queries", "query", asked)):
        vectors = list(encoder.encode(encoder.tokenise(content, side), side))
        ids = [f"{name[0]}{row}" for row in rows]
        pq.write_table(pa.table({"id": ids, "text": content, "embedding": vectors}), home / f"{name}.parquet")
    made = api.init(home, tmp_path / "recipe.yaml", str(tiny_model), 1)
    said = capsys.readouterr().err
    assert re.search(r"queries +queries.parquet +no split judges them", said)
    assert re.search(r"vectors of passages +passages.parquet, embedding", said)
    assert list(open_collection(made.collection).passage_texts(rows)) == texts  # as they were embedded
    recipe = api.load_recipe(made.recipe, {"ladder.1.epochs": 2, "proof": "none"})
    assert recipe.collection.unlabelled_queries and recipe.teachers["given"].queries_cover == "unlabelled"
    assert recipe.ladder[0].force and recipe.judging.level == 0  # without it few synthetic queries undo the training
    result = api.run(recipe, tmp_path / "run")
    assert (result.overlap.queries, result.overlap.held_out_of, result.tested) == (20, "unlabelled", False)
    assert api.search(tmp_path / "run", asked[0], mode="asymmetric")[0].passage_id in {f"p{row}" for row in rows}


def test_numbers_of_a_byte_are_vectors_too(tmp_path):
    table = {"id": ["a", "b"], "text": ["one", "two"], "vector": pa.array([[1, -2], [3, 4]], pa.list_(pa.int8()))}
    pq.write_table(pa.table(table), tmp_path / "passages.parquet")
    assert look(tmp_path).vectors == {"passages": tmp_path / "passages.parquet"}


def test_queries_without_labels_are_refused_where_there_are_none(tiny_path, tiny_model, folder, tmp_path):
    text = ALONE.replace("{path: COLLECTION}", "{path: COLLECTION, unlabelled_queries: true}")
    with pytest.raises(StepwellError, match="asks for the queries that no split judges, and tiny has none"):
        prepare(load_recipe(recipe(folder, tiny_path, tiny_model, FILES, text, "none")))
    cover = FILES.replace("}", ", queries_cover: unlabelled}")
    with pytest.raises(StepwellError, match="set `unlabelled_queries: true` of the collection"):
        load_recipe(recipe(folder, tiny_path, tiny_model, cover, ALONE, "cover"))


# -- an index of what is there ---------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [IndexSettings(), IndexSettings("usearch"), IndexSettings(faiss="HNSW16,Flat")])
def test_an_index_of_given_vectors_finds_what_the_asymmetric_retriever_finds(taught, folder, tmp_path, settings):
    if settings.kind != "exact":
        pytest.importorskip(settings.kind)
    wanted = api.search(taught, "an old river", mode="asymmetric")
    for number, vectors in enumerate(("given", folder / "passages.parquet")):
        report = api.index(taught, tmp_path / str(number), settings, vectors=vectors)
        assert report.measured.recall_10 > 0.99
        found = api.search(tmp_path / str(number), "an old river")
        assert [hit.passage_id for hit in found] == [hit.passage_id for hit in wanted]


def test_an_index_of_vectors_that_are_compared_by_dot_is_that_of_the_teacher(folder, tiny_path, tiny_model, tmp_path):
    for name in ("passages", "queries"):
        table = pq.read_table(folder / f"{name}.parquet").to_pydict()
        lengths = np.random.default_rng(0).uniform(1, 5, size=(len(table["id"]), 1))
        table["vector"] = list((np.array(table["vector"]) * lengths).astype(np.float32))
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
    text, dot = ALONE.replace("full", "none"), FILES.replace("}", ", similarity: dot}")
    run = tmp_path / "run"
    api.run(recipe(tmp_path, tiny_path, tiny_model, dot, text), run)
    wanted = [hit.passage_id for hit in api.search(run, "an old river", mode="asymmetric")]
    for vectors in ("given", tmp_path / "passages.parquet"):
        api.index(run, tmp_path / f"index of {vectors!s:.5}", vectors=vectors)
        found = api.search(tmp_path / f"index of {vectors!s:.5}", "an old river")
        assert [hit.passage_id for hit in found] == wanted
    long = 100 * SentenceTransformer(str(run / "model"), device="cpu").encode_query("an old river")
    api.index(run, tmp_path / "more", collection=grow(tiny_path, tmp_path, long), vectors=tmp_path / "grown.parquet")
    assert api.search(tmp_path / "more", "an old river")[0].score == pytest.approx(100, rel=1e-3)  # as it is


def grow(collection, folder, vector):
    """Return a copy of a collection with a passage more; all vectors are in ``grown.parquet`` beside it."""
    grown = shutil.copytree(collection, folder / "grown")
    with (grown / "corpus.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"_id": "new", "title": "", "text": "an old river"}) + "\n")
    table = pq.read_table(folder / "passages.parquet").to_pydict()
    grown_table = {"id": [*table["id"], "new"], "vector": [*table["vector"], vector.tolist()]}
    pq.write_table(pa.table(grown_table), folder / "grown.parquet")
    return str(grown)


def test_the_vectors_of_a_teacher_are_not_those_of_a_collection_that_grew(taught, folder, tiny_path, tmp_path):
    shutil.copy(folder / "passages.parquet", tmp_path)
    grown = grow(tiny_path, tmp_path, np.ones(32))
    with pytest.raises(StepwellError, match=r"the vectors of given in .* are of the texts that it was run on, and"):
        api.index(taught, tmp_path / "index", collection=grown, vectors="given")


def test_a_folder_of_a_teachers_name_hides_nothing(taught, tmp_path, monkeypatch):
    (tmp_path / "given").write_text("a file of that name")
    monkeypatch.chdir(tmp_path)
    assert api.index(taught, tmp_path / "index", vectors="given").measured.recall_10 > 0.99


def test_other_vectors_are_another_index(taught, folder, tmp_path):
    api.index(taught, tmp_path / "index")
    with pytest.raises(StepwellError, match="holds an index with other settings or of another model"):
        api.index(taught, tmp_path / "index", vectors="given")


def test_ids_that_are_not_asked_for_and_rows_without_ids_are_refused(taught, folder, tmp_path):
    ids, rows, table = tmp_path / "ids", tmp_path / "rows.npy", pq.read_table(folder / "passages.parquet")
    ids.write_text("\n".join(table["id"].to_pylist()))
    np.save(rows, np.array(table["vector"].to_pylist(), np.float32))
    with pytest.raises(StepwellError, match=r"rows\.npy holds numbers alone: name the file with the id of each row"):
        api.index(taught, tmp_path / "a", vectors=rows)
    with pytest.raises(StepwellError, match=r"passages\.parquet holds its ids itself, and .*leave it out"):
        api.index(taught, tmp_path / "b", vectors=folder / "passages.parquet", vector_ids=ids)
    said = CliRunner().invoke(app, ["index", str(taught), "--out", str(tmp_path / "c"), "--vector-ids", str(ids)])
    assert "name that file with --vectors" in str(said.exception)
    assert api.index(taught, tmp_path / "d", vectors=rows, vector_ids=ids).measured.recall_10 > 0.99


def test_vectors_of_another_space_are_refused_or_told(taught, folder, tiny_path, tmp_path, capsys):
    rng = np.random.default_rng(0)
    table = pq.read_table(folder / "passages.parquet")
    for width in (32, 16):
        other = rng.normal(size=(table.num_rows, width)).astype(np.float32)
        pq.write_table(pa.table({"id": table["id"], "vector": list(other)}), tmp_path / f"{width}.parquet")
    with pytest.raises(StepwellError, match=r"are not those that the student in .* was taught by"):
        api.index(taught, tmp_path / "a", vectors=tmp_path / "32.parquet")
    with pytest.raises(StepwellError, match=r"has vectors with 16 numbers, and those of .* have 32"):
        api.index(taught, tmp_path / "b", vectors=tmp_path / "16.parquet")
    with pytest.raises(StepwellError, match=r"no teacher whose vectors the queries of .* \(that is given\)"):
        api.index(taught, tmp_path / "c", vectors="gone")
    with pytest.raises(StepwellError, match="name the collection that the vectors are of"):
        api.index(taught / "model", tmp_path / "d", vectors=tmp_path / "32.parquet")
    api.index(taught / "model", tmp_path / "e", collection=str(tiny_path), vectors=tmp_path / "32.parquet")
    assert "does not seem to have learned the space" in capsys.readouterr().err


# -- an embeddings API ----------------------------------------------------------------------------------------

API = "{kind: embeddings-api, url: URL, batch: 16, api_key_env: EMBED_KEY, price_per_million: 2, retries: 0}"


@pytest.fixture
def server(tiny_model, monkeypatch, tmp_path):
    """Return a server that embeds with the tiny model."""
    encoder = Encoder.open(str(tiny_model))
    made = EmbeddingServer(lambda texts: encoder.encode(encoder.tokenise(texts, "document"), "document"))
    monkeypatch.setenv("STEPWELL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EMBED_KEY", "s3cret")
    yield made
    made.close()


def test_a_hosted_model_teaches_and_sees_each_text_once_over_a_kill_and_a_second_run(
    server, tiny_path, tiny_model, tiny_collection, tmp_path, capsys
):
    text = RECIPE.replace("full", "none")
    file = recipe(tmp_path, tiny_path, tiny_model, API.replace("URL", server.url), text)
    plan = api.plan(file, tmp_path / "run")
    said = r"given would be sent (\d+) texts with about [\d,]+ tokens \(.*costs less than 0\.01 at 2 a million\."
    assert re.search(said, " ".join(plan.table().notes)) and plan.to_json()["sent"][0]["texts"] == 100
    with pytest.raises(StepwellError, match=r"100 texts.*no terminal is there to ask on: add --yes \(in Python: yes=T"):
        api.run(file, tmp_path / "run")
    assert not server.requests  # nobody agreed
    server.play = [None, None, status(404, b"killed")]
    with pytest.raises(StepwellError, match="HTTP 404, killed"):
        api.run(file, tmp_path / "run", yes=True)
    result = api.run(file, tmp_path / "run", yes=True)
    assert "teacher given" in result.table.systems and result.asymmetric == "teacher.given.vectors"
    asked = len(server.requests)
    assert api.plan(file, tmp_path / "run").bills == ()
    cut = API.replace("URL", server.url).replace("}", ", dimensions: 32}")
    other = recipe(tmp_path, tiny_path, tiny_model, cut, text)
    api.run(other, tmp_path / "other")  # asks nobody: nothing is left to pay for
    assert len(server.requests) == asked
    texts = [*tiny_collection.passage_texts(), *tiny_collection.query_texts()]
    assert server.answered.keys() == set(texts) and set(server.answered.values()) == {1}
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"s3cret" in path.read_bytes() for path in written)
    out, err = capsys.readouterr()
    assert "s3cret" not in out + err


def test_who_says_no_sends_nothing_and_who_says_yes_is_asked_once(server, tiny_path, tiny_model, tmp_path, monkeypatch):
    file = recipe(tmp_path, tiny_path, tiny_model, API.replace("URL", server.url), ALONE.replace("full", "none"))
    asked: list[str] = []
    monkeypatch.setattr("stepwell.ladder.run.ask", lambda question: bool(asked.append(question)))
    with pytest.raises(StepwellError, match="Nothing was sent"):
        api.run(file, tmp_path / "run")
    assert len(asked) == 1 and not server.requests
    monkeypatch.setattr("stepwell.ladder.run.ask", lambda question: asked.append(question) is None)
    api.run(file, tmp_path / "run")
    assert len(asked) == 2 and set(server.answered.values()) == {1}
    api.run(file, tmp_path / "run")
    api.ablate(file, {"variants": {"as it is": {}, "longer": {"ladder.1.steps": 4}}}, tmp_path / "ablation")
    assert len(asked) == 2  # all was paid for


def test_texts_from_elsewhere_are_embedded_too(server, tiny_path, tiny_model, tmp_path):
    (tmp_path / "more.txt").write_text("one more\nanother one\n")
    text = ALONE.replace("steps: 3", "steps: 3, more_passages: more.txt").replace("full", "none")
    free = API.replace("URL", server.url).replace(", price_per_million: 2", ", price_per_million: 0")
    file = recipe(tmp_path, tiny_path, tiny_model, free, text)
    sent = api.plan(file, tmp_path / "run").to_json()["sent"]
    assert [one["texts"] for one in sent] == [100, 2]
    api.run(file, tmp_path / "run")  # it costs nothing
    assert server.answered["one more"] == 1 and set(server.answered.values()) == {1}


def test_passages_whose_vectors_are_there_are_not_sent(
    server, folder, wide, tiny_path, tiny_model, tiny_collection, tmp_path, capsys
):
    free = API.replace("URL", server.url).replace(", price_per_million: 2", ", price_per_million: 0")
    text = ALONE.replace("full", "none")

    def teacher(file):
        return free.replace("}", f", passages: {file}}}")

    file = recipe(tmp_path, tiny_path, tiny_model, teacher(folder / "passages.parquet"), text)
    assert [one["texts"] for one in api.plan(file, tmp_path / "run").to_json()["sent"]] == [48]
    result = api.run(file, tmp_path / "run")
    sent = [text for text in tiny_collection.passage_texts() if text in server.answered]
    assert len(sent) == 8 and server.answered.total() == 8 + 40  # some passages, to see whether they agree; all queries
    assert result.overlap is not None and "not what" not in capsys.readouterr().err
    api.run(recipe(tmp_path, tiny_path, tiny_model, free, text, "sent"), tmp_path / "sent")
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("run", "sent")]
    assert all(np.allclose(weights[0][name], weights[1][name], atol=1e-5) for name in weights[0].keys() | weights[1])
    table = pq.read_table(folder / "passages.parquet")
    other = list(np.random.default_rng(0).normal(size=(table.num_rows, 32)).astype(np.float32))
    pq.write_table(pa.table({"id": table["id"], "vector": other}), tmp_path / "other.parquet")
    api.run(recipe(tmp_path, tiny_path, tiny_model, teacher("other.parquet"), text, "other"), tmp_path / "other")
    assert "are not what" in capsys.readouterr().err
    with pytest.raises(StepwellError, match=r"has vectors with 48 numbers, and .* gives 32: they are not of one model"):
        api.run(recipe(tmp_path, tiny_path, tiny_model, teacher(wide / "passages.parquet"), text), tmp_path / "wide")


# -- a teacher of another width -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide(tmp_path_factory, folder):
    """Return a folder with the same vectors, turned into 48 numbers: all angles stay."""
    place = tmp_path_factory.mktemp("wide")
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((48, 32)))[0].T  # (32, 48)
    for name in ("passages", "queries"):
        table = pq.read_table(folder / f"{name}.parquet").to_pydict()
        table["vector"] = list((np.array(table["vector"]) @ turn).astype(np.float32))
        pq.write_table(pa.table(table), place / f"{name}.parquet")
    return place


def test_the_student_of_a_wide_teacher_keeps_its_head(wide, folder, tiny_path, tiny_model, tmp_path):
    text = RECIPE.replace("full", "none")
    result = api.run(recipe(wide, tiny_path, tiny_model, FILES, text), tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    plain = SentenceTransformer(str(run.model), device="cpu")
    assert plain.get_embedding_dimension() == 48
    assert [type(module).__name__ for module in plain][-2:] == ["Dense", "Normalize"]
    log = Training.load(run.folder_of("rung-2")).log
    assert log.parts["hold"][0] < 1.5  # it learned to be near, and stays
    assert result.asymmetric == "teacher.given.vectors" and "ladder, passages by given" in result.table.systems
    texts = ["an old river", "a deep engine and the number"]
    exported = api.export(tmp_path / "run", ["onnx", "safetensors"], tmp_path / "export")
    assert np.allclose(SentenceTransformer(str(exported.folder), device="cpu").encode(texts), plain.encode(texts))
    encoder = Encoder.open(run.model)
    ours = encoder.encode(encoder.tokenise(texts, "query"), "query")
    assert np.allclose(ours, plain.encode(texts), atol=1e-5)
    assert api.search(tmp_path / "run", texts[0], mode="asymmetric")


def test_a_head_that_is_not_kept_leaves_the_student_its_width(wide, tiny_path, tiny_model, tmp_path):
    text = ALONE.replace("steps: 3", "steps: 3, head: none").replace("full", "none")
    result = api.run(recipe(wide, tiny_path, tiny_model, FILES, text, "none"), tmp_path / "run")
    assert SentenceTransformer(str(tmp_path / "run" / "model"), device="cpu").get_embedding_dimension() == 32
    assert result.asymmetric is None and "ladder, passages by given" not in result.table.systems
    text = RECIPE.replace("steps: 3", "steps: 3, head: none")
    with pytest.raises(StepwellError, match=r"rung 2.*have 32 numbers, the teacher's 48\. Keep the head"):
        api.plan(recipe(wide, tiny_path, tiny_model, FILES, text, "none"), tmp_path / "other")
    text = ALONE.replace("layers: 1}", "layers: 1, dimensions: 16}")
    with pytest.raises(StepwellError, match=r"rung 1.*is cut to `dimensions`.* would give it 48 numbers"):
        api.plan(recipe(wide, tiny_path, tiny_model, FILES, text, "cut"), tmp_path / "other")


def test_the_baselines_of_a_student_that_is_cut_do_not_widen_it(folder, tiny_path, tiny_model, tmp_path):
    text = "".join(line for line in RECIPE.splitlines(keepends=True) if "loss: embedding" not in line)
    text = text.replace("layers: 1}", "layers: 1, dimensions: 16}").replace("hold: 0.5, ", "")
    result = api.run(recipe(folder, tiny_path, tiny_model, FILES, text, "narrow"), tmp_path / "run")
    assert "straight from given, embedding" in result.table.systems


def test_where_the_rung_that_widens_is_left_out_nothing_else_fails(
    wide, tiny_path, tiny_model, tiny_collection, tmp_path, capsys
):
    for name, ids in (("passages", tiny_collection.passage_ids), ("queries", tiny_collection.query_ids)):
        far = np.ones((len(ids), 48), np.float32)  # all alike: it is ahead of nobody
        pq.write_table(pa.table({"id": list(ids), "vector": list(far)}), tmp_path / f"{name}.parquet")
    text = RECIPE.replace("batch: 16, force: true", "batch: 16").replace("full", "none")
    result = api.run(recipe(tmp_path, tiny_path, tiny_model, FILES, text), tmp_path / "run")
    assert "`hold` is left out of this rung" in capsys.readouterr().err
    assert result.asymmetric is None and "ladder, passages by given" not in result.table.systems
    assert SentenceTransformer(str(tmp_path / "run" / "model"), device="cpu").get_embedding_dimension() == 32


def test_two_towers_share_the_head(wide, tiny_path, tiny_model, tmp_path):
    text = ALONE.replace("layers: 1}", "layers: 1, towers: 2}").replace("full", "none")
    api.run(recipe(wide, tiny_path, tiny_model, FILES, text, "towers"), tmp_path / "run")
    plain, encoder = (
        SentenceTransformer(str(tmp_path / "run" / "model"), device="cpu"),
        Encoder.open(tmp_path / "run" / "model"),
    )
    ours = encoder.encode(encoder.tokenise(["an old river"], "query"), "query")
    assert ours.shape == (1, 48) and np.allclose(ours, plain.encode_query(["an old river"]), atol=1e-5)
