"""What a model's files say of it before it is opened."""

import shutil

from stepwell.models.files import content_digest, modules_of


def test_modules_that_cant_be_are_left_to_the_opening_of_the_model(tmp_path):
    (tmp_path / "modules.json").write_text('[{"type": "a.Dense"}, 3, {"type": "b.Pooling", "path": "../elsewhere"}]')
    assert modules_of(str(tmp_path)) == [("Pooling", "../elsewhere")]
    assert content_digest(str(tmp_path))


def test_the_content_of_a_model_is_the_same_in_another_place_and_counts_every_module(tiny_model, tmp_path):
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    before = content_digest(str(copy))
    assert before == content_digest(str(tiny_model))
    pooling = next(copy.glob("*_Pooling")) / "config.json"
    pooling.write_text(pooling.read_text() + " ")
    assert content_digest(str(copy)) != before
