"""A recipe is read exactly; what is wrong with it is said with its line, all at once."""

import re

import pytest
import yaml
from hypothesis import given, settings, strategies as st

from stepwell.errors import StepwellError
from stepwell.recipe import Recipe
from stepwell.recipe.places import LARGEST
from stepwell.recipe.teachers import DualEncoderTeacher
from stepwell.recipe.yaml_file import dump_recipe, load_recipe, parse_override

GOOD = """\
name: tiny
collection:
  path: demo
student:
  from: demo
  layers: 2
teachers:
  de:
    kind: dual-encoder
    from: demo
  ce:
    kind: cross-encoder
    from: demo
    train:
      lr: 1e-4
ladder:
  - teacher: de
    loss: embedding
  - teacher: ce
    loss: candidates
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Write a recipe: GOOD after replacements, or bytes; return its name."""
    monkeypatch.chdir(tmp_path)

    def write(*changes, content=None):
        text = GOOD
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        (tmp_path / "r.yaml").write_bytes(text.encode() if content is None else content)
        return "r.yaml"

    return write


def message(path, overrides=None):
    with pytest.raises(StepwellError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


def test_what_is_written_is_read_and_the_rest_has_its_default(recipe):
    read = load_recipe(recipe())
    assert (read.name, read.student.layers, read.teachers["ce"].train.lr, read.seed) == ("tiny", 2, 1e-4, 13)


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("layers: 2", "layer: 2", "r.yaml:6: student.layer: there is no such key; did you mean `layers`?"),
        ("name: tiny", "layers: 2", "r.yaml:1: layers: there is no such key here; it belongs to `student`."),
        ("name: tiny", "gamma: 1.0", "r.yaml:1: gamma: there is no such key here; it belongs to a rung of the ladder."),
        (
            "  from: demo\n  layers",
            "  form: demo\n  layers",
            "r.yaml:5: student.form: there is no such key; did you mean `from`?",
        ),
        ("lr: 1e-4", "xyzzy: 1", "r.yaml:15: teachers.ce.train.xyzzy: there is no such key; there are epochs, steps"),
        ("  path: demo", "  dev: auto", "r.yaml:2: collection.path: is missing. A BEIR directory"),
        ("    kind: dual-encoder\n", "", "r.yaml:8: teachers.de: needs `kind: dual-encoder` or"),
        ("dual-encoder", "dual", "r.yaml:8: teachers.de: the kind 'dual' does not exist; there are 'dual-encoder'"),
        ("layers: 2", "layers: two", "r.yaml:6: student.layers: must be a whole number, not 'two'"),
        ("layers: 2", 'layers: "2"', "r.yaml:6: student.layers: must be a whole number, not '2'"),
        ("layers: 2", "layers: 2.5", "r.yaml:6: student.layers: must be a whole number, not 2.5"),
        ("layers: 2", "layers: true", "r.yaml:6: student.layers: must be a whole number, not true"),
        ("layers: 2", "layers: 0", "r.yaml:6: student.layers: must be at least 1, not 0"),
        ("layers: 2", "pick: middle", "student.pick: must be 'first', 'spread' or 'last' or a list, not 'middle'"),
        ("layers: 2", "pick: [0, x]", "r.yaml:6: student.pick.2: must be a whole number, not 'x'. Nothing"),
        ("lr: 1e-4", "lr: fast", "r.yaml:15: teachers.ce.train.lr: must be a number, not 'fast'"),
        ("lr: 1e-4", "lr: .inf", "r.yaml:15: teachers.ce.train.lr: must be a finite number, not .inf"),
        ("lr: 1e-4", "lr: 1e999", "r.yaml:15: teachers.ce.train.lr: must be a finite number, not 1e999"),
        ("lr: 1e-4", "lr: 0", "r.yaml:15: teachers.ce.train.lr: must be above 0, not 0"),
        ("lr: 1e-4", "warmup: 1.5", "r.yaml:15: teachers.ce.train.warmup: must be at most 1, not 1.5"),
        ("lr: 1e-4", "dropout: 1", "r.yaml:15: teachers.ce.train.dropout: must be true or false, not 1"),
        ("name: tiny", "name: 2024", "r.yaml:1: name: must be text, not 2024; put it in quotes"),
        ("name: tiny", "proof: fast", "r.yaml:1: proof: must be 'none', 'quick' or 'full', not 'fast'"),
        ("name: tiny", "name: tiny\nproof_rates: [1, 1]", "names a rate twice"),
        ("name: tiny", "tokens:", "r.yaml:1: tokens: must hold keys with values, and it is empty"),
        ("name: tiny", "tokens: [1]", "r.yaml:1: tokens: must hold keys with values, not a list"),
        ("loss: embedding", "loss: embeding", "r.yaml:18: ladder.1.loss: must be 'embedding', 'in-batch' or"),
        ("loss: embedding", "loss: embeding", "did you mean embedding?"),
        ("  de:", "  7:", "r.yaml:8: teachers.7: must be named by text; put the key in quotes"),
        ("  de:", "  bm25:", "r.yaml:8: teachers.bm25: a teacher can't be called 'bm25'"),
        (
            "- teacher: ce",
            "- teacher: cee",
            "r.yaml:19: ladder.2.teacher: rung 2 of the ladder names the teacher 'cee'",
        ),
        ("- teacher: de", "- teacher: ce", "r.yaml:17: ladder.1.teacher: rung 1 of the ladder: the loss `embedding`"),
        ("loss: embedding", "loss: in-batch\n    hold: 1", "rung 1 of the ladder: `hold` stays near the vectors of"),
        ("    train:", "    imitate: ce\n    train:", "r.yaml:14: teachers.ce.imitate: teacher 'ce': `imitate` needs"),
        (
            "    train:",
            "    imitate: de\n    train:",
            "`imitate: de` does nothing without `train.imitate_epochs`; set it",
        ),
        ("lr: 1e-4", "imitate_epochs: 1", "`train.imitate_epochs` does nothing without `imitate`; name there the dual"),
        (
            "    train:\n      lr: 1e-4\n",
            "    layers: 1\n",
            "`layers: 1` cuts the model before its training, and it has none",
        ),
        ("- teacher: ce", "- teacher: ce\n    alpha: 0\n    beta: 0", "rung 2 of the ladder: alpha and beta are 0"),
        (
            "ladder:",
            "refine: {alpha: 0, beta: 0}\nladder:",
            "refine: alpha and beta are 0: nothing is left to learn from",
        ),
        (
            "ladder:",
            "  both: {kind: mean, of: [de, ce]}\nmining: {denoise: 1}\nrefine: {teacher: both}\nladder:",
            "`mining.denoise` asks 'both' about one passage at a time",
        ),
        ("name: tiny", "mining: {last: 101}", "r.yaml:1: mining: `last` (101) is beyond `depth` (100), and nothing is"),
        ("name: tiny", "refine: {teacher: x}", "r.yaml:1: refine.teacher: refine names the teacher 'x'"),
        ("layers: 2", "from: demo", "r.yaml:6: student.from: is given twice (first in line 5); keep one"),
        ("  layers: 2", "\tlayers: 2", "r.yaml:6: this is not the YAML of a recipe: there is a tab"),
        ("name: tiny", "name: a: b", "r.yaml:1: this is not the YAML of a recipe: there is a `:` too many"),
        ("  layers: 2", "   layers: 2", "r.yaml:6: this is not the YAML of a recipe: "),
        ("name: tiny", "? [a]\n: b", "r.yaml:1: a list or a mapping can't be a key"),
        ("name: tiny", "name: *x", "r.yaml:1: this is not the YAML of a recipe: found undefined alias"),
        (
            "name: tiny",
            "name: !!python/name:os.system x",
            "r.yaml:1: this is not the YAML of a recipe: could not determine",
        ),
        ("name: tiny", "name: &a {<<: *a}", "r.yaml"),
        ("name: tiny", "name: &a [*a]", "r.yaml:1: name: must be text"),
        ("name: tiny", "name: " + "[" * 5000 + "]" * 5000, "r.yaml is nested too deep"),
        ("ladder:", "---\nladder:", "r.yaml:16: this is not the YAML of a recipe: a second document begins here"),
        ("name: tiny", "name: a\x07b", "r.yaml:1: the character U+0007 is not allowed in YAML"),
    ],
)
def test_a_mistake_names_its_line_and_what_to_do(recipe, old, new, said):
    assert said in message(recipe((old, new)))


