"""The command line: every verb, what it prints where, and plain JSON for scripts."""

import io
import json
import shlex
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

import slices
from stepwell import __version__, cli, display
from stepwell.collection.docstrings import Pair
from stepwell.models.reranker import Reranker


@pytest.fixture
def stepwell(monkeypatch, capfd):
    """Run a command in this process; return its exit status, standard output and standard error."""

    def run(*arguments, typed=None):
        monkeypatch.setattr(sys, "argv", ["stepwell", *map(str, arguments)])
        if typed is not None:
            lines = iter(typed)
            monkeypatch.setattr("builtins.input", lambda prompt="": next(lines, None) or _end())
        capfd.readouterr()
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = end.code or 0
        return status, *capfd.readouterr()

    yield run
    display.set_quiet(False)


def _end():
    raise EOFError


def test_version_and_help(stepwell):
    assert stepwell("--version")[:2] == (0, f"{__version__}\n")
    status, out, _ = stepwell("--help")
    verbs = (
        "demo",
        "init",
        "check",
        "plan",
        "run",
        "eval",
        "compare",
        "search",
        "mine",
        "encode",
        "score",
        "export",
        "report",
        "index",
        "ablate",
        "serve",
        "bench",
    )
    assert status == 0 and all(verb in out for verb in verbs)


def test_the_module_runs_and_help_needs_no_torch():
    code = "import sys; sys.argv = ['stepwell', '--version']; import stepwell.cli as c\ntry: c.main()\n"
    code += "except SystemExit: pass\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
    told = subprocess.run([sys.executable, "-m", "stepwell", "--version"], capture_output=True, text=True)
    assert told.stdout.strip() == __version__


def test_check_says_ok_by_its_status(stepwell, tiny_path, tiny_directory):
    status, out, _ = stepwell("check", tiny_path)
    assert status == 0 and "0 errors" in out
    bad = tiny_directory(train=[("q0", "nobody", 1), ("q1", "p1", "x")])
    status, out, _ = stepwell("check", bad)
    assert status == 1 and "train.tsv:2" in out and "train.tsv:3" in out and "2 errors" in out
    status, out, _ = stepwell("check", bad, "--json")
    problems = json.loads(out)
    assert status == 1 and {problem["line"] for problem in problems if problem["severity"] == "error"} == {2, 3}


def test_init_plan_and_what_they_write(stepwell, tiny_path, tiny_model, tmp_path):
    status, _, said = stepwell("init", tiny_path, tmp_path / "mine.yaml", "--from", tiny_model, "--layers", "1")
    assert status == 0 and "stepwell run" in said
    status, out, _ = stepwell("plan", tmp_path / "mine.yaml", "--out", tmp_path / "run", "--json")
    plan = json.loads(out)
    assert status == 0 and plan["seconds"] > 0 and not (tmp_path / "run").exists()
    assert [stage["done"] for stage in plan["stages"]] == [False] * len(plan["stages"])


def test_init_as_json_says_what_was_seen_and_what_was_made(stepwell, tiny_path, tmp_path):
    recipe = tmp_path / "mine.yaml"
    status, out, _ = stepwell("init", tiny_path, recipe, "--json")
    told = json.loads(out)
    assert status == 0 and (told["recipe"], told["found"], told["place"]) == (str(recipe), "collection", str(tiny_path))
    assert told["collection"] is None and told["synthetic"] is None
    assert {"what": "queries", "is": "queries.jsonl", "because": None} in told["facts"]
    (tmp_path / "docs").mkdir()
    words = " ".join(f"The barge carries salt{n} down the canal at night." for n in range(4))
    for n in range(6):
        (tmp_path / "docs" / f"{n}.md").write_text(f"# Salt barge number {n}\n\n{words} It was {n} again.\n")
    made = tmp_path / "docs-synthetic"
    status, out, _ = stepwell("init", tmp_path / "docs", tmp_path / "r.yaml", "--dry-run", "--json")
    assert status == 0 and json.loads(out)["collection"] == str(made) and not made.exists()
    status, out, _ = stepwell("init", tmp_path / "docs", tmp_path / "r.yaml", "--json")
    told = json.loads(out)
    assert status == 0 and made.is_dir() and (told["collection"], told["found"]) == (str(made), "passages")
    assert told["synthetic"] == json.loads((made / "synthetic.json").read_text())


def test_plan_prints_a_table_on_standard_output(stepwell, tiny_recipe, tiny_run):
    status, out, _ = stepwell("plan", tiny_recipe, "--out", tiny_run)
    assert status == 0 and "stage by stage" in out and "done" in out


