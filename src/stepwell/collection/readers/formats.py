"""Which reader a place needs: known by a prefix or by the names of files, or named in the recipe."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import yaml

from stepwell.collection.readers import beir, dpr, folder, huggingface, irds, msmarco, tables
from stepwell.collection.readers.lines import find_file
from stepwell.collection.source import Problem, Report, Source
from stepwell.recipe import CollectionSection

Place = str | Path | CollectionSection
Reader = Callable[[Path, CollectionSection, Report], Source]


class Format(NamedTuple):
    """One format of directories: what it is known by, and what reads it."""

    sign: str  # in words; the name of a file where nothing else says what it is known by
    reader: Reader
    known: Callable[[Path], object] | None = None  # true of a directory of this format


# All formats of directories; a recipe's ``format`` names one.
FORMATS: dict[str, Format] = {
    "beir": Format("corpus.jsonl", beir.Beir),
    "msmarco-passage": Format("collection.tsv", msmarco.MsMarco),
    "msmarco-document": Format("msmarco-docs.tsv", msmarco.MsMarco),
    "dpr": Format("psgs_w100.tsv", dpr.Dpr),
    "huggingface": Format(huggingface.SIGN, huggingface.HuggingFace, huggingface.is_saved),
    "tables": Format(tables.SIGN, tables.Tables, lambda home: tables.find_table(home, "passage")),
    "folder": Format(folder.SIGN, folder.Folder, lambda home: next(folder.text_files(home), None)),
}
LAST = ("tables", "folder")  # what is left, in this order, when a directory is of no other format
# Collections that a library knows by a name: the prefix of the name, and what reads it.
NAMED: dict[str, tuple[str, Reader]] = {
    "ir-datasets": (irds.PREFIX, irds.IrDatasets),
    "huggingface": (huggingface.PREFIX, huggingface.HuggingFace),
}


def section_of(place: Place) -> CollectionSection:
    """Return what a place says about reading.

    A place is a directory, ``irds:NAME``, ``hf:NAME`` or ``demo``; a recipe file (its ``collection`` section); or that
    section itself, also as text: ``{path: DIRECTORY, template: ...}``.
    """
    if isinstance(place, CollectionSection):
        return place
    text = str(place)
    if isinstance(place, Path) and not text.startswith((irds.PREFIX, huggingface.PREFIX, "{")):
        text = str(place.absolute())  # a directory called demo is one
    from stepwell.recipe.yaml_file import load_recipe, parse_collection

    if text.endswith((".yaml", ".yml")) and Path(text).is_file():
        return load_recipe(text).collection
    return parse_collection(text) if text.startswith("{") else CollectionSection(path=text)


def find_source(section: CollectionSection, report: Report) -> Source:
    """Return the reader of a collection; what keeps it from being found is reported."""
    home, wanted = Path(section.path).resolve(), section.format
    for name, (prefix, reader) in NAMED.items():
        local = name in FORMATS and home.is_dir()
        if section.path.startswith(prefix) or (wanted == name and not local):
            return reader(Path(f"{prefix}{section.path.removeprefix(prefix)}"), section, report)
    if not home.is_dir():
        return beir.Beir(home, section, report)
    name = wanted if wanted != "auto" else _format_of(home, report)
    if not name:
        return beir.Beir(home, section)
    return FORMATS[name].reader(home, section.model_copy(update={"format": name}), report)


def _format_of(home: Path, report: Report) -> str:
    """Return the format of a directory by its files; none, and a report, when these say nothing."""

    def fits(name: str) -> bool:
        sign, _, known = FORMATS[name]
        return bool(known(home) if known else find_file(home, [sign]))

    found = [name for name in FORMATS if name not in LAST and fits(name)]
    if len(found) > 1:
        signs = ", ".join(f"{FORMATS[name].sign} ({name})" for name in found)
        message = f"holds {signs}, so the format can't be told: name one as `format` in the recipe's `collection`."
        report(Problem("error", str(home), None, "format", message))
    if found:
        return found[0]
    begun = (home / "qrels").is_dir() or find_file(home, ["queries.jsonl"]) is not None
    for name in LAST:
        if fits(name) and not (begun and name == "folder"):
            return name
    if begun:
        return "beir"
    signs = "; ".join(f"{format.sign} for {name}" for name, format in FORMATS.items())
    message = (
        f"holds nothing that tells its format. What was looked for, also with .gz: {signs}. Mind the names of "
        "the files, or name the `format` in the recipe's `collection`."
    )
    report(Problem("error", str(home), None, "format", message))
    return ""


def place_of(section: CollectionSection, source: Source) -> str:
    """Return the text that opens the same collection again, as :func:`section_of` reads it."""
    reading = section.reading()
    if not reading:
        return str(source.home)
    place = {"path": str(source.home), **reading}
    return yaml.safe_dump(place, default_flow_style=True, width=1_000_000, allow_unicode=True).strip()
