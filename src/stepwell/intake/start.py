"""From whatever lies in a directory to a collection and a recipe; what can be seen is not asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepwell.collection.readers.beir import write_split, write_texts
from stepwell.collection.readers.folder import Folder
from stepwell.collection.source import Source
from stepwell.collection.store import refuse
from stepwell.display import Table, ask, say
from stepwell.errors import CollectionError, StepwellError
from stepwell.files import whole, writing
from stepwell.intake.contents import Contents, look
from stepwell.intake.first_recipe import check_layers, free_place, write_recipe
from stepwell.intake.synthetic.real_queries import RealQueries
from stepwell.intake.synthetic.report import SyntheticReport


@dataclass(frozen=True)
class Start:
    """What :func:`start` made, or would make."""

    recipe: Path
    collection: Path | None  # the one that was made beside the recipe; None where there was one
    contents: Contents
    synthetic: SyntheticReport | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "recipe": str(self.recipe),
            "collection": str(self.collection) if self.collection else None,
            "place": self.contents.place,
            "found": self.contents.found,
            "facts": [dict(zip(("what", "is", "because"), fact, strict=True)) for fact in self.contents.facts],
            "synthetic": self.synthetic.to_json() if self.synthetic else None,
        }


def start(
    directory: str | Path,
    target: str | Path,
    student: str,
    layers: int,
    test: Path | None,
    synthetic: dict[str, Any],
    dry_run: bool = False,
    yes: bool = False,
) -> Start:
    """Look at a place, make a collection of it where it is none yet, and write a recipe.

    What is made lies beside the recipe: ``NAME-synthetic`` with queries made from passages that have none,
    ``NAME-collection`` of a table of queries and answers. Nothing that is there is changed or overwritten. ``test`` are
    real queries for passages that have none, ``synthetic`` fields of SyntheticOptions. ``yes``: what a chat endpoint
    costs is told, and not asked about.
    """
    check_layers(student, layers)
    contents = look(directory)
    say(Table(f"What is in {contents.place}", ["", "is", "because"], contents.facts))
    target = free_place(target)
    made = _beside(contents, target)
    if test is not None and contents.found != "passages":
        raise CollectionError(
            f"{contents.place} has judged queries of its own, so real queries for the test belong to its qrels, as "
            "test.tsv; --test is for passages without queries."
        )
    if dry_run:
        if contents.found == "passages" and contents.source is not None:
            _say_cost(contents.source, synthetic)
        also = "" if made is None else f" the collection {made}, and"
        say(f"Nothing was written. Without --dry-run it would be{also} the recipe {target}.")
        return Start(target, made, contents)
    source, report = contents.source, None
    if made is not None and source is not None:
        if contents.found == "pairs":
            write_pairs(source, made)
            say(f"{made} is the collection: a BEIR directory of the table's queries and passages.")
        else:
            whole = {"whole": True} if "passages" in contents.vectors else {}
            report = _synthesise(source, made, test, synthetic | whole, yes)
    origin = contents.place if isinstance(source, Folder) else None
    vectors = contents.vectors if "passages" in contents.vectors else None
    write_recipe(made or directory, target, student, layers, origin, vectors, contents.asked is not None)
    return Start(target, made, contents, report)


def _beside(contents: Contents, target: Path) -> Path | None:
    """Return where the collection will be made, None when there is one."""
    if contents.source is None:
        return None
    home, ending = target.resolve().parent, "collection" if contents.found == "pairs" else "synthetic"
    made = home / f"{contents.source.name}-{ending}"
    if home.is_relative_to(Path(contents.place)):
        raise StepwellError(
            f"a collection is made beside the recipe, and {target} lies within {contents.place}, where nothing of "
            f"yours is touched: name a recipe elsewhere, as in `stepwell init {contents.place} "
            f"{Path(contents.place).parent / 'recipe.yaml'}`."
        )
    if made.exists() or made.is_symlink():
        raise StepwellError(
            f"{made} is there already and was left as it is. To make it anew, move it away; to go on with it, write "
            f"its recipe: stepwell init {made}."
        )
    return made


def _say_cost(source: Source, synthetic: dict[str, Any]) -> None:
    """Say what a chat endpoint would be asked, where one is named."""
    from stepwell.intake.synthetic.collection import SyntheticOptions, cost  # loads torch

    options = SyntheticOptions(**synthetic)
    if (still := cost(source, options)) is not None:
        say(still.sentence(f"{options.model}", f"{options.generator}"))


def _synthesise(source: Source, made: Path, test: Path | None, synthetic: dict[str, Any], yes: bool) -> SyntheticReport:
    from stepwell.intake.synthetic.collection import SyntheticOptions, make_collection  # loads torch

    def agree(cost: str) -> bool:
        if yes:
            say(cost)
        return yes or bool(ask(f"{cost} Go on?"))

    real = RealQueries(test) if test else None
    with writing(made):
        report = make_collection(source, made, SyntheticOptions(**synthetic), real, agree=agree)
    say(report.table())
    say(f"{made} is the collection, a BEIR directory: look at its queries.jsonl, and change what you like.")
    return report


def write_pairs(source: Source, folder: Path) -> None:
    """Write a source of queries and passages as a BEIR directory, whole or not at all."""
    texts = {text.id: text.text for text in source.texts("query", refuse)}
    pairs = dict.fromkeys((judged.query, judged.passage) for judged in source.judgements("train", refuse))
    none: dict[str, str] = {}
    queries = ((query, texts[query], none) for query in dict.fromkeys(query for query, _ in pairs))
    with whole(folder) as draft:
        write_texts(draft, source.texts("passage", refuse), queries)
        write_split(draft, "train", pairs)
