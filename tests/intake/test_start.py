"""`stepwell init` sees what lies there, asks nothing, and touches nothing of the user's."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stepwell import api
from stepwell.collection import open_collection
from stepwell.errors import StepwellError
from stepwell.intake.contents import look
from stepwell.recipe.yaml_file import load_recipe

ROWS = [
    {"nr": f"n{at}", "name": f"Thing{at}", "story": f"Nobody leaves thing{at} in the rain here. " + f"Thing{at} " * 21}
    for at in range(30)
]


def columns(sight):
    return {fact[0]: fact[1] for fact in sight.facts}


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        between = {".csv": ",", ".tsv": "\t"}[path.suffix]
        path.write_text("".join(between.join(line) + "\n" for line in [list(rows[0]), *(r.values() for r in rows)]))
    return path


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv", "parquet"])
@pytest.mark.parametrize("name", ["things", "passages"])
def test_a_table_of_passages_is_seen_with_the_columns_and_why(tmp_path, ending, name):
    write(tmp_path / "data" / f"{name}.{ending}", ROWS)
    sight = look(tmp_path / "data")
    assert sight.found == "passages"
    assert columns(sight) | {"passage.id": "none", "passage.title": "none", "passage.text": "story"} == columns(sight)
    assert any("longest texts, 28 words" in str(fact[2]) for fact in sight.facts)
    assert len(list(sight.source.texts("passage", print))) == 30


def test_columns_are_found_by_their_names_first(tmp_path):
    rows = [{"docid": row["nr"], "title": row["name"], "text": "short", "notes": row["story"]} for row in ROWS]
    sight = look(write(tmp_path / "a.csv", rows))
    assert columns(sight)["passage.text"] == "text"
    [first, *_] = sight.source.texts("passage", print)
    assert (first.id, first.title, first.text) == ("n0", "Thing0", "short")


def test_ids_that_are_not_unique_are_not_taken(tmp_path):
    sight = look(write(tmp_path / "a.csv", [{"id": "same", "text": row["story"]} for row in ROWS]))
    assert [text.id for text in sight.source.texts("passage", print)][:2] == ["2", "3"]


def test_a_table_of_queries_and_answers_becomes_a_collection(tmp_path):
    rows = [{"question": f"what of {at}", "answer": f"it is {at // 2}"} for at in range(60)]
    write(tmp_path / "faq" / "faq.csv", [*rows, rows[0]])
    recipe = load_recipe(api.init(tmp_path / "faq", tmp_path / "recipe.yaml").recipe)
    opened = open_collection(recipe.collection)
    assert (opened.n_queries, opened.n_passages, opened.splits) == (60, 30, ("train",))
    assert not opened.is_synthetic([0]).any()
    row = opened.qrels("train").positives(5)[0]
    assert (opened.query_texts([5]), opened.passage_texts([row])) == (["what of 5"], ["it is 2"])


def test_a_folder_of_texts_becomes_a_collection_and_a_recipe_for_few_queries(tmp_path):
    for row in ROWS:
        path = tmp_path / "docs" / f"{row['nr']}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"# {row['name']} by name\n\n{row['story']}\n")
    before = {path: path.read_bytes() for path in (tmp_path / "docs").iterdir()}
    path = api.init(tmp_path / "docs", tmp_path).recipe
    assert {path: path.read_bytes() for path in (tmp_path / "docs").iterdir()} == before
    recipe = load_recipe(path)
    assert recipe.collection.path == str(tmp_path / "docs-synthetic")
    assert [rung.loss for rung in recipe.ladder] == ["embedding", "in-batch"]
    assert {teacher.kind for teacher in recipe.teachers.values()} == {"dual-encoder"}
    assert recipe.refine.rounds == 0
    assert recipe.ladder[0].epochs == 30
    text = path.read_text()
    assert "training queries are synthetic" in text
    assert f"--collection {tmp_path / 'docs'}" in text
    assert "no real queries to test on" in " ".join(text.replace("#", " ").split())


def test_a_collection_is_a_collection(tiny_path, tmp_path):
    assert look(tiny_path).found == "collection"
    assert look("irds:wells").found == look("demo").found == "collection"
    recipe = load_recipe(api.init(tiny_path, tmp_path / "recipe.yaml").recipe)
    assert recipe.collection.path == str(tiny_path)


def test_a_dry_run_writes_nothing(tmp_path):
    write(tmp_path / "data" / "things.csv", ROWS)
    api.init(tmp_path / "data", tmp_path / "recipe.yaml", dry_run=True)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ({"a.csv": "text\nwords", "b.csv": "text\nwords"}, "several tables .a.csv, b.csv."),
        ({"a.csv": "x,y\n1,2\n"}, "no column of texts"),
        ({"a.csv": "text\n"}, "holds no row"),
        ({"queries.jsonl": '{"_id": "q", "text": "what"}'}, "corpus.jsonl"),
        ({"corpus.jsonl": "{}", "queries.jsonl": "{}"}, "no column of texts"),
        ({"image.png": ""}, "nothing that tells its format"),
    ],
)
def test_what_cannot_be_seen_is_said(tmp_path, files, match):
    home = tmp_path / "data"
    home.mkdir()
    for name, text in files.items():
        (home / name).write_text(text)
    with pytest.raises(StepwellError, match=match):
        api.init(home, tmp_path / "recipe.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_nothing_is_made_within_or_over_what_is_there(tmp_path, monkeypatch):
    home = tmp_path / "docs"
    home.mkdir()
    (home / "a.md").write_text("# One\n\nwords")
    monkeypatch.chdir(home)
    with pytest.raises(StepwellError, match="lies within"):
        api.init(home / ".", "recipe.yaml")
    (tmp_path / "docs-synthetic").mkdir()
    with pytest.raises(StepwellError, match="is there already"):
        api.init(home, tmp_path / "recipe.yaml")
    assert list(home.iterdir()) == [home / "a.md"]
    assert not list((tmp_path / "docs-synthetic").iterdir())


def test_a_student_that_cannot_be_cut_is_told_before_queries_are_made(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# One\n\nwords")
    with pytest.raises(StepwellError, match="can't have 99 layers of demo"):
        api.init(tmp_path / "docs", tmp_path / "recipe.yaml", layers=99)
    assert [path.name for path in tmp_path.iterdir()] == ["docs"]


def test_a_file_that_is_no_table_is_refused(tmp_path):
    (tmp_path / "a.pdf").write_text("")
    with pytest.raises(StepwellError, match="is no table"):
        look(tmp_path / "a.pdf")
