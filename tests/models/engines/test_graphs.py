"""Graphs are exported once for each model, made again when damaged, and do not fill the disk."""

from __future__ import annotations

import importlib.util
import os
import sys

import pytest

from stepwell.models.engines import graphs
from stepwell.models.engines.graphs import Source, from_cache


@pytest.fixture(autouse=True)
def _engine(monkeypatch, tmp_path):
    monkeypatch.setenv("STEPWELL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(graphs, "PACKAGES", {"engine": ("numpy",)})


@pytest.fixture
def made():
    return []


@pytest.fixture
def load(made):
    """Return a function that loads the graph of a name, and notes what had to be exported."""

    def export(path):
        made.append(path)
        path.write_text("graph", encoding="utf-8")

    def read(path):
        if path.read_text(encoding="utf-8") != "graph":
            raise RuntimeError("not a graph")
        return path

    return lambda name: from_cache(Source(None, None, [], name), "engine", "fp32", "graph.xml", export, read)


def test_a_graph_is_exported_once(load, made):
    assert load("one") == load("one") != load("two")
    assert len(made) == 2


@pytest.mark.parametrize("damage", [lambda path: path.write_text("gra"), lambda path: path.unlink()])
def test_a_damaged_graph_is_made_again(load, made, damage):
    damage(load("one"))
    assert load("one").read_text(encoding="utf-8") == "graph"
    assert len(made) == 2


def test_an_export_that_fails_leaves_nothing_behind(tmp_path):
    def export(path):
        path.write_text("half", encoding="utf-8")
        raise RuntimeError("operator not supported")

    with pytest.raises(RuntimeError, match="not supported"):
        from_cache(Source(None, None, [], "one"), "engine", "fp32", "graph.xml", export, lambda path: path)
    assert [path.name for path in (tmp_path / "cache" / "graphs").iterdir() if path.is_dir()] == []


def test_another_version_of_the_engine_has_its_own_graph(load, made, monkeypatch):
    load("one")
    monkeypatch.setattr(graphs.importlib.metadata, "version", lambda package: "9.9")
    load("one")
    assert len(made) == 2


def test_the_graphs_used_longest_ago_go_first(load, made, monkeypatch):
    monkeypatch.setattr(graphs, "GRAPHS_KEPT", 2)
    for age, name in ((50, "a"), (90, "b")):
        folder = load(name).parent
        os.utime(folder, (folder.stat().st_atime, folder.stat().st_mtime - age))
    load("c")
    assert [load(name).exists() for name in "ac"] == [True, True]
    assert len(made) == 3
    load("b")
    assert len(made) == 4


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
def test_openvino_is_imported_without_what_reports_its_use():
    assert graphs.openvino().__name__ == "openvino"
    assert sys.modules["openvino_telemetry"] is None


def test_a_package_of_another_name_has_a_version_too(monkeypatch):
    def version(name):
        if name == "onnxruntime":
            raise graphs.importlib.metadata.PackageNotFoundError(name)
        return "1.27.0"

    monkeypatch.setattr(graphs.importlib.metadata, "version", version)
    known = {"onnxruntime": ["onnxruntime-gpu", "onnxruntime-gpu"]}
    monkeypatch.setattr(graphs.importlib.metadata, "packages_distributions", lambda: known)
    assert graphs.version_of("onnxruntime") == "onnxruntime-gpu-1.27.0"
    known.clear()
    assert graphs.version_of("onnxruntime") == "unknown"
