"""From passages without queries to a collection with synthetic ones: propose, filter by round trip, write."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stepwell.collection.collection import Collection, hash_text, normal
from stepwell.collection.readers.beir import write_split, write_texts
from stepwell.collection.source import Source, Text
from stepwell.collection.store import open_collection, refuse
from stepwell.display import progress
from stepwell.errors import CollectionError, StepwellError
from stepwell.files import claimed, remove, whole
from stepwell.intake.synthetic.chat import KINDS, ChatGenerator, Cost, Kind
from stepwell.intake.synthetic.generator import Generator, ModelGenerator
from stepwell.intake.synthetic.proposals import (
    COPIED,
    GENERATED,
    HEADING,
    QUERY_WORDS,
    SENTENCE,
    UNLABELLED,
    Headings,
    Proposal,
    chosen,
    copied,
    propose,
    refusal,
    without,
)
from stepwell.intake.synthetic.real_queries import RealQueries
from stepwell.intake.synthetic.report import SyntheticReport
from stepwell.models.encoder import Encoder
from stepwell.retrieval.bm25 import BM25Index
from stepwell.retrieval.search import retrieve
from stepwell.retrieval.vectors import Vectors, write_vectors

BATCH = 16  # passages that a generator is given at once
FEWEST = 4  # queries without which there is nothing to train and steer with
DEV_SHARE, DEV_LEAST = 0.1, 20
FEWEST_WORDS = {"keywords": 2}
"""Words of a query at least, by kind, where fewer are enough than of others."""

_GENERATED = "generated.jsonl"  # a line for each passage; what took time is never thrown away


@dataclass(frozen=True)
class SyntheticOptions:
    """How synthetic queries are made."""

    generator: str | None = None  # a query-generation model, a directory or a name on the Hub; or a chat endpoint's URL
    model: str | None = None  # the model's name, behind an endpoint
    kinds: tuple[Kind, ...] = tuple(KINDS)  # what an endpoint is asked for
    key: str | None = None  # the name of the environment variable with the endpoint's key
    price: tuple[float, float] | None = None  # of a million tokens sent to it, and of a million that come back
    extra: Mapping[str, Any] = field(default_factory=dict)  # further fields of a request
    parallel: int = 4  # requests at a time
    per_passage: int = 2  # queries that it makes of each passage
    depth: int = 10  # ranks within which a passage must come back for its query
    by: Literal["bm25", "encoder", "either", "both"] = "bm25"  # who must find it
    encoder: str = "demo"  # a directory or a name on the Hub
    asked: int = 20_000  # passages that queries are made from, at most; chosen by hash
    seed: int = 13  # decides what a generator samples
    whole: bool = False  # passages keep what queries are taken from: there are vectors of them as they are

    @property
    def asked_of(self) -> str | None:
        """The generator as it is named beside its queries."""
        return self.model or self.generator

    def chat(self) -> ChatGenerator | None:
        """Return the endpoint that is asked, where the generator is one."""
        if self.generator is None or "://" not in self.generator:
            return None
        if self.model is None:
            raise StepwellError(f"{self.generator} may have several models: name one with --generator-model.")
        facts = self.kinds, self.key, self.price, self.extra, self.parallel
        return ChatGenerator(self.generator, self.model, *facts)


def cost(source: Source, options: SyntheticOptions) -> Cost | None:
    """Return what is still to be asked of a chat endpoint; None where none is asked."""
    chat = options.chat()
    if chat is None:
        return None
    share = _share(sum(1 for _ in source.texts("passage", refuse)), options)
    return chat.cost(_asked(source, share), options.per_passage, options.seed)


def make_collection(
    source: Source,
    target: Path,
    options: SyntheticOptions | None = None,
    real: RealQueries | None = None,
    model: Generator | None = None,
    agree: Callable[[str], bool] = lambda cost: False,
) -> SyntheticReport:
    """Write a BEIR directory of a source's passages with queries made from them.

    A query is taken out of the passage that answers it: the first sentence of its text, the last heading of its
    title. Each query must find its passage again. The queries carry their origin and are marked as synthetic; they
    make ``train`` and ``dev``, never a test. Stopped, it goes on with what a generator has made so far. ``model`` is
    the generator, where it is not to be opened from ``options.generator``. Before anything is asked of a chat endpoint,
    ``agree`` is called with what that costs.
    """
    options = options or SyntheticOptions()
    if target.exists() or target.is_symlink():
        raise StepwellError(f"{target} is there already and was left as it is; name another place, or move it away.")
    settings = {"making": asdict(options), "source": str(source.home), "stamp": source.stamp()}
    workplace = target.with_name(f"{target.name}.part")
    with _held(workplace, json.loads(json.dumps(settings))):
        headings = Headings.of(source.texts("passage", refuse))
        test = real.judge(text.id for text in source.texts("passage", refuse)) if real else []
        asked = {text.id: text.joined for text in source.texts("query", refuse)}  # by people, and judged by nobody
        report = SyntheticReport(headings.passages, options.asked_of)
        share = _share(headings.passages, options)
        if share < 1:
            counts = f"{headings.passages:,} passages about {options.asked:,}"
            report.notes.append(f"Of {counts} were asked, chosen by hash.")
        generator = model or _open(source, options, agree)
        made = _generate(generator, source, options, share, workplace / _GENERATED) if generator else None
        people = (real.texts if real else {}) | asked
        taken, trial = _Taken(people.values(), report), workplace / "trial"
        tried = ((text, taken.of(found)) for text, found in _proposals(source, headings, share, made))
        write_split(trial, "train", _write_texts(trial, tried))
        kept, unlabelled = _that_come_back(trial, taken, options, workplace)
        proposals = _proposals(source, headings, share, made)
        left = ((text, [one for one in found if one.id in kept]) for text, found in proposals)
        with whole(target) as folder:
            pairs = _write_texts(folder, left, options.asked_of, people, options.whole)
            report.unlabelled = len(unlabelled)
            if unlabelled:
                (folder / UNLABELLED).write_text("".join(f"{one}\n" for one in unlabelled), encoding="utf-8")
            _write_splits(folder, pairs, test, report)
        remove(workplace)
    return report


def _share(passages: int, options: SyntheticOptions) -> float:
    """Return which share of the passages queries are made of."""
    return options.asked / max(options.asked, passages)


def _asked(source: Source, share: float) -> Iterator[str]:
    """Yield the texts that a generator is asked about."""
    return (text.joined for text in source.texts("passage", refuse) if chosen(text.id, share))


def _open(source: Source, options: SyntheticOptions, agree: Callable[[str], bool]) -> Generator | None:
    """Open the generator; an endpoint is asked only when what that costs is agreed to."""
    chat = options.chat()
    if chat is None:
        return ModelGenerator(options.generator) if options.generator else None
    chat.check_key()
    still = cost(source, options)
    if still is not None and still.requests and not agree(price := still.sentence(chat.name, chat.url)):
        raise StepwellError(
            f"{price} Nothing was asked of {chat.name} at {chat.url}, and nothing was spent: say yes to what it costs, "
            "or add --yes."
        )
    return chat


def _write_texts(
    folder: Path,
    proposed: Iterable[tuple[Text, list[Proposal]]],
    generator: str | None = None,
    real: Mapping[str, str] | None = None,
    whole: bool = False,
) -> list[tuple[str, str]]:
    """Write passages, each without what its queries take out of it or ``whole``, and all queries; (query, passage)."""
    queries: dict[str, tuple[str, str, dict[str, Any]]] = {}
    answers: dict[str, list[str]] = {}  # query -> passages

    def passages() -> Iterator[Text]:
        for text, proposals in proposed:
            for one in proposals:
                model = {"generator": generator} if generator and one.origin not in (HEADING, SENTENCE) else {}
                queries.setdefault(one.id, (one.id, one.text, {"synthetic": True, "origin": one.origin, **model}))
                answers.setdefault(one.id, []).append(text.id)
            yield text if whole else without(text, *(one.origin for one in proposals))

    asked = ((name, text, dict[str, Any]()) for name, text in (real or {}).items())
    write_texts(folder, passages(), chain(queries.values(), asked))
    return [(query, passage) for query, found in answers.items() for passage in found]


def _write_splits(
    folder: Path, pairs: list[tuple[str, str]], test: list[tuple[str, str]], report: SyntheticReport
) -> None:
    """Write train, dev (all queries of some passages, chosen by hash) and, of real queries, test; and the report."""
    first: dict[str, str] = {}  # query -> passage
    for query, passage in pairs:
        first.setdefault(query, passage)
    wanted = min(max(round(DEV_SHARE * len(first)), DEV_LEAST), len(first) // 2)
    dev = set(sorted(first, key=lambda query: hash_text(f"dev {first[query]}"))[:wanted])
    splits = {split: [pair for pair in pairs if (pair[0] in dev) == (split == "dev")] for split in ("train", "dev")}
    for split, judged in (splits | ({"test": test} if test else {})).items():
        write_split(folder, split, judged)
        setattr(report, split, len({query for query, _ in judged}))
    text = json.dumps(report.to_json(), indent=1, ensure_ascii=False)
    (folder / "synthetic.json").write_text(text + "\n", encoding="utf-8")


def _proposals(
    source: Source, headings: Headings, share: float, made: Path | None
) -> Iterator[tuple[Text, list[Proposal]]]:
    """Yield each passage with all that is proposed for it, always the same."""
    generated = iter(()) if made is None else _read_lines(made)
    for text in source.texts("passage", refuse):
        found = propose(text, headings, share)
        if made is not None and chosen(text.id, share):
            for number, (kind, query) in enumerate(next(generated), start=1):
                reason = refusal(query, text.joined, FEWEST_WORDS.get(kind, QUERY_WORDS[0]))
                if reason is None and copied(query, text.joined) >= COPIED:
                    reason = "nearly a copy of the passage's words"
                found.append(Proposal(f"generated:{text.id}:{number}", kind, query, reason))
        yield text, found


class _Taken:
    """The queries that are tried: those that are no repetition; the others are counted."""

    def __init__(self, real: Iterable[str], report: SyntheticReport) -> None:
        self.report = report
        self.origins: dict[str, str] = {}
        self.refused: set[str] = set()
        self._texts: dict[int, str] = {}  # hash of the text -> query
        self._real = {hash_text(normal(text)) for text in real}  # those of the test are not repeated

    def of(self, found: list[Proposal]) -> list[Proposal]:
        """Return those of a passage's queries that are tried."""
        taken = []
        for one in found:
            hashed, reason = hash_text(normal(one.text)), one.refusal
            # a heading is one query for all that stands beneath it
            self.report.proposed[one.origin] += reason is not None or one.id not in self.origins
            if reason is None and hashed in self._real:
                reason = "a query that people asked"
            elif reason is None and self._texts.get(hashed, one.id) != one.id:
                reason = "asked of another passage too"
            if reason is not None:
                self.refused.add(one.id)
                self.report.drop(reason, one.text)
            else:
                taken.append(one)
                self.origins[one.id], self._texts[hashed] = one.origin, one.id
        return taken