def test_set_changes_the_recipe(stepwell, tiny_recipe, tiny_run):
    _, out, _ = stepwell("plan", tiny_recipe, "--out", tiny_run, "--set", "ladder.2.lr=5e-4", "--json")
    done = {stage["name"]: stage["done"] for stage in json.loads(out)["stages"]}
    assert done["rung-1"] and not done["rung-2"]


@pytest.fixture
def undrawn(monkeypatch):
    """Say that there is a report and don't draw it again, which takes seconds."""
    monkeypatch.setattr("stepwell.api._report_at_the_end", lambda folder: display.say(f"The report is {folder}."))


@pytest.mark.usefixtures("undrawn")
def test_run_prints_the_table_and_nothing_else_on_standard_output(stepwell, tiny_recipe, tiny_run):
    status, out, said = stepwell("run", tiny_recipe, "--out", tiny_run)
    assert status == 0 and out.startswith("Comparison\n") and "ladder + refine" in out
    assert "[1/" in said and "sentence-transformers" in said


def test_a_quiet_run_prints_the_table_alone(stepwell, tiny_recipe, tiny_run):
    status, out, said = stepwell("-q", "run", tiny_recipe, "--out", tiny_run)
    assert status == 0 and out.startswith("Comparison\n") and said == ""


@pytest.mark.usefixtures("undrawn")
def test_run_as_json_is_json_alone(stepwell, tiny_recipe, tiny_run):
    status, out, _ = stepwell("run", tiny_recipe, "--out", tiny_run, "--json")
    assert status == 0 and json.loads(out)["final"]


def test_eval_of_every_kind_of_system(stepwell, tiny_run, tiny_path):
    figures = {}
    for system in (tiny_run, tiny_run / "model", tiny_run / "runs" / "ladder-refine.trec", "bm25"):
        status, out, _ = stepwell("eval", system, "--collection", tiny_path, "--json")
        assert status == 0
        figures[str(system)] = json.loads(out)["nDCG@10"]
    run, model, trec, bm25 = figures.values()
    assert run == model == trec != bm25
    assert run["low"] <= run["mean"] <= run["high"]
    status, out, _ = stepwell("eval", tiny_run, "--split", "dev")  # a run knows its collection
    assert status == 0 and "on dev" in out and "6 queries" in out
    status, out, said = stepwell("eval", tiny_run)
    assert status == 0 and "on test" in out and f"6 queries of the final table of {tiny_run}" in said


def test_compare_shows_table_and_queries(stepwell, tiny_run):
    status, out, _ = stepwell("compare", tiny_run, "bm25", "--queries", "2")
    assert status == 0 and "minus" in out and "won and lost most" in out and "which" in out


def test_compare_as_json_has_the_queries_won_and_lost_too(stepwell, tiny_run, tiny_collection):
    texts = dict(zip(tiny_collection.query_ids, tiny_collection.query_texts(), strict=True))
    _, printed, _ = stepwell("compare", tiny_run, "bm25", "--queries", "2")
    status, out, _ = stepwell("compare", tiny_run, "bm25", "--queries", "2", "--json")
    told = json.loads(out)
    assert status == 0 and [row["name"] for row in told["rows"]] == [str(tiny_run), "bm25"]
    [contest] = told["won_and_lost"]
    assert (contest["system"], contest["measure"]) == ("bm25", "nDCG@10")
    assert all(query["difference"] > 0 for query in contest["won"])
    assert contest["lost"] and all(query["difference"] < 0 for query in contest["lost"])
    for query in contest["won"] + contest["lost"]:
        assert query["query"] == texts[query["query_id"]]
        assert f"{query['difference']:+.3f}      {query['query']}" in printed


def test_search_once_in_json_and_line_by_line(stepwell, tiny_run):
    status, out, _ = stepwell("search", tiny_run, "the old river", "-k", "3")
    assert status == 0 and out.count("doc/") == 3
    status, out, _ = stepwell("search", tiny_run, "the old river", "-k", "3", "--json")
    hits = json.loads(out)
    assert status == 0 and [hit["rank"] for hit in hits] == [1, 2, 3]
    status, out, _ = stepwell("search", tiny_run, "-k", "1", typed=["comet", "castle"])
    assert status == 0 and out.count("doc/") == 2


def test_queries_from_a_pipe_are_answered_a_line_each_whatever_their_bytes(stepwell, tiny_run, monkeypatch):
    piped = io.TextIOWrapper(io.BytesIO(b"river\n\nStra\xdfe comet\n"), encoding="utf-8", errors="surrogateescape")
    monkeypatch.setattr("sys.stdin", piped)
    status, out, _ = stepwell("search", tiny_run, "--json", "-k", "2")
    answers = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and [answer["query"] for answer in answers] == ["river", "Stra\ufffde comet"]
    assert [len(answer["hits"]) for answer in answers] == [2, 2]


