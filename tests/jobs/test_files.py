"""Files for other programs: n-tuples that sentence-transformers takes, scores as Parquet, vectors."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from filelock import FileLock
from sentence_transformers import SentenceTransformer

from conftest import write_recipe
from stepwell.collection import open_collection
from stepwell.distil.candidates import Candidates
from stepwell.errors import StepwellError
from stepwell.jobs.cluster import Cluster
from stepwell.jobs.encoding import encode
from stepwell.jobs.mining import write_pairs, write_tuples
from stepwell.jobs.scoring import read_pairs, score
from stepwell.models.build import build_multi_vector
from stepwell.models.encoder import Encoder
from stepwell.models.late_interaction import LateInteraction
from stepwell.models.reranker import Reranker
from stepwell.retrieval.vectors import Vectors


def rows(*values):
    return np.array(values, dtype=np.int32)


def test_tuples_are_a_line_a_query_and_load_as_a_dataset(tiny_collection, tmp_path):
    candidates = Candidates(rows(0, 3), rows([0, 10, 20, 30], [4, 7, 8, 9]), rows([2, 0, 0, 0], [1, 0, 0, 0]))
    write_tuples(candidates, tiny_collection, tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    texts = tiny_collection.passage_texts([0, 10, 20, 30])
    assert lines[0] == {
        "query": tiny_collection.query_texts([0])[0],
        "positive": texts[0],
        "negative_1": texts[1],
        "negative_2": texts[2],
        "negative_3": texts[3],
    }
    loaded = Dataset.from_json(str(tmp_path / "out.jsonl"), cache_dir=str(tmp_path / "cache"))
    assert loaded.column_names == list(lines[0]) and len(loaded) == 2
    assert not list(tmp_path.glob("*.draft"))


def test_a_second_positive_is_no_negative_and_gaps_are_left_out(tiny_collection, tmp_path):
    candidates = Candidates(rows(0), rows([0, 10, 20, -1]), rows([2, 1, 0, 0]))
    write_tuples(candidates, tiny_collection, tmp_path / "out.jsonl")
    line = json.loads((tmp_path / "out.jsonl").read_text())
    assert list(line) == ["query", "positive", "negative_1"]
    assert line["negative_1"] == tiny_collection.passage_texts([20])[0]
    write_pairs(candidates, tiny_collection, tmp_path / "pairs.jsonl")
    queries, passages = read_pairs(tmp_path / "pairs.jsonl", tiny_collection)
    assert queries.tolist() == [0, 0] and passages.tolist() == [0, 20]


def test_pairs_come_from_a_trec_run_or_jsonl(tiny_collection, tmp_path):
    q, p = tiny_collection.query_ids, tiny_collection.passage_ids
    (tmp_path / "run.trec").write_text(f"{q[1]} Q0 {p[5]} 1 2.5 x\n\n{q[0]} Q0 {p[7]} 1 2.5 x\n")
    pairs = [{"query-id": q[1], "corpus-id": p[5]}, {"query-id": q[0], "corpus-id": p[7], "more": 1}]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    for name in ("run.trec", "pairs.jsonl"):
        queries, passages = read_pairs(tmp_path / name, tiny_collection)
        assert queries.tolist() == [1, 0] and passages.tolist() == [5, 7]


def test_pairs_with_blanks_in_their_ids_are_encoded_in_a_run(tiny_directory, tmp_path):
    names = ["my notes.md#1", "a%20b"]
    texts = [{"_id": name, "text": name} for name in names]
    collection = open_collection(tiny_directory(texts, texts, train=[(name, name, 1) for name in names]))
    (tmp_path / "run.trec").write_text("my%20notes.md#1 Q0 a%20b 1 2.5 x\na%20b Q0 my%20notes.md#1 1 2.5 x\n")
    queries, passages = read_pairs(tmp_path / "run.trec", collection)
    assert queries.tolist() == [0, 1] and passages.tolist() == [1, 0]


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "no pairs"),
        (b"\n\n", "no pairs"),
        (b"query:00 doc/000-river\n", r"pairs:1: neither JSON nor"),
        (b'{"query-id": "query:00"}\n', r"pairs:1: .*corpus-id"),
        (b'{"query-id": \n', r"pairs:1"),
        (b"query:00 Q0 nobody 1 1 x\n", "nobody"),
        (b"nobody Q0 doc/000-river 1 1 x\n", "nobody"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_pairs_that_cant_be_read_are_refused(tiny_collection, tmp_path, content, words):
    (tmp_path / "pairs").write_bytes(content)
    with pytest.raises(StepwellError, match=words):
        read_pairs(tmp_path / "pairs", tiny_collection)


def test_scores_are_raw_logits_of_each_pair_and_are_computed_once(tiny_run, tiny_collection, tmp_path, monkeypatch):
    facts = json.loads((tiny_run / "results.json").read_text())
    teacher = str(tiny_run / facts["stages"]["teacher.ce"] / "model")
    monkeypatch.setenv("STEPWELL_CACHE", str(tmp_path / "cache"))
    q, p = tiny_collection.query_ids, tiny_collection.passage_ids
    asked = [(0, 3), (0, 1), (2, 3), (0, 3)]
    (tmp_path / "pairs").write_text("".join(f"{q[a]} Q0 {p[b]} 1 0 x\n" for a, b in asked))
    place = str(tiny_collection.path)
    table = score(place, tmp_path / "pairs", tmp_path / "one.parquet", teacher, 56)
    found = pq.read_table(tmp_path / "one.parquet").to_pydict()
    assert found["query-id"] == [q[a] for a, _ in asked] and found["corpus-id"] == [p[b] for _, b in asked]
    assert found["score"][0] == found["score"][3]
    reranker = Reranker.open(teacher, 56)
    texts = [(tiny_collection.query_texts([a])[0], tiny_collection.passage_texts([b])[0]) for a, b in asked]
    plain = reranker.model.predict(texts, convert_to_numpy=True)
    assert found["score"] == pytest.approx(plain.tolist(), abs=1e-5)
    counts = dict(table.rows)
    assert counts["pairs"] == 4 and counts["scored now"] == 3
    deviation = np.std([plain[0], plain[1], plain[3]])  # the other query has one passage and no spread
    assert counts["standard deviation within a query, mean"] == pytest.approx(deviation, abs=1e-4)
    monkeypatch.setattr(Reranker, "score", None)
    again = score(place, tmp_path / "pairs", tmp_path / "two.parquet", teacher, 56)
    assert dict(again.rows)["scored now"] == 0
    assert pq.read_table(tmp_path / "two.parquet").to_pydict() == found


@pytest.fixture
def pairs(tiny_collection, tmp_path):
    """Return a file of four pairs, one of them twice, and their texts."""
    asked = [(0, 3), (0, 1), (2, 3), (0, 3)]
    q, p = tiny_collection.query_ids, tiny_collection.passage_ids
    (tmp_path / "pairs").write_text("".join(f"{q[a]} Q0 {p[b]} 1 0 x\n" for a, b in asked))
    texts = [tiny_collection.query_texts([a])[0] for a, _ in asked]
    return tmp_path / "pairs", texts, [tiny_collection.passage_texts([b])[0] for _, b in asked]


def scored(tiny_collection, pairs, teacher, recipe=None):
    target = pairs.with_name("out.parquet")
    target.unlink(missing_ok=True)
    table = score(str(tiny_collection.path), pairs, target, str(teacher), 48, None, recipe)
    return pq.read_table(target)["score"].to_pylist(), dict(table.rows)["scored now"]


def test_a_dual_encoder_scores_by_similarity_times_its_scale(tiny_collection, tiny_model, pairs):
    file, queries, passages = pairs
    found, now = scored(tiny_collection, file, tiny_model)
    plain = SentenceTransformer(str(tiny_model), device="cpu")
    q, p = (plain.encode(texts, normalize_embeddings=True) for texts in (queries, passages))
    assert found == pytest.approx((20 * (q * p).sum(axis=1)).tolist(), abs=1e-3) and now == 3
    assert scored(tiny_collection, file, tiny_model) == (found, 0)


def test_late_interaction_scores_by_maxsim(tiny_collection, tiny_model, pairs, tmp_path):
    file, queries, passages = pairs
    model = LateInteraction(build_multi_vector(str(tiny_model), 1, None, 48, 48, 1), 48, 48)
    model.save(tmp_path / "colbert")
    found, now = scored(tiny_collection, file, tmp_path / "colbert")
    tokens = model.tokenise(queries, "query"), model.tokenise(passages, "document")
    places = np.arange(4)
    assert found == pytest.approx(model.logits(*tokens, places, places).tolist(), abs=1e-4) and now == 3


def test_a_recipe_describes_teachers_and_what_scores_no_pair_is_refused(
    tiny_collection, tiny_path, tiny_model, pairs, tmp_path, monkeypatch
):
    text = """\
