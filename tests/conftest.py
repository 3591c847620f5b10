"""Fixtures that all rooms share."""

from __future__ import annotations

import gc
import json
import os
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import settings

from browser import browser, open_page  # noqa: F401 - fixtures
from stepwell.collection import Collection, open_collection

os.environ["STEPWELL_PRECISION"] = "fp32"  # exact comparisons, on machines that multiply bf16 faster too
os.environ["HF_HUB_OFFLINE"] = "1"  # a model that is not there is missing at once, not after tries of a network
os.environ["ACCELERATE_USE_CPU"] = "true"  # also where there is a GPU
for name in ("no_proxy", "NO_PROXY"):
    os.environ[name] = "127.0.0.1,localhost"  # servers of the tests' own

torch.set_num_threads(1)  # of models this small, a second thread only waits for the first

settings.register_profile("stepwell", deadline=None)  # a shared machine is slow at times
settings.load_profile("stepwell")

TOPICS = ("river", "engine", "violin", "glacier", "harvest", "comet", "castle", "enzyme", "market", "sail")
TRAITS = ("old", "bright", "deep", "slow", "north", "early", "broken", "quiet", "large", "hidden", "warm", "thin")
FILLERS = ("the", "was", "and", "with", "a", "side", "to", "it", "which", "is", "number")

