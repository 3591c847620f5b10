"""A first recipe for a collection of one's own: commented, with sizes taken from what is there."""

import json
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stepwell.collection import Collection, Splits, open_collection, resolve_splits
from stepwell.errors import RecipeError, StepwellError
from stepwell.intake.synthetic.proposals import HEADING, SENTENCE, UNLABELLED
from stepwell.recipe import CollectionSection
from stepwell.recipe.yaml_file import BUNDLED

SAMPLE = 2000  # texts looked at to see how long they are
FEW_QUERIES = 500  # training queries below which cross-encoders are left out of the ladder
_TOKENS_A_WORD = 1.5
_EMBEDDED = 30_000  # texts that the embedding rung sees, over all its epochs, where it would see fewer in two
_DEMO_LAYERS = 6
_PLAIN = re.compile(r"[A-Za-z./][A-Za-z0-9_./-]*")
_SPECIAL = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
_TEMPLATES = Path(__file__).with_name("templates")  # what stands in braces is filled in

_SYNTHETIC = """\
# The training queries are synthetic: made from the passages, out of which they were taken. They never test; real
# ones do, as qrels/test.tsv (with their texts in queries.jsonl).
"""
_BY_MODEL = """\
# By {generator}: {kinds}.
"""
_MORE = """\
    more_queries: {path}  # {count} of {generator} whose passage did not come back: texts without labels
"""
_UNLABELLED = """\
  unlabelled_queries: true  # those that no split judges: learned from, but for a tenth on which lists are compared
"""
_SEARCH_ORIGIN = """\
# To search your whole texts with the finished model:
#   stepwell search runs/NAME/model "a question" --collection {origin}
"""
_WHY_FEW = """\
Few queries teach a cross-encoder next to nothing, so the vectors of a dual encoder are what is learned; with
# thousands of queries, cross-encoders are worth a rung each (docs/how-it-works/ladder.md)."""
_WHY_SYNTHETIC = """\
Synthetic queries are no ground for a cross-encoder, so the vectors of a dual encoder are what is learned.
# A re-ranker that is strong on your texts can be added as a teacher (docs/how-it-works/ladder.md)."""


def write_recipe(
    directory: str | Path,
    target: str | Path,
    student: str = "demo",
    layers: int = 2,
    origin: str | None = None,
    vectors: Mapping[str, Path] | None = None,
    unlabelled: bool = False,
) -> Path:
    """Write a commented recipe for a collection, sized to it; return its file.

    Its ladder: the vectors of a dual encoder, then a small cross-encoder, then a larger one, these two with
    keep, then refine. With few training queries, or synthetic ones: the vectors of a dual encoder, then its scores.
    Teachers are made from the student's base. ``origin`` is the folder that the passages come from, when the collection
    was made from one that can be searched. ``vectors``, files of passages' (and queries'), are what is learned
    where there are some. ``unlabelled``: there are queries that no split judges.
    """
    target = free_place(target)
    check_layers(student, layers)
    is_own = isinstance(directory, Path) and directory.is_dir()  # also one that is called demo
    place = str(Path(directory).resolve()) if is_own else str(directory)
    collection = open_collection(place)
    sizes = {name: len(collection.qrels(name).query_rows) for name in sorted(collection.splits)}
    section = CollectionSection(path=place, train="train" if "train" in sizes else max(sizes, key=sizes.__getitem__))
    splits = resolve_splits(collection, section)
    base, path = (_spelled(name, target.resolve().parent) for name in (student, place))
    by_model, more = _of_generator(Path(place), path) if is_own else ("", "")
    trained_on, synthetic = len(splits.train.query_rows), bool(splits.synthetic.get("train"))
    ladder = "small_ladder" if synthetic or trained_on < FEW_QUERIES else "ladder"
    ladder = "vectors_ladder" if vectors else ladder
    template = "".join((_TEMPLATES / f"{name}.yaml").read_text(encoding="utf-8") for name in ("head", ladder))
    search = _SEARCH_ORIGIN.format(origin=_quoted(origin)) if origin else ""
    text = template.format(
        synthetic=_SYNTHETIC + by_model + search if synthetic else "",
        more=more,
        unlabelled=_UNLABELLED if unlabelled else "",
        given=_given(vectors or {}, unlabelled),
        name=_quoted(collection.name),
        passages=f"{collection.n_passages:,}",
        queries=f"{collection.n_queries:,}",
        path=_quoted(path),
        train=_quoted(section.train),
        splits=_describe(collection, splits),
        layers=layers,
        base=_quoted(base),
        small=_small_depth(layers, student),
        rerank_epochs=max(1, min(3, round(8000 / trained_on))),  # about 8,000 queries seen, three passes at most
        rounds=3 if trained_on >= 2000 else 1,
        why=_WHY_SYNTHETIC if synthetic else _WHY_FEW,
        **_lengths(collection, splits),
        **_embedding(collection.n_passages + trained_on),
    )
    _write_new(target, text)
    return target