collection: {path: COLLECTION}
tokens: {query: 8, passage: 12}
student: {from: MODEL, layers: 1}
teachers:
  de: {kind: dual-encoder, from: MODEL, scale: 3}
  trained: {kind: cross-encoder, from: MODEL, train: {steps: 1}}
  hosted: {kind: http, url: "http://localhost:1/rerank", logit: true}
  both: {kind: mean, of: [de, hosted]}
ladder:
  - {teacher: de, loss: embedding, steps: 2}
"""
    recipe = write_recipe(tmp_path / "recipe.yaml", tiny_path, tiny_model, text)
    file, queries, passages = pairs
    encoder = Encoder.open(tiny_model, 3)
    encoder.limit = 12  # of both sides, as sentence-transformers cuts them
    q = encoder.encode(encoder.tokenise(queries, "query"), "query")
    p = encoder.encode(encoder.tokenise(passages, "document"), "document")
    assert scored(tiny_collection, file, "de", recipe)[0] == pytest.approx((3 * (q * p).sum(1)).tolist(), abs=1e-4)

    def half(server, queries, passages, progress):
        return np.full(len(queries), 0.5, np.float32)

    monkeypatch.setattr("stepwell.teachers.hosted.HostedReranker.scores", half)
    assert scored(tiny_collection, file, "hosted", recipe) == ([0, 0, 0, 0], 3)  # ln(0.5 / 0.5)
    for name, words in (("trained", r"results\.json"), ("both", "of the kind mean"), ("nobody", "de, trained")):
        with pytest.raises(StepwellError, match=words):
            scored(tiny_collection, file, name, recipe)
    place = str(tiny_collection.path)
    with pytest.raises(StepwellError, match="only cross-encoders"):
        score(place, file, tmp_path / "x.parquet", str(tiny_model), 48, Cluster("local"))


def test_an_encoded_collection_is_what_the_model_gives(tiny_collection, tiny_model, tmp_path):
    table = encode(str(tiny_collection.path), tmp_path / "vectors", str(tiny_model)).facts
    counts = dict(table.rows)
    assert (counts["passages"], counts["queries"], counts["dimensions"], counts["similarity"]) == (60, 40, 32, "cosine")
    found = Vectors.open(tmp_path / "vectors")
    plain = SentenceTransformer(str(tiny_model), device="cpu")
    expected = plain.encode(tiny_collection.passage_texts(), normalize_embeddings=True)
    assert found.passages == pytest.approx(expected, abs=1e-5)
    assert found.query_rows.tolist() == list(range(40))


def test_encoding_again_makes_nothing_again(tiny_collection, tiny_model, tmp_path, monkeypatch):
    folder = tmp_path / "vectors"
    encode(str(tiny_collection.path), folder, str(tiny_model))
    monkeypatch.setattr(Encoder, "encode", None)
    encode(str(tiny_collection.path), folder, str(tiny_model))
    (folder / "passages.npy").unlink()
    with pytest.raises(TypeError):
        encode(str(tiny_collection.path), folder, str(tiny_model))


def test_a_folder_with_anything_else_is_refused_and_left_as_it_is(tiny_collection, tiny_models, tmp_path):
    place, model = str(tiny_collection.path), str(tiny_models["bert"])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("of great worth")
    with pytest.raises(StepwellError, match="no vectors of stepwell's"):
        encode(place, tmp_path / "other", model)
    assert (tmp_path / "other" / "thesis.tex").read_text() == "of great worth"
    folder = tmp_path / "vectors"
    encode(place, folder, model)
    before = (folder / "passages.npy").read_bytes()
    with pytest.raises(StepwellError, match="another model"):
        encode(place, folder, str(tiny_models["roberta"]))
    with FileLock(folder / ".lock"), pytest.raises(StepwellError, match="at work"):
        encode(place, folder, model)
    assert (folder / "passages.npy").read_bytes() == before