def test_the_window_of_a_small_depth_ends_there(recipe, tmp_path):
    made = load_recipe(recipe(("name: tiny", "mining: {depth: 20}")))
    assert (made.mining.depth, made.mining.last) == (20, 20)
    (tmp_path / "again.yaml").write_text(dump_recipe(made))
    assert load_recipe("again.yaml").mining == made.mining
    assert "r.yaml:1: mining.depth: must be at least 1" in message(recipe(("name: tiny", "mining: {depth: 0}")))


def test_an_empty_ladder_is_refused(recipe):
    assert "r.yaml:16: ladder: needs at least 1" in message(recipe((GOOD[GOOD.index("ladder:") :], "ladder: []\n")))


def test_several_mistakes_are_told_at_once_one_a_line_in_order(recipe):
    path = recipe(("layers: 2", "layrs: 2\n  scale: -1\n  scale: 2"), ("name: tiny", "sead: 1"), ("lr: 1e-4", "lr: x"))
    lines = message(path).splitlines()
    assert lines[0] == "The recipe r.yaml has 4 mistakes:"
    assert [re.match(r"  r\.yaml:(\d+): ([\w.]+)", line).groups() for line in lines[1:-1]] == [
        ("1", "sead"),
        ("6", "student.layrs"),
        ("8", "student.scale"),
        ("17", "teachers.ce.train.lr"),
    ]


