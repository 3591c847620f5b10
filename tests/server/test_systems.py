"""Which systems a run offers, and what each of them is."""

import json
import shutil

import pytest
import torch

from stepwell.errors import StepwellError
from stepwell.models.engines import machine as engine, race
from stepwell.retrieval.run import Run
from stepwell.server.systems import Second, open_systems
from stepwell.systems import opening
from stepwell.systems.folder import RunFolder


def test_a_run_offers_its_table_student_first(systems):
    names = list(systems.by_name)
    first = ["student", "contrastive", "first-alone", "first-then-last", "straight-de-in-batch", "bm25", "reranked"]
    assert names[:7] == first
    assert {"fused", "base", "start", "teacher.de", "asymmetric"} <= set(names)
    assert systems.by_name["contrastive"].label == "contrastive only"


def test_each_system_finds_what_the_run_was_measured_by(systems, tiny_run, tiny_collection):
    """A served system gives the list that is in its row of the table."""
    facts = RunFolder(tiny_run).results.to_json()
    stages = {stage.removesuffix(".test"): stage for stage in facts["comparison"]["systems"].values()}
    for name, system in systems.by_name.items():
        stage = stages[facts["final"] if name == "student" else name]
        run = Run.load(tiny_run / facts["stages"][stage] / "run.parquet", tiny_collection)
        queries = tiny_collection.query_texts(run.queries[:2])
        lists = system.searcher.search_many(queries, 10)
        if isinstance(system, Second):
            lists = [system.rerank(query, hits, 5) for query, hits in zip(queries, lists, strict=True)]
        for hits, rows in zip(lists, run.passages, strict=False):
            expected = [tiny_collection.passage_ids[row] for row in rows[: len(hits)]]
            assert [hit.passage_id for hit in hits] == expected, name


def test_a_teacher_that_is_no_cross_encoder_does_not_re_rank(tiny_run, cache, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    file = next((run / "stages").glob("*reranker-*")) / "manifest.json"
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps(manifest | {"settings": manifest["settings"] | {"kind": "late-interaction"}}))
    assert set(open_systems(tiny_run).by_name) - set(open_systems(run).by_name) == {"reranked"}


def test_what_is_served_goes_through_a_copy_in_bf16_where_that_is_faster(systems, monkeypatch):
    models = systems.by_name["student"].searcher.encoder, systems.by_name["reranked"].reranker
    monkeypatch.setattr(engine, "precision", lambda: torch.bfloat16)
    monkeypatch.setattr(race, "disparity", lambda *_: None)  # random weights are far off in bf16
    assert [model.inference.open(10).runner.way for model in models] == ["torch-bf16-weights"] * 2


def test_a_model_offers_itself_and_bm25(hostile_systems):
    assert list(hostile_systems.by_name) == ["student", "bm25", "fused"]
    assert hostile_systems.measure is None


def test_only_the_systems_that_are_wanted(tiny_run, cache):
    assert list(open_systems(tiny_run, only=["bm25"]).by_name) == ["student", "bm25"]
    with pytest.raises(StepwellError, match=r"no system nothing.*contrastive"):
        open_systems(tiny_run, only=["nothing"])


def test_opened_again_nothing_is_encoded_or_indexed_again(systems, tiny_run, cache, monkeypatch):
    def never(*_, **__):
        raise AssertionError("made again")

    monkeypatch.setattr(opening, "write_vectors", never)
    monkeypatch.setattr("stepwell.retrieval.bm25.BM25Index.build", never)
    again = open_systems(tiny_run)
    for name in ("student", "bm25", "fused", "contrastive"):
        ours, theirs = (opened.by_name[name].searcher.search("old river", 5) for opened in (again, systems))
        assert ours == theirs