def _that_come_back(
    trial: Path, taken: _Taken, options: SyntheticOptions, workplace: Path
) -> tuple[set[str], list[str]]:
    """Return the ids of the queries whose passage comes back, and the texts of a generator's others."""
    report = taken.report
    if not taken.origins:
        raise _too_few(0, report)
    collection = open_collection(trial, workplace / "cache")
    rows, kept, unlabelled = collection.qrels("train").query_rows, set[str](), list[str]()
    found = _round_trip(collection, options, workplace / "vectors")
    for row, text, back in zip(rows.tolist(), collection.query_texts(rows), found.tolist(), strict=True):
        name = collection.query_ids[row]
        if name in taken.refused:
            report.drop("another passage beneath the heading can't be asked for it", text)
        elif back:
            kept.add(name)
            report.keep(taken.origins[name], text)
        else:
            report.drop(f"the passage does not come back in the first {options.depth}", text)
            if taken.origins[name] not in (HEADING, SENTENCE):
                unlabelled.append(text)
    if len(kept) < FEWEST:
        raise _too_few(len(kept), report)
    return kept, unlabelled


def _round_trip(collection: Collection, options: SyntheticOptions, folder: Path) -> NDArray[np.bool_]:
    """Say for each training query whether a passage of its own is in the first ranks, (Q,).

    The filter of arXiv 1906.05416 and 2209.11755; the encoder's vectors go to ``folder``.
    """
    qrels = collection.qrels("train")
    rows = qrels.query_rows
    runs = []
    if options.by != "encoder":
        runs.append(BM25Index.build(collection).run(collection, rows, options.depth))
    if options.by != "bm25":
        folder.mkdir(parents=True, exist_ok=True)
        with progress(collection.n_passages + len(rows), "encoding for the round trip") as bar:
            write_vectors(Encoder.open(options.encoder), collection, rows, folder, bar)
        runs.append(retrieve(Vectors.open(folder), rows, options.depth))
    hits = np.stack([qrels.is_positive(rows[:, None], run.passages).any(axis=1) for run in runs])  # (R, Q)
    return np.asarray(hits.all(axis=0) if options.by == "both" else hits.any(axis=0))


