"""Whatever the way, a model gives what it gives in torch fp32."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, strategies as st
from hypothesis.extra import numpy as arrays
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    DataCollatorWithFlattening,
    modeling_flash_attention_utils as flash,
)

from nets import encoder_net, reranker_net
from stepwell.errors import StepwellError
from stepwell.models.build import build_cross_encoder, build_student
from stepwell.models.encoder import Encoder
from stepwell.models.engines import backends, graphs
from stepwell.models.engines.backends import WAYS, Runner, missing, open_way, pack, unfit
from stepwell.models.engines.graphs import Source, write_graph
from stepwell.models.engines.parity import disparity, distance
from stepwell.models.preparation import LONG
from stepwell.models.reranker import Reranker

ENGINES = [
    pytest.param(way, marks=pytest.mark.skipif(missing(way) is not None, reason=f"{missing(way)} is not installed"))
    for way in ("openvino-fp32", "onnx-fp32")
]
CPU = torch.device("cpu")


def student(base, **changes):
    settings = {"layers": 2, "pick": "first", "pooling": None, "similarity": None, "towers": 1, "max_tokens": 48}
    return encoder_net(Encoder(build_student(str(base), **(settings | changes))))


def other_batches(net):
    """Batches of other shapes than those that are traced: without padding, a single text, a single column more."""
    whole = net.samples[-1]
    yield {name: tensor[:2, :7] for name, tensor in whole.items()}
    yield {name: tensor[1:2] for name, tensor in net.samples[0].items()}
    yield {name: torch.cat([tensor] * 5)[:, :11] for name, tensor in whole.items()}


def shift(runner, by):
    return replace(runner, run=lambda features: runner.run(features) + by)


class TestDistance:
    def test_of_vectors_it_is_one_minus_cosine(self):
        one, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8]])
        assert distance(other, one) == pytest.approx(0.4)

    def test_a_wrong_length_counts_too(self):
        assert distance(torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 0.0]])) == 2.0

    def test_the_worst_text_counts(self):
        reference = torch.eye(3)
        ours = reference.clone()
        ours[2] = -ours[2]
        assert distance(ours, reference) == 2.0

    def test_of_logits_it_is_relative_to_their_size(self):
        assert distance(torch.tensor([3.0, -4.5]), torch.tensor([3.0, -4.0])) == pytest.approx(0.5 / 12.5**0.5)

    def test_what_is_no_number_is_infinitely_far(self):
        assert distance(torch.tensor([1.0, float("nan")]), torch.tensor([1.0, 2.0])) == float("inf")

    @given(arrays.arrays(np.float64, (2, 3, 4), elements=st.floats(-1, 1)))
    def test_of_normalised_vectors_it_is_the_largest_one_minus_cosine(self, values):
        lengths = np.linalg.norm(values, axis=2, keepdims=True)
        assume((lengths > 1e-3).all())
        a, b = values / lengths
        expected = (1 - (a * b).sum(1)).max()
        assert distance(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("way", ["torch-fp32", "torch-bf16-autocast", "torch-bf16-weights"])
class TestTorch:
    def test_vectors_agree_with_the_encoder(self, tiny_models, way):
        for path in tiny_models.values():
            runner = open_way(encoder_net(Encoder.open(path)), way)
            assert disparity(runner) is None
            out = runner(runner.net.samples[0])
            assert (out.dtype, out.shape) == (torch.float32, (4, 32))
            assert out.norm(dim=1).tolist() == pytest.approx([1.0] * 4, abs=1e-5)

    def test_logits_agree_with_the_cross_encoder(self, tiny_model, way):
        runner = open_way(reranker_net(Reranker(build_cross_encoder(str(tiny_model), 2, 64, 1))), way)
        assert disparity(runner) is None
        assert runner(runner.net.samples[0]).shape == (16,)

    def test_the_model_keeps_its_own_weights(self, tiny_model, way):
        net = student(tiny_model)
        before = net.name()
        open_way(net, way)(net.samples[0])
        assert {parameter.dtype for parameter in net.model.parameters()} == {torch.float32}
        assert net.name() == before


def test_torch_fp32_is_the_encoders_own(tiny_model):
    encoder = Encoder.open(tiny_model)
    expected = encoder.encode(encoder.tokenise(LONG, "query"), "query")
    net = encoder_net(encoder)
    assert open_way(net, "torch-fp32")(net.samples[1]).numpy() == pytest.approx(expected, abs=1e-6)


class TestPack:
    @pytest.mark.parametrize("side", ["right", "left"])
    def test_agrees_with_the_collator_of_transformers(self, side):
        texts = [[5, 6], [7, 8, 9], [4]]
        padded = [([0] * (3 - len(ids)) + ids) if side == "left" else (ids + [0] * (3 - len(ids))) for ids in texts]
        ids = torch.tensor(padded)
        ours = pack({"input_ids": ids, "attention_mask": (ids > 0).long()})
        collate = DataCollatorWithFlattening(
            return_position_ids=True, return_seq_idx=True, return_flash_attn_kwargs=True
        )
        theirs = collate([{"input_ids": ids} for ids in texts])
        assert set(ours) == set(theirs) - {"labels"}
        for name, value in ours.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(theirs[name])), name

    @pytest.mark.parametrize("family", ["bert", "roberta"])
    def test_packed_texts_give_what_padded_ones_give(self, tiny_models, family, monkeypatch):
        """With a plain attention in place of the GPU's, text by text as the borders say."""

        def attention(module, query, key, value, mask, cu_seq_lens_q, scaling=None, **options):
            cuts = cu_seq_lens_q.diff().tolist()
            texts = zip(*(part.split(cuts, dim=2) for part in (query, key, value)), strict=True)
            out = [torch.nn.functional.scaled_dot_product_attention(*text, scale=scaling) for text in texts]
            return torch.cat(out, dim=2).transpose(1, 2), None

        AttentionInterface.register("flash_attention_plain", attention)
        AttentionMaskInterface.register("flash_attention_plain", lambda *arguments, **options: None)
        monkeypatch.setattr(backends, "FLASH", "flash_attention_plain")
        monkeypatch.setattr(flash, "_loaded_implementation", None)
        monkeypatch.setattr(flash, "_lazy_imports", lambda *arguments, **options: (attention,) * 5)
        runner = open_way(encoder_net(Encoder.open(tiny_models[family])), "torch-bf16-flash")
        assert disparity(runner) is None