@pytest.mark.parametrize("mode", ["student", "asymmetric", "bm25", "fused"])
def test_every_mode_searches(stepwell, tiny_run, mode):
    assert stepwell("search", tiny_run, "a hidden castle", "--mode", mode)[0] == 0


def test_mine_writes_tuples_and_reports(stepwell, tiny_path, tiny_model, tmp_path):
    for miner in ("bm25", tiny_model):
        target = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        status, out, _ = stepwell("mine", tiny_path, target, "--by", miner, "-k", "4", "--sampling", "hardest")
        lines = [json.loads(line) for line in target.read_text().splitlines()]
        assert status == 0 and len(lines) == 28 and "a positive of the query" in out
        assert all(set(line) == {"query", "positive", "negative_1", "negative_2", "negative_3"} for line in lines)
    status, out, _ = stepwell("mine", tiny_path, tmp_path / "again.jsonl", "-k", "4", "--json")
    assert status == 0 and json.loads(out)["queries"] == 28


def test_mine_drops_what_holds_an_answer_unless_it_is_told_not_to(stepwell, tiny_path, tmp_path):
    home = slices.dpr(tiny_path, tmp_path / "nq")
    dropped = {}
    for how in ("--answers", "--no-answers", None):
        status, out, _ = stepwell("mine", home, tmp_path / f"{how}.jsonl", "--json", *filter(None, (how,)))
        assert status == 0
        dropped[how] = json.loads(out)["dropped"]
    assert dropped[None] == dropped["--answers"] and dropped[None]["holds an answer"] > 0
    assert "holds an answer" not in dropped["--no-answers"]
    status, _, said = stepwell("mine", tiny_path, tmp_path / "tiny.jsonl", "--answers")
    assert status and "no query of the split 'train' of tiny has answers" in said


def test_the_pairs_of_mine_are_scored_in_the_order_of_its_tuples(stepwell, tiny_path, tiny_run, tmp_path):
    teacher = tiny_run / json.loads((tiny_run / "results.json").read_text())["stages"]["teacher.ce"] / "model"
    target, pairs, scores = tmp_path / "out.jsonl", tmp_path / "pairs.jsonl", tmp_path / "scores.parquet"
    status, _, said = stepwell("mine", tiny_path, target, "-k", "4", "--pairs", pairs)
    assert status == 0 and str(pairs) in said
    assert stepwell("score", tiny_path, pairs, scores, "--teacher", teacher, "--tokens", "56")[0] == 0
    tuples = [list(json.loads(line).values()) for line in target.read_text().splitlines()]
    labels = pq.read_table(scores)["score"].to_numpy().reshape(len(tuples), -1)
    texts = [(query, passage) for query, *passages in tuples for passage in passages]
    expected = Reranker.open(teacher, 56).model.predict(texts, convert_to_numpy=True)
    assert labels.shape == (28, 4) and labels.ravel() == pytest.approx(expected, abs=1e-5)


def test_mine_asks_a_teacher_what_is_no_negative(stepwell, tiny_path, tiny_run, tmp_path):
    teacher = tiny_run / json.loads((tiny_run / "results.json").read_text())["stages"]["teacher.ce"] / "model"
    found = {}
    for limit in ("1000", "-1000"):  # logits: everything counts as a positive, and nothing
        target = tmp_path / f"{limit}.jsonl"
        how = ("-k", "4", "--sampling", "hardest", "--teacher", teacher, "--denoise", limit)
        status, out, _ = stepwell("mine", tiny_path, target, *how)
        assert status == 0 and "scored like a positive by the teacher" in out
        found[limit] = [json.loads(line).get("negative_1") for line in target.read_text().splitlines()]
    stepwell("mine", tiny_path, tmp_path / "plain.jsonl", "-k", "4", "--sampling", "hardest")
    plain = [json.loads(line).get("negative_1") for line in (tmp_path / "plain.jsonl").read_text().splitlines()]
    assert found["-1000"] == plain
    assert not set(zip(range(28), plain, strict=True)) & set(zip(range(28), found["1000"], strict=True))