def _too_few(kept: int, report: SyntheticReport) -> StepwellError:
    reasons = ", ".join(f"{count:,}: {reason}" for reason, count in report.dropped.items())
    return CollectionError(
        f"of {report.passages:,} passages only {kept} queries could be made ({reasons or 'nothing was proposed'}), and "
        f"at least {FEWEST} are needed. Passages need headings or two sentences and more; or name a model that asks, "
        "with --generator."
    )


def _generate(generator: Generator, source: Source, options: SyntheticOptions, share: float, path: Path) -> Path:
    """Make queries of all chosen passages, a batch after the other; what is on disk is not made again."""
    done = len(list(_read_lines(path))) // BATCH * BATCH
    if path.exists():
        lines = list(islice(_read_lines(path), done))
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    texts = islice(_asked(source, share), done, None)
    with progress(None, "asking about passages", done) as bar, path.open("a", encoding="utf-8") as file:
        while batch := list(islice(texts, BATCH)):
            made = generator.ask(batch, options.per_passage, options.seed)
            for queries in made:
                kinds = [(GENERATED, one) if isinstance(one, str) else one for one in queries]
                file.write(json.dumps(kinds) + "\n")
            file.flush()
            bar.advance(len(batch))
    return path


def _read_lines(path: Path) -> Iterator[list[tuple[str, str]]]:
    """Yield the whole lines of a file that may have been cut off."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            with suppress(ValueError):
                if line.endswith("\n"):
                    yield json.loads(line)


@contextmanager
def _held(folder: Path, settings: dict[str, Any]) -> Iterator[None]:
    """Hold the folder for what is half done; what other settings or passages left there is thrown away."""
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
    if found - {".lock", "draft-source.json"} and "source.json" not in found:
        raise StepwellError(f"{folder} holds files that are not stepwell's: move them away, or name another target.")
    with claimed(folder, settings, "synthetic queries", anew=True):
        for path in folder.iterdir():
            if path.name not in (".lock", "source.json", _GENERATED):
                remove(path)
        try:
            yield
        except StepwellError:
            if not (folder / _GENERATED).exists():  # which took time
                remove(folder)
            raise
