"""Training follows from the seed alone: a killed run ends as an uninterrupted one, and what should learn does."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import ModernBertConfig, ModernBertForSequenceClassification, PreTrainedModel

from common import Killed
from stepwell import distributed
from stepwell.display import Progress
from stepwell.distil import training
from stepwell.distil.candidates import Candidates, Draw
from stepwell.distil.objectives import EmbeddingObjective, RerankObjective, StudentObjective, Terms
from stepwell.distil.training import batches, learning_rate, total_steps, train
from stepwell.errors import StepwellError
from stepwell.models.build import build_cross_encoder, build_student, head_parameters, word_tables
from stepwell.models.encoder import Encoder
from stepwell.models.engines import cpu
from stepwell.models.opening import fingerprint
from stepwell.models.reranker import Reranker
from stepwell.recipe import Optimiser, RerankTraining
from stepwell.retrieval.vectors import Vectors


def candidates_of(collection, k=4):
    """The best positive of each training query, and the passages behind it."""
    qrels = collection.qrels("train")
    passages = np.array([(qrels.positives(query)[0] + np.arange(k) * 3) % 60 for query in qrels.query_rows], np.int32)
    return Candidates(
        qrels.query_rows, passages, qrels.is_positive(qrels.query_rows[:, None], passages).astype(np.int32)
    )


@pytest.fixture
def student(tiny_model, tiny_collection):
    """Return a factory of fresh students with their data."""

    def make(family_dir=tiny_model):
        encoder = Encoder(build_student(str(family_dir), 2, "first", None, "cos", 1, 48))
        queries = encoder.tokenise(tiny_collection.query_texts(), "query")
        passages = encoder.tokenise(tiny_collection.passage_texts(), "document")
        qrels = tiny_collection.qrels("train")
        return StudentObjective(
            encoder, queries, passages, candidates_of(tiny_collection), qrels, Terms(), Draw(3, seed=0)
        )

    return make


@pytest.fixture
def reranker(tiny_model, tiny_collection):
    """Return a factory of fresh cross-encoders with their data."""

    def make():
        model = Reranker(build_cross_encoder(str(tiny_model), 2, 64, 1))
        tokens = model.tokenise(tiny_collection.query_texts()), model.tokenise(tiny_collection.passage_texts())
        return RerankObjective(model, *tokens, candidates_of(tiny_collection), Draw(4, seed=0))

    return make


class Toy:
    """A line through points; ``loss_of`` may change the loss at a step."""

    separable = False

    def __init__(self, loss_of=lambda step, loss: loss, size=6):
        self.module = nn.Linear(3, 1)
        self.size, self.loss_of, self.step = size, loss_of, 0
        with torch.no_grad():
            self.module.weight.fill_(1.0), self.module.bias.fill_(1.0)

    def loss(self, examples, epoch):
        self.step += 1
        x = torch.from_numpy(np.random.default_rng(1).standard_normal((self.size, 3))[examples]).float()
        loss = self.loss_of(self.step, (self.module(x)[:, 0] - x.sum(1)).square().mean())
        return loss, {"square": loss.item()}


class TestSchedule:
    @given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 9), st.integers(1, 60))
    def test_every_epoch_has_every_example_once(self, size, batch, seed, steps):
        drawn = list(batches(size, batch, seed, 0, steps))
        assert all(len(examples) == min(batch, size) for _, examples in drawn)
        flat = np.concatenate([examples for _, examples in drawn])
        for start in range(0, len(flat) - size + 1, size):
            assert sorted(flat[start : start + size]) == list(range(size))

    @given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 20), st.integers(0, 20))
    def test_going_on_from_a_step_gives_the_rest(self, size, batch, done, more):
        whole = [examples.tolist() for _, examples in batches(size, batch, 3, 0, done + more)]
        rest = [examples.tolist() for _, examples in batches(size, batch, 3, done, done + more)]
        assert rest == whole[done:]

    def test_epochs_differ_and_seeds_differ(self):
        orders = [[e.tolist() for _, e in batches(20, 20, seed, 0, 2)] for seed in (1, 2)]
        assert orders[0][0] != orders[0][1]
        assert orders[0][0] != orders[1][0]

    @pytest.mark.parametrize(
        ("epochs", "steps", "size", "expected"),
        [
            (1, None, 32, 2),
            (1, None, 33, 3),
            (0.5, None, 32, 1),
            (0, None, 32, 0),
            (9, 7, 32, 7),
            (3, None, 10, 3),
            (1, None, 0, 0),
        ],
    )
    def test_steps_are_passes_over_the_examples(self, epochs, steps, size, expected):
        assert total_steps(Optimiser(epochs=epochs, steps=steps, batch=16), size) == expected

    @given(st.integers(1, 300), st.floats(0, 1))
    def test_the_rate_rises_then_falls_and_is_never_nothing(self, total, warmup):
        rates = [learning_rate(step, total, warmup) for step in range(total)]
        assert all(0 < rate <= 1 for rate in rates)
        top = int(np.argmax(rates))
        assert rates[: top + 1] == sorted(rates[: top + 1])
        assert rates[top:] == sorted(rates[top:], reverse=True)
        assert max(rates) == pytest.approx(1)


class TestSeed:
    @pytest.mark.parametrize("dropout", [False, True])
    def test_the_same_seed_gives_the_same_weights(self, student, tmp_path, dropout):
        names = []
        for number, seed in enumerate((5, 5, 6)):
            objective = student()
            (tmp_path / str(number)).mkdir()
            torch.rand(number)  # what was drawn before does not matter
            train(objective, Optimiser(steps=3, batch=6, dropout=dropout), tmp_path / str(number), seed)
            names.append(fingerprint(objective.module))
        assert names[0] == names[1] != names[2]

    @pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
    def test_without_dropout_training_mode_computes_what_is_served(self, student, tiny_models, tmp_path, family):
        objective = student(tiny_models[family])
        train(objective, Optimiser(epochs=0), tmp_path, 1)
        losses = {
            mode: objective.loss(np.arange(8), 0)[0].item() for mode in (True, False) if objective.module.train(mode)
        }
        assert losses[True] == losses[False]

    def test_with_dropout_it_does_not(self, student, tmp_path):
        objective = student()
        train(objective, Optimiser(epochs=0, dropout=True), tmp_path, 1)
        losses = {
            mode: objective.loss(np.arange(8), 0)[0].item() for mode in (True, False) if objective.module.train(mode)
        }
        assert losses[True] != losses[False]


@pytest.mark.parametrize("stated", ["2min", "-1", "nan"])
def test_seconds_between_checkpoints_that_cant_be_are_refused(monkeypatch, stated):
    monkeypatch.setenv("STEPWELL_CHECKPOINT_SECONDS", stated)
    with pytest.raises(StepwellError, match=f"STEPWELL_CHECKPOINT_SECONDS is '{stated}'.*number of seconds"):
        training.checkpoint_seconds()


class TestResuming:
    SETTINGS = Optimiser(steps=6, batch=8, dropout=True, lr=1e-3)

    @pytest.fixture(autouse=True)
    def _checkpoint_every_step(self, monkeypatch):
        monkeypatch.setenv("STEPWELL_CHECKPOINT_SECONDS", "0")

    @pytest.fixture
    def uninterrupted(self, student, tmp_path):
        objective, folder = student(), tmp_path / "uninterrupted"
        folder.mkdir()
        log = train(objective, self.SETTINGS, folder, 5)
        return fingerprint(objective.module), log.losses

    def killed_at(self, objective, step, folder):
        """Train until the loss of ``step`` is asked for."""
        plain, calls = objective.loss, iter(range(1, 100))

        def loss(examples, epoch):
            if next(calls) == step:
                raise Killed
            return plain(examples, epoch)

        objective.loss = loss
        with pytest.raises(Killed):
            train(objective, self.SETTINGS, folder, 5)

    @pytest.mark.parametrize("step", [1, 2, 4, 6])
    def test_a_killed_run_ends_as_an_uninterrupted_one(self, student, tmp_path, uninterrupted, step):
        self.killed_at(student(), step, tmp_path)
        objective, told = student(), []
        log = train(objective, self.SETTINGS, tmp_path, 5, Progress(lambda share, note: told.append(share)))
        assert (fingerprint(objective.module), log.losses) == uninterrupted
        assert told == [done / 6 for done in range(step - 1, 7)]  # the steps that were done are told at once

    def test_killed_again_and_again(self, student, tmp_path, uninterrupted):
        for step in (3, 2, 2):
            self.killed_at(student(), step, tmp_path)
        objective = student()
        log = train(objective, self.SETTINGS, tmp_path, 5)
        assert (fingerprint(objective.module), log.losses, log.steps) == (*uninterrupted, 6)

    @pytest.mark.parametrize("left", [0, 7, 500, -1])
    def test_a_truncated_checkpoint_begins_anew_and_that_is_said(self, student, tmp_path, uninterrupted, left, capsys):
        self.killed_at(student(), 4, tmp_path)
        checkpoint = tmp_path / "checkpoint.safetensors"
        checkpoint.write_bytes(checkpoint.read_bytes()[:left])
        self.begins_anew(student(), tmp_path, uninterrupted, capsys)

    @pytest.mark.parametrize("place", ["a tensor", "the log"])
    def test_a_checkpoint_with_a_flipped_bit_begins_anew_and_that_is_said(
        self, student, tmp_path, uninterrupted, place, capsys
    ):
        self.killed_at(student(), 4, tmp_path)
        checkpoint = tmp_path / "checkpoint.safetensors"
        content = bytearray(checkpoint.read_bytes())
        at = -1_000 if place == "a tensor" else content.index(b'\\"steps\\": 3') + 11  # where it says 3 steps
        content[at] ^= 1
        checkpoint.write_bytes(content)
        with safe_open(checkpoint, framework="pt") as file:  # nothing but the sha256 tells
            assert json.loads(file.metadata()["log"])["steps"] == (3 if place == "a tensor" else 2)
        self.begins_anew(student(), tmp_path, uninterrupted, capsys)

    @pytest.mark.parametrize("metadata", [None, {"log": "[]"}, {"log": '{"epoch": 1}'}, {"other": "log"}])
    def test_another_programs_checkpoint_begins_anew_and_that_is_said(
        self, student, tmp_path, uninterrupted, metadata, capsys
    ):
        save_file({"weight": torch.ones(1)}, tmp_path / "checkpoint.safetensors", metadata)
        self.begins_anew(student(), tmp_path, uninterrupted, capsys)

    def begins_anew(self, objective, folder, uninterrupted, capsys):
        """Train on from a checkpoint that must not be taken up."""
        capsys.readouterr()
        told = []
        log = train(objective, self.SETTINGS, folder, 5, Progress(lambda share, note: told.append(share)))
        assert (fingerprint(objective.module), log.losses) == uninterrupted
        assert told == [done / 6 for done in range(7)]
        warnings = [line for line in capsys.readouterr().err.splitlines() if "Warning" in line]
        assert len(warnings) == 1
        assert (
            f"{folder / 'checkpoint.safetensors'} can't be taken up, so this training begins at step 0" in warnings[0]
        )

    def test_processes_begin_at_one_step_when_one_of_them_cant_read_it(self, tmp_path, monkeypatch):
        def checkpoint():
            module = nn.Linear(2, 2)
            return training.Checkpoint(tmp_path / "c.safetensors", module, torch.optim.AdamW(module.parameters()))

        checkpoint().save(training.TrainingLog(steps=3))
        assert checkpoint().load().steps == 3
        monkeypatch.setattr(distributed, "world_size", lambda: 2)
        monkeypatch.setattr(distributed, "gather_rows", lambda own: torch.cat([own, torch.ones(1)]))
        assert checkpoint().load().steps == 0

    def test_a_checkpoint_of_bf16_and_of_single_numbers_is_taken_up(self, tmp_path, capsys):
        module = nn.Linear(3, 2).to(torch.bfloat16)
        module.scale = nn.Parameter(torch.tensor(2.5))
        module.empty = nn.Parameter(torch.ones(0))
        path, optimiser = tmp_path / "checkpoint.safetensors", torch.optim.AdamW(module.parameters())
        training.Checkpoint(path, module, optimiser).save(training.TrainingLog(steps=4))
        weights = fingerprint(module)
        with torch.no_grad():
            module.weight.zero_(), module.scale.zero_()
        assert training.Checkpoint(path, module, optimiser).load().steps == 4
        assert fingerprint(module) == weights
        assert not capsys.readouterr().err

    def test_a_kill_while_the_checkpoint_is_written_leaves_the_last_one(
        self, student, tmp_path, uninterrupted, monkeypatch
    ):
        whole, calls = training.save_file, iter(range(1, 100))

        def save(tensors, path, metadata):
            whole(tensors, path, metadata)
            if next(calls) == 3:
                path.write_bytes(path.read_bytes()[:100])
                raise Killed

        monkeypatch.setattr(training, "save_file", save)
        with pytest.raises(Killed):
            train(student(), self.SETTINGS, tmp_path, 5)
        objective, told = student(), []
        log = train(objective, self.SETTINGS, tmp_path, 5, Progress(lambda share, note: told.append(share)))
        assert (fingerprint(objective.module), log.losses) == uninterrupted
        assert told[0] == 2 / 6

    def test_a_finished_training_does_nothing_more(self, student, tmp_path):
        first = student()
        train(first, self.SETTINGS, tmp_path, 5)
        again = student()
        log = train(again, self.SETTINGS, tmp_path, 5)
        assert log.steps == 6
        assert fingerprint(again.module) == fingerprint(first.module)

    def test_the_projection_of_the_embedding_rung_is_resumed_too(self, student, tmp_path):
        random, found = np.random.default_rng(1), []

        def objective():
            made = student()
            n = len(made.passages), len(made.queries)
            vectors = [random.standard_normal((rows, 16)).astype(np.float32) for rows in n]
            teacher = Vectors(*vectors, np.arange(n[1], dtype=np.int32), 20.0)
            return EmbeddingObjective(made.encoder, made.queries, made.passages, teacher, np.arange(20), 1)

        for kill in (False, True):
            random, folder = np.random.default_rng(1), tmp_path / str(kill)
            folder.mkdir()
            if kill:
                self.killed_at(objective(), 4, folder)
            random, last = np.random.default_rng(1), None
            last = objective()
            train(last, self.SETTINGS, folder, 5)
            found.append(fingerprint(last.module))
        assert found[0] == found[1]


class TestLearning:
    def test_a_student_learns_who_answers(self, student, tmp_path):
        objective = student()
        log = train(objective, Optimiser(epochs=12, batch=14, lr=3e-3), tmp_path, 1)
        assert log.steps == len(log.losses) == len(log.parts["hard"]) == 24
        assert np.mean(log.losses[-4:]) < 0.5 * np.mean(log.losses[:4])

    def test_a_reranker_learns_who_answers(self, reranker, tmp_path):
        log = train(reranker(), RerankTraining(epochs=10, batch=14, lr=3e-3), tmp_path, 1)
        assert log.losses[0] == pytest.approx(math.log(4), abs=0.5)
        assert np.mean(log.losses[-4:]) < 0.7 * np.mean(log.losses[:4])

    def test_a_student_imitates_a_space(self, student, tiny_model, tmp_path):
        made, teacher = student(), Encoder.open(tiny_model)
        vectors = [teacher.encode(tokens, "query") for tokens in (made.passages, made.queries)]
        target = Vectors(*vectors, np.arange(len(made.queries), dtype=np.int32), 20.0)
        objective = EmbeddingObjective(made.encoder, made.queries, made.passages, target, np.arange(20), 1)
        log = train(objective, Optimiser(steps=20, batch=40, lr=3e-3), tmp_path, 1)
        assert log.losses[-1] < 0.5 * log.losses[0]

    def test_a_loss_that_is_no_number_stops_and_spoils_nothing(self, tmp_path, monkeypatch):
        monkeypatch.setenv("STEPWELL_CHECKPOINT_SECONDS", "0")
        toy = Toy(lambda step, loss: loss * (math.nan if step == 3 else 1))
        with pytest.raises(StepwellError, match=r"nan at step 3 of 5 .*Lower `lr`"):
            train(toy, Optimiser(steps=5, batch=4), tmp_path, 1)
        assert torch.isfinite(toy.module.weight).all()
        fresh = Toy().module
        checkpoint = training.Checkpoint(
            tmp_path / "checkpoint.safetensors", fresh, torch.optim.AdamW(fresh.parameters())
        )
        assert checkpoint.load().steps == 2

    def test_a_gradient_that_is_no_number_stops_and_spoils_nothing(self, tmp_path):
        # The root of 0 is 0 and its slope infinite; after the last step no loss would tell.
        toy = Toy(lambda step, loss: loss + (0 * loss).sqrt())
        with pytest.raises(StepwellError, match=r"gradient became nan at step 1 of 1 .*Lower `lr`"):
            train(toy, Optimiser(steps=1, batch=4), tmp_path, 1)
        assert torch.isfinite(toy.module.weight).all()

    def test_the_model_is_left_ready_to_serve(self, student, tmp_path):
        objective = student()
        train(objective, Optimiser(steps=1), tmp_path, 1)
        assert not any(module.training for module in objective.module.modules())


class TestOptimiser:
    def moved(self, objective, settings, tmp_path):
        """The largest step of each parameter."""
        before = {name: p.detach().clone() for name, p in objective.module.named_parameters()}
        train(objective, settings, tmp_path, 1)
        return {name: (p - before[name]).abs().max().item() for name, p in objective.module.named_parameters()}

    def test_the_head_has_its_own_rate(self, reranker, tmp_path):
        # The first step of AdamW moves each weight by the learning rate, whatever the gradient.
        objective = reranker()
        head = {
            name
            for name, p in objective.module.named_parameters()
            if any(p is h for h in head_parameters(objective.module))
        }
        moved = self.moved(
            objective, RerankTraining(steps=1, lr=1e-5, head_lr=1e-2, warmup=0, weight_decay=0), tmp_path
        )
        weights = {name: step for name, step in moved.items() if name in head and "weight" in name}
        assert len(head) == 2
        assert list(weights.values()) == pytest.approx([1e-2], rel=1e-2)
        assert max(step for name, step in moved.items() if name not in head) == pytest.approx(1e-5, rel=5e-2)

    @pytest.mark.parametrize("frozen", [True, False])
    def test_frozen_words_stay(self, student, tmp_path, frozen):
        moved = self.moved(student(), Optimiser(steps=2, freeze_words=frozen), tmp_path)
        words = {name: step for name, step in moved.items() if "word_embeddings" in name}
        assert len(words) == 1
        assert (max(words.values()) == 0) == frozen
        assert all(
            step > 0 for name, step in moved.items() if "position_embeddings" in name or "layer.0.output" in name
        )

    def test_words_are_found_whatever_a_model_calls_them(self):
        config = ModernBertConfig(
            vocab_size=50,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            pad_token_id=0,
        )
        with_head = ModernBertForSequenceClassification(config)
        assert [table.shape for table in word_tables(with_head)] == [(50, 16)]
        assert word_tables(with_head)[0] is with_head.model.embeddings.tok_embeddings.weight

    def test_only_matrices_decay(self, tmp_path):
        toy = Toy(lambda step, loss: 0 * loss)
        train(toy, Optimiser(steps=1, lr=0.1, weight_decay=0.5, warmup=0), tmp_path, 1)
        assert toy.module.weight.tolist() == [[pytest.approx(0.95)] * 3]
        assert toy.module.bias.item() == 1

    def test_gradients_are_clipped_over_all_parameters(self, tmp_path, monkeypatch):
        seen = []
        plain = torch.optim.AdamW.step
        monkeypatch.setattr(
            torch.optim.AdamW,
            "step",
            lambda self: (
                seen.extend(p.grad.norm().item() for g in self.param_groups for p in g["params"]),
                plain(self),
            )[1],
        )
        train(Toy(lambda step, loss: 1000 * loss), Optimiser(steps=1, clip=0.5), tmp_path, 1)
        assert math.hypot(*seen) == pytest.approx(0.5, rel=1e-4)


def test_chunks_of_a_separable_loss_give_the_gradient_of_the_whole_batch(reranker, monkeypatch):
    objective = reranker()
    objective.module.eval()
    found = {}
    for chunk in (100, 4, 3):
        monkeypatch.setattr(training, "CHUNK", chunk)
        objective.module.zero_grad()
        value, parts = training._backward(objective, np.arange(10), 0)
        found[chunk] = value, parts, [p.grad.clone() for p in objective.module.parameters() if p.grad is not None]
    whole_value, whole_parts, whole = found[100]
    largest = max(gradient.abs().max() for gradient in whole)
    for chunk in (4, 3):
        value, parts, cut = found[chunk]
        assert value == pytest.approx(whole_value, abs=1e-5)
        assert parts == pytest.approx(whole_parts, abs=1e-5)
        assert max((a - b).abs().max() for a, b in zip(cut, whole, strict=True)) <= 1e-5 * largest


def test_sparse_gradients_of_words_are_added_up_to_those_of_dense_ones(student, monkeypatch):
    def gradients():
        objective = student()
        tables = [p for name, p in objective.module.named_parameters() if "word_embeddings" in name]
        with cpu.sparse_words(objective.module):
            for examples in ([0, 1, 2], [2, 3]):  # as the chunks of a batch: the second adds to the first
                torch.autograd.backward(objective.loss(np.array(examples), 0)[0])
                assert all(p.grad is not None and not p.grad.is_sparse for p in tables)
        assert tables
        assert not any(getattr(part, "sparse", False) for part in objective.module.modules())
        return {name: p.grad for name, p in objective.module.named_parameters() if p.grad is not None}

    dense = gradients()
    monkeypatch.setattr(cpu, "VOCABULARY", 1)
    sparse = gradients()
    assert dense.keys() == sparse.keys()
    for name, gradient in dense.items():
        assert torch.allclose(gradient, sparse[name], atol=1e-6), name


def test_within_a_training_alone_attention_is_plain_and_words_are_sparse(student, monkeypatch, tmp_path):
    monkeypatch.setattr(cpu, "VOCABULARY", 1)
    objective, seen = student(), []

    def state():
        inner = [part for part in objective.module.modules() if isinstance(part, PreTrainedModel)]
        words = [part for part in objective.module.modules() if isinstance(part, nn.Embedding)]
        return {part.config._attn_implementation for part in inner}, any(part.sparse for part in words)

    loss = objective.loss
    monkeypatch.setattr(objective, "loss", lambda examples, epoch: (seen.append(state()), loss(examples, epoch))[1])
    before = state()
    train(objective, Optimiser(steps=2, batch=4), tmp_path, 1)
    assert seen == [({cpu.ATTENTION}, True)] * 2
    assert state() == before == ({"sdpa"}, False)
