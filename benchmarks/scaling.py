"""A large ladder on paper: python benchmarks/scaling.py [--set NAME=VALUE ...] [--page docs/scaling.md].

The paper's ladder over MS MARCO passages, stage by stage: texts, tokens, operations, bytes, hours. The formulas are
those of `stepwell plan` (src/stepwell/ladder/prices.py; a test compares them). --set puts in numbers of your own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from table import replaced

from stepwell.display import Table, show
from stepwell.ladder.prices import BACKWARD

PETA = 1e15
TOKEN, OFFSET, PAIR, RANKED = 2, 8, 12, 12
"""Bytes on disk: of a token and a text in the token store, of a score, of a row of a run (before compression)."""
OPTIMISED, MINED, QUERY, LOOKED_UP = 16, 44, 860, 76
"""Bytes in memory: of a weight in training (with its gradient and two moments), of a ranked passage and of a query in
mining, of a pair whose score is looked up. The last three were measured at 4 M pairs."""


@dataclass(frozen=True)
class Model:
    """A transformer encoder."""

    name: str
    layers: int
    width: int
    vocabulary: int = 30_522
    towers: int = 1  # a text goes through one of them

    @property
    def operations(self) -> float:
        """Operations of a forward pass per token: two per weight of the layers' matrices (inner width 4 x width)."""
        return 2.0 * self.layers * (4 * self.width**2 + 2 * self.width * 4 * self.width)

    @property
    def weights(self) -> float:
        """Weights of the layers' matrices and of the word embeddings, of all towers."""
        return self.towers * (self.operations / 2 + self.vocabulary * self.width)


STUDENT, DE, CE, LARGE = (
    Model("student", 6, 768, towers=2),
    Model("DE-12", 12, 768, towers=2),
    Model("CE-12", 12, 768),
    Model("CE-24", 24, 1_024),
)


@dataclass(frozen=True)
class Assumptions:
    """What the reader may change."""

    passages: int = 8_841_823
    queries: int = 502_939  # training queries with a known positive
    passage_tokens: float = 80.0  # 56 words of 1.4 tokens, and two special tokens
    query_tokens: float = 10.0
    candidates: int = 100  # pairs a query that a cross-encoder scores
    peak: float = 312e12  # NVIDIA A100 data sheet: BF16 Tensor Core, dense
    share: float = 0.40  # of the peak, achieved
    training_devices: int = 8  # that a batch of the paper's size can feed

    @property
    def pair_tokens(self) -> float:
        """Tokens of a pair: three special tokens instead of two and two."""
        return self.passage_tokens + self.query_tokens - 1

    @property
    def corpus_tokens(self) -> float:
        """Tokens of all passages and queries."""
        return self.passages * self.passage_tokens + self.queries * self.query_tokens

    def step_tokens(self, batch: int, k: int) -> float:
        """Tokens of a step of a dual encoder: ``batch`` queries with K passages each."""
        return batch * (self.query_tokens + k * self.passage_tokens)


@dataclass(frozen=True)
class Stage:
    """A stage: ``training`` is three passes (one forward, two backward) and stays on few devices."""

    title: str
    model: Model
    texts: float
    tokens: float
    training: bool = False
    disk: float = 0.0
    operations: float | None = None  # where it is no forward pass

    @property
    def work(self) -> float:
        """Operations."""
        if self.operations is not None:
            return self.operations
        return (BACKWARD if self.training else 1.0) * self.tokens * self.model.operations

    def hours(self, devices: int, a: Assumptions) -> float:
        """Hours on so many devices."""
        used = min(devices, a.training_devices) if self.training else devices
        return self.work / (a.peak * a.share) / used / 3600


def _pairs(title: str, a: Assumptions, model: Model, count: float) -> Stage:
    return Stage(title, model, count, count * a.pair_tokens, disk=PAIR * count)


