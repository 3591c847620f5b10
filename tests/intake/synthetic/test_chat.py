"""Queries from a chat endpoint: several kinds, each asked for once and kept, whatever happens on the way."""

import json
from pathlib import Path

import pytest

from chat_server import ChatServer
from processes import Program, stepwell
from stepwell import api
from stepwell.collection import check_directory
from stepwell.errors import StepwellError
from stepwell.intake.synthetic.chat import EMPTY, KINDS, ChatGenerator, queries_of
from stepwell.intake.synthetic.proposals import COPIED, copied
from stepwell.recipe.yaml_file import load_recipe

TEXTS = [f"Keep this well, says the book about the {thing}" for thing in ("violin", "glacier", "engine", "comet")]
THINGS = ("violin", "glacier", "engine", "harvest", "comet", "castle", "enzyme", "market", "sail", "river")


@pytest.fixture
def server():
    made = ChatServer()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _own_answers(tmp_path, monkeypatch):
    monkeypatch.setenv("STEPWELL_CACHE", str(tmp_path / "cache"))


def chat(server, waits=None, **settings):
    return ChatGenerator(server.url, "m-1", **{"wait": (waits if waits is not None else []).append, **settings})


def write_docs(home):
    home.mkdir()
    for name in THINGS:
        text = f"Every {name} needs a dry place and people who look after it twice a week. They must love the {name}"
        (home / f"{name}.md").write_text(f"# About the {name}\n\n{text}\n")
    return home


def made_by(server, home, *options):
    chat = "--generator", server.url, "--generator-model", "m-1"
    return ["init", str(home / "docs"), str(home / "recipe.yaml"), *chat, *options]


# -- what is asked ------------------------------------------------------------------------------------------


def test_the_kinds_take_turns_and_each_has_a_request_of_its_own(server):
    made = chat(server).ask(TEXTS, 6, seed=7)
    assert [len(queries) for queries in made] == [6, 6, 6, 6]
    assert {kind for queries in made for kind, _ in queries} == set(KINDS)
    assert len(server.requests) == 16
    body = server.requests[0][1]
    assert (body["model"], body["seed"]) == ("m-1", 7) and "Authorization" not in server.requests[0][0]
    assert next(query for kind, query in made[0] if kind == "claim") == "who may leave the violin alone, claim 0"
    two = [kind for queries in chat(server, kinds=("keywords", "claim")).ask(TEXTS, 1, 7) for kind, _ in queries]
    assert set(two) <= {"keywords", "claim"} and len(two) == 4


def test_a_request_has_the_fields_that_are_wanted_and_not_those_that_are_none(server):
    chat(server, extra={"max_tokens": None, "max_completion_tokens": 900}).ask(TEXTS[:1], 1, 7)
    body = server.requests[0][1]
    assert "max_tokens" not in body and body["max_completion_tokens"] == 900


def test_what_is_there_is_never_asked_again_by_whichever_collection(server):
    first = chat(server).ask(TEXTS[:2], 2, seed=7)
    assert chat(server).cost(TEXTS[:2], 2, 7).requests == 0
    again = chat(server).ask([TEXTS[1], TEXTS[0], TEXTS[2], TEXTS[2]], 2, seed=7)
    assert again[:2] == first[::-1] and again[2] == again[3]
    assert len(server.requests) == 6 and max(server.answered.values()) == 1
    chat(server).ask(TEXTS[:1], 2, seed=8)
    assert len(server.requests) == 8


