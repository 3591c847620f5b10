"""Starting and ending a server: tokens, addresses, signals, a kill."""

import contextlib
import json
import re
import sys
import time
import urllib.request

import pytest
from typer.testing import CliRunner

from processes import Program, stepwell
from stepwell import api
from stepwell.cli import app
from stepwell.errors import StepwellError
from stepwell.indexes.settings import IndexSettings
from stepwell.server.limits import is_loopback
from stepwell.server.server import listen, read_token, serve
from stepwell.server.systems import open_systems
from stepwell.systems.searcher import Searcher


def test_other_machines_need_a_token(tiny_run, monkeypatch):
    monkeypatch.delenv("STEPWELL_TOKEN", raising=False)
    outcome = CliRunner().invoke(app, ["serve", str(tiny_run), "--host", "0.0.0.0"])
    assert isinstance(outcome.exception, StepwellError)
    assert "without a token anyone there reads the whole collection" in str(outcome.exception)
    assert "STEPWELL_TOKEN" in str(outcome.exception)


@pytest.mark.parametrize(
    "host, alone",
    [("localhost", True), ("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("[::1]", True)]
    + [("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("localhost.example.org", False), ("", False)],
)
def test_loopback_is_told_from_the_rest(host, alone):
    assert is_loopback(host) is alone


def test_a_token_comes_from_a_file_or_a_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("MINE", " from-the-environment \n")
    assert read_token("MINE") == "from-the-environment"
    assert read_token("NOBODYS") is None
    (tmp_path / "token").write_text("from-a-file-that-is-read\n")
    assert read_token("MINE", tmp_path / "token") == "from-a-file-that-is-read"


@pytest.mark.parametrize("token", ["", "short", "with blanks in the middle", "not-ascii-\N{SNOWMAN}-at-all"])
def test_a_poor_token_is_refused(token, monkeypatch, tmp_path):
    monkeypatch.setenv("MINE", token)
    with pytest.raises(StepwellError, match="variable MINE is no good"):
        read_token("MINE")
    with pytest.raises(StepwellError, match="can't read the token"):
        read_token("MINE", tmp_path / "missing")


def test_an_address_that_is_taken_is_said(tiny_run):
    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(StepwellError, match=r"can't listen on 127\.0\.0\.1.*--port"):
            serve(tiny_run, port=taken.getsockname()[1])


def test_missing_packages_are_named(tiny_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(StepwellError, match=r"pip install 'stepwell\[serve\]'"):
        serve(tiny_run)


def start(run):
    """Start ``stepwell serve`` and return the process and its address, once it says it."""
    process = Program(stepwell, "serve", run, "--port", "0")
    while process.poll() is None:
        if found := re.search(r"http://127\.0\.0\.1:\d+", process.said()[1]):
            return process, found[0]
        time.sleep(0.02)
    raise AssertionError(f"the server ended at once: {process.said()[1]}")


def ask(address, query, system="student"):
    body = json.dumps({"query": query, "k": 3, "system": system}).encode()
    request = urllib.request.Request(f"{address}/search", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["answers"]


@pytest.mark.slow
def test_killed_and_started_again_it_gives_the_same_and_a_signal_ends_it_well(tiny_run, systems):
    process, address = start(tiny_run)
    before = ask(address, "the old river")
    process.kill()
    process, address = start(tiny_run)
    assert ask(address, "the old river") == before
    done = process.terminate()
    assert done.returncode == 0 and "every request that had come in was answered" in done.stderr


@pytest.mark.slow
def test_an_index_is_served_by_itself(tiny_model, tiny_path, tmp_path):
    made, moved = tmp_path / "made", tmp_path / "elsewhere"
    api.index(tiny_model, made, IndexSettings(precision="binary"), str(tiny_path))
    made.rename(moved)
    process, address = start(moved)
    try:
        with urllib.request.urlopen(f"{address}/systems", timeout=30) as answer:
            offer = json.load(answer)
        assert [system["name"] for system in offer["systems"]] == ["student", "bm25", "fused"]
        assert offer["passages"] == 60 and offer["examples"] == []  # an index has no queries
        for mode in ("student", "bm25", "fused"):
            (found,) = ask(address, "the old river", mode)
            with contextlib.closing(Searcher.open(moved, mode)) as searcher:
                hits = searcher.search("the old river", 3)
            assert [(hit.rank, hit.passage_id, hit.title) for hit in hits] == [
                (passage["rank"], passage["id"], passage["title"]) for passage in found["passages"]
            ]
            assert [passage["score"] for passage in found["passages"]] == pytest.approx([h.score for h in hits])
    finally:
        done = process.terminate()
    assert done.returncode == 0


def test_an_index_has_its_own_collection(tiny_model, tiny_path, tmp_path):
    api.index(tiny_model, tmp_path / "index", collection=str(tiny_path))
    with pytest.raises(StepwellError, match="has its model and its passages"):
        open_systems(tmp_path / "index", str(tiny_path))