def _dense(title: str, a: Assumptions, model: Model, steps: int, batch: int, k: int) -> Stage:
    tokens = steps * a.step_tokens(batch, k)
    return Stage(title, model, steps * batch * (1 + k), tokens, training=True, disk=4 * model.weights)


def _reranker(title: str, a: Assumptions, model: Model, steps: int, batch: int, k: int) -> Stage:
    pairs = steps * batch * k
    return Stage(title, model, pairs, pairs * a.pair_tokens, training=True, disk=4 * model.weights)


def _encode(title: str, a: Assumptions, model: Model, times: int) -> Stage:
    texts = times * (a.passages + a.queries)
    return Stage(title, model, texts, times * a.corpus_tokens, disk=4.0 * model.width * texts)


def stages(a: Assumptions) -> list[Stage]:
    """Return the paper's ladder, with the embedding rung before it."""
    width, times = DE.width, 4
    search = 2.0 * a.queries * a.passages * width * times
    found = RANKED * a.queries * 100.0 * times
    texts = a.passages + a.queries
    return [
        _dense("train DE-12, 50 k steps of 128 x 2", a, DE, 50_000, 128, 2),
        _encode("encode with DE-12, twice", a, DE, 2),
        Stage("mine: search, 4 times", DE, a.queries * times, 0.0, disk=found, operations=search),
        Stage("embedding rung, one epoch", STUDENT, texts, a.corpus_tokens, True, 4 * STUDENT.weights),
        _dense("rung DE-12, 40 k steps of 128 x 2", a, STUDENT, 40_000, 128, 2),
        _reranker("train CE-12, 6 k steps of 256 x 16", a, CE, 6_000, 256, 16),
        _pairs("score all candidates with CE-12", a, CE, a.queries * a.candidates),
        _dense("rung CE-12, 40 k steps of 64 x 16", a, STUDENT, 40_000, 64, 16),
        _reranker("train CE-24, 6 k steps of 256 x 16", a, LARGE, 6_000, 256, 16),
        _pairs("score all candidates with CE-24", a, LARGE, a.queries * a.candidates),
        _dense("rung CE-24, 40 k steps of 64 x 16", a, STUDENT, 40_000, 64, 16),
        _pairs("refine: CE-24 reranks 20 a query", a, LARGE, a.queries * 20),
        _dense("refine: 2 k steps of 64 x 16", a, STUDENT, 2_000, 64, 16),
        _encode("encode with the student, 5 times", a, STUDENT, 5),
    ]


# -- the page's tables ---------------------------------------------------------------------------------------------


