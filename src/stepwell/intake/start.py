"""From whatever lies in a directory to a collection and a recipe; what can be seen is not asked."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepwell.collection.readers.beir import BeirWriter
from stepwell.collection.readers.folder import Folder
from stepwell.collection.source import Source
from stepwell.collection.store import refuse
from stepwell.display import say, show_aside
from stepwell.errors import StepwellError
from stepwell.files import writing
from stepwell.intake.contents import Sight, look
from stepwell.intake.first_recipe import check_layers, write_recipe

if TYPE_CHECKING:
    from stepwell.intake.synthetic.report import SyntheticReport


@dataclass(frozen=True)
class Wishes:
    """What a user may want otherwise.

    Parameters
    ----------
    student, layers, teacher
        As for :func:`stepwell.intake.first_recipe.write_recipe`.
    test
        A file of real queries, for passages that have none: see :class:`stepwell.intake.synthetic.real.Real`.
    making
        Changes of :class:`stepwell.intake.synthetic.Making`: how synthetic queries are made.
    """

    student: str = "demo"
    layers: int = 2
    teacher: str | None = None
    test: Path | None = None
    making: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Start:
    """What :func:`start` made, or would make.

    Parameters
    ----------
    recipe
        The recipe.
    collection
        The collection that was made beside it; None where there was one.
    sight
        What was seen.
    synthetic
        What became of the queries that were proposed, where some were made.
    """

    recipe: Path
    collection: Path | None
    sight: Sight
    synthetic: SyntheticReport | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        table = self.sight.table()
        names = ["what", *table.columns[1:]]
        return {
            "recipe": str(self.recipe),
            "collection": None if self.collection is None else str(self.collection),
            "place": self.sight.place,
            "found": self.sight.found,
            "facts": [dict(zip(names, row, strict=True)) for row in table.rows],
            "synthetic": None if self.synthetic is None else self.synthetic.to_json(),
        }


def start(
    directory: str | Path, target: str | Path = "recipe.yaml", wishes: Wishes | None = None, dry_run: bool = False
) -> Start:
    """Look at a place, make a collection of it where it is none yet, and write a recipe.

    What is made lies beside the recipe: ``NAME-synthetic`` with queries made from passages that have none,
    ``NAME-collection`` of a table of queries and answers. Nothing that is there is changed or overwritten.

    Parameters
    ----------
    directory
        A directory, a table, ``irds:NAME``, ``hf:NAME`` or ``demo``.
    target
        The recipe, or a directory for it.
    wishes
        What is wanted otherwise.
    dry_run
        Only say what would be done.

    Returns
    -------
    Start
        The recipe, what was seen, and what else was made.

    Raises
    ------
    StepwellError
        When what is there can't be read, something would be overwritten, or the student's base has too few layers.
    """
    wishes, target = wishes or Wishes(), Path(target)
    check_layers(wishes.student, wishes.layers)
    target = target / "recipe.yaml" if target.is_dir() else target
    sight = look(directory)
    show_aside(sight.table())
    if target.exists() or target.is_symlink():
        raise StepwellError(f"{target} is there already and was left as it is; name another file, or move it away.")
    made = _beside(sight, target)
    if wishes.test is not None and sight.found != "passages":
        raise StepwellError(
            f"{sight.place} has judged queries of its own, so real queries for the test belong to its qrels, as "
            "test.tsv; --test is for passages without queries."
        )
    if dry_run:
        also = "" if made is None else f" the collection {made}, and"
        say(f"Nothing was written. Without --dry-run it would be{also} the recipe {target}.")
        return Start(target, made, sight)
    if made is None or sight.source is None:
        _recipe(directory if sight.source is None else sight.place, target, wishes)
        return Start(target, None, sight)
    report = None
    with writing(made):
        if sight.found == "pairs":
            write_pairs(sight.source, made)
            say(f"{made} is the collection: a BEIR directory of the table's queries and passages.")
        else:
            report = _synthesise(sight.source, made, wishes)
    _recipe(made, target, wishes, sight.place if isinstance(sight.source, Folder) else None)
    return Start(target, made, sight, report)


def _recipe(place: str | Path, target: Path, wishes: Wishes, origin: str | None = None) -> None:
    write_recipe(place, target, wishes.student, wishes.layers, wishes.teacher, origin)


def _beside(sight: Sight, target: Path) -> Path | None:
    """Return where the collection will be made, None when there is one."""
    if sight.source is None:
        return None
    home, ending = target.resolve().parent, "collection" if sight.found == "pairs" else "synthetic"
    made = home / f"{sight.source.name}-{ending}"
    if home.is_relative_to(Path(sight.place)):
        raise StepwellError(
            f"a collection is made beside the recipe, and {target} lies within {sight.place}, where nothing of yours "
            f"is touched: name a recipe elsewhere, as in `stepwell init {sight.place} "
            f"{Path(sight.place).parent / 'recipe.yaml'}`."
        )
    if made.exists() or made.is_symlink():
        raise StepwellError(
            f"{made} is there already and was left as it is. To make it anew, move it away; to go on with it, write "
            f"its recipe: stepwell init {made}."
        )
    return made


def _synthesise(source: Source, made: Path, wishes: Wishes) -> SyntheticReport:
    from stepwell.intake.synthetic import Making, make_collection
    from stepwell.intake.synthetic.real import Real

    real = None if wishes.test is None else Real(wishes.test)
    report = make_collection(source, made, Making(**wishes.making), real)  # type: ignore[arg-type]
    show_aside(report.table())
    say(f"{made} is the collection, a BEIR directory: look at its queries.jsonl, and change what you like.")
    return report


def write_pairs(source: Source, folder: Path) -> None:
    """Write a source of queries and passages as a BEIR directory, whole or not at all.

    Raises
    ------
    StepwellError
        When it can't be read.
    """
    draft = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    texts = {text.id: text.text for text in source.texts("query", refuse)}
    pairs = dict.fromkeys((judged.query, judged.passage) for judged in source.judgements("train", refuse))
    with BeirWriter(draft) as beir:
        for text in source.texts("passage", refuse):
            beir.passage(text.id, text.title, text.text)
        for query in dict.fromkeys(query for query, _ in pairs):
            beir.query(query, texts[query])
        beir.judge("train", pairs)
    draft.rename(folder)
