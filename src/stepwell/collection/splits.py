"""Which queries train, which steer and which test."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepwell.collection.collection import Collection, normal
from stepwell.collection.qrels import Qrels
from stepwell.errors import CollectionError
from stepwell.recipe import CollectionSection

CARVED_SHARE, CARVED_LEAST = 0.1, 20  # of the training queries, for a missing dev or test; and of those without labels
HELD_OUT = 1_000  # queries on which lists are compared, at most
DIFFERS = 0.2  # from how large a difference on dev is said to be of another kind than the test

NO_TEST = (
    "There are no real queries to test on: the final table is over the dev queries, which are synthetic and have "
    "decided which rungs were kept. It says whether training worked, not how well people's questions are answered."
)

Rows = NDArray[np.int32]


@dataclass(frozen=True)
class Splits:
    """Three sets of judged queries that share none, with one sentence for each decision that was made."""

    train: Qrels
    dev: Qrels
    test: Qrels  # where all queries are synthetic there is no test, and this is dev
    notes: tuple[str, ...]
    synthetic: Mapping[str, int] = field(default_factory=dict)  # how many queries of train and dev are
    tested: bool = True  # whether ``test`` is a test, of queries that somebody asked and that decided nothing
    unlabelled: Rows = field(default_factory=lambda: np.zeros(0, np.int32))  # that no split judges, to learn from
    held_out: Rows = field(default_factory=lambda: np.zeros(0, np.int32))  # that lists are compared on

    @property
    def train_rows(self) -> Rows:
        """The training queries, sorted: without what is judged."""
        return self.train.query_rows

    @property
    def query_rows(self) -> Rows:
        """All queries that are used, sorted."""
        parts = (self.train.query_rows, self.dev.query_rows, self.test.query_rows, self.unlabelled, self.held_out)
        return np.unique(np.concatenate(parts))

    @property
    def held_out_of(self) -> str:
        """What the queries are that lists are compared on."""
        if not np.isin(self.held_out, self.test.query_rows).all():
            return "unlabelled"
        return "test" if self.tested else "dev"

    def content(self, part: str) -> Any:
        """Return what the part of a name holds, as a plain value: of judgements and of rows their sha256."""
        found = getattr(self, part)
        if isinstance(found, Qrels):
            return found.fingerprint
        return hashlib.sha256(found.tobytes()).hexdigest() if isinstance(found, np.ndarray) else found


def hash_order(collection: Collection, rows: Rows) -> Rows:
    """Return query rows ordered by sha256 of their ids: the same whatever other queries there are."""
    keys = [hashlib.sha256(collection.query_ids[int(row)].encode()).digest() for row in rows]
    return rows[sorted(range(len(rows)), key=keys.__getitem__)]


def resolve_splits(collection: Collection, section: CollectionSection) -> Splits:
    """Decide which queries train, steer and test.

    ``dev: auto`` is the split ``dev`` unless that is the test; ``test: auto`` is ``test``, else ``dev``.
    What is missing is carved off training: the first tenth of its queries in hash order for dev, the last for
    the test. A query is never in two splits, neither by id nor by text: it stays in the test, then in dev.
    Synthetic queries never test: without others, the final table is over dev, and says so.
    """
    choice = _Choice(collection, section)
    choice.take_named()
    choice.carve()
    choice.separate()
    choice.limit()
    queries, notes, tested = choice.queries, choice.notes, "test" in choice.queries
    counts = {role: int(collection.is_synthetic(queries[role]).sum()) for role in ("train", "dev")}
    synthetic = {role: count for role, count in counts.items() if count}
    chosen = {role: choice.judged(role).restrict(queries[role]) for role in queries}
    train, dev, test = chosen["train"], chosen["dev"], chosen.get("test", chosen["dev"])
    if section.relevant_from is not None:
        test = replace(test, relevant_from=section.relevant_from)
    if test.relevant_from > 1:
        notes.append(f"test: measures other than nDCG count grades from {test.relevant_from} as relevant")
    if test.answers is not None:
        notes.append("dev, test: a passage counts as relevant when it holds an answer")
    notes += [f"{role}: {count:,} of {len(queries[role]):,} queries are synthetic" for role, count in synthetic.items()]
    if not tested:
        notes.append(NO_TEST)
    # A training learns which passages are asked for. That counts on a dev that asks for them again, not on such a test.
    asked, shares = train.passages[train.grades > 0], []
    for split in (dev, test):
        again = split.queries[(split.grades > 0) & np.isin(split.passages, asked)]
        shares.append(len(np.unique(again)) / max(1, len(split.query_rows)))
    if shares[0] - shares[1] >= DIFFERS and test.answers is None:  # where answers count, passages are not known
        notes.append(
            f"dev: {shares[0]:.0%} of its queries ask for passages that training queries ask for too, of test "
            f"{shares[1]:.0%}: dev may promise more than test keeps"
        )
    unlabelled, held_out = _without_labels(collection, section, (train, dev, test), notes)
    return Splits(train, dev, test, tuple(notes), synthetic, tested, unlabelled, held_out)


def _without_labels(
    collection: Collection, section: CollectionSection, judged: tuple[Qrels, Qrels, Qrels], notes: list[str]
) -> tuple[Rows, Rows]:
    """Return the queries without labels to learn from, and those that lists are compared on: held out, or the test.

    A text counts once, and not where a split has it, so that nothing that is held out is learned under another id.
    """
    if not section.unlabelled_queries:
        return np.zeros(0, np.int32), np.sort(hash_order(collection, judged[-1].query_rows)[:HELD_OUT])
    labelled = [collection.qrels(split).query_rows for split in collection.splits]
    rows = np.setdiff1d(np.arange(collection.n_queries, dtype=np.int32), np.concatenate(labelled))
    known = {normal(text) for split in judged for text in collection.query_texts(split.query_rows)}
    rows, fresh = hash_order(collection, rows), []
    for text in map(normal, collection.query_texts(rows)):
        fresh.append(text not in known)
        known.add(text)
    rows = rows[np.array(fresh, dtype=np.bool_)]
    if len(rows) < 2:
        raise CollectionError(
            f"`unlabelled_queries` asks for the queries that no split judges, and {collection.name} has "
            f"{len(rows) or 'none'} (of {collection.n_queries:,} queries): add some to its queries, or leave it out."
        )
    count = min(max(round(CARVED_SHARE * len(rows)), CARVED_LEAST), HELD_OUT, len(rows) // 2)
    notes.append(
        f"unlabelled: {len(rows):,} queries that no split judges; {count:,} of them are held out, to compare lists on"
    )
    return np.sort(rows[count:]), np.sort(rows[:count])


def _names(collection: Collection, section: CollectionSection) -> dict[str, str | None]:
    """Return the qrels file of each role; None is carved off training."""

    def is_asked(split: str) -> bool:
        rows = collection.qrels(split).query_rows
        return not len(rows) or not collection.is_synthetic(rows).all()

    test: str | None = section.test
    if test == "auto":
        free = [name for name in ("test", "dev") if name in {*collection.splits} - {section.train, section.dev}]
        test = next(filter(is_asked, free), None)
    dev: str | None = section.dev
    if dev == "auto":
        dev = "dev" if "dev" in collection.splits and "dev" not in (test, section.train) else None
    names = {"train": section.train, "dev": dev, "test": test}
    for role, other in combinations(names, 2):
        if (name := names[role]) is not None and name == names[other]:
            raise CollectionError(
                f"The recipe takes the split {name!r} for {role} and for {other}: what is tuned on a split can't be "
                "proved on it. Name another, or write `auto` to carve one off training."
            )
    return names


class _Choice:
    """The queries of each role while they are chosen, and a sentence for each decision."""

    def __init__(self, collection: Collection, section: CollectionSection) -> None:
        self.collection, self.section = collection, section
        self.names = _names(collection, section)
        self.limits = {"train": section.train_queries, "dev": section.dev_queries, "test": section.test_queries}
        self.queries: dict[str, Rows] = {}
        self.notes: list[str] = []

    def note(self, role: str, count: int, what: str) -> None:
        """Say what was done with so many queries, if there were any."""
        if count:
            self.notes.append(f"{role}: {count:,} {'query' if count == 1 else 'queries'} {what}")

    def judged(self, role: str) -> Qrels:
        """Return the judgements that a role's are taken from; what is measured on counts every judged query."""
        qrels = self.collection.qrels(self.names[role] or self.section.train)
        measured = role != "train" and self.names[role] is not None and len(qrels.query_rows)
        return qrels.complete() if measured else qrels

    def take_named(self) -> None:
        """Take the queries of the splits that are there; for the test, those that somebody asked."""
        for role in ("test", "dev", "train"):
            name = self.names[role]
            if name is not None:
                qrels, self.queries[role] = self.collection.qrels(name), self.judged(role).query_rows
                counted = len(self.queries[role]) > len(qrels.query_rows)
                what = "measured as 0, as by trec_eval -c" if counted else "left out"
                without = len(np.setdiff1d(qrels.queries, qrels.query_rows))
                self.note(role, without, f"of {name} {what}, no passage is relevant to them")
        if "test" not in self.queries:
            return
        made = self.collection.is_synthetic(self.queries["test"])
        if len(made) and made.all():
            raise CollectionError(
                f"The split {self.names['test']!r} of the collection {self.collection.name} holds synthetic queries "
                "only, and those never test: what is made from a passage finds it again too easily. Name a split of "
                "queries that people asked, or write `test: auto`."
            )
        self.note("test", int(made.sum()), f"of {self.names['test']} left out, synthetic")
        self.queries["test"] = self.queries["test"][~made]

    def carve(self) -> None:
        """Fill in the missing dev (from the front of the hash order of train) and test (from its end)."""
        missing = [role for role in ("dev", "test") if role not in self.queries]
        if not missing:
            return
        ordered = hash_order(self.collection, self.queries["train"])
        asked = ~self.collection.is_synthetic(ordered)
        wanted = min(max(round(CARVED_SHARE * len(ordered)), CARVED_LEAST), len(ordered) // (len(missing) + 1))
        for role in missing:
            if role == "test" and len(asked) and not asked.any():
                continue  # synthetic queries never test
            limit = self.limits[role]
            count = wanted if limit is None else min(wanted, limit)
            places = np.arange(len(ordered))[:count] if role == "dev" else np.flatnonzero(asked)[::-1][:count]
            self.queries[role] = np.sort(ordered[places])
            ordered, asked = np.delete(ordered, places), np.delete(asked, places)
            self.note(role, len(places), f"carved off {self.section.train} by hash")
        self.queries["train"] = np.sort(ordered)

    def separate(self) -> None:
        """Take a query out of dev when it is in the test, and out of train when it is in either."""
        seen: dict[str, str] = {}
        for role in [role for role in ("test", "dev", "train") if role in self.queries]:
            homes = [seen.setdefault(normal(text), role) for text in self.collection.query_texts(self.queries[role])]
            for other in ("test", "dev"):
                if other != role:
                    self.note(role, homes.count(other), f"left out, also in {other} by id or by text")
            self.queries[role] = self.queries[role][np.array([home == role for home in homes], dtype=np.bool_)]

    def limit(self) -> None:
        """Keep as many queries as the recipe wants, and refuse a role that has none."""
        for role in [role for role in ("train", "dev", "test") if role in self.queries]:
            limit, rows = self.limits[role], self.queries[role]
            if limit is not None and len(rows) > limit:
                self.notes.append(f"{role}: {limit:,} of {len(rows):,} queries, chosen by hash")
                self.queries[role] = hash_order(self.collection, rows)[:limit]
            if not len(rows):
                raise CollectionError(
                    f"The collection {self.collection.name} has no query with a relevant passage left for {role} (it "
                    f"is {self.names[role] or f'carved off {self.section.train!r}'}); a run needs some in train, dev "
                    "and test each. Add judgements, or name other splits under `collection` in the recipe."
                )