class TestDisparity:
    def test_says_how_far_a_way_is(self, tiny_model):
        net = student(tiny_model, similarity="dot")
        runner = Runner("openvino-fp32", net, open_way(net, "torch-fp32").run)
        assert disparity(runner) is None
        assert "is 0.5 from torch fp32, where 1e-06 is allowed" in disparity(
            replace(runner, run=lambda features: 2 * runner.run(features))
        )

    def test_allows_less_exact_number_types_more(self, tiny_model):
        net = student(tiny_model, similarity="dot")
        plain = open_way(net, "torch-fp32")
        off = shift(plain, 0.01 * plain(net.samples[0]).norm(dim=1).mean() / 32**0.5)
        assert disparity(off) is not None
        assert disparity(replace(off, way="torch-bf16-weights")) is None


class TestWhatIsThere:
    @pytest.mark.parametrize(
        ("way", "package", "extra"),
        [
            ("openvino-fp32", "openvino", "openvino"),
            ("onnx-fp32", "onnxruntime", "onnx"),
            ("onnx-fp32", "onnx", "onnx"),
            ("openvino-int8", "nncf", "int8"),
        ],
    )
    def test_a_missing_package_is_named_with_its_extra(self, tiny_model, monkeypatch, way, package, extra):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else name)
        assert missing(way) == package
        with pytest.raises(StepwellError, match=rf"needs the package {package}, .* pip install 'stepwell\[{extra}\]'"):
            open_way(student(tiny_model), way)

    def test_torch_needs_nothing_more(self):
        assert [way for way in WAYS if way.startswith("torch") and missing(way)] == []

    def test_some_ways_are_for_other_machines(self):
        assert unfit("torch-bf16-flash", CPU) == "needs a GPU and the package flash_attn"
        assert unfit("onnx-fp32", torch.device("cuda")) == "runs on CPUs"
        assert unfit("torch-fp32", CPU) is None

    @pytest.mark.parametrize(
        ("version", "fit"), [("5.3.0", True), ("5.4.0", False), ("5.9.2", False), ("5.10.0", True)]
    )
    def test_a_transformers_that_no_tracer_gets_through_is_named(self, tiny_model, tmp_path, monkeypatch, version, fit):
        found = importlib.metadata.version
        monkeypatch.setattr(
            importlib.metadata, "version", lambda name: version if name == "transformers" else found(name)
        )
        said = None if fit else f"transformers {version} can't be traced: install one from 5.10 on, or below 5.4"
        assert unfit("onnx-fp32", CPU) == said
        assert unfit("torch-fp32", CPU) is None
        if not fit:
            net = student(tiny_model)
            source = Source(lambda features: net.apply(net.model, features), net.model, net.samples, "name")
            for name in ("graph.onnx", "graph.xml"):
                with pytest.raises(StepwellError, match=f"transformers {version} can't be traced"):
                    write_graph(source, tmp_path / name)