def number(value: float) -> str:
    """Return three figures with a unit, as 712 M."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:,.3g} {unit}"
    return f"{value:,.3g}" if value else ""


def hours(value: float) -> str:
    """Return hours with two figures behind the point, or how little it is."""
    return f"{value:.2f}" if value >= 0.005 else "<0.01"


def stage_table(a: Assumptions) -> Table:
    """Return the stages with their costs."""
    devices = (1, 8, 64)
    columns = ["stage", "texts or pairs", "tokens", "PFLOP", "disk", *(f"h on {n}" for n in devices)]
    rows = []
    for stage in stages(a):
        disk = f"{stage.disk / 1e9:.1f} GB"
        told = [number(stage.texts), number(stage.tokens), f"{stage.work / PETA:,.0f}", disk]
        rows.append([stage.title, *told, *(hours(stage.hours(n, a)) for n in devices)])
    work, disk = (sum(getattr(stage, name) for stage in stages(a)) for name in ("work", "disk"))
    total = [sum(stage.hours(n, a) for stage in stages(a)) for n in devices]
    rows.append(["all", "", "", f"{work / PETA:,.0f}", f"{disk / 1e9:.0f} GB", *map(hours, total)])
    return Table("Stages", columns, rows)


def once_table(a: Assumptions) -> Table:
    """Return what the rung CE-24 costs by how its scores are had."""
    drawn = 40_000 * 64 * 16
    tokens = 40_000 * a.step_tokens(64, 16)
    ways = [
        ("student: the training itself", drawn, BACKWARD * tokens * STUDENT.operations),
        ("frozen student in every step", drawn, tokens * STUDENT.operations),
        ("CE-24 in every step", drawn, drawn * a.pair_tokens * LARGE.operations),
        (f"CE-24 once, {a.candidates} candidates a query", a.queries * a.candidates, None),
        ("CE-24 once, 16 candidates a query", a.queries * 16, None),
    ]
    rows = []
    for title, pairs, work in ways:
        work = pairs * a.pair_tokens * LARGE.operations if work is None else work
        rows.append([title, number(pairs), f"{work / PETA:,.0f}", hours(work / (a.peak * a.share) / 3600)])
    return Table("The rung CE-24", ["what", "pairs", "PFLOP", "h on 1"], rows)


def memory_table(a: Assumptions) -> Table:
    """Return what must be in memory, stage by stage."""
    ranked = a.queries * a.candidates
    rows = [
        ["train CE-24", f"{OPTIMISED} B a weight", OPTIMISED * LARGE.weights],
        ["train the student", f"{OPTIMISED} B a weight", OPTIMISED * STUDENT.weights],
        ["score with CE-24", "4 B a weight", 4 * LARGE.weights],
        ["mine", f"{MINED} B a ranked passage, {QUERY} B a query", MINED * ranked + QUERY * a.queries],
        ["look up the scores of a rung", f"{LOOKED_UP} B a pair", LOOKED_UP * ranked],
    ]
    told = [[what, formula, f"{size / 1e9:.1f} GB"] for what, formula, size in rows]
    return Table("Memory", ["stage", "formula", "memory"], told)


def disk_table(a: Assumptions) -> Table:
    """Return what lies on disk once, however many stages use it."""
    ids = (a.passage_tokens - 2) * a.passages + (a.query_tokens - 2) * a.queries
    texts = a.passages + a.queries
    rows = [
        ["token store", f"{TOKEN} B a token, {OFFSET} B a text", TOKEN * ids + OFFSET * texts],
        ["vectors of one model", f"{4 * DE.width:,} B a text", 4 * DE.width * texts],
        ["scores of one teacher", f"{PAIR} B a pair", PAIR * a.queries * a.candidates],
        ["a run of the training queries", f"at most {RANKED} B a row", RANKED * a.queries * 100],
        ["checkpoint of CE-24 in training", "12 B a weight", 12 * LARGE.weights],
    ]
    told = [[what, formula, f"{size / 1e9:.1f} GB"] for what, formula, size in rows]
    return Table("Disk", ["what", "formula", "size"], told)


TABLES = {"stages": stage_table, "once": once_table, "memory": memory_table, "disk": disk_table}


def markdown(table: Table) -> str:
    """Return a table as Markdown."""
    rule = ["---"] + ["---:"] * (len(table.columns) - 1)
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [table.columns, rule, *table.rows])


def filled(page: str, a: Assumptions) -> str:
    """Return the page with all tables in their places."""
    for name, table in TABLES.items():
        page = replaced(page, markdown(table(a)), name)
    return page


def changed(a: Assumptions, changes: Iterable[str]) -> Assumptions:
    """Return the assumptions with NAME=VALUE changes."""
    kinds = {field.name: type(getattr(a, field.name)) for field in fields(a)}
    told = (change.partition("=") for change in changes)
    return replace(a, **{name: kinds[name](float(value)) for name, _, value in told})


def main(argv: Sequence[str]) -> None:
    names = ", ".join(field.name for field in fields(Assumptions))
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=f"One of {names}.")
    parser.add_argument("--page", type=Path, help="Write the tables into this page.")
    options = parser.parse_args(argv)
    a = changed(Assumptions(), options.set)
    for table in TABLES.values():
        show(table(a))
    if options.page is not None:
        options.page.write_text(filled(options.page.read_text(encoding="utf-8"), a), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
