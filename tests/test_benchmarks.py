"""The benchmarks run, at a size of seconds: what they compare must agree; how fast it is, is not looked at."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from stepwell.collection import Collection
from stepwell.errors import StepwellError
from stepwell.evaluation import Evaluation
from stepwell.systems.records import Results

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"

pytest.importorskip("datasets")  # the trainer and the miner of sentence-transformers want it


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a benchmark; every machine counts as one that multiplies fp32 fastest."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    machine = importlib.import_module("machine")
    monkeypatch.setattr(machine, "bf16_pays", lambda: False)
    monkeypatch.setattr(machine, "matmul_peaks", partial(machine.matmul_peaks, seconds=0.01))
    monkeypatch.setattr(importlib.import_module("peers"), "BATCHES", (8, 32))
    return importlib.import_module


@pytest.fixture
def measured(
    bench: Callable[[str], ModuleType],
    tiny_path: Path,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., dict[str, Any]]:
    """Run a benchmark on the tiny model and collection, all in this process, and return its figures."""

    def run(name: str, *options: str) -> dict[str, Any]:
        module, out = bench(name), tmp_path / f"{name}.json"

        def here(script: str, argv: list[str], only: str, *more: str) -> dict[str, Any]:
            note = tmp_path / "note.json"
            module.main([*argv, "--only", only, "--note", str(note), *more])
            return dict(json.loads(note.read_text()))

        monkeypatch.setattr(bench("side_by_side"), "apart", here)
        monkeypatch.setattr(module, "apart", here, raising=False)
        monkeypatch.setattr(module, "backends", lambda *_: [], raising=False)
        module.main(
            ["--collection", str(tiny_path), "--model", str(tiny_model), "--rounds", "1", "--out", str(out), *options]
        )
        return dict(json.loads(out.read_text()))

    return run


def by_name(figures: dict[str, Any]) -> dict[str, Any]:
    return {line["name"]: line for line in figures["contenders"]}


# -- the harness ---------------------------------------------------------------------------------------------------


def test_contenders_take_turns_after_a_warm_up(bench: Callable[[str], ModuleType]) -> None:
    side_by_side = bench("side_by_side")
    calls: list[str] = []

    def opening(name: str):
        def do(inputs: str) -> str:
            calls.append(f"{name} {inputs}")
            return name

        return lambda: do

    def closed():
        raise side_by_side.Skip("not installed")

    contenders = [
        side_by_side.Contender("a", opening("a")),
        side_by_side.Contender("c", closed),
        side_by_side.Contender("b", opening("b"), None),
    ]
    a, c, b = side_by_side.in_turn(contenders, "all", 2, "few")
    assert calls == ["a few", "b few", "a all", "b all", "a all", "b all"]
    assert (len(a.seconds), len(b.seconds), a.result, b.result) == (2, 2, "a", "b")
    assert (c.seconds, c.skipped) == ([], "not installed")


def test_a_ratio_is_that_of_medians_with_the_extremes_of_the_rounds(bench: Callable[[str], ModuleType]) -> None:
    assert bench("side_by_side").ratio([4.0, 6.0, 5.0], [2.0, 2.0, 2.5]) == (2.5, 2.0, 3.0)


def test_a_report_names_ratios_memory_and_who_was_left_out(bench: Callable[[str], ModuleType]) -> None:
    side_by_side = bench("side_by_side")
    peer = side_by_side.Outcome("peer", "stepwell", [6.0, 4.0, 5.0], memory={"peak": 3e6, "own": 2e6})
    ours = side_by_side.Outcome("stepwell", None, [2.0, 2.0, 2.5], facts={"nDCG@10": "70.00"})
    absent = side_by_side.Outcome("absent", "stepwell", skipped="not installed")
    figures = side_by_side.report("embed", "Embedding", 100, "passages", [peer, absent, ours])
    table = figures["table"]
    assert table["columns"] == [
        "contender",
        "passages/s",
        "seconds",
        "times stepwell's time",
        "peak MB",
        "own MB",
        "nDCG@10",
    ]
    assert table["rows"][0] == ["peer", "20.0", "5.00", "2.50 [2.00, 3.00]", "3", "2", None]
    assert table["rows"][1] == ["stepwell", "50.0", "2.00", None, None, None, "70.00"]
    assert table["notes"] == ["Left out: absent: not installed."]
    assert figures["skipped"] == {"absent": "not installed"}


def test_memory_sees_what_is_allocated_and_freed_again(bench: Callable[[str], ModuleType]) -> None:
    memory = bench("machine").Memory()
    with memory:
        array = np.ones(60_000_000 // 8)
        memory._look()
        del array
    assert memory.peak - memory.start > 40e6


def test_a_contender_runs_in_a_process_of_its_own(
    bench: Callable[[str], ModuleType], tiny_path: Path, tiny_model: Path
) -> None:
    setting = bench("peers").Setting(batch=8)
    argv = ["--collection", str(tiny_path), "--model", str(tiny_model)]
    note = bench("side_by_side").apart(str(BENCHMARKS / "embed.py"), argv, "stepwell", "--setting", setting.to_text())
    assert note["seconds"] > 0
    assert note["memory"]["peak"] >= note["memory"]["own"] > 0


def test_a_setting_survives_the_command_line(bench: Callable[[str], ModuleType]) -> None:
    setting = bench("peers").Setting(64, "bf16 weights", "eager")
    assert type(setting).from_text(setting.to_text()) == setting


def test_the_best_setting_is_the_fastest_tried(
    bench: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = bench("peers")
    tried = []

    def open_at(setting):
        tried.append(setting)
        return lambda inputs: setting

    def timed(do, inputs):
        setting = do(inputs)
        return abs(setting.batch - 30) + (0.0 if setting.attention else 0.5), None

    monkeypatch.setattr(peers, "timed", timed)
    assert peers.best_setting(open_at, "texts", (8, 32, 128)) == peers.Setting(32, "fp32", "eager")
    assert [setting.batch for setting in tried] == [8, 32, 128, 32]


def test_a_back_end_that_is_not_there_is_skipped_with_a_reason(bench: Callable[[str], ModuleType]) -> None:
    with pytest.raises(bench("side_by_side").Skip, match=r"not installed \(sentence-transformers\[well\]\)"):
        bench("peers")._need("no_such_module_here", "well")


def test_the_peak_of_matrix_products_is_a_rate(bench: Callable[[str], ModuleType], tiny_model: Path) -> None:
    peaks = bench("machine").matmul_peaks(str(tiny_model), seconds=0.01)
    assert set(peaks) == {"fp32"}
    assert 1e6 < peaks["fp32"] < 1e16


# -- collections ---------------------------------------------------------------------------------------------------


def test_a_part_keeps_the_positives_of_its_queries(
    bench: Callable[[str], ModuleType], tiny_path: Path, tiny_collection: Collection, tmp_path: Path
) -> None:
    part, split = bench("samples").part(str(tiny_path), tmp_path, ("train",), passages=20, queries=5)
    assert (part.n_passages, part.n_queries, split) == (20, 5, "train")
    whole, qrels = tiny_collection.qrels("train"), part.qrels("train")
    for row, of_whole in zip(qrels.query_rows, whole.query_rows[:5], strict=True):
        assert part.query_texts([row]) == tiny_collection.query_texts([of_whole])
        positives = set(part.passage_texts(qrels.positives(int(row))))
        assert positives == set(tiny_collection.passage_texts(whole.positives(int(of_whole))))


def test_an_enlarged_collection_keeps_the_given_passages_and_adds_others_as_long(
    bench: Callable[[str], ModuleType], tiny_collection: Collection, tmp_path: Path
) -> None:
    large = bench("samples").enlarged(tiny_collection, "train", 4, tmp_path)
    given, texts = tiny_collection.passage_texts(), large.passage_texts()
    assert texts[: len(given)] == given
    assert len(texts) == 4 * len(given)
    assert sum(len(text.split()) for text in texts) == 4 * sum(len(text.split()) for text in given)
    qrels = tiny_collection.qrels("train")
    first = large.qrels("train").query_rows[0]
    assert large.passage_texts(large.qrels("train").positives(int(first))) == tiny_collection.passage_texts(
        qrels.positives(int(qrels.query_rows[0]))
    )


# -- the benchmarks ------------------------------------------------------------------------------------------------


def test_seeds_are_put_together_query_by_query(bench: Callable[[str], ModuleType], tiny_run: Path) -> None:
    proof, results = bench("proof"), Results.load(tiny_run)
    one, two = (proof.together("t", tiny_run, [results] * seeds) for seeds in (1, 2))
    assert one.rows == two.rows and {row[0] for row in one.rows} == set(results.table.systems)
    row = {str(row[0]): row for row in one.rows}
    spent = {trained.system: trained for trained in results.table.trained}["contrastive only"]
    assert row["contrastive only"][-2:] == [f"{spent.updates:,}", f"{spent.texts:,}"] and row["BM25"][-2:] == ["", ""]
    high, low = (Evaluation(np.arange(2, dtype=np.int32), {"R@5": np.array(v)}) for v in ([1.0, 0.5], [0.0, 0.5]))
    assert proof.mean([high, low]).of("R@5").tolist() == [0.5, 0.5]


def test_embed(measured: Callable[..., dict[str, Any]]) -> None:
    figures = measured("embed")
    lines = by_name(figures)
    assert list(lines) == [
        "sentence-transformers, as it comes",
        "sentence-transformers, best torch setting",
        "stepwell",
    ]
    assert len({line["facts"]["nDCG@10"] for line in lines.values()}) == 1
    assert all(line["memory"]["peak"] > 0 for line in lines.values())
    assert figures["size"] == 60


def test_score(measured: Callable[..., dict[str, Any]]) -> None:
    figures = measured("score", "--pairs", "60", "--depth", "6", "--tokens", "56", "--no-memory")
    assert figures["size"] == 60
    assert all(float(line["facts"]["largest difference"]) < 1e-3 for line in figures["contenders"])


def test_rung_has_one_loss_curve_for_one_loss(measured: Callable[..., dict[str, Any]]) -> None:
    sizes = {"queries": 16, "candidates": 4, "batch": 8, "epochs": 2, "layers": 1, "tokens": 32, "pair-tokens": 56}
    options = [text for name, size in sizes.items() for text in (f"--{name}", str(size))]
    figures = measured("rung", *options, "--no-memory")
    losses = figures["losses"]
    soft, three = losses["stepwell, soft"], losses["stepwell, three losses"]
    assert len(soft) == 4
    assert soft[0] != pytest.approx(soft[-1], abs=1e-3)
    assert losses["sentence-transformers, labels precomputed"] == pytest.approx(soft, abs=1e-3)
    assert losses["sentence-transformers, teacher in every step"] == pytest.approx(three, abs=1e-3)
    assert losses["stepwell, three losses and scoring"] == pytest.approx(three, abs=1e-3)


def test_breakdown_accounts_for_the_time(measured: Callable[..., dict[str, Any]]) -> None:
    figures = measured("breakdown", "--texts", "24", "--queries", "16", "--layers", "1")
    for job in figures["shares"].values():
        assert all(job[kind] > 0 for kind in ("matrix products", "attention", "activation", "norms"))
    assert figures["shares"]["rung"]["optimiser"] > 0 == figures["shares"]["embed"]["optimiser"]


def test_mine_finds_the_same_negatives(measured: Callable[..., dict[str, Any]]) -> None:
    figures = measured("mine", "--depth", "10", "--negatives", "3")
    lines = by_name(figures)
    assert lines["sentence-transformers, as it comes"]["facts"]["same negatives"] == "100.00%"
    assert lines["stepwell"]["memory"]["own"] > 0


def test_growth(measured: Callable[..., dict[str, Any]]) -> None:
    figures = measured("growth", "--passages", "24", "--queries", "8", "--layers", "1", "--tokens", "32")
    assert [(row[0], row[1]) for row in figures["table"]["rows"]] == [
        *((stage, "passages") for stage in ("tokenise", "encode", "search", "mine", "rung")),
        *((stage, "candidates") for stage in ("mine", "rung")),
    ]
    runs = {size: told[0] for size, told in figures["runs"].items()}
    assert {size: told["encode"]["units"] for size, told in runs.items()} == {
        "1,1": 24,
        "4,1": 96,
        "16,1": 384,
        "1,4": 24,
        "1,16": 24,
    }
    assert [runs[size]["rung"]["units"] for size in ("1,1", "1,4", "1,16")] == [64, 256, 1024]


def test_search_finds_the_same_passages(
    bench: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = bench("search")
    monkeypatch.setattr(search, "CONTENDERS", {name: search.CONTENDERS[name] for name in ("stepwell", "numpy")})
    out = tmp_path / "search.json"
    sizes = ["--sizes", "400", "--batches", "1", "8", "--k", "5", "--rounds", "2", "--threads", "1"]
    search.main([*sizes, "--out", str(out)])
    lines = json.loads(out.read_text())["contenders"]
    assert [(line["passages"], line["batch"], line["name"]) for line in lines] == [
        (400, batch, name) for batch in (1, 8) for name in ("stepwell", "numpy")
    ]
    assert all(line["lists that differ"] == 0 and len(line["seconds"]) == 2 for line in lines)


def test_lists_differ_where_passages_do_and_not_in_the_order_of_ties(bench: Callable[[str], ModuleType]) -> None:
    passages = np.array([[1, 0], [1, 0], [0, 1], [0.5, 0.5]], dtype=np.float32)
    queries = np.array([[1, 0], [0, 1], [1, 1]], dtype=np.float32)
    ours = np.array([[0, 1], [2, 3], [3, 0]])
    theirs = np.array([[1, 0], [2, 0], [3, 3]])  # a tie; another passage; the same passage twice
    assert bench("search").differing(queries, passages, ours, theirs) == 2


# -- the page ------------------------------------------------------------------------------------------------------


def test_figures_go_between_the_marks_of_the_page(
    bench: Callable[[str], ModuleType], measured: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    measured("score", "--pairs", "12", "--depth", "6", "--tokens", "56", "--no-memory")
    page = tmp_path / "speed.md"
    page.write_text("# Speed\n\n<!-- figures -->\n\nold\n\n<!-- end of figures -->\n\nMore.\n")
    for _ in range(2):  # a second time changes nothing
        bench("table").main([str(tmp_path / "score.json"), "--page", str(page)])
        text = page.read_text()
    assert "old" not in text
    assert text.startswith("# Speed\n\n<!-- figures -->\n\nMachine: ")
    assert text.endswith("\n\n<!-- end of figures -->\n\nMore.\n")
    assert text.count("### Scoring pairs with a cross-encoder") == 1
    assert "| contender | pairs/s | seconds | times stepwell's time |" in text


def test_a_page_without_marks_is_refused(bench: Callable[[str], ModuleType]) -> None:
    with pytest.raises(StepwellError, match="no line <!-- figures -->"):
        bench("table").replaced("# Speed\n", "tables")


def test_the_page_of_figures_has_its_marks(bench: Callable[[str], ModuleType]) -> None:
    text = bench("table").PAGE.read_text(encoding="utf-8")
    assert "tables" in bench("table").replaced(text, "tables")
