"""`stepwell init` writes a recipe that fits the collection and never writes over anything."""

import json

import pytest

from stepwell.collection import open_collection, resolve_splits
from stepwell.errors import StepwellError
from stepwell.intake.first_recipe import write_recipe
from stepwell.recipe.yaml_file import load_recipe


@pytest.fixture
def beir(tmp_path, monkeypatch):
    """Return a function that writes a BEIR directory of 40 queries and 50 passages."""
    monkeypatch.setenv("STEPWELL_CACHE", str(tmp_path / "cache"))

    def write(splits=("train", "test"), name="mine", words=10):
        home = tmp_path / name
        (home / "qrels").mkdir(parents=True)
        corpus = [{"_id": f"p{i}", "text": f"passage {i} " + "word " * words} for i in range(50)]
        queries = [{"_id": f"q{i}", "text": f"what is {i}"} for i in range(40)]
        for file, texts in (("corpus", corpus), ("queries", queries)):
            (home / f"{file}.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
        for number, split in enumerate(splits):
            judged = range(number, 40, len(splits))
            lines = "".join(f"q{i}\tp{i}\t1\n" for i in judged)
            (home / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + lines)
        return home

    return write


def test_the_recipe_is_valid_and_climbs_from_vectors_to_cross_encoders(beir, tmp_path, monkeypatch):
    monkeypatch.setattr("stepwell.intake.first_recipe.FEW_QUERIES", 10)
    recipe = load_recipe(write_recipe(beir(), tmp_path / "recipe.yaml"))
    kinds = [recipe.teachers[rung.teacher].kind for rung in recipe.ladder]
    assert [rung.loss for rung in recipe.ladder] == ["embedding", "candidates", "candidates"]
    assert kinds == ["dual-encoder", "cross-encoder", "cross-encoder"]
    assert [recipe.teachers[rung.teacher].layers for rung in recipe.ladder] == [None, 3, None]
    assert all(rung.gamma > 0 for rung in recipe.ladder[1:])
    assert (recipe.student.layers, recipe.refine.rounds, recipe.proof) == (2, 1, "quick")


def test_it_says_how_large_the_collection_is_and_what_each_split_becomes(beir, tmp_path):
    text = write_recipe(beir(), tmp_path / "recipe.yaml").read_text()
    assert "50 passages, 40 queries" in text
    assert "Judged splits: test, train. This makes 10 for train, 10 for dev, 20 for test queries." in text
    assert "carved off train by hash" in text


def test_with_few_queries_vectors_are_learned_often_and_no_cross_encoder_is(beir, tmp_path):
    recipe = load_recipe(write_recipe(beir(), tmp_path / "recipe.yaml"))
    assert [rung.loss for rung in recipe.ladder] == ["embedding", "in-batch"]
    assert [teacher.kind for teacher in recipe.teachers.values()] == ["dual-encoder"]
    assert recipe.ladder[0].epochs == 30
    assert recipe.refine.rounds == 0


def test_a_collection_beneath_the_recipe_moves_with_it(beir, tmp_path):
    home = beir()
    path = write_recipe(home, tmp_path)
    assert path == tmp_path / "recipe.yaml"
    assert "path: ./mine\n" in path.read_text()
    assert load_recipe(path).collection.path == str(home)


def test_a_collection_elsewhere_is_named_in_full(beir, tmp_path):
    home = beir(name="far: away #1")
    path = write_recipe(home, tmp_path / "deep" / "down" / "r.yaml")
    assert load_recipe(path).collection.path == str(home)
    assert load_recipe(path).name == "far: away #1"


def test_a_directory_called_demo_is_not_the_bundled_collection(beir, tmp_path):
    home = beir(name="demo")
    assert load_recipe(write_recipe(home, tmp_path / "r.yaml")).collection.path == str(home)


def test_without_a_split_called_train_the_largest_one_trains(beir, tmp_path):
    home = beir(splits=("judged",))
    recipe = load_recipe(write_recipe(home, tmp_path / "r.yaml"))
    assert recipe.collection.train == "judged"
    assert len(resolve_splits(open_collection(home), recipe.collection).test.query_rows) > 0


@pytest.mark.parametrize("words, tokens", [(2, 32), (60, (96, 128)), (2000, 256)])
def test_passages_are_cut_where_nearly_all_fit(beir, tmp_path, words, tokens):
    cut = load_recipe(write_recipe(beir(words=words), tmp_path / "r.yaml")).tokens
    low, high = tokens if isinstance(tokens, tuple) else (tokens, tokens)
    assert low <= cut.passage <= high
    assert cut.pair == cut.query + cut.passage


def test_nothing_is_overwritten(beir, tmp_path):
    target = tmp_path / "recipe.yaml"
    target.write_text("mine")
    for place in (target, tmp_path):
        with pytest.raises(StepwellError, match="is there already"):
            write_recipe(beir() if place == target else tmp_path / "mine", place)
    assert target.read_text() == "mine"


def test_a_link_to_nowhere_is_not_written_through(beir, tmp_path):
    (tmp_path / "r.yaml").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StepwellError, match="is there already"):
        write_recipe(beir(), tmp_path / "r.yaml")
    assert not (tmp_path / "nowhere").exists()


def test_a_place_that_cannot_be_written_is_said(beir, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StepwellError, match="can't be written"):
        write_recipe(beir(), tmp_path / "file" / "r.yaml")


@pytest.mark.parametrize("layers", [0, 7])
def test_a_student_deeper_than_its_base_is_refused_before_anything_is_written(beir, tmp_path, layers):
    with pytest.raises(StepwellError, match=f"can't have {layers} layers of demo, which has 6"):
        write_recipe(beir(), tmp_path / "r.yaml", layers=layers)
    assert not (tmp_path / "r.yaml").exists()


def test_teachers_keep_to_the_depth_of_the_students_base(beir, tmp_path, monkeypatch):
    monkeypatch.setattr("stepwell.intake.first_recipe.FEW_QUERIES", 10)
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text('{"num_hidden_layers": 12}')
    recipe = load_recipe(write_recipe(beir(), tmp_path / "r.yaml", student=str(base), layers=4))
    assert recipe.student.base == str(base)
    assert {teacher.base for teacher in recipe.teachers.values()} == {str(base)}
    assert recipe.teachers["small-cross"].layers == 6


def test_a_student_of_the_hub_is_named_as_it_is(beir, tmp_path):
    recipe = load_recipe(write_recipe(beir(), tmp_path / "r.yaml", student="some/hub-name", layers=4))
    assert recipe.student.base == "some/hub-name"
    assert {teacher.base for teacher in recipe.teachers.values()} == {"some/hub-name"}


def test_a_collection_with_errors_gets_no_recipe(beir, tmp_path):
    home = beir()
    (home / "corpus.jsonl").write_text("{")
    with pytest.raises(StepwellError, match=r"corpus\.jsonl"):
        write_recipe(home, tmp_path / "r.yaml")
    assert not (tmp_path / "r.yaml").exists()
