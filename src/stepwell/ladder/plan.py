"""What a run will take on this machine: each stage's time and disk, from its operations and a short probe."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stepwell import distributed
from stepwell.display import Cell, Table, duration, warn
from stepwell.ladder.prices import BACKWARD, Prices, Work, layers_of, towers_of
from stepwell.ladder.stage import Context, Stage
from stepwell.ladder.workspace import Workspace, damage
from stepwell.models.build import build_student
from stepwell.models.encoder import Encoder
from stepwell.models.engines.cpu import for_training, sparse_words
from stepwell.models.engines.flops import random_body
from stepwell.models.engines.machine import autocast, micro_batch, precision, token_budget
from stepwell.models.opening import quiet
from stepwell.models.shape import config_of, operations_a_token
from stepwell.models.tokens import Tokens
from stepwell.systems.records import Decision, Manifest
from stepwell.teachers.embeddings import Bill
from stepwell.teachers.opening import kind_of

LEFT_OUT = "left out"


@dataclass(frozen=True)
class Speed:
    """Operations a second of this machine on the student's architecture: inference and training."""

    forward: float
    training: float

    def seconds(self, work: Work) -> float:
        """Return how long a stage will take."""
        return work.seconds + work.forward / self.forward + work.training / self.training


GUESS = Speed(forward=2e10, training=2e10)
"""A processor of two cores."""

PROBE_SECONDS = 0.8
"""For each of the two kinds of work that are timed."""


def speed_of(base: str) -> Speed:
    """Return how fast this machine is on a base model's architecture; a guess, with a warning, where no probe runs."""
    try:
        return probe(base)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, NotImplementedError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        warn(f"how fast this machine is with {base} can't be measured ({reason}): the times of the plan are guesses.")
        return GUESS


