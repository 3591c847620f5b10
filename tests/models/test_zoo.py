"""Every model is read exactly as sentence-transformers reads it: vectors within 1e-5, scores within 1e-4."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from tokenizers import Tokenizer

import stepwell
import zoo
from stepwell.errors import StepwellError
from stepwell.ladder.plan import probe, speed_of
from stepwell.models.build import build_static, build_student
from stepwell.models.encoder import Encoder
from stepwell.models.preparation import OwnTokenizer
from stepwell.models.reranker import Reranker
from stepwell.models.shape import vector_width
from stepwell.models.tokens import Tokens
from stepwell.recipe import StudentSection
from stepwell.recipe.teachers import DualEncoderTeacher
from stepwell.recipe.training import Prompts

QUERIES = ["which river is the oldest of all", "Sail", "Naïve ÜBER straße 東京 🙂?", " leading blank and  two"]
PASSAGES = [
    "the river was old and deep , with a quiet side to it",
    "",
    "Sail\nand wind: {a} [SEP] and what they do to a mast in winter, when nobody is out there " * 2,
    "the market was large",
]
ROWS = np.divmod(np.arange(len(QUERIES) * len(PASSAGES)), len(PASSAGES))
PROMPTS = {"query": "query: ", "document": "passage: "}


FP32 = {"dtype": torch.float32}
FIRST_IS_OWN = ["modernbert", "t5"]


def vectors_differ(path: Path | str) -> float:
    """Return the largest difference of a component between stepwell's vectors and sentence-transformers'."""
    model, encoder = (
        SentenceTransformer(str(path), device="cpu", model_kwargs={"dtype": torch.float32}),
        Encoder.open(path),
    )
    wanted = [model.encode_query(QUERIES), model.encode_document(PASSAGES)]
    found = [
        encoder.encode(encoder.tokenise(texts, side), side)
        for texts, side in ((QUERIES, "query"), (PASSAGES, "document"))
    ]
    if encoder.cosine:
        wanted = [vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in wanted]
    return max(float(np.abs(a - b).max()) for a, b in zip(wanted, found, strict=True))


def scores_differ(path: Path | str) -> float:
    """Return the largest difference between stepwell's scores and sentence-transformers' logits."""
    model = CrossEncoder(
        str(path), device="cpu", activation_fn=torch.nn.Identity(), model_kwargs={"dtype": torch.float32}
    )
    wanted = model.predict([(QUERIES[q], PASSAGES[p]) for q, p in zip(*ROWS, strict=True)])
    reranker = Reranker.open(path)
    found = reranker.score(reranker.tokenise(QUERIES), reranker.tokenise(PASSAGES), *ROWS)
    return float(np.abs(wanted - found).max())


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_an_encoder_of_every_architecture(tmp_path, architecture):
    assert vectors_differ(zoo.encoder(architecture, tmp_path)) < 1e-5


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken", "max"])
@pytest.mark.parametrize("architecture", ["bert", "qwen3", "modernbert"])
def test_every_pooling_with_prompts(tmp_path, architecture, pooling):
    assert vectors_differ(zoo.encoder(architecture, tmp_path, pooling, prompts=PROMPTS)) < 1e-5


@pytest.mark.parametrize(
    "heads", [("dense",), ("layernorm",), ("normalize",), ("layernorm", "dense", "normalize")], ids="-".join
)
def test_every_head(tmp_path, heads):
    assert vectors_differ(zoo.encoder("bert", tmp_path, "cls", heads)) < 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {"include_prompt": False, "prompts": PROMPTS},
        {"router": True, "prompts": PROMPTS},
        {"dtype": torch.float16},
        {"dtype": torch.bfloat16},
        {"vocabulary": 70_000},
        {"similarity_fn_name": "dot"},
        {"truncate_dim": 8},
        {"truncate_dim": 8, "heads": ("normalize",)},
    ],
    ids=lambda options: "-".join(options),
)
def test_every_kind_of_encoder(tmp_path, options):
    assert vectors_differ(zoo.encoder("bert", tmp_path, **options)) < 1e-5


@pytest.mark.parametrize("prompts", [None, PROMPTS], ids=["bare", "prompts"])
@pytest.mark.parametrize("pooling", ["mean", "lasttoken"])
def test_an_encoder_that_takes_messages(tmp_path, pooling, prompts):
    assert (
        vectors_differ(zoo.encoder("qwen3", tmp_path, pooling, chat=zoo.CHAT, family="plain", prompts=prompts)) < 1e-5
    )


@pytest.mark.parametrize("architecture", [name for name in zoo.ARCHITECTURES if name not in ("nomic-bert", "t5")])
def test_a_classifier_of_every_architecture(tmp_path, architecture):
    assert scores_differ(zoo.classifier(architecture, tmp_path)) < 1e-4


@pytest.mark.parametrize(
    "options",
    [
        {"prompts": {"web": "Given a web search: "}, "default_prompt_name": "web"},
        {"chat": zoo.CHAT},
        {"dtype": torch.bfloat16},
    ],
    ids=lambda options: "-".join(options),
)
def test_every_kind_of_classifier(tmp_path, options):
    assert scores_differ(zoo.classifier("bert", tmp_path, **options)) < 1e-4


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "t5", "nomic-bert"])
def test_a_scorer_of_modules(tmp_path, architecture):
    assert scores_differ(zoo.modular(architecture, tmp_path)) < 1e-4


@pytest.mark.parametrize(
    "options",
    [{}, {"chat": zoo.CHAT}, {"chat": zoo.CHAT, "prompts": {"web": "Is it an answer?"}, "default_prompt_name": "web"}],
    ids=["bare", "chat", "instruction"],
)
@pytest.mark.parametrize("architecture", ["qwen3", "llama"])
def test_a_language_model_that_answers_yes_or_no(tmp_path, architecture, options):
    assert scores_differ(zoo.generative(architecture, tmp_path, **options)) < 1e-4


@pytest.mark.parametrize("architecture", FIRST_IS_OWN)
def test_layers_without_the_first_are_refused_where_it_is_not_like_the_others(tmp_path, architecture):
    base = str(zoo.encoder(architecture, tmp_path))
    with pytest.raises(StepwellError, match="Pick layers with 0 among them"):
        build_student(base, None, [1, 2], None, None, 1, zoo.LIMIT)


@pytest.mark.parametrize("architecture", sorted({*zoo.ARCHITECTURES} - {"albert", *FIRST_IS_OWN}))
def test_layers_without_the_first_are_the_same_after_saving_and_loading(tmp_path, architecture):
    before = Encoder(build_student(str(zoo.encoder(architecture, tmp_path)), None, [1, 2], None, None, 1, zoo.LIMIT))
    vectors = before.encode(before.tokenise(PASSAGES, "document"), "document")
    before.save(tmp_path / "saved")
    again = Encoder.open(tmp_path / "saved")
    assert np.abs(again.encode(again.tokenise(PASSAGES, "document"), "document") - vectors).max() < 1e-5


@pytest.mark.parametrize("architecture", [name for name in zoo.ARCHITECTURES if name != "albert"])
def test_a_cut_student_is_the_same_after_saving_and_loading(tmp_path, architecture):
    model = build_student(str(zoo.encoder(architecture, tmp_path)), 2, "first", None, None, 1, zoo.LIMIT)
    before = Encoder(model)
    tokens = before.tokenise(PASSAGES, "document")
    vectors = before.encode(tokens, "document")
    before.save(tmp_path / "saved")
    again = Encoder.open(tmp_path / "saved")
    assert np.abs(again.encode(again.tokenise(PASSAGES, "document"), "document") - vectors).max() < 1e-5
    assert vectors_differ(tmp_path / "saved") < 1e-5


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_the_speed_of_every_architecture_is_measured(tmp_path, architecture, monkeypatch):
    monkeypatch.setattr("stepwell.ladder.plan._median", lambda work: work() or 1.0)
    assert probe(str(zoo.encoder(architecture, tmp_path))).training > 0


def test_a_base_is_pooled_and_compared_as_its_makers_meant(tmp_path):
    base = zoo.encoder("bert", tmp_path, "cls", ("dense", "layernorm"), similarity_fn_name="dot", prompts=PROMPTS)
    whole, cut = (Encoder(build_student(str(base), layers, "first", None, None, 1, zoo.LIMIT)) for layers in (None, 2))
    assert vectors_differ(base) < 1e-5
    for student in (whole, cut):
        assert not student.cosine and student.dimension == 16 and student.prompt("query") == PROMPTS["query"]
        assert [type(module).__name__ for module in student.model] == ["Transformer", "Pooling", "Dense", "LayerNorm"]
        assert student.model[1].pooling_mode == "cls"


def test_prompts_of_a_recipe_are_saved_with_the_student(tmp_path):
    base = str(zoo.encoder("bert", tmp_path))
    prompts = Prompts(query="query: ", passage="passage: ")
    Encoder(build_student(base, 2, "first", None, None, 1, zoo.LIMIT, prompts)).save(tmp_path / "saved")
    model = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert np.array_equal(model.encode_query("sail"), model.encode("query: sail"))
    assert np.array_equal(model.encode_document("sail"), model.encode("passage: sail"))
    assert vectors_differ(tmp_path / "saved") < 1e-5


def test_a_well_known_family_without_prompts_gets_a_warning(tmp_path, capsys):
    base = zoo.encoder("bert", tmp_path).rename(tmp_path / "e5-base-v2")
    build_student(str(base), 2, "first", None, None, 1, zoo.LIMIT)
    assert "'passage: '" in " ".join(capsys.readouterr().err.split())
    build_student(str(base), 2, "first", None, None, 1, zoo.LIMIT, Prompts())
    assert not capsys.readouterr().err


@pytest.mark.parametrize("layers", [None, 2])
def test_dimensions_cut_vectors_and_are_saved(tmp_path, layers):
    base = str(zoo.encoder("bert", tmp_path, heads=("normalize",)))
    encoder = Encoder(build_student(base, layers, "first", None, None, 1, zoo.LIMIT, dimensions=8))
    vectors = encoder.encode(encoder.tokenise(PASSAGES, "document"), "document")
    assert vectors.shape == (4, 8) and np.allclose(np.linalg.norm(vectors, axis=1), 1.0)
    encoder.save(tmp_path / "saved")
    assert SentenceTransformer(str(tmp_path / "saved"), device="cpu").encode("sail").shape == (8,)
    assert vectors_differ(tmp_path / "saved") < 1e-5
    with pytest.raises(StepwellError, match="can't keep 64 dimensions"):
        build_student(base, layers, "first", None, None, 1, zoo.LIMIT, dimensions=64)


def test_a_cross_encoder_is_no_encoder(tmp_path):
    base = str(zoo.classifier("bert", tmp_path))
    with pytest.raises(StepwellError, match="is a cross-encoder"):
        Encoder.open(base)
    with pytest.raises(StepwellError, match="is a cross-encoder"):
        build_student(base, 2, "first", None, None, 1, zoo.LIMIT)


def test_a_language_model_is_no_cross_encoder(tmp_path):
    from transformers import AutoModelForCausalLM

    body = zoo.body_of("qwen3", tmp_path, AutoModelForCausalLM)
    with pytest.raises(StepwellError, match="is a language model"):
        Reranker.open(body)


@pytest.mark.parametrize("function", ["euclidean", "manhattan"])
def test_other_distances_are_refused(tmp_path, function):
    base = zoo.encoder("bert", tmp_path, similarity_fn_name=function)
    with pytest.raises(StepwellError, match="stepwell searches by cosine or dot product"):
        Encoder.open(base)
    with pytest.raises(StepwellError, match="stepwell searches by cosine or dot product"):
        build_student(str(base), 2, "first", None, None, 1, zoo.LIMIT)
    assert not Encoder(build_student(str(base), 2, "first", None, "dot", 1, zoo.LIMIT)).cosine


def test_the_logits_of_a_pair_are_those_of_its_last_token_alone(tmp_path):
    reranker = Reranker.open(zoo.generative("qwen3", tmp_path, chat=zoo.CHAT))
    assert reranker.preparation.more["logits_to_keep"] == 1


def fingerprints(make, *changes):
    """Return the fingerprints of a model of the zoo, and of it with each of some changes of its files."""
    found = []
    for number, change in enumerate([{}, *changes]):
        found.append(make(number, **change).fingerprint)
    return found


def test_scores_are_shared_by_the_same_model_alone(tmp_path):
    def make(number, **options):
        return Reranker.open(zoo.classifier("bert", tmp_path / str(number), **options))

    web = {"prompts": {"web": "Given a web search: "}, "default_prompt_name": "web"}
    changes = [{"num_attention_heads": 2}, {"hidden_act": "relu"}, web, {"chat": zoo.CHAT}]
    found = fingerprints(make, *changes)
    assert len({*found}) == len(found)
    assert make(9).fingerprint == found[0]


def test_vectors_are_shared_by_the_same_model_alone(tmp_path):
    def make(number, **options):
        return Encoder.open(zoo.encoder("bert", tmp_path / str(number), **options))

    found = fingerprints(make, {"prompts": PROMPTS}, {"pooling": "cls"}, {"truncate_dim": 8}, {"heads": ("normalize",)})
    assert len({*found}) == len(found)
    assert make(9).fingerprint == found[0]


def test_an_adapter_is_no_whole_model(tmp_path):
    base = zoo.encoder("bert", tmp_path)
    (base / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    for opened in (Encoder.open, Reranker.open):
        with pytest.raises(StepwellError, match="is an adapter"):
            opened(base)


def test_a_model_whose_speed_cannot_be_measured_costs_the_estimate_alone(tmp_path, monkeypatch, capsys):
    def fails(config, layers):
        raise ValueError("no such shape")

    monkeypatch.setattr("stepwell.ladder.plan.random_body", fails)
    assert speed_of(str(zoo.encoder("bert", tmp_path))).training > 0
    assert "no such shape" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("can't allocate memory")]
)
def test_a_batch_that_is_too_large_for_the_memory_says_what_takes_less(tmp_path, monkeypatch, error):
    encoder = Encoder.open(zoo.encoder("bert", tmp_path))

    def fails(*arguments, **options):
        raise error

    monkeypatch.setattr(encoder.model, "forward", fails)
    with pytest.raises(StepwellError, match="STEPWELL_TOKEN_BUDGET"):
        encoder.encode(encoder.tokenise(PASSAGES, "document"), "document")


@pytest.mark.parametrize(
    "options", [{}, {"prompts": PROMPTS}, {"truncate_dim": 8}], ids=lambda options: "-".join(options)
)
def test_a_static_model(tmp_path, options):
    base = zoo.static(tmp_path, **options)
    assert vectors_differ(base) < 1e-5
    taken = Encoder(build_student(str(base), None, "first", None, None, 1, zoo.LIMIT))
    taken.save(tmp_path / "saved")
    assert vectors_differ(tmp_path / "saved") < 1e-5
    assert vector_width(DualEncoderTeacher(kind="dual-encoder", base=str(base))) == taken.dimension


@pytest.mark.parametrize("architecture", ["bert", "xlm-roberta", "qwen3"])
def test_a_static_student_begins_with_what_its_base_makes_of_each_word(tmp_path, architecture):
    base = zoo.encoder(architecture, tmp_path, prompts=PROMPTS)
    student = Encoder(build_static(str(base), None))
    model = Encoder.open(base)
    word = model.tokenizer.convert_tokens_to_ids("yes")
    single = Tokens(np.array([word], np.uint16), np.array([0, 1]), 8)
    wanted = model._forward(single, np.array([0]), "document")
    found = student.model[0].embedding.weight[word]
    assert torch.allclose(torch.nn.functional.normalize(found, dim=0), wanted[0], atol=1e-5)
    student.save(tmp_path / "saved")
    assert vectors_differ(tmp_path / "saved") < 1e-5


def test_a_static_student_has_no_layers():
    with pytest.raises(ValueError, match="a static student has no layers"):
        StudentSection(base="demo", static=True, layers=2)


def test_static_models_with_other_words_share_nothing(tmp_path):
    first, second = Encoder.open(zoo.static(tmp_path / "a")), Encoder.open(zoo.static(tmp_path / "b", family="roberta"))
    assert first.cutting("query")[0].fingerprint != second.cutting("query")[0].fingerprint
    assert first.fingerprint != second.fingerprint


def test_a_static_model_that_cuts_texts_is_another(tmp_path):
    found = []
    for number, limit in enumerate([None, 4, 64]):
        base = zoo.static(tmp_path / str(number))
        if limit is not None:
            words = Tokenizer.from_file(str(base / "tokenizer.json"))
            words.enable_truncation(limit)
            words.save(str(base / "tokenizer.json"))
        assert vectors_differ(base) < 1e-5
        found.append(Encoder.open(base).fingerprint)
    assert len({*found}) == 3


def test_a_static_student_reads_all_of_a_text_and_is_cut_as_its_base(tmp_path):
    base = str(zoo.encoder("bert", tmp_path, truncate_dim=8))
    student = build_static(base, None)
    assert student.truncate_dim == 8 and student[0].tokenizer.truncation is None
    assert Encoder(student).dimension == vector_width(StudentSection(base=base, static=True)) == 8


def test_a_static_base_takes_a_similarity_and_no_layers(tmp_path):
    base = str(zoo.static(tmp_path))
    assert not Encoder(build_student(base, None, "first", None, "dot", 1, zoo.LIMIT)).cosine
    with pytest.raises(StepwellError, match="which has no layers"):
        build_student(base, 2, "first", None, None, 1, zoo.LIMIT)


def test_a_static_student_is_exported_as_sentence_transformers_loads_it(tmp_path):
    base = zoo.static(tmp_path)
    stepwell.export(base, ["safetensors"], tmp_path / "out")
    assert vectors_differ(tmp_path / "out") < 1e-5
    with pytest.raises(StepwellError, match="needs no graph"):
        stepwell.export(base, ["onnx"], tmp_path / "graph")


@pytest.mark.parametrize("heads", [("normalize", "dense"), ("dense", "normalize")], ids="-".join)
def test_a_norm_in_the_middle_stays_where_it_is(tmp_path, heads):
    base = zoo.encoder("bert", tmp_path, heads=heads)
    whole, kept = Encoder.open(base), Encoder(build_student(str(base), 3, "first", None, None, 1, zoo.LIMIT))
    vectors = [model.encode(model.tokenise(PASSAGES, "document"), "document") for model in (whole, kept)]
    assert np.abs(vectors[0] - vectors[1]).max() < 1e-5


@pytest.mark.parametrize("said", [{"pooling": "cls"}, {}, {"layers": 2}], ids=["pooling", "whole", "layers"])
@pytest.mark.parametrize("router", [False, True], ids=["one", "router"])
def test_the_width_that_is_planned_is_the_width_that_comes(tmp_path, said, router):
    if router and said:
        pytest.skip("two towers are taken whole")
    base = str(zoo.encoder("bert", tmp_path, router=router))
    section = DualEncoderTeacher(kind="dual-encoder", base=base, dimensions=8, **said)
    shape = section.layers, "first", section.pooling, section.similarity, 1, zoo.LIMIT
    built = build_student(section.base, *shape, section.prompts, section.dimensions)
    assert vector_width(section) == built.get_embedding_dimension() == 8


def test_prompts_of_a_recipe_replace_all_that_the_base_has(tmp_path):
    base = zoo.encoder("bert", tmp_path, prompts={"query": "q: ", "passage": "p: "})
    assert vectors_differ(base) < 1e-5
    student = Encoder(build_student(str(base), 2, "first", None, None, 1, zoo.LIMIT, Prompts()))
    assert student.prompt("query") == student.prompt("document") == ""
    student.save(tmp_path / "saved")
    assert vectors_differ(tmp_path / "saved") < 1e-5


def test_towers_that_cut_texts_apart_are_refused(tmp_path):
    model = SentenceTransformer(str(zoo.encoder("bert", tmp_path, router=True)), device="cpu")
    model[0].sub_modules["query"][0].max_seq_length = 32
    model.save_pretrained(str(tmp_path / "uneven"), create_model_card=False)
    with pytest.raises(StepwellError, match="its towers cut texts at 32 and 96 tokens"):
        Encoder.open(tmp_path / "uneven")


@pytest.mark.parametrize("architecture", sorted({*zoo.ARCHITECTURES} - {"t5", "nomic-bert"}))
def test_an_ordinary_model_is_prepared_in_the_fast_way(tmp_path, architecture):
    encoder = Encoder.open(zoo.encoder(architecture, tmp_path / "encoder", prompts=PROMPTS))
    assert not any(isinstance(tokenizer, OwnTokenizer) for tokenizer in encoder.preparation.tokenizers.values())
    assert Reranker.open(zoo.classifier(architecture, tmp_path / "classifier")).preparation.template is not None


def test_a_model_with_inputs_of_its_own_says_so(tmp_path, capsys):
    reranker = Reranker.open(zoo.classifier("bert", tmp_path, chat=zoo.CHAT))
    said = " ".join(capsys.readouterr().err.split())
    assert reranker.preparation.template is None and "sentence-transformers prepares its texts" in said