def test_a_great_many_mistakes_are_counted_not_listed(recipe):
    path = recipe(("name: tiny", "\n".join(f"zz{i}: 1" for i in range(50))))
    assert "(and 30 more)" in message(path)
    assert len(message(path).splitlines()) == 23


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "r.yaml is empty"),
        (b"# only a remark\n", "r.yaml is empty"),
        (b"- a\n- b\n", "r.yaml:1: a recipe is made of keys with values"),
        (b"just words\n", "r.yaml:1: a recipe is made of keys with values"),
        (b"name: tiny\nseed: \xff\n", "r.yaml:2: the byte 0xff is not UTF-8"),
        (b"a" * (LARGEST + 1), "r.yaml is longer than 1,000,000 bytes"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(recipe, content, said):
    assert said in message(recipe(content=content))


def test_a_missing_file_and_a_directory_are_refused_with_a_way_out(recipe, tmp_path):
    recipe()
    assert "there is no recipe none.yaml" in message("none.yaml")
    assert "is a directory, and a recipe is a YAML file: give a file in it (r.yaml)" in message(tmp_path)
    assert "can't be read" in message("r.yaml/none.yaml")


def test_a_bomb_of_aliases_is_refused_in_few_words(recipe):
    bomb = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 60))
    assert len(message(recipe(("name: tiny\n", bomb)))) < 5000


def test_a_byte_order_mark_is_no_mistake(recipe):
    assert load_recipe(recipe(content=b"\xef\xbb\xbf" + GOOD.encode())).name == "tiny"


def test_anchors_and_merges_may_be_used(recipe):
    path = recipe(
        ("- teacher: de", "- &step\n    lr: 3e-4\n    teacher: de"), ("- teacher: ce", "- <<: *step\n    teacher: ce")
    )
    assert [rung.lr for rung in load_recipe(path).ladder] == [3e-4, 3e-4]
    assert [rung.lr for rung in load_recipe(path, {"ladder.1.lr": 1.0}).ladder] == [1.0, 3e-4]
    assert [rung.lr for rung in load_recipe(path, {"ladder.2.lr": 1.0}).ladder] == [3e-4, 1.0]


def test_directories_beside_the_recipe_are_found_from_anywhere(recipe, tmp_path, monkeypatch):
    recipe(("path: demo", "path: data/mine"), ("from: demo", "from: org/base"), ("from: demo", "from: ./other"))
    for directory in ("data/mine", "org/base", "demo", "elsewhere"):
        (tmp_path / directory).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    read = load_recipe("../r.yaml")
    assert read.collection.path == str(tmp_path / "data/mine")
    assert read.student.base == str(tmp_path / "org/base")
    assert read.teachers["de"].base == "./other"  # not there: left for the loader to refuse
    assert read.teachers["ce"].base == "demo"  # the bundled one, whatever lies beside the recipe


