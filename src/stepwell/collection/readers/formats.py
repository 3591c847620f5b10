"""Which reader a place needs: told by a prefix or by the names of files, or named in the recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from stepwell.collection.readers import beir, dpr, folder, huggingface, irds, msmarco, tables
from stepwell.collection.source import Join, Problem, Report, Source
from stepwell.recipe import CollectionSection

Place = str | Path | CollectionSection


class Format(NamedTuple):
    """One format: what it is known by, and what reads it."""

    sign: str
    known: Callable[[Path], bool]
    source: Callable[[CollectionSection, Path, Report], Source]


def _holds(*names: str) -> Callable[[Path], bool]:
    return lambda directory: any((directory / f"{name}{end}").is_file() for name in names for end in ("", ".gz"))


def _join(section: CollectionSection, template: str | None = None, characters: int | None = None) -> Join:
    return Join(section.template or template, section.characters or characters)


def _columns(section: CollectionSection) -> dict[str, str]:
    return {str(role): name for role, name in section.columns.items()}


FORMATS: dict[str, Format] = {
    "beir": Format(
        "corpus.jsonl", _holds("corpus.jsonl"), lambda section, home, report: beir.Beir(home, report, _join(section))
    ),
    "msmarco-passage": Format(
        "collection.tsv",
        _holds("collection.tsv"),
        lambda section, home, report: msmarco.MsMarco("passage", home, _join(section), report),
    ),
    "msmarco-document": Format(
        "msmarco-docs.tsv",
        _holds("msmarco-docs.tsv"),
        lambda section, home, report: msmarco.MsMarco(
            "document", home, _join(section, msmarco.DOCUMENT, msmarco.CHARACTERS), report
        ),
    ),
    "dpr": Format(
        "psgs_w100.tsv",
        _holds("psgs_w100.tsv"),
        lambda section, home, report: dpr.Dpr(home, _join(section), report),
    ),
    "huggingface": Format(
        "dataset_dict.json or dataset_info.json (as `datasets` saves them, also in corpus/, queries/ and qrels/)",
        huggingface.is_saved,
        lambda section, home, report: huggingface.HuggingFace(str(home), _join(section), _columns(section)),
    ),
    "tables": Format(
        f"a table of passages ({', '.join(tables.STEMS['passage'])} with the ending {', '.join(tables.ENDINGS)})",
        tables.is_there,
        lambda section, home, report: tables.Tables(home, _join(section), _columns(section), report),
    ),
    "folder": Format(
        f"files with the ending {', '.join(folder.ENDINGS)}, also in folders below",
        folder.is_there,
        lambda section, home, report: folder.Folder(home, _join(section)),
    ),
}
"""All formats of directories; tables, then text files, are what is left when nothing else is there."""

_LAST = ("tables", "folder")


def section_of(place: Place) -> CollectionSection:
    """Return what a place says about reading.

    Parameters
    ----------
    place
        A directory, ``irds:NAME``, ``hf:NAME`` or ``demo``; a recipe file (its ``collection`` section); that
        section itself, also as text: ``{path: DIRECTORY, template: ...}``.

    Raises
    ------
    StepwellError
        When text in braces is no such section.
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
    path, wanted = section.path, section.format
    if path.startswith(irds.PREFIX) or wanted == "ir-datasets":
        return irds.IrDatasets(path.removeprefix(irds.PREFIX), _join(section), section.reading())
    if path.startswith(huggingface.PREFIX) or (wanted == "huggingface" and not Path(path).is_dir()):
        return huggingface.HuggingFace(path.removeprefix(huggingface.PREFIX), _join(section), _columns(section))
    home = Path(path).resolve()
    if not home.is_dir():
        return beir.Beir(home, report)
    told = wanted if wanted != "auto" else _told(home, report)
    if told is None:
        return beir.Beir(home, lambda problem: None)  # all is said
    return FORMATS[told].source(section, home, report)


def _told(home: Path, report: Report) -> str | None:
    """Return the format of a directory, told by its files; None, and a report, when nothing tells it."""
    found = [name for name, known in FORMATS.items() if name not in _LAST and known.known(home)]
    if len(found) > 1:
        signs = ", ".join(f"{FORMATS[name].sign} ({name})" for name in found)
        message = f"holds {signs}, so the format can't be told: name one as `format` in the recipe's `collection`."
        report(Problem("error", str(home), None, "format", message))
    begun = (home / "qrels").is_dir() or _holds("queries.jsonl")(home)
    found = found or [name for name in _LAST if not (begun and name == "folder") and FORMATS[name].known(home)][:1]
    if not found and not begun:
        signs = "; ".join(f"{known.sign} for {name}" for name, known in FORMATS.items())
        message = (
            f"holds nothing that tells its format. What was looked for, also with .gz: {signs}. Mind the names of "
            "the files, or name the `format` in the recipe's `collection`."
        )
        report(Problem("error", str(home), None, "format", message))
        return None
    return found[0] if found else "beir"


def place_of(section: CollectionSection, source: Source) -> str:
    """Return the text that opens the same collection again, as :func:`section_of` reads it."""
    reading: dict[str, Any] = section.reading()
    if not reading:
        return str(source.home)
    return yaml.safe_dump(
        {"path": str(source.home), **reading}, default_flow_style=True, width=1_000_000, allow_unicode=True
    ).strip()
