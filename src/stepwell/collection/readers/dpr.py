"""Read Natural Questions (and its kin) as DPR publishes them: passages of 100 words, questions with answers.

``psgs_w100.tsv`` holds id, text and title below a header, quoted as in CSV. ``nq-SPLIT.qa.csv`` holds a question,
a tab, and its answers as a Python list. ``biencoder-nq-SPLIT.json`` is one array of questions with answers, positive
and hard negative passages. All also as ``.gz``. Questions have no ids there: they get one made of their text, so that
the same question is one query in all files.

Source: Karpukhin et al., Dense Passage Retrieval for Open-Domain Question Answering, EMNLP 2020, and its repository.
"""

import ast
import re
import unicodedata
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

from stepwell.collection.collection import hash_text
from stepwell.collection.readers.lines import BadLineError, checked_id, named_files, parsed, read_array, read_quoted
from stepwell.collection.source import Judgement, Kind, Problem, Report, Source, Text, once

GOLD = 1000  # the score by which DPR's files mark the passage that a person chose; its grade is 2, that of others 1

_PASSAGES = "psgs_w100.tsv"
_ANSWERS = re.compile(r".*-(?P<split>train|dev|test)(\.qa)?\.csv")
_CONTEXTS = re.compile(r"(biencoder-)?.*-(?P<split>train|dev)\.json")


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

    def judged(self, passage: str, grade: int) -> Judgement:
        return Judgement(self.line, self.id, passage, grade, self.file)


class Dpr(Source):
    """A directory with DPR's files; what is missing is reported."""

    answered = True

    def find(self, report: Report) -> None:
        """Find the files."""
        files = named_files(self.home, report)
        self._answers, self._contexts = (self.split_files(files, names, report) for names in (_ANSWERS, _CONTEXTS))
        questions = [*self._answers.values(), *self._contexts.values()]
        self.files = {"passage": [files[_PASSAGES]] if _PASSAGES in files else [], "query": questions}
        self.labels = {"passage": _PASSAGES, "query": ", ".join(file.name for file in questions)}
        both = self._answers | self._contexts
        self.qrels = {split: both[split] for split in ("train", "dev", "test") if split in both}
        for name, other, there in (
            (_PASSAGES, f"nor {_PASSAGES}.gz", self.files["passage"]),
            ("biencoder-nq-train.json", "nor another split's", self._contexts),
        ):
            if not there:
                report(Problem("error", name, None, "file-missing", f"there is no {name} ({other}) in {self.home}."))

    def read(self, kind: Kind, report: Report) -> Iterator[Text]:
        """Yield the passages, or each question once, with the answers of the file that has it first."""
        for file in self.files[kind] if kind == "passage" else ():
            rows = ((n, row) for n, row in read_quoted(file, file.name, "\t", report) if n > 1 or row[0] != "id")
            yield from parsed(rows, file.name, report, partial(_passage, file.name))
        splits = ("test", "dev", "train") if kind == "query" else ()  # those to be judged by first: their answers count
        reads = [(read, split) for split in splits for read in (self._with_answers, self._training)]
        for question in once((question for read, split in reads for question in read(split, report)), "id"):
            findable = tuple(
                answer for answer in question.answers if any(unicodedata.category(c)[0] not in "ZC" for c in answer)
            )
            if len(findable) < len(question.answers):
                message = f"an answer to {question.text[:60]!r} is empty and would be found everywhere; it is left out."
                report(Problem("warning", question.file, question.line, "answer-empty", message))
            yield Text(question.line, question.id, "", question.text, question.file, answers=findable)

    def _with_answers(self, split: str, report: Report) -> Iterator[_Question]:
        """Yield the questions of a split with answers."""
        if file := self._answers.get(split):
            rows = read_quoted(file, file.name, "\t", report)
            yield from parsed(rows, file.name, report, partial(_answered, file.name))

    def _training(self, split: str, report: Report) -> Iterator[_Question]:
        """Yield the questions of a split with their positive and hard negative passages."""
        if file := self._contexts.get(split):
            yield from parsed(read_array(file, file.name, report), file.name, report, partial(_question, file.name))

    def judgements(self, split: str, report: Report) -> Iterator[Judgement]:
        """Yield what is positive; outside of training, every question with answers belongs, positives or not."""
        asked = self._training(split, report)
        positives = (question.judged(passage, grade) for question in asked for passage, grade in question.positives)
        yield from once(positives, "query", "passage")  # a question may stand there twice
        if split != "train":
            yield from (question.judged("", 0) for question in self._with_answers(split, report))

    def negatives(self, split: str, report: Report) -> Iterator[Judgement]:
        """Yield the hard negatives of a split."""
        for question in self._training(split, report):
            yield from (question.judged(passage, 0) for passage in question.negatives)


def _passage(file: str, number: int, fields: list[str]) -> Text:
    if len(fields) != 3:
        raise BadLineError("columns", f"has {len(fields)} columns, not id, text, title with tabs between.")
    return Text(number, checked_id(fields[0], "passage"), fields[2], fields[1].strip('"'), file)


def _answered(file: str, number: int, fields: list[str]) -> _Question:
    if len(fields) != 2:
        raise BadLineError("columns", f"has {len(fields)} columns, not a question, a tab, its answers.")
    try:
        answers = ast.literal_eval(fields[1].strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        message = f"the answers {fields[1][:60]!r} are no Python list of strings ({error})."
        raise BadLineError("answers", message) from None
    return _checked(number, file, fields[0], answers)


def _checked(line: int, file: str, question: str, answers: object) -> _Question:
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise BadLineError("answers", f"the answers {str(answers)[:60]!r} are no list of strings.")
    return _Question(line, file, question.replace("’", "'"), tuple(answers))  # as DPR normalises it


def _question(file: str, line: int, record: Any) -> _Question:
    if not isinstance(record, dict) or not isinstance(record.get("question"), str):
        raise BadLineError("field", "the record is no object with a `question`.")
    positives: dict[str, int] = {}
    for passage, score in _contexts(record, "positive_ctxs"):
        positives[passage] = max(2 if score == GOLD else 1, positives.get(passage, 0))
    negatives = dict.fromkeys(passage for passage, _ in _contexts(record, "hard_negative_ctxs"))
    against = tuple(passage for passage in negatives if passage not in positives)
    question = _checked(line, file, record["question"], record.get("answers", []))
    return question._replace(positives=tuple(positives.items()), negatives=against)


def _contexts(record: dict[str, Any], key: str) -> Iterator[tuple[str, Any]]:
    """Yield id and score of the passages that stand under a key."""
    contexts = record.get(key, [])
    if not isinstance(contexts, list) or not all(isinstance(context, dict) for context in contexts):
        raise BadLineError("field", f"`{key}` is no list of passages.")
    for context in contexts:
        found = context.get("passage_id", context.get("psg_id"))
        if not isinstance(found, str | int) or isinstance(found, bool):
            raise BadLineError("field", f"a passage has no `passage_id` (there are {', '.join(context)}).")
        yield str(found), context.get("score")
