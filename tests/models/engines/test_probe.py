"""The choice of a way: what the user leaves, what wins clearly, kept for the next run."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from nets import encoder_net, reranker_net
from stepwell.errors import StepwellError
from stepwell.models.build import build_cross_encoder, build_student
from stepwell.models.encoder import Encoder
from stepwell.models.engines import machine as engine, probe, race
from stepwell.models.engines.backends import WAYS, missing
from stepwell.models.engines.probe import Choice, choose, speed, wished
from stepwell.models.engines.race import ROUNDS, fastest
from stepwell.models.reranker import Reranker

CPU, GPU = torch.device("cpu"), torch.device("cuda")
TORCH = ["torch-fp32", "torch-bf16-autocast", "torch-bf16-weights"]


@pytest.fixture
def wish(monkeypatch):
    """Return a function that sets what the user wishes."""

    def set_wish(backend="auto", precision="auto", budget="auto"):
        for name, value in (("BACKEND", backend), ("PRECISION", precision), ("TOKEN_BUDGET", budget)):
            monkeypatch.setenv(f"STEPWELL_{name}", value)

    set_wish()
    return set_wish


@pytest.fixture
def net(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("STEPWELL_CACHE", str(tmp_path / "cache"))
    return encoder_net(Encoder.open(tiny_model))


@pytest.fixture
def peaks(monkeypatch):
    """Return the operations a second that each number type is said to reach; bf16 is the faster one."""
    found = {torch.float32: 1e9, torch.bfloat16: 2e9}
    monkeypatch.setattr(engine, "bf16_gain", lambda: found[torch.bfloat16] / found[torch.float32])
    return found


@pytest.fixture
def opened(monkeypatch):
    """Return the ways that the probe opens."""
    ways, open_way = [], race.open_way

    def note(net, way):
        ways.append(way)
        return open_way(net, way)

    monkeypatch.setattr(race, "open_way", note)
    return ways


@pytest.fixture
def speeds(monkeypatch):
    """Return the tokens a second that ways are said to reach, 100 when unknown, at any budget."""
    found = {}
    monkeypatch.setattr(probe, "speed", lambda runner, tokens: found.get(runner.way, 100.0))
    return found


def forbid(monkeypatch):
    monkeypatch.setattr(probe, "probed", lambda *arguments: pytest.fail("it probes again"))


class TestRace:
    @pytest.mark.parametrize(("rival", "winner"), [(109.0, "torch-fp32"), (111.0, "onnx-fp32")])
    def test_a_rival_has_to_win_by_a_tenth(self, rival, winner):
        rates = {"torch-fp32": 100.0, "onnx-fp32": rival}
        (best, tokens), _ = fastest(lambda way, tokens: rates[way], list(rates), 1024, (1024, 1024))
        assert (best, tokens) == (winner, 1024)

    @pytest.mark.parametrize(
        ("rival", "winner"),
        [([105, 300, 300, 300], "b"), ([300, 105, 300, 105, 300], "b"), ([300, 105, 300, 105, 105], "a")],
    )
    def test_a_rival_has_to_win_most_rounds(self, rival, winner):
        measured = {"a": iter([100.0] * (ROUNDS + 1)), "b": iter(rival)}
        (best, _), rates = fastest(lambda way, tokens: next(measured[way]), ["a", "b"], 8, (8, 8))
        assert (best, rates["b", 8]) == (winner, np.median(rival))
        assert next(measured["b"], None) is None  # and what is decided ends

    def test_the_third_has_to_beat_the_second_when_that_won(self):
        rates = {"a": 100.0, "b": 200.0, "c": 210.0}
        assert fastest(lambda way, tokens: rates[way], list(rates), 8, (8, 8))[0] == ("b", 8)

    @pytest.mark.parametrize(
        ("rates", "best"),
        [
            ({512: 100, 1024: 100, 2048: 105, 4096: 300}, 1024),
            ({512: 300, 1024: 100, 2048: 120, 4096: 150}, 4096),
            ({512: 300, 1024: 100, 2048: 120, 4096: 125}, 2048),
            ({512: 115, 1024: 100, 2048: 100, 4096: 100}, 512),
        ],
    )
    def test_a_budget_is_doubled_or_else_halved_while_that_wins(self, rates, best):
        assert fastest(lambda way, tokens: rates[tokens], ["a"], 1024, (512, 4096))[0] == ("a", best)

    @given(st.lists(st.floats(1, 1000), min_size=1, max_size=6))
    def test_no_way_is_faster_than_the_best_by_more_than_the_margins_of_those_before_it(self, rates):
        ways = [str(number) for number in range(len(rates))]
        (best, _), _ = fastest(lambda way, tokens: rates[int(way)], ways, 8, (8, 8))
        assert rates[int(best)] >= rates[0]
        assert max(rates) < race.MARGIN * rates[int(best)] * (1 + 1e-9)


class TestWishes:
    @pytest.mark.parametrize(
        ("backend", "precision", "ways"),
        [
            ("auto", "auto", [*TORCH, "openvino-fp32", "openvino-bf16", "onnx-fp32"]),
            ("auto", "fp32", ["torch-fp32", "openvino-fp32", "onnx-fp32"]),
            ("torch", "bf16", ["torch-bf16-autocast", "torch-bf16-weights"]),
            ("openvino", "auto", ["openvino-fp32", "openvino-bf16"]),
            ("openvino-int8", "auto", ["openvino-int8"]),
            ("torch-bf16-weights", "bf16", ["torch-bf16-weights"]),
        ],
    )
    def test_what_the_user_leaves_is_chosen_from(self, wish, backend, precision, ways):
        wish(backend, precision)
        assert wished(CPU) == (ways, None)

    def test_a_gpu_has_flash_attention_and_no_engines(self, wish):
        assert wished(GPU)[0] == [*TORCH, "torch-bf16-flash"]

    def test_int8_is_never_chosen_unasked(self, wish):
        assert not any("int8" in way for backend in ("auto", "openvino") for way in (wish(backend), wished(CPU)[0])[1])

    def test_a_token_budget_is_a_number(self, wish):
        wish(budget="2048")
        assert wished(CPU)[1] == 2048

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("BACKEND", "tensorrt"),
            ("PRECISION", "fp16"),
            ("TOKEN_BUDGET", "-5"),
            ("TOKEN_BUDGET", "0"),
            ("TOKEN_BUDGET", "1k"),
        ],
    )
    def test_an_unknown_value_is_refused_by_name(self, wish, monkeypatch, name, value):
        monkeypatch.setenv(f"STEPWELL_{name}", value)
        with pytest.raises(StepwellError, match=f"STEPWELL_{name} is '{value}'"):
            wished(CPU)

    def test_wishes_that_contradict_each_other_are_refused(self, wish):
        wish("onnx", "bf16")
        with pytest.raises(StepwellError, match="leave no way"):
            wished(CPU)

    def test_a_named_engine_that_is_not_installed_is_an_error(self, wish, net, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        wish("openvino")
        with pytest.raises(StepwellError, match=r"pip install 'stepwell\[openvino\]'"):
            choose(net, "embedding")


class TestChoose:
    def test_with_nothing_to_choose_nothing_is_probed_or_kept(self, wish, net, monkeypatch, tmp_path):
        forbid(monkeypatch)
        wish("torch", "fp32", "700")
        assert choose(net, "embedding") == Choice("torch-fp32", 700)
        assert not (tmp_path / "cache").exists()

    def test_the_fastest_is_taken_with_its_rate_and_the_others_with_theirs(self, wish, net, peaks, speeds):
        wish("torch")
        speeds |= {"torch-bf16-weights": 250.0, "torch-bf16-autocast": 120.0}
        choice = choose(net, "embedding")
        assert (choice.way, choice.tokens_per_second) == ("torch-bf16-weights", 250.0)
        assert choice.rejected == {"torch-fp32": "100 tokens/s", "torch-bf16-autocast": "120 tokens/s"}

    def test_a_second_run_takes_the_very_same(self, wish, net, monkeypatch):
        first = choose(net, "embedding")
        forbid(monkeypatch)
        assert choose(replace(net), "embedding") == first

    @pytest.mark.parametrize(
        "content", ["", "{", "[]", '{"way": "abacus-fp32"}', '{"way": "torch-fp32", "token_budget": 0}']
    )
    def test_a_corrupt_file_is_probed_again(self, wish, net, tmp_path, content):
        wish("torch", "fp32")
        choice = choose(net, "embedding")
        (path,) = (tmp_path / "cache" / "choices").glob("*.json")
        path.write_text(content, encoding="utf-8")
        assert choose(net, "embedding").way == "torch-fp32"
        assert json.loads(path.read_text(encoding="utf-8"))["way"] == choice.way

    def test_other_machines_models_kinds_and_wishes_choose_for_themselves(
        self, wish, net, tiny_model, tmp_path, monkeypatch
    ):
        probed = []
        monkeypatch.setattr(probe, "probed", lambda net, ways, budget: probed.append(1) or Choice(ways[0], 8))
        smaller = build_student(str(tiny_model), 1, "first", None, None, 1, 48)
        teacher = reranker_net(Reranker(build_cross_encoder(str(tiny_model), 2, 64, 1)))
        choose(net, "embedding")
        choose(encoder_net(Encoder(smaller)), "embedding")
        choose(teacher, "scoring")
        wish("torch")
        choose(net, "embedding")
        monkeypatch.setattr(engine, "processor", lambda device: "another one")
        choose(net, "embedding")
        assert len(probed) == 5

    def test_it_says_what_it_chose_once(self, wish, net, monkeypatch):
        said = []
        monkeypatch.setattr(probe.display, "say", said.append)
        wish("torch", "fp32", "708")
        for _ in range(2):
            choose(net, "embedding")
        assert said == ["embedding with torch fp32, 708 tokens a batch"]

    def test_reasons_are_told_together(self):
        choice = Choice(
            "torch-fp32", 1024, 10.0, {"torch-bf16": "slow", "openvino": "not installed", "onnx": "not installed"}
        )
        assert choice.sentence("scoring").endswith("10 tokens/s (torch bf16: slow; openvino, onnx: not installed)")


class TestProbe:
    def test_bf16_that_is_emulated_is_never_run(self, wish, net, peaks, opened):
        peaks[torch.bfloat16] = 1e7
        wish("torch")
        choice = choose(net, "embedding")
        assert choice.way == "torch-fp32"
        assert choice.rejected == {"torch-bf16": "its products are 100.0 times slower here than in fp32"}
        assert not any("bf16" in way for way in opened)

    def test_bf16_that_the_user_wants_is_taken_without_a_race(self, wish, net, peaks, opened):
        peaks[torch.bfloat16] = 1e7
        wish("torch", "bf16")
        assert choose(net, "embedding") == Choice("torch-bf16-autocast", 1024)
        assert opened == []

    def test_a_way_that_differs_is_not_taken(self, wish, net, peaks, speeds, monkeypatch):
        open_way = race.open_way

        def lossy(net, way):
            runner = open_way(net, way)
            broken = {"torch-bf16-weights": lambda features: runner.run(features).flip(0)}
            return replace(runner, run=broken.get(way, runner.run))

        monkeypatch.setattr(race, "open_way", lossy)
        speeds["torch-bf16-weights"] = 9000.0
        wish("torch")
        choice = choose(net, "embedding")
        assert choice.way == "torch-fp32"
        assert "from torch fp32, where 2e-03 is allowed" in choice.rejected["torch-bf16-weights"]

    def test_a_way_that_fails_is_not_taken(self, wish, net, peaks, monkeypatch):
        open_way = race.open_way

        def failing(net, way):
            if way == "torch-bf16-weights":
                raise RuntimeError("unsupported\noperator")
            return open_way(net, way)

        monkeypatch.setattr(race, "open_way", failing)
        wish("torch-bf16-weights")
        choice = choose(net, "embedding")
        assert (choice.way, choice.rejected) == (
            "torch-fp32",
            {"torch-bf16-weights": "RuntimeError: unsupported operator"},
        )
        monkeypatch.undo()

    def test_a_slow_model_is_compared_on_fewer_tokens_and_keeps_the_usual_budget(self, wish, net, monkeypatch):
        tried = []
        monkeypatch.setattr(probe, "speed", lambda runner, tokens: tried.append(tokens) or 200.0)
        wish("torch", "fp32")
        assert choose(net, "embedding").token_budget == 1024
        assert tried == [256, 100]

    def test_what_is_missing_is_told_by_engine(self, wish, net, monkeypatch):
        monkeypatch.setattr(probe, "missing", lambda way: None if way.startswith("torch") else "something")
        wish("auto", "fp32")
        choice = choose(net, "embedding")
        assert choice.rejected == {"openvino": "not installed", "onnx": "not installed"}

    def test_a_real_race_ends_with_a_way_that_is_there(self, wish, net, tiny_model):
        teacher = reranker_net(Reranker(build_cross_encoder(str(tiny_model), 1, 64, 1)))
        for one, kind in ((net, "embedding"), (teacher, "scoring")):
            choice = choose(one, kind)
            assert missing(choice.way) is None
            assert choice.way in WAYS
            assert choice.tokens_per_second > 0
            assert 512 <= choice.token_budget <= 8192


def test_a_timed_batch_repeats_texts_up_to_the_budget(net):
    batch, seen = net.samples[-1], []
    plain = race.open_way(net, "torch-fp32")
    spy = replace(plain, run=lambda features: seen.append(features) or plain.run(features))
    assert speed(spy, 6 * batch["input_ids"].shape[1] + 3) > 0
    for timed in seen:
        for name in ("input_ids", "attention_mask"):
            assert torch.equal(timed[name], batch[name][[0, 1, 2, 3, 0, 1]])
    assert len(seen) == 2  # the first time, an engine makes ready
