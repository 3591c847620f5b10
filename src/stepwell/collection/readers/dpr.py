"""Read Natural Questions (and its kin) as DPR publishes them: passages of 100 words, questions with answers.

``psgs_w100.tsv`` holds id, text and title below a header, quoted as in CSV. ``nq-SPLIT.qa.csv`` holds a question,
a tab, and its answers as a Python list. ``biencoder-nq-SPLIT.json`` is one array of questions with answers, positive
and hard negative passages. All also as ``.gz``. Questions have no ids there: they get one made of their text, so that
the same question is one query in all files.

Source: Karpukhin et al., Dense Passage Retrieval for Open-Domain Question Answering, EMNLP 2020, and its repository.
"""

from __future__ import annotations

import ast
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from stepwell.collection.collection import hash_text
from stepwell.collection.readers.lines import named_files, read_array, read_quoted
from stepwell.collection.source import (
    BadLineError,
    Join,
    Judgement,
    Kind,
    Problem,
    Report,
    Source,
    Text,
    checked_id,
    stamp_files,
    with_content,
)

GOLD = 1000
"""The score by which DPR's files mark the passage that a person chose; its grade is 2, that of others 1."""

_PASSAGES = "psgs_w100.tsv"
_ANSWERS = re.compile(r".*-(?P<split>train|dev|test)(\.qa)?\.csv")
_CONTEXTS = re.compile(r"(biencoder-)?(?P<name>.*)-(?P<split>train|dev)\.json")
_POSITIVES, _NEGATIVES = "positive_ctxs", "hard_negative_ctxs"


class _Question(NamedTuple):
    line: int
    file: str
    text: str
    answers: tuple[str, ...]
    positives: tuple[tuple[str, int], ...] = ()
    negatives: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"q-{hash_text(self.text):016x}"


class Dpr(Source):
    """A directory with DPR's files; what is missing is reported."""

    answered = True

    def __init__(self, directory: Path, join: Join, report: Report) -> None:
        self.name, self.home, self.join = directory.name, directory, join
        files = named_files(directory, report)
        self._passages = files.get(_PASSAGES)
        self._answers = _by_split(files, _ANSWERS, report)
        self._contexts = _by_split(files, _CONTEXTS, report)
        if self._passages is None:
            report(_missing(_PASSAGES, f"nor {_PASSAGES}.gz", directory))
        if not self._contexts:
            report(_missing("biencoder-nq-train.json", "nor another split's", directory))

    def stamp(self) -> dict[str, Any]:
        """Return sizes and times of the files."""
        passages = [self._passages] if self._passages else []
        return stamp_files(self.home, [*passages, *self._answers.values(), *self._contexts.values()])

    def label(self, kind: Kind) -> str:
        """Return the name of the file, or of all files with questions."""
        files = [*self._answers.values(), *self._contexts.values()]
        return _PASSAGES if kind == "passage" else ", ".join(file.name for file in files)

    def texts(self, kind: Kind, report: Report) -> Iterator[Text]:
        """Yield the passages, or each question once, with the answers of the file that has it first."""
        found = self._read_passages(report) if kind == "passage" else self._read_questions(report)
        return with_content(found, kind, self.label(kind), report)

    def _read_passages(self, report: Report) -> Iterator[Text]:
        if self._passages is None:
            return
        name = self._passages.name
        for number, fields in read_quoted(self._passages, name, "\t", report):
            if number == 1 and fields[0] == "id":
                continue
            try:
                if len(fields) != 3:
                    raise BadLineError("columns", f"has {len(fields)} columns, not id, text, title with tabs between.")
                yield Text(number, checked_id(fields[0], "passage"), fields[2], fields[1].strip('"'), name)
            except BadLineError as bad:
                report(Problem("error", name, number, bad.code, str(bad)))

    def _read_questions(self, report: Report) -> Iterator[Text]:
        """Yield the questions of all files; those to be judged by come first, so that their answers count."""
        seen: set[str] = set()
        for split in ("test", "dev", "train"):
            for questions in (self._asked(split, report), self._taught(split, report)):
                for question in questions:
                    if question.id not in seen:
                        seen.add(question.id)
                        answers = tuple(_findable(question, report))
                        yield Text(question.line, question.id, "", question.text, question.file, answers=answers)

    def _asked(self, split: str, report: Report) -> Iterator[_Question]:
        """Yield the questions of a split with answers."""
        file = self._answers.get(split)
        if file is None:
            return
        for number, fields in read_quoted(file, file.name, "\t", report):
            try:
                if len(fields) != 2:
                    raise BadLineError("columns", f"has {len(fields)} columns, not a question, a tab, its answers.")
                yield _Question(number, file.name, _plain(fields[0]), _answers(fields[1]))
            except BadLineError as bad:
                report(Problem("error", file.name, number, bad.code, str(bad)))

    def _taught(self, split: str, report: Report) -> Iterator[_Question]:
        """Yield the questions of a split with their positive and hard negative passages."""
        file = self._contexts.get(split)
        if file is None:
            return
        for number, record in read_array(file, file.name, report):
            try:
                yield _question(number, file.name, record)
            except BadLineError as bad:
                report(Problem("error", file.name, number, bad.code, str(bad)))

    @property
    def splits(self) -> dict[str, str]:
        """The splits that any file is for."""
        files = self._answers | self._contexts
        return {split: files[split].name for split in ("train", "dev", "test") if split in files}

    def judgements(self, split: str, report: Report) -> Iterator[Judgement]:
        """Yield what is positive; outside of training, every question with answers is asked, positives or not."""
        seen: set[int] = set()  # a question may stand there twice
        for question in self._taught(split, report):
            for passage, grade in question.positives:
                pair = hash((question.id, passage))
                if pair not in seen:
                    seen.add(pair)
                    yield Judgement(question.line, question.id, passage, grade, question.file)
        if split != "train":
            for question in self._asked(split, report):
                yield Judgement(question.line, question.id, "", 0, question.file)

    def negatives(self, split: str, report: Report) -> Iterator[Judgement]:
        """Yield the hard negatives of a split, in their order."""
        for question in self._taught(split, report):
            for passage in question.negatives:
                yield Judgement(question.line, question.id, passage, 0, question.file)