def _of_generator(folder: Path, path: str) -> tuple[str, str]:
    """Return what the recipe says of the queries that a model made, by kind, and of its others without labels."""
    try:
        facts = json.loads((folder / "synthetic.json").read_text(encoding="utf-8"))
        generator, kept, others = facts["generator"], dict(facts["kept"]), int(facts["unlabelled"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", ""
    name = " ".join(str(generator).split())
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in kept.items() if kind not in (HEADING, SENTENCE))
    by_model = _BY_MODEL.format(generator=name, kinds=kinds or "none was kept") if generator else ""
    more = _MORE.format(path=_quoted(f"{path}/{UNLABELLED}"), count=f"{others:,}", generator=name) if others else ""
    return by_model, more


def _given(vectors: Mapping[str, Path], unlabelled: bool) -> str:
    """Return what the recipe says of files of vectors."""
    lines = [f"    {side}: {_quoted(str(path))}" for side, path in vectors.items()]
    cover = ["    queries_cover: unlabelled   # nobody has embedded the synthetic ones"]
    return "\n".join(lines + (cover if unlabelled and "queries" in vectors else [])) + "\n"


def _describe(collection: Collection, splits: Splits) -> str:
    parts = (("train", splits.train), ("dev", splits.dev), ("test", splits.test if splits.tested else None))
    sizes = ", ".join(f"{len(part.query_rows):,} for {role}" for role, part in parts if part is not None)
    lines = [f"Judged splits: {', '.join(collection.splits)}. This makes {sizes} queries.", *splits.notes]
    return "\n".join(textwrap.fill(line, 116, initial_indent="  # ", subsequent_indent="  #   ") for line in lines)


def _lengths(collection: Collection, splits: Splits) -> dict[str, int]:
    """Return where to cut texts so that 19 of 20 stay whole, in tokens, within what is affordable."""

    def tokens(texts: list[str]) -> int:
        words = np.percentile([len(text.split()) for text in texts], 95)
        return 8 * int(np.ceil(_TOKENS_A_WORD * float(words) / 8) + 1)

    step = max(1, collection.n_passages // SAMPLE)
    passage = tokens(collection.passage_texts(np.arange(0, collection.n_passages, step)[:SAMPLE]))
    query = tokens(collection.query_texts(splits.train.query_rows[:SAMPLE]))
    query, passage = min(max(query, 16), 64), min(max(passage, 32), 256)
    return {"query": query, "passage": passage, "pair": query + passage}


def _embedding(texts: int) -> dict[str, str]:
    """Return epochs, learning rate and batch of the embedding rung: small collections are gone over more often."""
    size = {"lr": "1e-3", "batch": "128"} if texts >= 1000 else {"lr": "5e-4", "batch": "32"}
    return {"epochs": str(max(2, min(30, round(_EMBEDDED / texts)))), **size}


def _depth(base: str) -> int | None:
    """Return how many layers a model has, when that can be seen without opening it."""
    if base == "demo":
        return _DEMO_LAYERS
    try:
        content: Any = json.loads((Path(base).expanduser() / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    depth = content.get("num_hidden_layers") if isinstance(content, dict) else None
    return depth if isinstance(depth, int) else None


def check_layers(student: str, layers: int) -> None:
    """Refuse more layers than a student's base has, as far as that can be seen without opening it."""
    total = _depth(student)
    if layers < 1 or (total is not None and layers > total):
        has = f", which has {total}" if total is not None else ""
        raise RecipeError(f"a student can't have {layers} layers of {student}{has}: take 1 to {total or 'its depth'}.")


def _small_depth(layers: int, teacher: str) -> int:
    """Return the small cross-encoder's layers: more than the student's, about half of the teachers'."""
    above = _depth(teacher)
    return layers + 1 if above is None else min(above, max(layers + 1, above // 2))


def _spelled(place: str, home: Path) -> str:
    """Return a directory as the recipe names it: relative beneath it, else absolute; a name as it is."""
    path = Path(place).expanduser()
    if place in BUNDLED or not path.is_dir():
        return place
    path = path.resolve()
    return f"./{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def _quoted(text: str) -> str:
    plain = _PLAIN.fullmatch(text) is not None and text.lower() not in _SPECIAL and text.strip(".") != ""
    return text if plain else json.dumps(text)


def free_place(target: str | Path) -> Path:
    """Return the file for a recipe, ``recipe.yaml`` in a folder; what is there is not written over."""
    target = Path(target)
    target = target / "recipe.yaml" if target.is_dir() else target
    if target.exists() or target.is_symlink():
        raise StepwellError(f"{target} is there already and was left as it is; name another file, or move it away.")
    return target


def _write_new(target: Path, text: str) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        free_place(target)  # another process may have been faster
        raise StepwellError(
            f"the recipe {target} can't be written: {error.strerror or error}. Name another file."
        ) from error
