"""What lies in a directory: a collection, passages without queries, or a table of queries with their answers."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

from stepwell.collection import demo
from stepwell.collection.collection import hash_text
from stepwell.collection.readers import folder, huggingface, irds
from stepwell.collection.readers.formats import find_source, section_of
from stepwell.collection.readers.lines import named_files
from stepwell.collection.readers.tables import COLUMNS, ENDINGS, STEMS, find_table, is_vector, read_table, read_texts
from stepwell.collection.source import Judgement, Kind, Problem, Report, Source, Text, ignore, once
from stepwell.display import Cell
from stepwell.errors import CollectionError
from stepwell.teachers.vector_files import VECTORS

SAMPLE = 200  # rows of a table that are looked at

Found = Literal["collection", "passages", "pairs"]
Guess = tuple[str | None, str]  # the column that a role was given, None without one; and why


@dataclass(frozen=True)
class Contents:
    """What lies in a place."""

    found: Found
    place: str  # what opens it, as a recipe names it
    source: Source | None = None  # its reader; None for a collection that is opened by its place
    facts: list[list[Cell]] = field(default_factory=list)  # lines to show: what, how it is, how that is known
    asked: Path | None = None  # a table of queries that nobody has judged
    vectors: dict[str, Path] = field(default_factory=dict)  # of passages and queries: files that hold vectors too


def look(directory: str | Path) -> Contents:
    """Say what a directory, a table, ``irds:NAME``, ``hf:NAME`` or ``demo`` holds, and read no more than that takes."""
    home = Path(directory)
    there = home.exists() and (isinstance(directory, Path) or str(directory) not in demo.SIZES)
    if not there or str(directory).startswith((irds.PREFIX, huggingface.PREFIX)):
        return Contents("collection", str(directory), None, [["collection", str(directory), "it is named as one"]])
    home = home.resolve()
    if home.is_file():
        return _table(home)
    problems: list[Problem] = []
    known = {"qrels", *chain.from_iterable(STEMS.values())}  # what the tables of a collection are called
    tables = [file for name, file in named_files(home, ignore).items() if name.endswith(ENDINGS)]
    loose = [file for file in tables if file.name.partition(".")[0].lower() not in known]
    source = find_source(section_of(home), problems.append)
    errors = [problem for problem in problems if problem.severity == "error"]
    lacking = [problem for problem in errors if problem.code == "file-missing"]
    unknown = bool(errors) and errors[0].code == "format" and not source.splits
    if loose and (unknown or isinstance(source, folder.Folder)):
        if len(loose) > 1:
            names = ", ".join(file.name for file in loose)
            raise CollectionError(
                f"{home} holds several tables ({names}), and which one holds the passages can't be seen: name it "
                f"(stepwell init {loose[0]}), or call it passages.{loose[0].name.partition('.')[2]}."
            )
        return _table(loose[0])
    if not errors:
        return _directory(source, home)
    if len(lacking) < len(errors):  # the format can't be told
        raise CollectionError(str(errors[0]))
    passages, asked = find_table(home, "passage"), find_table(home, "query")
    if passages is None or source.splits or len(lacking) > 2 - (asked is not None):
        raise CollectionError(str(lacking[0]))
    return _table(passages, asked)


def _directory(source: Source, home: Path) -> Contents:
    if not isinstance(source, folder.Folder):
        facts: list[list[Cell]] = [
            ["passages", source.label("passage"), f"read by {type(source).__name__}"],
            ["queries", source.label("query"), None],
            ["judged splits", ", ".join(source.splits), ", ".join(source.splits.values())],
        ]
        return Contents("collection", str(home), None, facts)
    kinds = Counter(file.suffix.lower() for file in source.files["passage"])
    files = ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items()))
    facts = [
        ["passages", f"{files} files", "no table and no collection is there, and text files are"],
        ["titles", "the path of headings", f"of {', '.join(folder.ENDINGS[:-1])}"],
        ["queries", "none", "text files hold passages alone"],
    ]
    return Contents("passages", str(home), source, facts)


def _table(path: Path, asked: Path | None = None) -> Contents:
    if path.name.removesuffix(".gz").rpartition(".")[2] not in ENDINGS:
        raise CollectionError(
            f"{path} is no table ({', '.join(ENDINGS)}): name the directory that holds it, or turn it into one."
        )
    sample = [record for _, record in islice(read_table(path, path.name, refuse_here), SAMPLE)]
    if not sample:
        raise CollectionError(f"{path} holds no row that could be a passage.")
    columns = {role: _named(sample, huggingface.TUPLES[role]) for role in ("query.text", "positive")}
    query, positive = (column for column, _ in columns.values())
    are_pairs = query is not None and positive is not None and query != positive
    if not are_pairs:
        columns = _passage_columns(sample, path)
    facts: list[list[Cell]] = [["table", path.name, None]]
    facts += [[role, column or "none", reason] for role, (column, reason) in columns.items()]
    source = Loose(path, {role: column for role, (column, _) in columns.items()}, asked)
    if are_pairs:
        return Contents("pairs", str(path), source, facts)
    found = "none", "no column and no file is named so"
    facts.append(["queries", *(found if asked is None else (asked.name, "no split judges them"))])
    vectors = dict[str, Path]()
    for side, file in (("passages", path), ("queries", asked)):
        if file is not None and (column := vector_column(file)) is not None:
            vectors[side] = file
            facts.append([f"vectors of {side}", f"{file.name}, {column}", "by its name"])
    return Contents("passages", str(path), source, facts, asked, vectors)


def vector_column(path: Path) -> str | None:
    """Return the column of a table that holds vectors; None where there is none."""
    plain = path.name.removesuffix(".gz")
    if plain.endswith(".parquet"):
        listed = {field.name for field in pq.read_schema(path) if is_vector(field.type)}
        return next((name for name in VECTORS if name in listed), None)
    if not plain.endswith(".jsonl"):
        return None
    first = next(read_table(path, path.name, refuse_here), (0, {}))[1]
    return next((name for name in VECTORS if isinstance(first.get(name), list)), None)


def _named(sample: list[dict[str, Any]], names: tuple[str, ...]) -> Guess:
    lower = {column.lower().replace("-", "_"): column for column in reversed(list(sample[0]))}
    column = next((lower[name] for name in names if name in lower), None)
    return (column, "by its name" if column else f"none is called {', '.join(names)}")


def _passage_columns(sample: list[dict[str, Any]], path: Path) -> dict[str, Guess]:
    text = _named(sample, COLUMNS["passage.text"])
    if text[0] is None:
        words = {
            column: sum(len(str(record.get(column)).split()) for record in sample) / len(sample)
            for column in sample[0]
            if all(isinstance(record.get(column), str) for record in sample)
        }
        if not words or max(words.values()) < 3:
            raise CollectionError(
                f"{path.name} has no column of texts (there are {', '.join(sample[0])}), so nothing in it can be a "
                "passage. Call the column `text`."
            )
        longest = max(words, key=words.__getitem__)
        text = (longest, f"it has the longest texts, {words[longest]:.0f} words in the mean")
    id, reason = _named(sample, COLUMNS["passage.id"])
    if id is None:
        reason = "rows are counted"
    elif len({str(record.get(id)) for record in sample}) < len(sample):
        id, reason = None, f"the values of {id} are not unique, so rows are counted"
    return {"passage.id": (id, reason), "passage.title": _named(sample, COLUMNS["passage.title"]), "passage.text": text}


class Loose(Source):
    """One table, of passages or of queries with a passage that answers each, whose columns were guessed."""

    def __init__(self, path: Path, columns: Mapping[str, str | None], asked: Path | None = None) -> None:
        super().__init__(path)
        self.columns = columns
        if asked is not None:
            self.files["query"], self.labels["query"] = [asked], asked.name

    def find(self, report: Report) -> None:
        """Name the collection after the file."""
        self.name, self.files["passage"] = self.home.name.partition(".")[0], [self.home]

    def read(self, kind: Kind, report: Report) -> Iterator[Text] | None:
        """Yield the passages, or the queries that nobody has judged; of pairs the distinct passages, or queries."""
        rows = read_table(self.home, self.home.name, report)
        if "positive" in self.columns:
            texts = (
                (number, self._field(row, "query.text" if kind == "query" else "positive")) for number, row in rows
            )
            return once((Text(number, _id(text), "", text, self.home.name) for number, text in texts if text), "text")
        if kind == "query":
            asked = next(iter(self.files["query"]), None)
            if asked is None:
                return None
            return read_texts(self, read_table(asked, asked.name, report), kind, asked.name, report)

        def field(row: Any, part: str) -> str:
            return self._field(row, f"passage.{part}")

        passages = ((n, field(row, "id") or str(n), field(row, "title"), field(row, "text")) for n, row in rows)
        return (Text(*passage, self.home.name) for passage in passages)

    @property
    def splits(self) -> dict[str, str]:
        """Pairs train."""
        return {"train": self.home.name} if "positive" in self.columns else {}

    def judgements(self, split: str, report: Report) -> Iterator[Judgement]:
        """Yield a judgement for each pair."""
        for number, record in read_table(self.home, self.home.name, report):
            query, passage = self._field(record, "query.text"), self._field(record, "positive")
            if query and passage:
                yield Judgement(number, _id(query), _id(passage), 1, self.home.name)

    def _field(self, record: Mapping[str, Any], role: str) -> str:
        column = self.columns.get(role)
        value = None if column is None else record.get(column)
        return "" if value is None else str(value).strip()


def _id(text: str) -> str:
    return f"{hash_text(text):016x}"


def refuse_here(problem: Problem) -> None:
    """Raise an error as StepwellError; warnings pass."""
    if problem.severity == "error":
        raise CollectionError(str(problem))
