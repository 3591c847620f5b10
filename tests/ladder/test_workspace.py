"""Stages and their folders: what is done once stays done, what is damaged or changed is done again."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from stepwell.errors import StepwellError
from stepwell.files import read_json
from stepwell.ladder.stage import Settings, Stage
from stepwell.ladder.workspace import Workspace, damage
from stepwell.models.engines import machine as engine
from stepwell.recipe import Rung

SHARED = {"collection": "c0ffee", "seed": 13}


class Recorder:
    """Builds stages that note when they run and write what their inputs hold."""

    def __init__(self):
        self.ran = []

    def stage(self, name, *inputs, settings=None, decision=None, **more):
        def run(job):
            self.ran.append(name)
            parts = [(folder / "out.txt").read_text() for folder in job.inputs.values()]
            (job.folder / "out.txt").write_text("+".join([name, *parts]))
            if decision is not None:
                (job.folder / "decision.json").write_text(json.dumps(decision))

        return Stage(name, more.pop("kind", name), name, settings or {}, {role: role for role in inputs}, run, **more)


@pytest.fixture
def recorder():
    return Recorder()


def do(folder, stages, shared=SHARED):
    with Workspace(folder, shared) as workspace:
        for stage in stages:
            if workspace.wanted(stage):
                workspace.do(stage, None)
    return workspace


def chain(recorder, middle=None):
    return [
        recorder.stage("first"),
        recorder.stage("middle", "first", settings=middle or {"lr": 1}),
        recorder.stage("last", "middle"),
        recorder.stage("aside", "first"),
    ]


def test_what_is_finished_is_not_done_again(recorder, tmp_path):
    do(tmp_path, chain(recorder))
    workspace = do(tmp_path, chain(recorder))
    assert recorder.ran == ["first", "middle", "last", "aside"]
    assert (workspace.folders["last"] / "out.txt").read_text() == "last+middle+first"


def test_a_changed_setting_redoes_that_stage_and_what_follows_and_nothing_else(recorder, tmp_path):
    before = do(tmp_path, chain(recorder))
    recorder.ran.clear()
    after = do(tmp_path, chain(recorder, {"lr": 2}))
    assert recorder.ran == ["middle", "last"]
    assert {name for name in before.keys if before.keys[name] == after.keys[name]} == {"first", "aside"}


def test_behind_a_stage_that_counts_by_content_nothing_is_done_again_for_the_same_content(recorder, tmp_path):
    def stages(middle, by_content):
        first = recorder.stage("first")
        same = replace(recorder.stage("middle", "first", settings={"lr": middle}), by_content=by_content)
        return [first, same, recorder.stage("last", "middle")]

    for by_content, again in ((True, ["middle"]), (False, ["middle", "last"])):
        do(tmp_path / str(by_content), stages(1, by_content))
        recorder.ran.clear()
        do(tmp_path / str(by_content), stages(2, by_content))
        assert recorder.ran == again


def test_going_back_to_old_settings_finds_the_old_work(recorder, tmp_path):
    do(tmp_path, chain(recorder))
    do(tmp_path, chain(recorder, {"lr": 2}))
    recorder.ran.clear()
    do(tmp_path, chain(recorder))
    assert recorder.ran == []


def test_another_collection_redoes_everything(recorder, tmp_path):
    do(tmp_path, chain(recorder))
    recorder.ran.clear()
    do(tmp_path, chain(recorder), {**SHARED, "collection": "decaf"})
    assert len(recorder.ran) == 4


def test_another_seed_redoes_what_reads_it_and_what_follows(recorder, tmp_path):
    first, middle, *others = chain(recorder)
    stages = [first, replace(middle, reads=("seed",)), *others]
    do(tmp_path, stages)
    recorder.ran.clear()
    do(tmp_path, stages, {**SHARED, "seed": 14})
    assert recorder.ran == ["middle", "last"]


def test_a_key_depends_on_content_and_not_on_names_or_the_order_of_settings(recorder, tmp_path):
    one = recorder.stage("one", kind="same", settings={"a": 1, "b": 2})
    two = recorder.stage("two", kind="same", settings={"b": 2, "a": 1})
    other = recorder.stage("other", kind="other", settings={"a": 1, "b": 2})
    workspace = do(tmp_path, [one, two, other])
    assert recorder.ran == ["one", "other"]
    assert workspace.folders["one"] == workspace.folders["two"]


def test_a_named_stage_depends_on_which_stages_its_inputs_are(recorder, tmp_path):
    stages = [recorder.stage("one", kind="same"), recorder.stage("two", kind="same")]
    stages += [recorder.stage("decide", "one", named=True), recorder.stage("again", "two", kind="decide", named=True)]
    do(tmp_path, stages)
    assert recorder.ran == ["one", "decide", "again"]


DAMAGES = {
    "changed": lambda folder: (folder / "out.txt").write_text("lies"),
    "cut off": lambda folder: (folder / "out.txt").write_text("mid"),
    "missing": lambda folder: (folder / "out.txt").unlink(),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "half a manifest": lambda folder: (folder / "manifest.json").write_text('{"files": {"out'),
    "a manifest of something else": lambda folder: (folder / "manifest.json").write_text("[]"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_damage_is_found_said_put_aside_and_redone(recorder, tmp_path, capsys, what):
    workspace = do(tmp_path, chain(recorder))
    place = workspace.folders["middle"]
    DAMAGES[what](place)
    recorder.ran.clear()
    do(tmp_path, chain(recorder))
    assert recorder.ran == ["middle"]  # the others' inputs have the keys that they had
    assert (place / "out.txt").read_text() == "middle+first" and damage(place) is None
    said = " ".join(capsys.readouterr().err.split())
    aside = [path for path in place.parent.iterdir() if path.name.startswith(f"{place.name}.damaged-")]
    assert len(aside) == 1 and "middle:" in said and "again" in said and aside[0].name in said


def test_a_stage_that_fails_leaves_its_half_and_goes_on_from_it(recorder, tmp_path):
    tries = []

    def run(job):
        tries.append((job.folder / "half.txt").is_file())
        (job.folder / "half.txt").write_text("half")
        if len(tries) == 1:
            raise RuntimeError("killed")

    stage = replace(recorder.stage("stage"), run=run)
    with pytest.raises(RuntimeError):
        do(tmp_path, [stage])
    assert [path.name.endswith(".partial") for path in (tmp_path / "stages").glob("*-*")] == [True]
    do(tmp_path, [stage])
    assert tries == [False, True]
    assert not list((tmp_path / "stages").glob("*.partial"))


def test_checkpoints_are_not_part_of_what_is_kept(recorder, tmp_path):
    def run(job):
        for name in ("checkpoint.safetensors", "draft-checkpoint.safetensors", "model.txt"):
            (job.folder / name).write_text("x")

    workspace = do(tmp_path, [replace(recorder.stage("stage"), run=run)])
    manifest = read_json(workspace.folders["stage"] / "manifest.json")
    assert list(manifest["files"]) == ["model.txt"]
    assert {path.name for path in workspace.folders["stage"].iterdir()} == {"model.txt", "manifest.json"}


def test_the_manifest_traces_a_stage(recorder, tmp_path):
    workspace = do(tmp_path, chain(recorder))
    manifest = read_json(workspace.folders["middle"] / "manifest.json")
    assert manifest["settings"] == {"lr": 1} and manifest["shared"] == {"collection": "c0ffee"}
    assert manifest["inputs"] == {"first": workspace.keys["first"]}
    assert manifest["key"] == workspace.keys["middle"] and "torch" in manifest["versions"]
    assert manifest["machine"] == {
        "processor": engine.processor(torch.device("cpu")),
        "precision": "fp32",  # as all tests
        "threads": "1",
        "processes": "1",
    }


@pytest.mark.parametrize("go, ran", [(True, ["gate", "gated", "after"]), (False, ["gate", "after"])])
def test_a_conditional_stage_waits_for_its_decision_and_optional_inputs_may_be_missing(recorder, tmp_path, go, ran):
    gate = recorder.stage("gate", decision={"go": go})
    gated = recorder.stage("gated", "gate", only_if=("gate",))
    after = recorder.stage("after", "gate", optional={"gated": "gated"})
    workspace = do(tmp_path, [gate, gated, after])
    assert recorder.ran == ran
    assert (workspace.folders["after"] / "out.txt").read_text() == ("after+gate+gated+gate" if go else "after+gate")


def test_a_stage_behind_a_gate_that_was_never_reached_is_left_out(recorder, tmp_path):
    do(tmp_path, [recorder.stage("gated", only_if=("gate",))])
    assert recorder.ran == []


def test_a_stage_can_read_nothing_but_its_settings(tmp_path):
    def run(job):
        job.settings["lr"]

    with Workspace(tmp_path, SHARED) as workspace, pytest.raises(KeyError, match=r"greedy reads 'lr'.*not in its key"):
        workspace.do(Stage("greedy", "greedy", "greedy", {"batch": 8}, {}, run), None)


@pytest.mark.parametrize(
    ("reads", "greed", "named"),
    [
        (("train",), lambda around: around.seed, "seed"),
        (("seed", "train_rows"), lambda around: around.splits.train, "train"),
        (("train",), lambda around: around.splits.notes, "notes"),
        (("train",), lambda around: around.query_rows, "query_rows"),
    ],
)
def test_a_stage_can_read_nothing_of_seed_and_splits_but_what_it_says(tmp_path, reads, greed, named):
    facts = {**SHARED, "train": "abc", "train_rows": "def"}
    around = SimpleNamespace(seed=13, query_rows=[0], splits=SimpleNamespace(train=[0], train_rows=[0], notes=[]))
    read = []

    def run(job):
        read.extend(reads)
        assert all(getattr(job.surroundings if name == "seed" else job.surroundings.splits, name) for name in reads)
        greed(job.surroundings)

    refused = pytest.raises(KeyError, match=rf"greedy reads '{named}'.*not in its key")
    with Workspace(tmp_path, facts) as workspace, refused:
        workspace.do(Stage("greedy", "greedy", "greedy", {}, {}, run, reads=reads), around)
    assert read


def test_a_section_that_a_stage_reads_has_what_is_in_its_settings_and_no_defaults():
    rung = Settings("rung-1", {"teacher": "ce", "loss": "candidates", "tau": 2.0, "other": 1}).read(Rung, steps=7)
    assert (rung.teacher, rung.tau, rung.steps) == ("ce", 2.0, 7)
    for name in ("alpha", "force", "negatives"):
        with pytest.raises(AttributeError):
            getattr(rung, name)
    assert rung.model_copy(update={"epochs": 2.0}).epochs == 2.0


@pytest.mark.parametrize("layout", [None, 3])
def test_an_earlier_versions_run_is_refused_and_left_as_it_is(recorder, tmp_path, layout):
    for place in do(tmp_path, chain(recorder)).folders.values():
        manifest = read_json(place / "manifest.json")
        del manifest["layout"]  # as versions before 0.1.0 left it
        manifest |= {} if layout is None else {"layout": layout}
        (place / "manifest.json").write_text(json.dumps(manifest))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(StepwellError, match=r"another version .*can be used as before.*--out"):
        do(tmp_path, chain(recorder))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_student_names_follow_the_promotions(recorder, tmp_path):
    workspace = Workspace(tmp_path, SHARED)
    assert workspace.resolve("student@0.dev") == "start.dev"
    assert workspace.resolve("student@2.vectors") == "rung-2.vectors"  # before the decision
    assert workspace.resolve("teacher.de.dev") == "teacher.de.dev"
    kept = {"go": False, "student": "rung-1", "measure": "nDCG@10", "before": 0.5}
    workspace = do(tmp_path, [recorder.stage("promote-2", kind="promote", decision=kept)])
    assert workspace.resolve("student@2") == "rung-1"
    assert workspace.resolve("student@2.vectors") == "rung-1.vectors"
    assert workspace.resolve("student@3") == "rung-3"


def test_a_stage_is_told_which_stage_is_behind_an_input(recorder, tmp_path):
    seen = {}

    def run(job):
        seen.update(job.names)
        (job.folder / "out.txt").write_text("")

    kept = {"go": False, "student": "start", "measure": "nDCG@10", "before": 0.5}
    stages = [recorder.stage("start"), recorder.stage("promote-1", kind="promote", decision=kept)]
    do(tmp_path, [*stages, replace(recorder.stage("test", "student@1"), run=run)])
    assert seen == {"student@1": "start"}


def test_two_runs_in_one_folder_are_refused_and_the_lock_ends_with_the_first(tmp_path):
    refused = pytest.raises(StepwellError, match=r"another stepwell .*--out")
    with Workspace(tmp_path, SHARED), refused, Workspace(tmp_path, SHARED):
        pass
    with Workspace(tmp_path, SHARED):
        pass


@pytest.mark.parametrize("name", ["recipe.yaml", "model", "variants"])
def test_a_folder_with_files_of_the_users_own_is_refused(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(StepwellError, match=rf"{tmp_path} holds {name} .*--out"), Workspace(tmp_path, SHARED):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_folder_with_other_files_and_a_run_s_own_folder_are_taken(tmp_path):
    (tmp_path / "run.log").write_text("")
    for _ in range(2):
        with Workspace(tmp_path, SHARED):
            (tmp_path / "recipe.yaml").write_text("")
    assert {path.name for path in tmp_path.iterdir()} >= {"run.log", "recipe.yaml", "stages"}


def test_a_folder_that_cant_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StepwellError, match=f"{tmp_path / 'file'}.*--out"), Workspace(tmp_path / "file", SHARED):
        pass
    assert (tmp_path / "file").read_text() == "in the way"


def test_json_of_a_stage_can_be_read_back(tmp_path, recorder):
    content = {"go": True, "ids": [1, 2], "p": 0.5}
    workspace = do(tmp_path, [recorder.stage("gate", decision=content)])
    assert read_json(workspace.folders["gate"] / "decision.json") == json.loads(json.dumps(content))
