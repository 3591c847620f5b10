"""Trackers are given losses, dev figures and decisions, and change nothing of a run."""

import hashlib
from pathlib import Path
from typing import ClassVar

import accelerate.tracking
import pytest

from common import Killed
from conftest import TINY_RECIPE, write_recipe
from stepwell import api, errors
from stepwell.files import read_json
from stepwell.ladder import tracking

pytestmark = pytest.mark.usefixtures("without_report")

SHORT = ("proof: quick", "proof: none\ntrack: [wandb]")


class Tracker:
    """Stands for wandb: what it is given lies in ``points`` of the class, as on its server."""

    points: ClassVar[list[tuple[int, dict[str, float]]]]
    begun: ClassVar[list[dict[str, object]]]
    settings: ClassVar[list[dict[str, object]]]
    finished = 0
    tracker = None

    def __init__(self, project, **how):
        self.how = {"project": project, **how}

    def start(self):
        self.begun.append(self.how)

    def store_init_configuration(self, values):
        self.settings.append(values)

    def log(self, values, step):
        assert all(type(value) is float for value in values.values())
        self.points.append((step, values))

    def finish(self):
        type(self).finished += 1


def taken_for_wandb(monkeypatch):
    """Return a tracker's class of its own, which is taken for wandb."""

    class Own(Tracker):
        points: ClassVar = []
        begun: ClassVar = []
        settings: ClassVar = []

    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "wandb", Own)
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["wandb"])
    return Own


@pytest.fixture
def tracker(monkeypatch):
    """Return a tracker's class of the test's own."""
    return taken_for_wandb(monkeypatch)