def test_overrides_change_one_value_and_make_what_is_missing(recipe):
    changes = {"student.layers": 3, "ladder.2.lr": 2e-5, "refine.rounds": 0, "teachers.ce.train.lr": 1e-3}
    read = load_recipe(recipe(), changes)
    assert (read.student.layers, read.ladder[1].lr, read.refine.rounds) == (3, 2e-5, 0)
    assert read.teachers["ce"].train.lr == 1e-3
    assert load_recipe("r.yaml").student.layers == 2


def test_an_override_can_fill_what_is_empty_or_empty_it(recipe):
    path = recipe(("train:\n      lr: 1e-4", "train:"))
    assert load_recipe(path, {"teachers.ce.train.epochs": 2}).teachers["ce"].train.epochs == 2
    assert load_recipe(path, {"student.layers": None}).student.layers is None


@pytest.mark.parametrize(
    "overrides, said",
    [
        ({"student.layrs": 2}, "--set student.layrs: there is no such key; did you mean `layers`?"),
        ({"student.layers": "x"}, "--set student.layers: must be a whole number, not 'x'"),
        ({"ladder.3.lr": 1}, "--set ladder.3.lr: `ladder` has the numbers 1 to 2, and '3' is none of them."),
        ({"ladder.0.lr": 1}, "and '0' is none of them."),
        ({"ladder.x.lr": 1}, "and 'x' is none of them."),
        ({"name.x": 1}, "--set name.x: `name` is a single value in the recipe and has no key 'x'."),
        ({"student.scale": float("nan")}, "--set student.scale: must be a finite number"),
        ({"student.scale": object()}, "can't be read"),
    ],
)
def test_a_wrong_override_names_the_option(recipe, overrides, said):
    assert said in message(recipe(), overrides)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a.b=2", ("a.b", 2)),
        ("a=[0, 5]", ("a", [0, 5])),
        ("a=", ("a", None)),
        ("a=b=c", ("a", "b=c")),
        ("a='2'", ("a", "2")),
    ],
)
def test_the_value_of_an_override_is_yaml(text, expected):
    assert parse_override(text) == expected


@pytest.mark.parametrize("text", ["student.layers", "=2", "a=[", "a={b: c: d}", "a=!!python/name:os.system x"])
def test_an_override_that_cannot_be_read_is_refused(text):
    with pytest.raises(StepwellError, match="--set"):
        parse_override(text)


@settings(max_examples=40)
@given(
    name=st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=20),
    lr=st.floats(min_value=1e-300, max_value=1e300),
    scale=st.none() | st.floats(min_value=1e-9, max_value=1e9),
)
def test_what_is_dumped_is_read_again_as_the_same_recipe(name, lr, scale, tmp_path_factory):
    content = yaml.safe_load(GOOD)
    content["name"] = name
    content["student"]["scale"] = scale
    content["ladder"][0]["lr"] = lr
    content["teachers"]["ce"]["train"] = None
    recipe = Recipe.model_validate(content)
    path = tmp_path_factory.getbasetemp() / "again.yaml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    again = load_recipe(path)
    assert again == recipe
    assert dump_recipe(again) == dump_recipe(recipe)


@pytest.mark.parametrize("name", ["1e-4", "2024-01-01", "yes", "null", "12", "~", "a: b", "#", " x "])
def test_text_that_looks_like_something_else_stays_text(name, tmp_path):
    recipe = Recipe.model_validate({**yaml.safe_load(GOOD), "name": name})
    (tmp_path / "r.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "r.yaml").name == name


def test_a_dump_is_complete_and_says_from_not_base(recipe):
    content = yaml.safe_load(dump_recipe(load_recipe(recipe())))
    assert content["student"] | {"from": "demo", "towers": 1} == content["student"]
    assert content["teachers"]["de"]["train"] is None
    assert content["refine"]["rounds"] == 1


def test_a_dual_encoder_teacher_is_what_its_kind_says(recipe):
    assert isinstance(load_recipe(recipe()).teachers["de"], DualEncoderTeacher)