@pytest.mark.parametrize("way", ENGINES)
class TestEngines:
    @pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
    @pytest.mark.parametrize("changes", [{"pooling": "mean"}, {"pooling": "cls", "similarity": "dot"}])
    def test_vectors_agree_with_torch_in_any_shape(self, tiny_models, way, family, changes):
        net = student(tiny_models[family], **changes)
        runner, plain = open_way(net, way), open_way(net, "torch-fp32")
        assert disparity(runner) is None
        for batch in other_batches(net):
            assert runner(batch).numpy() == pytest.approx(plain(batch).numpy(), abs=1e-4)

    def test_many_batches_come_back_in_their_order(self, tiny_model, way):
        net = student(tiny_model)
        runner, plain = open_way(net, way), open_way(net, "torch-fp32")
        batches = [batch for _ in range(4) for batch in other_batches(net)]  # more than run at a time
        outs = list(runner.each(iter(batches)))
        assert len(outs) == len(batches)
        for out, batch in zip(outs, batches, strict=True):
            assert out.numpy() == pytest.approx(plain(batch).numpy(), abs=1e-4)
        next(runner.each(iter(batches)))  # given up with others under way: the next job starts from nothing
        assert [out.tolist() for out in runner.each(batches)] == [out.tolist() for out in outs]

    def test_a_failing_input_ends_the_job_and_not_the_runner(self, tiny_model, way):
        net = student(tiny_model)
        runner = open_way(net, way)
        batch = net.samples[0]

        def broken():
            yield batch
            raise ValueError("no more")

        with pytest.raises(ValueError, match="no more"):
            list(runner.each(broken()))
        assert runner(batch).shape[0] == len(batch["input_ids"])

    @pytest.mark.parametrize("family", ["bert", "roberta"])
    def test_logits_agree_with_torch_in_any_shape(self, tiny_models, way, family):
        net = reranker_net(Reranker(build_cross_encoder(str(tiny_models[family]), 2, 64, 1)))
        runner, plain = open_way(net, way), open_way(net, "torch-fp32")
        assert disparity(runner) is None
        for batch in other_batches(replace(net, make_samples=lambda task: [*net.samples, *net.samples])):
            assert runner(batch).numpy() == pytest.approx(plain(batch).numpy(), abs=1e-4)

    def test_each_tower_is_a_graph_of_its_own(self, tiny_model, way):
        net = student(tiny_model, towers=2)
        with torch.no_grad():
            for parameter in net.model[0].sub_modules["query"].parameters():
                parameter *= 1.5
        nets = {task: replace(net, task=task) for task in ("query", "document")}
        runners = {task: open_way(one, way) for task, one in nets.items()}
        assert [disparity(runner) for runner in runners.values()] == [None, None]
        batch = nets["query"].samples[0]
        assert distance(runners["query"](batch), runners["document"](batch)) > 1e-3

    def test_the_second_opening_exports_nothing_and_no_model_directory_is_touched(self, tiny_model, way, monkeypatch):
        before = sorted(tiny_model.rglob("*"))
        net = encoder_net(Encoder.open(tiny_model))
        first = open_way(net, way)(net.samples[0])
        monkeypatch.setattr(graphs, "_Positional", None)
        assert torch.equal(open_way(net, way)(net.samples[0]), first)
        assert sorted(tiny_model.rglob("*")) == before

    def test_other_weights_are_another_graph(self, tiny_model, way):
        net = student(tiny_model)
        old = open_way(net, way)(net.samples[0])
        with torch.no_grad():
            for parameter in net.model.parameters():
                parameter *= 1.3
        new = open_way(replace(net), way)
        assert disparity(new) is None
        assert distance(new(net.samples[0]), old) > 1e-3


@pytest.mark.slow
@pytest.mark.skipif(missing("openvino-int8") is not None, reason="nncf is not installed")
def test_int8_stays_near(tiny_model):
    net = student(tiny_model)
    runner = open_way(net, "openvino-int8")
    assert (
        1e-6
        < max(distance(runner(batch), whole) for batch, whole in zip(net.samples, net.reference, strict=True))
        < 0.2
    )