def test_score_writes_parquet(stepwell, tiny_path, tiny_run, tmp_path):
    teacher = tiny_run / json.loads((tiny_run / "results.json").read_text())["stages"]["teacher.ce"] / "model"
    target = tmp_path / "scores.parquet"
    pairs = tiny_run / "runs" / "bm25.trec"
    status, out, _ = stepwell("score", tiny_path, pairs, target, "--teacher", teacher, "--tokens", "56")
    assert status == 0 and target.is_file() and "Raw logits" in out
    again = tmp_path / "again.parquet"
    status, out, _ = stepwell("score", tiny_path, pairs, again, "--teacher", teacher, "--tokens", "56", "--json")
    facts = json.loads(out)
    assert status == 0 and facts["pairs"] > 0 and again.read_bytes() == target.read_bytes()

    judged = shutil.copytree(tiny_path, tmp_path / "judged")  # a judgement changes: the scores are still known
    (judged / "qrels" / "dev.tsv").write_text((judged / "qrels" / "dev.tsv").read_text().replace("\t2\n", "\t1\n"))
    third = tmp_path / "third.parquet"
    status, out, _ = stepwell("score", judged, pairs, third, "--teacher", teacher, "--tokens", "56", "--json")
    assert status == 0 and json.loads(out)["scored now"] == 0 and third.read_bytes() == target.read_bytes()


def test_encode_writes_vectors(stepwell, tiny_path, tiny_model, tmp_path):
    status, out, _ = stepwell("encode", tiny_path, tmp_path / "vectors", "--model", tiny_model)
    assert status == 0 and "Vectors of" in out and (tmp_path / "vectors" / "passages.npy").is_file()
    status, out, _ = stepwell("encode", tiny_path, tmp_path / "vectors", "--model", tiny_model, "--json")
    assert status == 0 and json.loads(out)["passages"] == 60


def test_ctrl_c_says_that_it_goes_on(stepwell, monkeypatch, tiny_recipe):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("stepwell.api.run", stop)
    status, _, said = stepwell("run", tiny_recipe)
    assert status == 130 and "goes on from here" in said and "Traceback" not in said


def test_demo_can_be_priced_without_running(stepwell, monkeypatch, tiny_recipe, tmp_path):
    from stepwell.recipe.yaml_file import load_recipe

    monkeypatch.setattr("stepwell.recipe.yaml_file.demo_recipe", lambda: load_recipe(tiny_recipe))
    status, out, _ = stepwell("demo", "--plan", "--out", tmp_path / "demo")
    assert status == 0 and "stage by stage" in out and not list(tmp_path.iterdir())
    status, out, _ = stepwell("demo", "--plan", "--json", "--out", tmp_path / "demo")
    assert status == 0 and json.loads(out)["stages"] and not list(tmp_path.iterdir())


def test_what_the_demo_says_to_try_finds_something(stepwell, monkeypatch, tiny_run, tmp_path):
    monkeypatch.setenv("STEPWELL_CACHE", str(tmp_path))  # this demo is for nobody else
    told = ("If you need to open a compressed file as text, use the other function.", "The barge is slow by night.")
    pairs = [Pair(f"pack.thing{n}", f"Return the thing number {n}.", text) for n, text in enumerate(told)]
    monkeypatch.setattr("stepwell.collection.demo.read_installed", lambda: iter(pairs))
    monkeypatch.setattr("stepwell.api.demo", lambda out: None)
    status, _, said = stepwell("demo", "--out", tiny_run)
    commands = [shlex.split(line.partition(": stepwell ")[2]) for line in said.splitlines()]
    assert status == 0 and [command[-1] for command in commands] == ["how do I open a compressed file", "demo-full"]
    assert stepwell(*commands[0])[1].count("doc/") == 5
    assert stepwell(*commands[1])[1].count("pack.thing") == 2


def test_export_writes_a_folder_and_says_where(stepwell, tiny_model, tmp_path):
    target = tmp_path / "out"
    status, out, err = stepwell("export", tiny_model, "--to", "safetensors", "--out", target)
    assert (status, out) == (0, "") and str(target) in err and (target / "README.md").is_file()
    status, _, err = stepwell("export", tiny_model, "--to", "safetensors", "--out", target)
    assert status == 2 and "overwritten" in err
    assert stepwell("export", tiny_model, "--to", "onnx", "--out", tmp_path / "x", "--push", "me")[0] == 2
    status, out, _ = stepwell("export", tiny_model, "--to", "safetensors", "--out", tmp_path / "y", "--json")
    assert status == 0 and json.loads(out) == {"folder": str(tmp_path / "y"), "graphs": []}


def test_bench_prints_a_table_or_json(stepwell, monkeypatch):
    from stepwell import api
    from stepwell.exports.bench import Bench, Timing

    measured = Bench("m", (Timing("torch-fp32", 1000.0, 100.0, 1, 1.0),), {"onnx-fp32": "not here"}, "cpu")
    monkeypatch.setattr(api, "bench", lambda system, collection: measured)
    status, out, _ = stepwell("bench", "m")
    assert status == 0 and "torch fp32" in out and "onnx-fp32: not here" in out
    assert json.loads(stepwell("bench", "m", "--json")[1])["pick"] == "torch-fp32"