def probe(base: str) -> Speed:
    """Time two random layers of the base model's architecture for about two seconds."""
    config = config_of(base)
    layers = min(2, int(config.num_hidden_layers))
    with quiet():
        model = random_body(config, layers).to(distributed.state().device)
    length = 48

    def features(tokens: int) -> dict[str, torch.Tensor]:
        ids = torch.randint(0, int(config.vocab_size), (max(1, tokens // length), length)).to(model.device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    few, many = features(token_budget()), features(micro_batch())
    model.eval()

    def forward() -> None:
        with torch.inference_mode(), autocast():
            model(**few)

    def training() -> None:
        with autocast():
            loss = model(**many).last_hidden_state.float().square().mean()
        loss.backward()
        model.zero_grad(set_to_none=True)

    operations = operations_a_token(base, layers)
    inference = operations * few["input_ids"].numel() / _median(forward)
    with for_training(model), sparse_words(model):  # as the trainings do
        trained = BACKWARD * operations * many["input_ids"].numel() / _median(training)
    # What is around the matrix products (padding, lookups, the optimiser) takes about a fifth of a stage.
    return Speed(0.8 * inference, 0.8 * trained)


def _median(work: Any) -> float:
    work()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - began < PROBE_SECONDS:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


@dataclass(frozen=True)
class Plan:
    """The stages of a run with their estimates; ``done`` are those that are finished, or decided to be left out."""

    stages: list[Stage]
    work: list[Work]
    seconds: list[float]
    done: list[bool]
    memory: float
    left_out: frozenset[str] = frozenset()
    bills: tuple[Bill, ...] = ()  # what is sent elsewhere
    a_character: float = 0.25  # tokens

    @property
    def total(self) -> float:
        """Seconds of all that is still to do."""
        return sum(seconds for _, _, seconds, state in self.lines() if not state)

    @property
    def disk(self) -> float:
        """Bytes that all stages leave."""
        return sum(work.disk for work in self.work)

    def table(self) -> Table:
        """Return the plan as a table."""
        rows: list[list[Cell]] = [
            [number, stage.title, state or duration(seconds), _bytes(work.disk)]
            for number, (stage, work, seconds, state) in enumerate(self.lines(), start=1)
        ]
        kind = "bf16" if precision() is torch.bfloat16 else "fp32"
        notes = (
            f"About {duration(self.total)} still to go, {_bytes(self.disk)} of disk, {_bytes(self.memory)} of memory.",
            f"Estimated for this machine ({torch.get_num_threads()} threads, {kind}) from a short probe; a rung "
            "without headroom is left out, and refine is guessed to select one query in eight.",
            *(bill.line(self.a_character) for bill in self.bills),
        )
        return Table("The ladder, stage by stage", ["#", "stage", "time", "disk"], rows, notes)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain values (seconds, bytes)."""
        keys = ("name", "title", "seconds", "disk", "done", "left_out")
        rows = [
            (stage.name, stage.title, seconds, work.disk, bool(state), state == LEFT_OUT)
            for stage, work, seconds, state in self.lines()
        ]
        stages = [dict(zip(keys, row, strict=True)) for row in rows]
        sent = [
            {"teacher": bill.teacher, "texts": bill.texts, "tokens": round(bill.tokens(rate)), "cost": bill.cost(rate)}
            for bill, rate in ((bill, self.a_character) for bill in self.bills)
        ]
        return {"seconds": self.total, "disk": self.disk, "memory": self.memory, "stages": stages, "sent": sent}

    def lines(self) -> Iterator[tuple[Stage, Work, float, str]]:
        """Yield each stage with its work, its seconds, and why it is not to be done: "" where it is."""
        for stage, work, seconds, done in zip(self.stages, self.work, self.seconds, self.done, strict=True):
            yield stage, work, seconds, LEFT_OUT if stage.name in self.left_out else "done" if done else ""


def make_plan(ctx: Context, stages: list[Stage], workspace: Workspace, speed: Speed | None = None) -> Plan:
    """Estimate every stage; what the workspace has finished costs nothing. Without a ``speed`` it is probed."""
    speed = speed or speed_of(ctx.recipe.student.base)
    done, left_out = [], set[str]()
    for stage in stages:
        finished = any(gate in left_out or workspace.go(gate) is False for gate in stage.only_if or ())
        if finished:  # a decision that it waits for is taken, and says no, or is left out itself
            left_out.add(stage.name)
        elif all(workspace.resolve(name) in workspace.keys for name in stage.inputs.values()):
            place, name = workspace.place(stage), workspace.resolve(stage.name)
            finished = (place / Manifest.file).is_file()
            if finished and (stage.by_content or (place / Decision.file).is_file()):
                finished = damage(place) is None  # it is read next
            workspace.keys[name] = workspace.identity(stage) if finished else workspace.key(stage)
            if finished:
                workspace.folders[name] = place
        done.append(finished)
    prices = prices_of(ctx)
    work = [stage.cost(prices) for stage in stages]
    seconds, bills = list(map(speed.seconds, work)), _bills(stages, done)
    return Plan(stages, work, seconds, done, memory_of(ctx), frozenset(left_out), bills, prices.a_character)


def _bills(stages: list[Stage], done: list[bool]) -> tuple[Bill, ...]:
    """Return what stages that are not done send elsewhere; what two of them have in common is sent once."""
    found = dict[str, Bill]()
    for stage, is_done in zip(stages, done, strict=True):
        same = json.dumps([stage.kind, stage.settings, stage.inputs], sort_keys=True)
        bill = None if is_done or same in found else stage.bill()
        if bill is not None and bill.texts:
            found[same] = bill
    return tuple(found.values())


def prices_of(ctx: Context) -> Prices:
    """Count a run's texts, and their tokens on a sample with the student's tokenizer."""
    recipe, collection, queries = ctx.recipe, ctx.collection, ctx.surroundings.query_rows
    student, longest = recipe.student, recipe.tokens.longest
    shape = student.layers, student.pick, student.pooling, student.similarity, student.towers, longest
    encoder = Encoder(build_student(student.base, *shape, student.prompts, student.dimensions))
    special = encoder.template.overhead[0]
    random = np.random.default_rng(0)

    some = random.choice(collection.n_passages, min(400, collection.n_passages), replace=False)
    few = random.choice(queries, min(400, len(queries)), replace=False)
    texts = collection.passage_texts(some), collection.query_texts(few)
    tokenizer, _, prompt = encoder.cutting("document")
    lengths = [Tokens.build(tokenizer, part, 10_000, prompt).lengths for part in texts]
    passage, query = (float(np.minimum(part + special, longest).mean()) for part in lengths)
    a_character = float(lengths[0].sum()) / max(1, sum(map(len, texts[0])))
    pair = min(passage + query - special / 2, recipe.tokens.pair)
    train, dev, test = (len(getattr(ctx.splits, split).query_rows) for split in ("train", "dev", "test"))
    return Prices(collection.n_passages, train, dev, test, passage, query, pair, a_character)


def memory_of(ctx: Context) -> float:
    """Estimate the largest resident memory of a run, in bytes: libraries, the largest training, texts and tokens."""
    recipe = ctx.recipe
    kinds = [kind_of(name, recipe.teachers) for name in recipe.teachers]
    most, tokens = 0.0, 8 * 8 * recipe.tokens.pair
    for section in [recipe.student, *(kind.section for kind in kinds if kind.model is not None)]:
        config = config_of(section.base)
        weights = operations_a_token(section.base, layers_of(section)) / 2 + config.vocab_size * config.hidden_size
        weights *= towers_of(section)
        depth = min(section.layers or config.num_hidden_layers, config.num_hidden_layers)
        most = max(most, 16.0 * weights + 40.0 * config.hidden_size * tokens * depth)
    texts = 300.0 * (ctx.collection.n_passages + ctx.collection.n_queries)
    return 7e8 + most + texts


def _bytes(count: float) -> str:
    if count < 1e5:
        return "-"
    return f"{count / 1e6:,.1f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"