@pytest.fixture(scope="module")
def calm(tmp_path_factory, tiny_path, tiny_model):
    """Return the folder of a run that nothing disturbs, and what its tracker was given; not to be changed."""
    place = tmp_path_factory.mktemp("calm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPWELL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.setattr(api, "_report_at_the_end", lambda folder: None)
        own = taken_for_wandb(patch)
        api.run(write_recipe(place / "variant.yaml", tiny_path, tiny_model, TINY_RECIPE.replace(*SHORT)), place / "run")
    return place / "run", own


def content(folder):
    """Return the stages and the weights of a run."""
    stages = {path.name for path in folder.glob("stages/*")}
    return stages, {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.glob("stages/*/model/*.safetensors")
    }


def series(points, name):
    return [(step, values[name]) for step, values in points if name in values]


def test_a_run_gives_losses_dev_figures_and_decisions_and_is_the_same_as_without(tiny_run, calm):
    folder, tracker = calm
    stages, weights = content(folder)
    all_stages, all_weights = content(tiny_run)
    table = {name for name in stages if name.startswith("table-")}  # proof: none has fewer rows
    assert stages - table <= all_stages and weights.items() <= all_weights.items()
    assert tracker.begun[0]["name"] == "tiny" and tracker.finished == 1
    assert tracker.settings[0]["student.layers"] == 1 and tracker.settings[0]["ladder.1.loss"] == "candidates"
    steps = [step for step, _ in tracker.points]
    assert steps == sorted(steps)  # what a server wants
    names = {name for _, values in tracker.points for name in values}
    assert {"rung-1/loss", "teacher.ce/loss", "teacher.ce/imitation/loss", "promote-1/promoted"} <= names
    log = read_json(next(folder.glob("stages/distil-*/training.json")))
    losses = [[value for _, value in series(tracker.points, f"{rung}/loss")] for rung in ("rung-1", "rung-2", "rung-3")]
    assert log["losses"] in losses  # each step is a point, of so few
    dev = series(tracker.points, "dev/nDCG_at_10")
    assert len(dev) == 4 and [step for step, _ in dev] == sorted({step for step, _ in dev})  # start, 2 rungs, refine
    assert series(tracker.points, "promote-1/promoted") == [(dev[1][0], 1.0)]
    assert "teacher.de/dev/nDCG_at_10" in names and "headroom-1/headroom" in names


def test_a_run_that_is_killed_in_a_training_goes_on_in_the_same_place(variant, tmp_path, tracker, calm, monkeypatch):
    recipe, (_, undisturbed) = variant(SHORT), calm
    monkeypatch.setenv("STEPWELL_CHECKPOINT_SECONDS", "0")
    log, kills = Tracker.log, iter((3, 15, 4))
    left = next(kills)

    def killed(self, values, step):
        nonlocal left
        if left == 0:
            left = next(kills, 10**9)
            raise Killed
        left -= 1
        log(self, values, step)

    monkeypatch.setattr(tracker, "log", killed)
    for _ in range(3):
        with pytest.raises(Killed):
            api.run(recipe, tmp_path / "run")
    api.run(recipe, tmp_path / "run")
    assert tracker.points == undisturbed.points
    assert len({begun["id"] for begun in tracker.begun}) == 1 and tracker.begun[0]["id"] != undisturbed.begun[0]["id"]
    assert all(begun["resume"] == "allow" for begun in tracker.begun)
    assert len(tracker.settings) == 1
    api.run(recipe, tmp_path / "run")  # all is done, and given
    assert tracker.points == undisturbed.points


def test_a_tracker_that_fails_costs_a_warning_and_gets_later_what_it_missed(
    variant, tmp_path, tracker, calm, monkeypatch, capsys
):
    recipe, log = variant(SHORT), Tracker.log

    def fails(self, values, step):
        if step > 5:
            raise ConnectionError("no route\nto the server")
        log(self, values, step)

    monkeypatch.setattr(tracker, "log", fails)
    api.run(recipe, tmp_path / "run")
    said = capsys.readouterr().err
    assert said.count("the tracker wandb failed") == 1 and "no route to the server" in " ".join(said.split())
    assert (tmp_path / "run" / "results.json").is_file() and tracker.points[-1][0] <= 5
    monkeypatch.setattr(tracker, "start", lambda self: 1 / 0)  # begun before: no reason to stop a run of days
    api.run(recipe, tmp_path / "run")
    assert "can't go on" in capsys.readouterr().err
    monkeypatch.setattr(tracker, "start", Tracker.start)
    monkeypatch.setattr(tracker, "log", log)
    api.run(recipe, tmp_path / "run")
    assert tracker.points == calm[1].points
    assert "warning" not in capsys.readouterr().err


def test_a_tracker_that_can_not_begin_is_refused_before_anything_is_done(variant, tmp_path, tracker, monkeypatch):
    def start(self):
        raise RuntimeError("no API key configured")

    monkeypatch.setattr(tracker, "start", start)
    with pytest.raises(errors.StepwellError, match=r"track: wandb can't begin .*no API key"):
        api.run(variant(SHORT), tmp_path / "run")
    assert not list((tmp_path / "run" / "stages").iterdir())


@pytest.mark.parametrize("verb", [api.plan, api.run])
def test_a_package_that_is_missing_is_refused_early(verb, variant, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["tensorboard"])
    recipe = variant(("proof: quick", "proof: none\ntrack: [tensorboard, mlflow]"))
    with pytest.raises(errors.MissingPackage, match=r"pip install 'stepwell\[mlflow\]'"):
        verb(recipe, tmp_path / "run")
    assert not list((tmp_path / "run").glob("stages/*"))


def test_a_long_training_gives_means_of_its_steps(tmp_path, tracker):
    from stepwell.distil.training import TrainingLog

    class Told:
        track, name = ["wandb"], "long"

        def model_dump(self, **_):
            return {}

    log = TrainingLog(1200, [float(step) for step in range(1200)], {"kl": [2.0] * 1200})
    with tracking.Tracking.of(Told(), tmp_path) as followed:
        follow = followed.training("rung-1", Path("stages/distil-abc.partial"))
        follow(log, 1202)
        assert len(tracker.points) == 400 and tracker.points[0] == (3, {"rung-1/loss": 1.0, "rung-1/kl": 2.0})
        log.add(9.0, {"kl": 2.0}, tracking_work())
        log.add(11.0, {"kl": 2.0}, tracking_work())
        follow(log, 1202)
    assert tracker.points[400:] == [(1202, {"rung-1/loss": 10.0, "rung-1/kl": 2.0})]


def tracking_work():
    from stepwell.models.engines.forward import Work

    return Work()


def test_tensorboard_reads_what_was_given(variant, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    api.run(variant(("proof: quick", "proof: none\ntrack: [tensorboard]")), tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tracking" / "tensorboard")).Reload()
    assert {"rung-2/loss", "dev/nDCG_at_10", "promote-2/p"} <= set(events.Tags()["scalars"])
    assert len(events.Scalars("dev/nDCG_at_10")) == 4
