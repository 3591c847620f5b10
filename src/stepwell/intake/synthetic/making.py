"""From passages without queries to a collection with synthetic ones: propose, filter by round trip, write."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from stepwell.collection.source import Source, Text
from stepwell.collection.store import open_collection, refuse
from stepwell.display import progress
from stepwell.errors import StepwellError
from stepwell.intake.synthetic.generator import Generator, ModelGenerator
from stepwell.intake.synthetic.proposals import (
    GENERATED,
    Headings,
    Proposal,
    Refusal,
    chosen,
    propose,
    refusal,
)
from stepwell.intake.synthetic.real import Real
from stepwell.intake.synthetic.report import SyntheticReport
from stepwell.intake.synthetic.round_trip import By, come_back
from stepwell.intake.synthetic.writing import Draft

BATCH = 16  # passages that a generator is given at once
FEWEST = 4
"""Queries without which there is nothing to train and steer with."""

Proposed = list[Proposal | Refusal]


@dataclass(frozen=True)
class Making:
    """How synthetic queries are made.

    Parameters
    ----------
    generator
        A query-generation model, a directory or a name on the Hub; none when None.
    per_passage
        Queries that it makes of each passage.
    depth
        Ranks within which a passage must come back for its query.
    by
        Who must find it: ``bm25``, the ``encoder``, ``either`` of them or ``both``.
    encoder
        An encoder, a directory or a name on the Hub (``demo``: the bundled one).
    asked
        Passages that are asked, at most; chosen by hash.
    seed
        Decides what a generator samples.
    """

    generator: str | None = None
    per_passage: int = 2
    depth: int = 10
    by: By = "bm25"
    encoder: str = "demo"
    asked: int = 20_000
    seed: int = 13


def make_collection(
    source: Source, target: Path, making: Making | None = None, real: Real | None = None, model: Generator | None = None
) -> SyntheticReport:
    """Write a BEIR directory of a source's passages with queries made from them.

    What is asked is taken out of the passage that answers it: the first sentence of its text, the last heading of its
    title. Each query must find its passage again. The queries carry their origin and are marked as synthetic; they
    make ``train`` and ``dev``, never a test. Stopped, it goes on with what a generator has asked so far.

    Parameters
    ----------
    source
        The passages.
    target
        The directory to write; it must not be there.
    making
        How.
    real
        Queries that people asked, for the test.
    model
        The generator, where it is not to be opened from ``making.generator``.

    Raises
    ------
    StepwellError
        When the target exists, when passages can't be read or make too few queries, or when real queries name
        unknown passages.
    """
    making = making or Making()
    if target.exists() or target.is_symlink():
        raise StepwellError(f"{target} is there already and was left as it is; name another place, or move it away.")
    settings = {"making": asdict(making), "source": str(source.home), "stamp": source.stamp()}
    draft = target.with_name(f"{target.name}.part")
    with _claimed(draft, settings):
        headings = Headings.of(source.texts("passage", refuse))
        if real is not None:  # unknown passages are told at once
            ids = (text.id for text in source.texts("passage", refuse))
            real.judge({place: [name] for name in ids for place in real.places_of(name)})
        report = SyntheticReport(headings.passages)
        share = making.asked / max(making.asked, headings.passages)
        if share < 1:
            report.notes.append(f"Of {headings.passages:,} passages about {making.asked:,} were asked, chosen by hash.")
        asks = model or (ModelGenerator(making.generator) if making.generator else None)
        generated = None if asks is None else _generate(asks, source, making, share, draft / "generated.jsonl")
        trial = Draft(draft / "trial", real)
        for text, found in _proposals(source, headings, share, generated):
            trial.add(text, _taken(found, trial, report))
        trial.close()
        kept = _filter(trial, making, report, draft)
        whole = Draft(draft / "whole", real)
        for text, found in _proposals(source, headings, share, generated):
            whole.add(text, [one for one in found if isinstance(one, Proposal) and one.id in kept], making.generator)
        whole.close(report)
        (draft / "whole").rename(target)
    shutil.rmtree(draft, ignore_errors=True)
    return report


def _proposals(
    source: Source, headings: Headings, share: float, generated: Path | None
) -> Iterator[tuple[Text, Proposed]]:
    """Yield each passage with all that is proposed for it, always the same."""
    asked = iter(()) if generated is None else _read_lines(generated)
    for text in source.texts("passage", refuse):
        found = propose(text, headings, share)
        if generated is not None and chosen(text.id, share):
            for number, query in enumerate(next(asked), start=1):
                reason = refusal(query, text.joined)
                name = f"generated:{text.id}:{number}"
                found.append(
                    Proposal(name, GENERATED, query) if reason is None else Refusal(name, GENERATED, reason, query)
                )
        yield text, found


def _taken(found: Proposed, trial: Draft, report: SyntheticReport) -> list[Proposal]:
    """Return what goes into the trial, and count the rest."""
    taken = []
    for one in found:
        new = isinstance(one, Refusal) or not trial.holds(one)
        report.proposed[one.origin] += new  # a heading is one query for all that stands beneath it
        reason = one.reason if isinstance(one, Refusal) else trial.repeats(one)
        if reason is not None:
            trial.refused.add(one.id)
            report.drop(reason, one.text)
        elif isinstance(one, Proposal):
            taken.append(one)
            trial.name(one)
    return taken


def _filter(trial: Draft, making: Making, report: SyntheticReport, draft: Path) -> set[str]:
    """Return the ids of the queries whose passage comes back."""
    if not trial.origins:
        raise _too_few(0, report)
    collection = open_collection(trial.folder, draft / "cache")
    found = come_back(collection, making.by, making.encoder, making.depth, draft / "vectors")
    kept = set()
    rows = collection.qrels("train").query_rows
    for row, text, back in zip(rows.tolist(), collection.query_texts(rows), found.tolist(), strict=True):
        name = collection.query_ids[row]
        if name in trial.refused:
            report.drop("another passage beneath the heading can't be asked for it", text)
        elif back:
            kept.add(name)
            report.keep(trial.origins[name], text)
        else:
            report.drop(f"the passage does not come back in the first {making.depth}", text)
    if len(kept) < FEWEST:
        raise _too_few(len(kept), report)
    return kept


def _too_few(kept: int, report: SyntheticReport) -> StepwellError:
    reasons = ", ".join(f"{count:,}: {reason}" for reason, count in report.dropped.items())
    return StepwellError(
        f"of {report.passages:,} passages only {kept} queries could be made ({reasons or 'nothing was proposed'}), and "
        f"at least {FEWEST} are needed. Passages need headings or two sentences and more; or name a model that asks, "
        "with --generator."
    )


def _generate(asks: Generator, source: Source, making: Making, share: float, path: Path) -> Path:
    """Ask about all chosen passages, a batch after the other; what is on disk is not asked again."""
    done = len(list(_read_lines(path))) // BATCH * BATCH
    if path.exists():
        whole = list(islice(_read_lines(path), done))
        path.write_text("".join(json.dumps(line) + "\n" for line in whole), encoding="utf-8")
    asked = (text.joined for text in source.texts("passage", refuse) if chosen(text.id, share))
    texts = islice(asked, done, None)
    with progress(None, "asking about passages", done) as bar, path.open("a", encoding="utf-8") as file:
        while batch := list(islice(texts, BATCH)):
            made = asks.ask(batch, making.per_passage, making.seed)
            file.writelines(json.dumps(queries) + "\n" for queries in made)
            file.flush()
            bar.advance(len(batch))
    return path


def _read_lines(path: Path) -> Iterator[list[str]]:
    """Yield the whole lines of a file that may have been cut off."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            with suppress(ValueError):
                if line.endswith("\n"):
                    yield json.loads(line)


@contextmanager
def _claimed(draft: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Hold the folder for what is half done; what other settings or passages left there is thrown away."""
    told = draft / "making.json"
    draft.mkdir(parents=True, exist_ok=True)
    strangers = {path.name for path in draft.iterdir()} - {".lock"}
    if strangers and not told.is_file():
        raise StepwellError(f"{draft} holds files that are not stepwell's: move them away, or name another target.")
    try:
        with FileLock(draft / ".lock", timeout=0):
            text = json.dumps(settings, sort_keys=True)
            same = told.is_file() and told.read_text(encoding="utf-8") == text
            for name in strangers - ({told.name, "generated.jsonl"} if same else set()):
                shutil.rmtree(draft / name) if (draft / name).is_dir() else (draft / name).unlink()
            told.write_text(text, encoding="utf-8")
            try:
                yield
            except StepwellError:
                if not (draft / "generated.jsonl").exists():  # which took time
                    shutil.rmtree(draft)
                raise
    except Timeout:
        raise StepwellError(f"another stepwell is at work in {draft}: wait for it, or name another target.") from None
