"""Which reader a place gets, how a recipe says more, and how texts are joined."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
import yaml
from pydantic import ValidationError
from transformers import AutoTokenizer

import slices
from conftest import TINY_RECIPE, write_recipe
from stepwell.collection import check_directory, open_collection
from stepwell.collection.readers.formats import FORMATS, NAMED, find_source, section_of
from stepwell.collection.source import Join, Text
from stepwell.errors import StepwellError
from stepwell.recipe import CollectionSection


def kind(place) -> str:
    problems = []
    source = find_source(section_of(place), problems.append)
    assert not [problem for problem in problems if problem.code == "format"]
    return type(source).__name__


SIGNS = {
    "corpus.jsonl": "Beir",
    "corpus.jsonl.gz": "Beir",
    "queries.jsonl": "Beir",
    "collection.tsv": "MsMarco",
    "collection.tsv.gz": "MsMarco",
    "msmarco-docs.tsv.gz": "MsMarco",
    "psgs_w100.tsv": "Dpr",
    "dataset_dict.json": "HuggingFace",
    "corpus/dataset_info.json": "HuggingFace",
    "passages.parquet": "Tables",
    "corpus.csv": "Tables",
    "collection.jsonl": "Tables",
}


@pytest.mark.parametrize(("name", "reader"), SIGNS.items())
def test_a_format_is_told_by_the_names_of_files(tmp_path, name, reader):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    assert kind(tmp_path) == kind(str(tmp_path)) == reader


def test_a_format_is_told_by_a_prefix_or_named_in_the_recipe(tmp_path):
    assert kind("irds:wells") == kind(Path("irds:wells")) == kind("{path: wells, format: ir-datasets}") == "IrDatasets"
    assert kind("hf:org/wells") == kind("{path: org/wells, format: huggingface}") == "HuggingFace"
    (tmp_path / "collection.tsv").touch()
    assert kind(CollectionSection(path=str(tmp_path), format="tables")) == "Tables"


def test_every_format_can_be_named_in_a_recipe():
    named = set(get_args(CollectionSection.model_fields["format"].annotation))
    assert named == {"auto", *FORMATS, *NAMED}


def test_an_unknown_directory_is_told_with_everything_that_was_looked_for(tmp_path):
    (tmp_path / "notes.odt").touch()
    with pytest.raises(StepwellError) as refusal:
        open_collection(tmp_path)
    for name in ("corpus.jsonl", "collection.tsv", "msmarco-docs.tsv", "psgs_w100.tsv", "dataset_dict.json", "parquet"):
        assert name in str(refusal.value)
    assert [problem.code for problem in check_directory(tmp_path)] == ["format"]


def test_two_formats_in_one_directory_must_be_told_apart_by_the_recipe(tiny_path, tmp_path):
    slices.msmarco_passage(tiny_path, slices.msmarco_document(tiny_path, tmp_path))
    with pytest.raises(
        StepwellError, match=r"collection.tsv \(msmarco-passage\), msmarco-docs.tsv \(msmarco-document\)"
    ):
        open_collection(tmp_path)
    section = CollectionSection(path=str(tmp_path), format="msmarco-document")
    assert open_collection(section).passage_ids[0] == "D0"
    assert open_collection(section.model_copy(update={"format": "msmarco-passage"})).passage_ids[0] == "0"
    assert open_collection(open_collection(section).place).passage_ids[0] == "D0"


def test_a_recipe_file_is_a_place_and_its_relative_directory_is_beside_it(tiny_path, tiny_model, tmp_path):
    text = TINY_RECIPE.replace("{path: COLLECTION}", '{path: COLLECTION, template: "{text} ({title})"}')
    recipe = write_recipe(tmp_path / "wells.yaml", tiny_path, tiny_model, text)
    collection = open_collection(recipe)
    assert collection.passage_texts([0])[0].endswith(" (river 0)")
    assert open_collection(str(recipe)).fingerprint == collection.fingerprint
    assert check_directory(recipe) == []
    assert yaml.safe_load(collection.place) == {"path": str(tiny_path.resolve()), "template": "{text} ({title})"}


def test_without_more_to_say_the_place_is_the_directory(tiny_collection, tiny_path):
    assert tiny_collection.place == str(tiny_path.resolve())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{path: x, fromat: beir}", r"collection\.fromat: there is no such key; did you mean `format`\?"),
        ("{path: x, columns: {passage.it: y}}", r".*columns\.passage\.it: there is no such key; .* mean passage\.id\?"),
        ("{path: 3, dev_queries: many}", r".*path: must be text, not 3; .*dev_queries: must be a whole number"),
        ("{path: x, path: y}", r"collection\.path: is given twice"),
        ("{}", r"collection\.path: is missing"),
        ("{path", "it is no YAML"),
        ("{path: x}: {path: y}", "it is no YAML"),
    ],
)
def test_text_in_braces_that_is_no_section_is_told(text, why):
    with pytest.raises(StepwellError, match=f"no `collection` section of a recipe: {why}") as caught:
        open_collection(text)
    assert "student" not in str(caught.value)  # a section is no recipe


@pytest.mark.parametrize(
    "template", ["{title.__class__}", "{0}", "{}", "{text!r}", "{text:>9}", "{te xt}", "{text[0]}"]
)
def test_a_template_names_fields_and_nothing_else(template):
    with pytest.raises(ValidationError, match="names fields in braces"):
        CollectionSection(path="x", template=template)


def test_titles_are_joined_to_texts_as_beir_does_or_by_the_template(tiny_directory):
    corpus = [{"_id": "p0", "title": "Wells", "text": "of steps"}, {"_id": "p1", "title": "", "text": "alone"}]
    directory = tiny_directory(corpus=corpus, train=[("q0", "p0", 1)])
    assert open_collection(directory).passage_texts() == ["Wells of steps", "alone"]
    for template, texts in {
        "{title} [SEP] {text}": ["Wells [SEP] of steps", "[SEP] alone"],
        "{text}": ["of steps", "alone"],
        "Title: {title}\nText: {text} {{x}}": ["Title: Wells\nText: of steps {x}", "Title: \nText: alone {x}"],
    }.items():
        section = CollectionSection(path=str(directory), template=template)
        assert open_collection(section).passage_texts() == texts


def test_the_template_with_a_separator_gives_a_model_the_tokens_of_a_text_pair(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    text = Text(1, "p", "old river", "the river was deep")
    joined = Join("{title} [SEP] {text}").of(text)
    assert tokenizer(joined)["input_ids"] == tokenizer(text.title, text.text)["input_ids"]


@pytest.mark.parametrize("template", [None, "{title} [SEP] {text}", "{text} / {title}", "{url} {title} {text}"])
@pytest.mark.parametrize("title", ["", "  A title", " "])
def test_where_the_text_begins_is_known_behind_every_title(template, title):
    text = Text(1, "p", title, "the text itself", more={"url": "http://x"})
    join = Join(template)
    body = join.of(text)[join.start(text) :]
    assert body.startswith("the text itself")


def test_a_named_format_with_a_directory_that_is_not_there_is_told(tmp_path):
    with pytest.raises(StepwellError, match="nowhere is not a directory"):
        open_collection(CollectionSection(path=str(tmp_path / "nowhere"), format="dpr"))


def test_other_readings_of_a_directory_have_caches_of_their_own(tiny_path, tmp_path):
    section = CollectionSection(path=str(tiny_path), characters=10)
    short, whole = open_collection(section, tmp_path), open_collection(tiny_path, tmp_path)
    assert max(map(len, short.passage_texts())) == 10
    assert len([path for path in (tmp_path / "collections").iterdir() if path.is_dir()]) == 2
    meta = json.loads(next((tmp_path / "collections").glob(f"*-{'?' * 12}/meta.json")).read_text())
    assert meta["stamp"]["format"] == 3 and short.fingerprint != whole.fingerprint


def test_what_decides_how_files_are_read_is_what_is_not_as_always():
    section = CollectionSection(path="x", template="{text}", columns={"query.id": "n"})
    assert section.reading() == {"template": "{text}", "columns": {"query.id": "n"}}
