"""Whatever a user gets wrong ends in one paragraph that says what and where, a status that is not 0, and no loss."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from processes import Program, stepwell
from stepwell import cli, display
from stepwell.ladder.build import stages_of
from stepwell.ladder.run import prepare, shared_facts
from stepwell.ladder.workspace import Workspace
from stepwell.recipe.yaml_file import load_recipe


def state(folder):
    """Return the content of every file (or of the file that it is), to see that nothing is overwritten."""
    files = [folder] if Path(folder).is_file() else Path(folder).rglob("*")
    return {path: path.read_bytes() for path in files if path.is_file()}


@pytest.fixture
def refused(monkeypatch, capfd, tmp_path):
    """Run a command that must fail, and assert how: the status, one paragraph that names what it must name, no loss.

    No file that was there before changes or vanishes, and in the folders ``untouched`` none appears.
    """

    def run(*arguments, names=(), status=2, untouched=()):
        before = [state(folder) for folder in untouched]
        places = [tmp_path, *(place for place in arguments if isinstance(place, Path))]
        kept = {path: content for place in places for path, content in state(place).items() if path.name != ".lock"}
        monkeypatch.setattr(sys, "argv", ["stepwell", "-q", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, said = capfd.readouterr()
        assert end.value.code == status
        one_paragraph(said, names)
        assert "Traceback" not in out
        assert [state(folder) for folder in untouched] == before
        assert {path: path.read_bytes() for path in kept if path.is_file()} == kept

    yield run
    display.set_quiet(False)


def one_paragraph(said, names):
    lines = [line for line in said.splitlines() if not line.startswith(("Warning", "Converting", "Writing", "Loading"))]
    told = "\n".join(lines).strip()
    assert "Traceback" not in said and "\n\n" not in told, said
    assert told.startswith(("stepwell: ", "Usage: ")), said
    assert told.count("stepwell: ") <= 1 and len(told) > 40, said
    plain = " ".join(told.replace("│", " ").split())
    for name in (names,) if isinstance(names, (str, Path)) else names:
        assert str(name) in plain, said


# -- collections ------------------------------------------------------------------------------------------

P = {"_id": "p0", "title": "", "text": "all about red apples"}
PASSAGES = [P, {"_id": "p1", "text": "all about green pears"}]
COLLECTIONS = {
    "corpus not JSON": ({"corpus": ["{broken", *PASSAGES]}, "corpus.jsonl:1"),
    "corpus line cut off": ({"corpus": [*PASSAGES, '{"_id": "p2", "te']}, "corpus.jsonl:3"),
    "corpus without ids": ({"corpus": [*PASSAGES, {"text": "x"}]}, "corpus.jsonl:3"),
    "text that is no string": ({"corpus": [*PASSAGES, {"_id": "p2", "text": 5}]}, "corpus.jsonl:3"),
    "an id twice": ({"corpus": [*PASSAGES, P]}, "corpus.jsonl:3"),
    "no passages": ({"corpus": []}, "corpus.jsonl"),
    "a query without text": ({"queries": [{"_id": "q0", "text": " "}]}, "queries.jsonl:1"),
    "qrels of an unknown passage": ({"train": [("q0", "p0", 1), ("q1", "nobody", 1)]}, "train.tsv:3"),
    "qrels of an unknown query": ({"train": [("nobody", "p0", 1)]}, "train.tsv:2"),
    "a grade that is no number": ({"train": [("q0", "p0", "high")]}, "train.tsv:2"),
    "a negative grade": ({"train": [("q0", "p0", -1)]}, "train.tsv:2"),
    "no header": ({"header": False, "train": [("q0", "p0", 1)]}, "train.tsv:1"),
    "qrels with spaces": ({"train": ["q0 p0 1"]}, "train.tsv:2"),
    "too few queries to split": ({"train": [("q0", "p0", 1)]}, ("collection1", "run needs some")),
}


@pytest.mark.parametrize("kind", COLLECTIONS)
def test_bad_collection(kind, refused, variant, tiny_path, tiny_directory, tmp_path):
    given, names = COLLECTIONS[kind]
    directory = tiny_directory(**given)
    recipe = variant(("path: COLLECTION", f"path: {directory}"))
    refused("run", recipe, "--out", tmp_path / "run", names=names, untouched=[directory])
    assert not (tmp_path / "run").exists()


def damaged(path, tiny_path, name, content):
    shutil.copytree(tiny_path, path)
    file = path / name
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("corpus.jsonl", None, "corpus.jsonl"),
        ("queries.jsonl", None, "queries.jsonl"),
        ("queries.jsonl", b'{"_id": "q", "text": "caf\xe9"}\n', "queries.jsonl:1"),
        ("corpus.jsonl.gz", b"\x1f\x8b\x08\x00cut off", "corpus.jsonl.gz"),
        ("corpus.jsonl", os.urandom(200), "corpus.jsonl:1"),
    ],
)
def test_damaged_files_of_a_collection(refused, tiny_path, tmp_path, name, content, words):
    directory = damaged(tmp_path / "collection", tiny_path, name, content)
    if name.endswith(".gz"):
        (directory / "corpus.jsonl").unlink()
    refused("eval", "bm25", "--collection", directory, names=words, untouched=[directory])


def test_a_collection_that_is_not_there_or_a_file(refused, tmp_path):
    refused("eval", "bm25", "--collection", tmp_path / "nowhere", names=tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("no collection")
    refused("mine", tmp_path / "notes.txt", tmp_path / "x.jsonl", names=tmp_path / "notes.txt")
    assert not (tmp_path / "x.jsonl").exists()


# -- recipes ----------------------------------------------------------------------------------------------

RECIPES = {
    "unknown key": ("student: {from", "student: {frmo: x, from", ":4", "`from`"),
    "unknown section": ("mining:", "minning:", ":13", "`mining`"),
    "wrong type": ("layers: 1}", "layers: one}", ":4", "student.layers"),
    "out of range": ("batch: 16", "batch: 0", ":15", "batch"),
    "tokens too few": ("query: 24", "query: 1", ":3", "tokens.query"),
    "seed too large": ("name: tiny", "name: tiny\nseed: 99999999999999999999999", ":2", "seed"),
    "not a number": ("lr: 1.0e-3, batch: 16", "lr: .nan, batch: 16", ":15", "finite"),
    "unknown teacher": ("{teacher: ce,", "{teacher: cf,", "'cf'", "rung 2"),
    "a teacher of the wrong kind": ("{teacher: ce, loss: candidates", "{teacher: ce, loss: in-batch", "rung 2", "'ce'"),
    "a window without ranks": ("last: 20", "first: 30, last: 20", "`last` (20)", "mining"),
    "refine with a dual encoder": ("refine: {", "refine: {teacher: de, ", "refine needs", "'de'"),
    "no YAML": ("teachers:", "teachers: [", ".yaml:", "YAML"),
    "a tab": ("  de: {", "\tde: {", ":6", "tab"),
    "a key twice": ("name: tiny", "name: tiny\nname: twice", ":2", "name"),
    "unknown measure": ("rerank: 10", "measure: foo@10, rerank: 10", "'foo@10'", "nDCG@10"),
    "a cutoff of none": ("rerank: 10", "measure: nDCG@0, rerank: 10", "'nDCG@0'", "cutoff"),
    "too many layers": ("layers: 1}", "layers: 9}", "9 layers", "has 3"),
    "layers that are not there": ("layers: 1}", "pick: [0, 7]}", "[0, 7]", "0 to 2"),
    "an unknown split": ("{path: COLLECTION}", "{path: COLLECTION, train: practice}", "'practice'", "dev, test, train"),
    "train and test the same": ("{path: COLLECTION}", "{path: COLLECTION, test: train}", "'train'", "test"),
    "a learning rate that diverges": ("lr: 1.0e-3, batch: 16", "lr: 1.0e+30, batch: 16", "diverged", "lr"),
}


@pytest.mark.parametrize("kind", RECIPES)
def test_bad_recipe(kind, refused, variant, tmp_path):
    old, new, *names = RECIPES[kind]
    earlier = tmp_path / "run" / "model" / "model.safetensors"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("of an earlier run")
    (tmp_path / "run" / "results.json").write_text("{}")
    (tmp_path / "run" / "stages").mkdir()
    refused("run", variant((old, new)), "--out", tmp_path / "run", names=names)


@pytest.mark.parametrize(
    "content, words", [(b"", "empty"), (b"\xff\xfe\x00", "UTF-8"), (b"- 1\n", ":1"), (None, "no recipe")]
)
def test_files_that_are_no_recipe(refused, tmp_path, content, words):
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_bytes(content)
    refused("plan", path, names=(path, words))
    refused("run", tmp_path, names=(tmp_path, "directory"))


def test_bad_changes_of_a_recipe(refused, tiny_recipe):
    for change, words in (
        ("student.layers", "KEY=VALUE"),
        ("student.leyers=2", "student.leyers"),
        ("ladder.9.lr=1", "1 to 2"),
    ):
        refused("plan", tiny_recipe, "--set", change, names=words)


# -- models -----------------------------------------------------------------------------------------------


def pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def classifies(folder):
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    config = BertConfig.from_pretrained(folder, num_labels=3)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    shutil.rmtree(folder)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


MODELS = {
    "weights missing": lambda folder: (folder / "model.safetensors").unlink(),
    "weights cut off": lambda folder: os.truncate(folder / "model.safetensors", 900),
    "weights that are something else": lambda folder: (folder / "model.safetensors").write_text("no weights"),
    "weights in a pickle": pickled,
    "no configuration": lambda folder: (folder / "config.json").unlink(),
    "broken configuration": lambda folder: (folder / "config.json").write_text('{"model_type": "be'),
    "unknown architecture": lambda folder: (folder / "config.json").write_text('{"model_type": "perceptron"}'),
    "broken modules": lambda folder: (folder / "modules.json").write_text("[{"),
    "an empty folder": lambda folder: [path.unlink() for path in folder.iterdir() if path.is_file()],
}


@pytest.fixture
def broken(tiny_model, tmp_path):
    def make(kind):
        folder = tmp_path / "broken"
        shutil.copytree(tiny_model, folder)
        kind(folder)
        return folder

    return make


@pytest.mark.parametrize("kind", MODELS)
def test_broken_model(kind, refused, broken, variant, tiny_path, tmp_path):
    folder = broken(MODELS[kind])
    refused("eval", folder, "--collection", tiny_path, names=folder, untouched=[folder])
    recipe = variant(("student: {from: MODEL", f"student: {{from: {folder}"))
    refused("plan", recipe, names=folder)
    recipe = variant(("de: {kind: dual-encoder, from: MODEL", f"de: {{kind: dual-encoder, from: {folder}"))
    refused("run", recipe, "--out", tmp_path / "run", names=folder)


def test_models_that_are_not_there(refused, tiny_path, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("eval", "./nowhere", "--collection", tiny_path, names="./nowhere")
    refused("eval", "nobody/nothing", "--collection", tiny_path, names="nobody/nothing")
    refused("init", tiny_path, tmp_path / "r.yaml", "--layers", "9", names="9 layers")
    assert not (tmp_path / "r.yaml").exists()


def test_encoders_and_classifiers_are_no_rerankers(refused, broken, tiny_model, tiny_path, tiny_run, tmp_path):
    pairs, target = tiny_run / "runs" / "bm25.trec", tmp_path / "scores.parquet"
    plain = tmp_path / "plain"  # as transformers saves it: nothing says that it embeds
    shutil.copytree(tiny_model, plain)
    for name in ("modules.json", "config_sentence_transformers.json"):
        (plain / name).unlink()
    refused("score", tiny_path, pairs, target, "--teacher", plain, names=(plain, "no cross-encoder"))
    folder = broken(classifies)
    refused("score", tiny_path, pairs, target, "--teacher", folder, names=(folder, "3 scores"))
    assert not target.exists()


# -- folders, disks, interrupted files --------------------------------------------------------------------


def test_a_file_in_the_place_of_the_runs_folder(refused, tiny_recipe, tmp_path):
    (tmp_path / "taken").write_text("mine")
    refused("run", tiny_recipe, "--out", tmp_path / "taken", names=tmp_path / "taken", untouched=[tmp_path])
    refused("run", tiny_recipe, "--out", tmp_path / "taken" / "run", names=tmp_path / "taken", untouched=[tmp_path])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(refused, tiny_recipe, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    refused("run", tiny_recipe, "--out", tmp_path / "locked" / "run", names=tmp_path / "locked")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder where nobody can write, root neither")
def test_a_folder_where_nobody_can_write(refused, tiny_recipe, tiny_path):
    refused("run", tiny_recipe, "--out", "/proc/self/run", names="/proc/self/run")
    refused("init", tiny_path, "/proc/self/recipe.yaml", names="/proc/self/recipe.yaml")
    refused("mine", tiny_path, "/proc/self/x.jsonl", names="/proc/self/x.jsonl")


def test_a_cache_that_cant_be_written(refused, tiny_recipe, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("mine")
    monkeypatch.setenv("STEPWELL_CACHE", str(tmp_path / "cache"))
    refused("plan", tiny_recipe, names=(tmp_path / "cache", "STEPWELL_CACHE"))


def test_a_run_over_other_queries_is_no_run_of_zeros(refused, tiny_run, tiny_path, tmp_path, capfd):
    bm25 = tiny_run / "runs" / "bm25.trec"
    refused("eval", bm25, "--collection", tiny_path, "--split", "train", names=(bm25, "none of the 28", "--split"))
    refused("mine", tiny_path, tmp_path / "x.jsonl", "--by", bm25, names=(bm25, "none of the 28"))
    lines = bm25.read_text().splitlines(keepends=True)
    first = lines[0].split()[0]
    (tmp_path / "part.trec").write_text("".join(line for line in lines if line.split()[0] != first))
    cli.app(["eval", str(tmp_path / "part.trec"), "--collection", str(tiny_path)], standalone_mode=False)
    assert "1 of the 6 queries are not in" in " ".join(capfd.readouterr().err.split())


@pytest.mark.parametrize(
    "change", ["student.layers=99", "student.pick=[7]", "student.pick=[0,0]", "teachers.ce.layers=99"]
)
def test_layers_that_a_model_has_not_are_told_before_anything_runs(refused, tiny_recipe, tmp_path, change):
    refused("run", tiny_recipe, "--out", tmp_path / "run", "--set", change, names=("layers", "3"))
    assert not list((tmp_path / "run" / "stages").iterdir())


def test_the_recipe_of_a_run_by_another_version(refused, tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    with (run / "recipe.yaml").open("a") as file:
        file.write("gone: 1\n")
    refused("eval", run, names=(run, "another version", "--split"))


def test_a_folder_in_which_another_run_is_at_work(refused, tiny_recipe, tmp_path):
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"):
        refused("run", tiny_recipe, "--out", tmp_path / "run", names=("another stepwell", tmp_path / "run"))
    assert not list((tmp_path / "run" / "stages").iterdir())


def test_a_folder_with_a_finished_run_by_another_name(refused, tiny_run, tiny_recipe, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    refused("run", tiny_recipe, "--out", run, "--set", "name=other", names=(run, "'tiny'", "'other'", "--out"))


@pytest.mark.parametrize("verb, extra", [("init", ()), ("mine", ()), ("score", ("--teacher", "x"))])
def test_files_that_are_there_are_never_overwritten(refused, tiny_path, tmp_path, verb, extra):
    target = tmp_path / "target"
    target.write_text("mine")
    pairs = ("pairs",) if verb == "score" else ()
    refused(verb, tiny_path, *pairs, target, *extra, names=target, untouched=[tmp_path])
    if verb == "mine":
        refused(verb, tiny_path, tmp_path / "free", "--pairs", target, names=target, untouched=[tmp_path])


def test_a_folder_that_is_not_there_is_told_before_anything_is_mined_or_scored(refused, tiny_path, tmp_path):
    gone = tmp_path / "gone" / "file"
    refused("mine", tiny_path, gone, names=(gone, "no folder"))
    refused("mine", tiny_path, tmp_path / "target", "--pairs", gone, names=(gone, "no folder"))
    refused("score", tiny_path, "pairs", gone, "--teacher", "x", names=(gone, "no folder"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("file", ["results.json", "vectors", "model", "stages"])
def test_interrupted_files_of_a_finished_run(refused, tiny_run, tmp_path, file):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    facts = json.loads((run / "results.json").read_text())
    vectors = run / facts["stages"][f"{facts['final']}.vectors"]
    path = {"results.json": run / file, "vectors": vectors / "passages.npy", "model": run / "model/model.safetensors"}
    if file == "stages":
        shutil.rmtree(run / "stages")
    else:
        os.truncate(path[file], path[file].stat().st_size // 2)
    refused("search", run, "river", names=run)


def test_an_unfinished_run_is_not_searched(refused, tmp_path):
    (tmp_path / "stages").mkdir()
    refused("search", tmp_path, "river", names=(tmp_path, "not finished"))


@pytest.mark.parametrize(
    "content", [b"\x00\xff\xfe" * 40, b"q Q0 p 1\n", b"query:16 Q0 nobody 1 1.0 x\n", b"query:16 Q0 nobody 1 high x\n"]
)
def test_bad_run_files(refused, tiny_path, tmp_path, content):
    path = tmp_path / "some.trec"
    path.write_bytes(content)
    words = ["nobody"] if b"1.0" in content else [f"{path}:1"]
    refused("eval", path, "--collection", tiny_path, "--split", "dev", names=words)
    refused("score", tiny_path, path, tmp_path / "x.parquet", "--teacher", "x")


# -- options ----------------------------------------------------------------------------------------------

OPTIONS = {
    "no verb of ours": (("runn",), "runn"),
    "an unknown option": (("run", "r.yaml", "--fast"), "--fast"),
    "an argument missing": (("run",), "recipe"),
    "init layers": (("init", "PATH", "NEW", "--layers", "two"), "--layers"),
    "check twice": (("check", "PATH", "PATH"), "PATH"),
    "eval split": (("eval", "bm25", "--collection", "PATH", "--split", "exam"), "'exam'"),
    "eval without a collection": (("eval", "bm25"), "--collection"),
    "compare one": (("compare", "bm25", "--collection", "PATH"), "two systems"),
    "compare twice": (("compare", "bm25", "bm25", "--collection", "PATH"), "named twice"),
    "search k": (("search", "RUN", "river", "-k", "0"), "-k"),
    "search mode": (("search", "RUN", "river", "--mode", "magic"), "magic"),
    "search for nothing": (("search", "RUN", " "), "empty"),
    "mine k": (("mine", "PATH", "NEW", "-k", "1"), "-k"),
    "mine sampling": (("mine", "PATH", "NEW", "--sampling", "luck"), "hardest"),
    "mine denoise": (("mine", "PATH", "NEW", "--denoise", "1"), "--teacher"),
    "mine teacher": (("mine", "PATH", "NEW", "--teacher", "nowhere"), "nowhere"),
    "mine window": (("mine", "PATH", "NEW", "--first", "9", "--last", "3"), "`last` (3)"),
    "mine pairs": (("mine", "PATH", "NEW", "--pairs", "NEW"), "--pairs"),
    "mine split": (("mine", "PATH", "NEW", "--split", "exam"), "'exam'"),
    "score without a teacher": (("score", "PATH", "pairs", "NEW"), "--teacher"),
    "score without pairs": (("score", "PATH", "NEW", "NEW2", "--teacher", "x"), "new"),
    "score tokens": (("score", "PATH", "pairs", "NEW", "--teacher", "x", "--tokens", "1"), "--tokens"),
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_wrong_options(kind, refused, tiny_path, tiny_run, tmp_path):
    arguments, names = OPTIONS[kind]
    words = {"PATH": tiny_path, "RUN": tiny_run, "NEW": tmp_path / "new", "NEW2": tmp_path / "new2"}
    given = [words.get(argument, argument) for argument in arguments]
    refused(*given, names=words.get(names, names) if kind != "check twice" else (), untouched=[tmp_path])


# -- as a user runs it ------------------------------------------------------------------------------------


def test_a_mistake_in_a_process_of_its_own(tmp_path):
    command = [sys.executable, "-m", "stepwell", "-q", "run", str(tmp_path / "nowhere.yaml")]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    one_paragraph(done.stderr, tmp_path / "nowhere.yaml")


@pytest.fixture
def full(monkeypatch):
    """Return a function after which a file can be opened and not be written, as on a full disk: the system's refusal.

    It names no file, and comes when the content is written, or at the latest when the file is closed.
    """
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    monkeypatch.setattr("stepwell.files.remove", lambda path: None)  # else a draft of before would be taken away

    def make(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to("/dev/full")
        return path

    return make


ADVICE = ("the disk is full at", "make room and run the same command again")


def test_no_room_for_the_first_file_of_a_run(refused, full, tiny_recipe, tmp_path):
    full(tmp_path / "run" / "draft-recipe.yaml")
    refused("run", tiny_recipe, "--out", tmp_path / "run", names=(*ADVICE, tmp_path / "run" / "recipe.yaml"))


def test_no_room_for_what_a_stage_makes(refused, full, tiny_recipe, tmp_path):
    out, ctx = tmp_path / "run", prepare(load_recipe(tiny_recipe))
    bm25 = stages_of(ctx)[0]
    place = Workspace(out, shared_facts(ctx)).place(bm25)
    full(place.with_name(f"{place.name}.partial") / "train.parquet")
    refused("run", tiny_recipe, "--out", out, names=(*ADVICE, f"{place}.partial"))
    assert not place.exists() and not (out / "results.json").exists()


def test_no_room_for_negatives(refused, full, tiny_path, tmp_path):
    full(tmp_path / "draft-negatives.jsonl")
    refused("mine", tiny_path, tmp_path / "negatives.jsonl", names=(*ADVICE, tmp_path / "negatives.jsonl"))
    assert not (tmp_path / "negatives.jsonl").exists()


@pytest.mark.parametrize("kilobytes", [30, 200])
def test_a_disk_that_is_full(tiny_recipe, tmp_path, kilobytes):
    """At the first model, and at the first checkpoint (three times a model's size)."""
    out, cache = tmp_path / "run", tmp_path / "cache"
    settings = {"STEPWELL_CACHE": str(cache), "STEPWELL_CHECKPOINT_SECONDS": "0"}
    done = Program(stepwell, "-q", "run", tiny_recipe, "--out", out, limit=kilobytes * 1024, **settings).wait()
    assert done.returncode == 2 and done.stdout == ""
    one_paragraph(done.stderr, (out, "partial/model" if kilobytes == 30 else "checkpoint"))
    assert not (out / "results.json").exists() and not (out / "model").exists()
