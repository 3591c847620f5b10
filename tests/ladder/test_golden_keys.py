"""Keys stay what they are: a finished run is found again by the next version, and never redone.

``golden_keys.json`` holds the key of every stage of the demo and of every shipped recipe, over a small collection, with
what differs from machine to machine (directories, weights) replaced. A change of it is a change of what stages read or
write: then LAYOUT rises, and the file is written anew: ``python tests/ladder/test_golden_keys.py``.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

import slices
from conftest import write_model, write_tiny
from stepwell.ladder import workspace as stages_kept
from stepwell.ladder.build import stages_of
from stepwell.ladder.run import prepare
from stepwell.ladder.stage import PARTS
from stepwell.ladder.workspace import Workspace
from stepwell.recipe.yaml_file import DEMO, load_recipe

HOME = Path(__file__).resolve().parents[2] / "recipes"
GOLDEN = Path(__file__).with_name("golden_keys.json")
RECIPES = {path.stem: path for path in (DEMO, *sorted(HOME.glob("*.yaml")), *sorted(HOME.glob("paper/*.yaml")))}


def write_collection(name, tiny, folder):
    """Write the tiny collection in the format that a recipe reads."""
    home = folder / name
    match name:
        case "msmarco-passage":
            return slices.msmarco_passage(tiny, home)
        case "msmarco-document":
            return slices.msmarco_document(tiny, home)
        case "natural-questions":
            return slices.dpr(tiny, home)
        case "trec-dl-2019-passage":
            return slices.trec_dl(tiny, slices.msmarco_passage(tiny, home), documents=False)
        case "trec-dl-2019-document":
            return slices.trec_dl(tiny, slices.msmarco_document(tiny, home), documents=True)
    return tiny


def plain(value, places):
    """Return settings with names in the place of directories and of what is in them."""
    if isinstance(value, dict):
        hidden = ("content", "sha256")
        return {key: "CONTENT" if key in hidden else plain(inner, places) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner, places) for inner in value]
    return places.get(value, value) if isinstance(value, str) else value


def given(folder, side, home):
    """Write a file of vectors, 32 numbers each."""
    name = "corpus" if side == "passages" else "queries"
    ids = [json.loads(line)["_id"] for line in (home / f"{name}.jsonl").read_text().splitlines()]
    file = folder / f"{side}.jsonl"
    file.write_text("".join(json.dumps({"id": one, "vector": [1.0] * 32}) + "\n" for one in ids))
    return file


def keys_of(name, tiny, model, folder):
    """Return the key of every stage of a recipe."""
    home = write_collection(name, tiny, folder)
    recipe = load_recipe(RECIPES[name])
    bases = {f"teachers.{teacher}.from": str(model) for teacher in recipe.teachers}
    cut = [teacher for teacher, section in recipe.teachers.items() if getattr(section, "layers", None)]
    layers = {f"teachers.{teacher}.layers": 2 for teacher in cut}
    for teacher, section in recipe.teachers.items():  # vectors of the width that the student has
        if section.kind == "vectors":
            del bases[f"teachers.{teacher}.from"]
            bases |= {f"teachers.{teacher}.{side}": str(given(folder, side, home)) for side in ("passages", "queries")}
    fits = {"student.from": str(model), "student.layers": 2, "collection.path": str(home), **bases, **layers}
    ctx = prepare(load_recipe(RECIPES[name], fits))
    kept = Workspace(folder / "nowhere", {name: name for name in ("collection", "seed", *PARTS)})
    for stage in stages_of(ctx, to_search=True):
        fixed = replace(stage, settings=plain(stage.settings, {str(model): "MODEL", str(home): "COLLECTION"}))
        kept.keys[kept.resolve(stage.name)] = kept.key(fixed)
    return {stage: key[:16] for stage, key in kept.keys.items()}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    directory = tmp_path_factory.mktemp("golden") / "tiny"
    write_tiny(directory, passages=80, queries=100)
    return directory


@pytest.mark.parametrize("name", RECIPES)
def test_the_stages_of_a_shipped_recipe_keep_their_keys(name, tiny, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(stages_kept, "LAYOUT", 0)
    assert keys_of(name, tiny, tiny_model, tmp_path) == json.loads(GOLDEN.read_text())[name]


if __name__ == "__main__":
    stages_kept.LAYOUT = 0
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        write_tiny(root / "tiny", passages=80, queries=100)
        base = write_model("bert", root)
        content = {name: keys_of(name, root / "tiny", base, root) for name in RECIPES}
    GOLDEN.write_text(json.dumps(content, indent=1) + "\n")