# Lines of a file: records become JSON, strings stay as they are.
Lines = Sequence[Mapping[str, object] | str]
TinyDirectory = Callable[..., Path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first: at the end, no process has to wait for one of them that another has begun."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Make what is only waited for short, where it is imported by now: in a run of all tests it is."""
    if plan := sys.modules.get("stepwell.ladder.plan"):
        plan.PROBE_SECONDS = 0.0
    if preparation := sys.modules.get("stepwell.models.preparation"):
        _compare_pairs_once(preparation)
    gc.collect()
    gc.freeze()  # what is imported stays: a search for garbage goes through the rest alone


def _compare_pairs_once(preparation: ModuleType) -> None:
    """Compare the ways to prepare pairs once for each tokenizer, template, prompt and limit, not at each opening."""
    compare, found = preparation._pair_difference, dict[str, str | None]()

    def compare_once(ours: Any, limit: int) -> str | None:
        facts = repr([preparation.writing_of(ours.model), ours.template, ours.prompt, limit])
        if facts not in found:
            found[facts] = compare(ours, limit)
        return found[facts]

    preparation._pair_difference = compare_once


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests out of the user's cache."""
    monkeypatch.setenv("STEPWELL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def tiny_directory(tmp_path: Path) -> TinyDirectory:
    """Return a factory of BEIR directories: ``tiny_directory(corpus=[...], queries=[...], train=[...])``.

    What is not given is a small, valid default of three passages and two queries. Records become JSON lines
    and strings are written as they are; every further keyword is a split,
    its judgements (query, passage, grade) or whole lines.
    """
    made = 0

    def make(
        corpus: Lines | None = None, queries: Lines | None = None, header: bool = True, **splits: Sequence[object]
    ) -> Path:
        nonlocal made
        made += 1
        directory = tmp_path / f"collection{made}"
        (directory / "qrels").mkdir(parents=True)
        if corpus is None:
            words = ("red apples", "green pears", "blue plums")
            corpus = [{"_id": f"p{i}", "title": "", "text": f"all about {w}"} for i, w in enumerate(words)]
        if queries is None:
            queries = [{"_id": "q0", "text": "apples"}, {"_id": "q1", "text": "pears"}]
        _write(directory / "corpus.jsonl", [x if isinstance(x, str) else json.dumps(x) for x in corpus])
        _write(directory / "queries.jsonl", [x if isinstance(x, str) else json.dumps(x) for x in queries])
        for name, rows in (splits or {"train": [("q0", "p0", 1), ("q1", "p1", 1)]}).items():
            lines = [row if isinstance(row, str) else "\t".join(map(str, row)) for row in rows]  # type: ignore[call-overload]
            _write(directory / "qrels" / f"{name}.tsv", ["query-id\tcorpus-id\tscore"] * header + lines)
        return directory

    return make


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the BEIR directory of ``tiny_collection``; not to be changed."""
    directory = tmp_path_factory.mktemp("tiny") / "tiny"
    write_tiny(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_collection(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """Return a collection of 60 passages and 40 queries: 28 train, 6 dev, 6 test; see :func:`write_tiny`."""
    return open_collection(tiny_path, tmp_path_factory.mktemp("tiny-cache"))


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return encoders of three families with random weights, saved as sentence-transformers directories.

    ``bert`` (WordPiece, token types), ``roberta`` (byte-level BPE, no token types, positions from 2 on) and
    ``distilbert`` (WordPiece, no token types): 3 layers, 32 wide, texts of at most 64 tokens, mean pooling.
    """
    return {name: write_model(name, tmp_path_factory.mktemp(name)) for name in ("bert", "roberta", "distilbert")}


@pytest.fixture(scope="session")
def tiny_model(tiny_models: dict[str, Path]) -> Path:
    """Return the directory of a random 3-layer, 32-wide BERT encoder; see ``tiny_models``."""
    return tiny_models["bert"]


TINY_RECIPE = """\
name: tiny
collection: {path: COLLECTION}
tokens: {query: 24, passage: 32, pair: 56}
student: {from: MODEL, layers: 1}
teachers:
  de: {kind: dual-encoder, from: MODEL, train: {epochs: 1, lr: 1.0e-3, batch: 8}}
  ce:
    kind: cross-encoder
    from: MODEL
    layers: 2
    imitate: de
    train: {epochs: 1, batch: 4, candidates: 4, imitate_epochs: 1}
mining: {depth: 30, last: 20}
ladder:
  - {teacher: de, loss: embedding, epochs: 1, lr: 1.0e-3, batch: 16, force: true}
  - {teacher: ce, loss: candidates, tau: 0.5, epochs: 1, lr: 1.0e-3, batch: 8, candidates: 4, force: true}
refine: {depth: 10, epochs: 2, candidates: 4, batch: 4, tau: 0.5, rule: better, worst: 30, force: true}
judging: {rerank: 10, depth: 60, level: 0}
proof: quick
proof_rates: [1]
"""
"""A ladder with every kind of stage, in seconds; a level of 0 promotes every rung."""


def write_recipe(path: Path, collection: Path, model: Path, text: str = TINY_RECIPE) -> Path:
    """Write a recipe over a collection and a model."""
    path.write_text(text.replace("COLLECTION", str(collection)).replace("MODEL", str(model)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_recipe(tiny_path: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a recipe file, :data:`TINY_RECIPE` over the tiny collection and model; not to be changed."""
    return write_recipe(tmp_path_factory.mktemp("recipe") / "tiny.yaml", tiny_path, tiny_model)


@pytest.fixture
def variant(tmp_path: Path, tiny_path: Path, tiny_model: Path) -> Callable[..., Path]:
    """Return a factory of recipe files: ``variant((old, new), ...)`` is the tiny one with some text replaced."""

    def make(*changes: tuple[str, str]) -> Path:
        text = TINY_RECIPE
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        return write_recipe(tmp_path / "variant.yaml", tiny_path, tiny_model, text)

    return make


@pytest.fixture
def without_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the report at the end of runs, which takes seconds and has tests of its own."""
    monkeypatch.setattr("stepwell.api._report_at_the_end", lambda folder: None)


@pytest.fixture(scope="session")
def tiny_run(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run of ``tiny_recipe``; not to be changed."""
    from stepwell import api

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPWELL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        folder = tmp_path_factory.mktemp("tiny-run") / "run"
        api.run(tiny_recipe, folder)
    return folder


def write_model(family: str, folder: Path, seed: int = 5) -> Path:
    """Write a random encoder of a family, as a sentence-transformers directory."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import (
        AutoModel,
        BertConfig,
        BertTokenizerFast,
        DistilBertConfig,
        DistilBertTokenizerFast,
        RobertaConfig,
        RobertaTokenizerFast,
    )

    if family == "roberta":
        pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet())]
        tokenizer = RobertaTokenizerFast(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[])
    else:
        characters = "abcdefghijklmnopqrstuvwxyz0123456789.,:;?!'-"
        pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *TOPICS, *TRAITS, *(f for f in FILLERS if len(f) > 1)]
        pieces += [*characters, *(f"##{character}" for character in characters)]
        kind = BertTokenizerFast if family == "bert" else DistilBertTokenizerFast
        tokenizer = kind(vocab={piece: i for i, piece in enumerate(pieces)})
    tokenizer.model_max_length = 64
    deep = {"num_hidden_layers": 3, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    shared = {"vocab_size": len(pieces), "initializer_range": 0.2}
    config = {
        "bert": lambda: BertConfig(**shared, **deep, max_position_embeddings=64),
        "roberta": lambda: RobertaConfig(**shared, **deep, max_position_embeddings=66, type_vocab_size=1),
        "distilbert": lambda: DistilBertConfig(
            **shared, dim=32, hidden_dim=64, n_layers=3, n_heads=4, max_position_embeddings=64
        ),
    }[family]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = AutoModel.from_config(config)
    body.save_pretrained(folder / "body")
    tokenizer.save_pretrained(folder / "body")
    model = SentenceTransformer(modules=[Transformer(str(folder / "body")), Pooling(32, "mean")], device="cpu")
    model.save_pretrained(str(folder / "model"), create_model_card=False)
    return folder / "model"


def write_tiny(directory: Path, passages: int = 60, queries: int = 40, seed: int = 7) -> None:
    """Write a small collection that can be learned: a query shares two or three words with its positives.

    Ids are strings that are no numbers. Each query has a positive of grade 2, every third also one of grade 1
    and every fourth a judged passage of grade 0. 70 % of the queries train, 15 % are dev, 15 % test.
    """
    rng = random.Random(seed)
    corpus: list[dict[str, str]] = []
    for i in range(passages):
        chosen = [TOPICS[i % len(TOPICS)], *rng.sample(TRAITS, 3)]
        text = f"the {chosen[0]} was {chosen[1]} and {chosen[2]} , with a {chosen[3]} side to it"
        corpus.append({"_id": f"doc/{i:03d}-{chosen[0]}", "title": f"{chosen[0]} {i}", "text": text})
    qrels: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    records = []
    for i in range(queries):
        positive = i * passages // queries
        told = corpus[positive]["text"].split()
        query = f"query:{i:02d}"
        records.append({"_id": query, "text": f"which {told[1]} is {told[3]} and {told[5]} number {i}"})
        judged = {positive: 2}
        if i % 3 == 0:
            judged[(positive + len(TOPICS)) % passages] = 1  # the same topic
        if i % 4 == 0:
            judged.setdefault((positive + 1) % passages, 0)
        split = "train" if i % 20 < 14 else "dev" if i % 20 < 17 else "test"
        qrels[split] += [f"{query}\t{corpus[row]['_id']}\t{grade}" for row, grade in judged.items()]
    (directory / "qrels").mkdir(parents=True)
    _write(directory / "corpus.jsonl", [json.dumps(record) for record in corpus])
    _write(directory / "queries.jsonl", [json.dumps(record) for record in records])
    for split, lines in qrels.items():
        _write(directory / "qrels" / f"{split}.tsv", ["query-id\tcorpus-id\tscore", *lines])


def _write(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
