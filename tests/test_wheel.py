"""The wheel holds all that it takes: unpacked outside the tree, without it, it answers and climbs a ladder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return a folder with what the wheel holds, and nothing of the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("stepwell-*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "site")
    return folder / "site"


def run(installed, folder, *arguments):
    """Run the command line of the wheel in a folder; return what it printed on standard output."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(installed):
    tree = {path.relative_to(ROOT / "src") for path in (ROOT / "src" / "stepwell").rglob("*") if path.is_file()}
    tree = {path for path in tree if "__pycache__" not in path.parts}
    assert {path.relative_to(installed) for path in (installed / "stepwell").rglob("*") if path.is_file()} == tree
    assert {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")} == {"stepwell"}


@pytest.mark.slow
def test_the_wheel_alone_answers_and_climbs_a_ladder(installed, tmp_path, tiny_recipe):
    where = run(installed, tmp_path, "-c", "import stepwell; print(stepwell.__file__)")
    assert Path(where.strip()).is_relative_to(installed)
    assert "--plan" in run(installed, tmp_path, "-m", "stepwell", "demo", "--help")
    run(installed, tmp_path, "-m", "stepwell", "-q", "run", str(tiny_recipe), "--set", "proof=none", "--out", "run")
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file() and (tmp_path / "run" / "report.html").is_file()
