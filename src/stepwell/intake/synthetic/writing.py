"""A BEIR directory in the making: passages without what is asked of them, queries with their origin, splits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stepwell.collection.collection import hash_text, normal
from stepwell.collection.readers.beir import BeirWriter
from stepwell.collection.source import Text
from stepwell.intake.synthetic.proposals import GENERATED, HEADING, SENTENCE, Proposal, without
from stepwell.intake.synthetic.real import Real
from stepwell.intake.synthetic.report import SyntheticReport

DEV_SHARE, DEV_LEAST = 0.1, 20


class Draft:
    """Writes passages as they come, and remembers which query belongs to which.

    Parameters
    ----------
    folder
        Where to; it must not be there.
    real
        Queries that people asked: they become the test, and are not repeated among the synthetic ones.
    """

    def __init__(self, folder: Path, real: Real | None) -> None:
        self.folder, self.real = folder, real
        self._writer = BeirWriter(folder)
        self.origins: dict[str, str] = {}
        self.refused: set[str] = set()
        self._answers: dict[str, list[str]] = {}  # query -> passages
        self._texts: dict[int, str] = {}  # hash of the text -> query
        self._asked = {hash_text(normal(text)) for text in real.texts} if real else set[int]()
        self._matched: dict[str, list[str]] = {}

    def holds(self, proposal: Proposal) -> bool:
        """Say whether the query is there already: a heading, for another passage beneath it."""
        return proposal.id in self.origins

    def repeats(self, proposal: Proposal) -> str | None:
        """Return why a query is left out beside the others, None when it is not."""
        hashed = hash_text(normal(proposal.text))
        if hashed in self._asked:
            return "a real query of the test"
        return "asked of another passage too" if self._texts.get(hashed, proposal.id) != proposal.id else None

    def name(self, proposal: Proposal) -> None:
        """Remember a query."""
        self.origins[proposal.id] = proposal.origin
        self._texts[hash_text(normal(proposal.text))] = proposal.id

    def add(self, text: Text, proposals: list[Proposal], generator: str | None = None) -> None:
        """Write a passage and the queries that ask for it."""
        origins = {proposal.origin for proposal in proposals}
        passage = without(text, HEADING in origins, SENTENCE in origins)
        self._writer.passage(passage.id, passage.title, passage.text)
        for proposal in proposals:
            if proposal.id not in self._answers:
                metadata: dict[str, Any] = {"synthetic": True, "origin": proposal.origin}
                if proposal.origin == GENERATED and generator:
                    metadata["generator"] = generator
                self._writer.query(proposal.id, proposal.text, metadata)
            self.name(proposal)
            self._answers.setdefault(proposal.id, []).append(text.id)
        for place in self.real.places_of(text.id) if self.real else ():
            self._matched.setdefault(place, []).append(text.id)

    def close(self, report: SyntheticReport | None = None) -> None:
        """Write the judgements: with a report (and what it says) the splits, else all as ``train``."""
        test = self.real.judge(self._matched) if self.real else []
        dev = self._dev() if report is not None else set()
        pairs = [(query, passage) for query, found in self._answers.items() for passage in found]
        self._writer.judge("train", [pair for pair in pairs if pair[0] not in dev])
        if report is not None and self.real is not None:
            for name, query in self.real.named():
                self._writer.query(name, query)
            self._writer.judge("test", test)
            report.test = len({query for query, _ in test})
        self._writer.close()
        if report is not None:
            self._writer.judge("dev", [pair for pair in pairs if pair[0] in dev])
            report.train, report.dev = len(self._answers) - len(dev), len(dev)
            told = json.dumps(report.to_json(), indent=1, ensure_ascii=False)
            (self.folder / "synthetic.json").write_text(told + "\n", encoding="utf-8")

    def _dev(self) -> set[str]:
        """Return the queries that steer: all of some passages, which are chosen by hash."""
        wanted = min(max(round(DEV_SHARE * len(self._answers)), DEV_LEAST), len(self._answers) // 2)
        order = sorted(self._answers.items(), key=lambda item: hash_text(f"dev {item[1][0]}"))
        return {query for query, _ in order[:wanted]}