def _missing(name: str, other: str, directory: Path) -> Problem:
    return Problem("error", name, None, "file-missing", f"there is no {name} ({other}) in {directory}.")


def _by_split(files: dict[str, Path], pattern: re.Pattern[str], report: Report) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name, file in files.items():
        if match := pattern.fullmatch(name):
            if (split := match["split"]) in found:
                message = f"is for the split {split} as {found[split].name} is; move one of the two away."
                report(Problem("error", name, None, "file-twice", message))
            found.setdefault(split, file)
    return found


def _plain(question: str) -> str:
    """Return a question as DPR normalises it: with the apostrophe of a keyboard."""
    return question.replace("’", "'")


def _answers(text: str) -> tuple[str, ...]:
    try:
        answers = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise BadLineError("answers", f"the answers {text[:60]!r} are no Python list of strings ({error}).") from None
    return _strings(answers)


def _strings(answers: object) -> tuple[str, ...]:
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise BadLineError("answers", f"the answers {str(answers)[:60]!r} are no list of strings.")
    return tuple(answers)


def _findable(question: _Question, report: Report) -> Iterator[str]:
    for answer in question.answers:
        if any(unicodedata.category(character)[0] not in "ZC" for character in answer):
            yield answer
        else:
            message = f"an answer to {question.text[:60]!r} is empty and would be found everywhere; it is left out."
            report(Problem("warning", question.file, question.line, "answer-empty", message))


def _question(line: int, file: str, record: Any) -> _Question:
    if not isinstance(record, dict) or not isinstance(record.get("question"), str):
        raise BadLineError("field", "the record is no object with a `question`.")
    positives: dict[str, int] = {}
    for context in _contexts(record, _POSITIVES):
        grade = 2 if context.get("score") == GOLD else 1
        at = _passage(context)
        positives[at] = max(grade, positives.get(at, 0))
    negatives = dict.fromkeys(map(_passage, _contexts(record, _NEGATIVES)))
    return _Question(
        line,
        file,
        _plain(record["question"]),
        _strings(record.get("answers", [])),
        tuple(positives.items()),
        tuple(at for at in negatives if at not in positives),
    )


def _contexts(record: dict[str, Any], key: str) -> list[dict[str, Any]]:
    contexts = record.get(key, [])
    if not isinstance(contexts, list) or not all(isinstance(context, dict) for context in contexts):
        raise BadLineError("field", f"`{key}` is no list of passages.")
    return contexts


def _passage(context: dict[str, Any]) -> str:
    found = context.get("passage_id", context.get("psg_id"))
    if not isinstance(found, str | int) or isinstance(found, bool):
        raise BadLineError("field", f"a passage has no `passage_id` (there are {', '.join(context)}).")
    return str(found)