def test_the_cost_is_what_is_asked(server):
    cost = chat(server, price=(2.0, 10.0)).cost(TEXTS, 2, 7)
    assert (cost.texts, cost.requests, cost.kept, cost.back) == (4, 8, 0, 160)
    chat(server).ask(TEXTS, 2, 7)
    sent = sum(len(body["messages"][0]["content"].encode()) // 4 for _, body in server.requests)
    assert cost.sent == sent and cost.amount == (2.0 * sent + 10.0 * 160) / 1e6
    said = cost.sentence("m-1", "u")
    assert "8 requests" in said and "At 2 and 10 a million that is about 0.00" in said
    after = chat(server).cost([*TEXTS, "a text that is new"], 2, 7)
    assert (after.texts, after.requests, after.kept) == (1, 2, 8)
    assert "not known: --price says it" in after.sentence("m-1", "u")


@pytest.mark.parametrize(
    ("content", "queries"),
    [
        ("", []),
        ("<think>1. who\n2. what", []),
        ("Sure, here they are:\n\n- **who keeps it dry**\n* how to keep it", ["who keeps it dry", "how to keep it"]),
        ("Question 1: Is it dry?\n2) Is it dry?\n“And now?”", ["Is it dry?", "And now?"]),
        ("3 ways to open a lid", ["3 ways to open a lid"]),
    ],
)
def test_queries_are_read_from_what_models_say(content, queries):
    assert queries_of(content) == queries


# -- what goes wrong ----------------------------------------------------------------------------------------


def test_a_busy_or_broken_server_is_asked_again(server):
    server.play = [(429, b""), (500, b"down"), (200, b"<html>a proxy</html>"), (200, b'{"choices": []}'), "broken"]
    waits: list[float] = []
    [queries] = chat(server, waits).ask(TEXTS[:1], 1, 7)
    assert len(queries) == 1 and waits == [7, 2, 4, 8, 16]
    assert sum(server.answered.values()) == 1


def test_no_answer_in_time_is_none(server):
    server.play = ["late"]
    [queries] = chat(server, timeout=0.5).ask(TEXTS[:1], 1, 7)
    assert len(queries) == 1 and len(server.requests) == 2


@pytest.mark.parametrize(
    ("play", "match"),
    [
        ((500, b"down"), r"did not answer in 2 attempts; the last time: HTTP 500, down. The answers .* are kept"),
        ((200, b"<html>\nno"), r"no chat completion, '<html> no'"),
        ((200, b'{"choices": [{"message": {"content": 7}}]}'), "no chat completion"),
        ((200, b'{"choices": [{"message": null}]}'), "no chat completion"),
        ((200, b"[NaN]"), "no chat completion"),
    ],
)
def test_what_is_no_answer_is_said_and_the_others_are_kept(server, play, match):
    good = chat(server, parallel=1).ask(TEXTS[:1], 1, 7)
    server.play = [None, play, play]
    with pytest.raises(StepwellError, match=match):
        chat(server, parallel=1, retries=1).ask(TEXTS, 1, 7)
    assert chat(server, parallel=1).ask(TEXTS, 1, 7)[0] == good[0]
    assert max(server.answered.values()) == 1 and len(server.answered) == 4


@pytest.mark.parametrize(
    ("status", "match"),
    [(400, r"HTTP 400.*Check --generator"), (401, "Check the key in"), (302, "points to http://else")],
)
def test_a_refusal_is_final_and_the_key_is_shown_nowhere(server, status, match, monkeypatch, tmp_path):
    monkeypatch.setenv("CHAT_KEY", "sk-s3cret")
    server.play = [(status, b"no such key: sk-s3cret")]
    with pytest.raises(StepwellError, match=match) as error:
        chat(server, key="CHAT_KEY").ask(TEXTS[:1], 1, 7)
    assert "sk-s3cret" not in str(error.value) and len(server.requests) == 1
    assert server.requests[0][0]["Authorization"] == "Bearer sk-s3cret"


def test_no_part_of_a_key_is_shown_where_an_answer_is_cut(server, monkeypatch):
    monkeypatch.setenv("CHAT_KEY", "sk-s3cret")
    server.play = [(200, b"x" * shown + b"sk-s3cret" + b"x" * 400) for shown in range(150, 310)]
    while server.play:
        with pytest.raises(StepwellError, match="no chat completion") as error:
            chat(server, key="CHAT_KEY", retries=0).ask(TEXTS[:1], 1, 7)
        assert "sk" not in str(error.value)


def test_a_key_that_is_missing_or_none_is_said_before_anything_is_asked(server, monkeypatch):
    monkeypatch.delenv("CHAT_KEY", raising=False)
    with pytest.raises(StepwellError, match="environment variable CHAT_KEY, which is not set"):
        chat(server, key="CHAT_KEY").check_key()
    monkeypatch.setenv("CHAT_KEY", "two\nlines")
    with pytest.raises(StepwellError, match="CHAT_KEY holds no key") as error:
        chat(server, key="CHAT_KEY").ask(TEXTS[:1], 1, 7)
    assert "lines" not in str(error.value) and not server.requests


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"url": "http://me:s3cret@host/v1"}, "'host/v1' is none"),
        ({"url": "ftp://host"}, "begins with http"),
        ({"kinds": ("question", "poem")}, "the kind 'poem'"),
        ({"kinds": ()}, "no kind of queries"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, match):
    with pytest.raises(StepwellError, match=match) as error:
        ChatGenerator(**{"url": "http://host/v1", "name": "m", **settings})
    assert "s3cret" not in str(error.value)


def test_a_model_that_never_asks_is_not_paid_on(server):
    server.says = lambda *_: "<think>I must think for long"
    with pytest.raises(StepwellError, match=r"hold no query.*I must think.*max_tokens"):
        chat(server, parallel=1).ask([f"text {at}" for at in range(100)], 1, 7)
    assert len(server.requests) == EMPTY


def test_a_line_that_was_cut_off_is_asked_again_and_no_other(server, tmp_path):
    chat(server, parallel=1).ask(TEXTS, 1, 7)
    [file] = (tmp_path / "cache" / "queries").glob("*.jsonl")
    file.write_bytes(file.read_bytes()[:-9])
    again = chat(server)
    assert len(again.ask(TEXTS, 1, 7)) == 4 and len(server.requests) == 5
    assert len(again.ask(TEXTS, 1, 7)) == len(chat(server).ask(TEXTS, 1, 7)) == 4 and len(server.requests) == 5


# -- the way through the command line -------------------------------------------------------------------------


