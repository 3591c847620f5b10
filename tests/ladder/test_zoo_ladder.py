"""A ladder of models as people have them: an embedder of a language model, re-rankers with heads and with answers."""

from __future__ import annotations

import numpy as np
from sentence_transformers import SentenceTransformer

import zoo
from stepwell import api
from stepwell.models.encoder import Encoder
from stepwell.models.opening import transformer_of

RECIPE = """\
name: zoo
collection: {path: COLLECTION}
tokens: {query: 24, passage: 48, pair: 120}
student: {from: STUDENT, layers: 2}
teachers:
  embedder: {kind: dual-encoder, from: EMBEDDER}
  scorer: {kind: cross-encoder, from: SCORER}
  answers: {kind: cross-encoder, from: ANSWERS}
mining: {depth: 30, last: 20}
ladder:
  - {teacher: embedder, loss: embedding, epochs: 1, lr: 1.0e-3, batch: 16, force: true}
  - {teacher: scorer, loss: candidates, tau: 0.5, steps: 3, lr: 1.0e-3, batch: 8, candidates: 4, force: true}
  - {teacher: answers, loss: candidates, tau: 0.5, steps: 3, lr: 1.0e-3, batch: 8, candidates: 4, force: true}
refine: {rounds: 0}
judging: {rerank: 4, depth: 20, level: 0, headroom_queries: 3}
proof: none
"""


def test_a_ladder_of_models_as_people_have_them(tiny_path, tmp_path, without_report):
    models = {
        "STUDENT": zoo.encoder("modernbert", tmp_path / "student"),
        "EMBEDDER": zoo.encoder(
            "qwen3",
            tmp_path / "embedder",
            "lasttoken",
            ("normalize",),
            prompts={"query": "query: ", "document": "passage: "},
        ),
        "SCORER": zoo.classifier("modernbert", tmp_path / "scorer"),
        "ANSWERS": zoo.generative(
            "qwen3", tmp_path / "answers", chat=zoo.CHAT, prompts={"web": "Is it?"}, default_prompt_name="web"
        ),
    }
    text = RECIPE.replace("COLLECTION", str(tiny_path))
    for name, place in models.items():
        text = text.replace(name, str(place))
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    api.run(tmp_path / "recipe.yaml", tmp_path / "run")
    student = SentenceTransformer(str(tmp_path / "run" / "model"), device="cpu")
    assert transformer_of(student).auto_model.config.num_hidden_layers == 2
    texts = ["the river was old", "which sail"]
    ours = Encoder.open(tmp_path / "run" / "model")
    vectors = ours.encode(ours.tokenise(texts, "document"), "document")
    assert np.abs(vectors - student.encode_document(texts)).max() < 1e-5