def test_init_makes_a_collection_of_several_kinds_and_tells_them_in_the_recipe(server, tmp_path, monkeypatch):
    write_docs(tmp_path / "docs")

    def says(text, kind, number):
        thing = text.split()[-1]
        if kind == "claim":  # nothing that BM25 finds
            return "\n".join(f"zither number {one} of {thing[::-1]} sounds wonderful" for one in range(number))
        if kind == "how-to":
            return "\n".join(f"they must surely love the {thing}" for _ in range(number))  # one word of it is new
        return "\n".join(f"{kind}: may I leave my {thing} alone, {kind} {one}" for one in range(number))

    server.says = says
    made = api.init(
        tmp_path / "docs", tmp_path / "recipe.yaml", yes=True, generator=server.url, model="m-1", per_passage=4
    )
    report = made.synthetic
    assert report.kept["question"] == report.kept["keywords"] == 10 and "claim" not in report.kept
    assert report.dropped["nearly a copy of the passage's words"] == 10
    folder = tmp_path / "docs-synthetic"
    others = (folder / "unlabelled_queries.txt").read_text().splitlines()
    assert len(others) == report.unlabelled == 10 and all("zither" in one for one in others)
    assert check_directory(folder) == []
    marks = [json.loads(line)["metadata"] for line in (folder / "queries.jsonl").read_text().splitlines()]
    assert {"synthetic": True, "origin": "question", "generator": "m-1"} in marks
    text = (tmp_path / "recipe.yaml").read_text()
    assert "# By m-1: 10 " in text and "10 keywords" in text and "10 question" in text
    rung = load_recipe(made.recipe).ladder[0]
    assert (rung.loss, Path(rung.more_queries)) == ("embedding", folder / "unlabelled_queries.txt")
    again = api.init(folder, tmp_path / "again.yaml").recipe.read_text()
    assert "more_queries: ./docs-synthetic/unlabelled_queries.txt" in again
    assert api.plan(tmp_path / "recipe.yaml", tmp_path / "run")


def test_nothing_is_asked_without_yes_and_the_cost_is_told(server, tmp_path, capsys):
    write_docs(tmp_path / "docs")
    facts = {"generator": server.url, "model": "m-1", "price": (1.0, 1.0)}
    api.init(tmp_path / "docs", tmp_path / "recipe.yaml", dry_run=True, **facts)
    said = " ".join(capsys.readouterr().err.split())
    assert "about 10 passages, in 20 requests" in said and "At 1 and 1 a million" in said
    with pytest.raises(StepwellError, match=r"in 20 requests.*Nothing was asked of m-1.*--yes"):
        api.init(tmp_path / "docs", tmp_path / "recipe.yaml", **facts)
    assert not server.requests and sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["docs"]
    with pytest.raises(StepwellError, match="name one with --generator-model"):
        api.init(tmp_path / "docs", tmp_path / "recipe.yaml", yes=True, generator=server.url)


def test_a_kill_in_the_middle_loses_no_answer_and_asks_nothing_twice(server, tmp_path, monkeypatch):
    write_docs(tmp_path / "docs")
    monkeypatch.setenv("CHAT_KEY", "sk-s3cret")
    options = made_by(server, tmp_path, "--yes", "--generator-key", "CHAT_KEY", "--parallel", "1", "--price", "1,2")
    server.play = [None] * 6 + ["kill"]
    killed = Program(stepwell, *options)
    server.kill = killed.kill
    assert killed.wait().returncode == -9
    assert not (tmp_path / "recipe.yaml").exists()
    done = Program(stepwell, *options).wait()
    assert done.returncode == 0, done.stderr
    # the answer that arrived with the kill may not have been on the disk yet; of the others, none was asked twice
    assert len(server.answered) == 20 and sum(server.answered.values()) <= 21
    assert load_recipe(tmp_path / "recipe.yaml")
    assert "What it answered to" in done.stderr
    everything = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"sk-s3cret" in content for content in everything) and "sk-s3cret" not in done.stderr + done.stdout


@pytest.mark.parametrize("options", [("--price", "1"), ("--price", "1,-2"), ("--generator-extra", "[]")])
def test_options_that_make_no_sense_are_said(server, tmp_path, options):
    write_docs(tmp_path / "docs")
    done = Program(stepwell, *made_by(server, tmp_path, *options)).wait()
    assert done.returncode == 2 and options[0] in done.stderr and not server.requests


# -- near-copies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "is_copy"),
    [
        ("the gauge must show zero pressure before the lid is opened", True),
        ("before the lid is opened the gauge must read zero pressure", True),  # in another order
        ("when may I open it", False),
        ("how long does the pressure stay", False),
        ("lid gauge pressure zero", False),
    ],
)
def test_a_copy_is_told_by_the_share_of_its_words_in_one_stretch(query, is_copy):
    passage = "Turn it left and wait. The gauge must show no pressure before the lid is opened. Then clean it well."
    assert (copied(query, passage) >= COPIED) == is_copy


def test_scripts_without_blanks_are_compared_by_characters():
    assert copied("圧力がなくなるまで待つ", "弁を回し、圧力がなくなるまで待ちます。") >= COPIED
    assert copied("いつ蓋を開けますか", "弁を回し、圧力がなくなるまで待ちます。") < COPIED
    assert copied("", "words") == copied("words", "") == 0
