"""The page as text: nothing of a collection gets out of its place, and the page and the JSON agree."""

import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from stepwell import api
from stepwell.errors import StepwellError
from stepwell.reports.drawing import COLOURS
from stepwell.reports.page import fixed, joint, page, pvalue, signed, to_json, write

pytest.importorskip("matplotlib")


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.ids, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def html(hostile_page):
    return hostile_page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def parsed(html):
    parser = Tags()
    parser.feed(html)
    return parser


def test_hostile_texts_stay_texts(parsed, html):
    names = [tag for tag, _ in parsed.tags]
    assert names.count("script") == 1 and "img" not in names and "window.hurt" not in html.split("<script>")[-1]
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]
    assert any("window.hurt" in text for text in parsed.text) and "{{ 7 * 7 }}" in "".join(parsed.text)


def test_nothing_is_fetched_from_anywhere(parsed, html):
    for tag, attributes in parsed.tags:
        assert tag not in ("link", "iframe", "object", "embed")
        for name in ("src", "href", "xlink:href", "action"):
            assert attributes.get(name, "#").startswith("#"), (tag, attributes)
    assert "default-src 'none'" in html and "@import" not in html and not re.search(r"url\((?!#)", html)


def test_ids_are_unique_and_links_lead_somewhere(parsed):
    assert len(parsed.ids) == len(set(parsed.ids))
    links = {attributes["href"][1:] for tag, attributes in parsed.tags if tag == "a"}
    assert links and links <= set(parsed.ids)


def test_figures_have_the_colours_of_the_page_and_real_text(html, facts):
    assert not [colour for colour in COLOURS.values() if colour in html]
    used = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", html))
    assert used <= {"#000000"}, used
    assert html.count('role="img"') == 6 + len(facts.trainings) + len(facts.scores) + len(facts.refined)


def test_the_json_says_what_the_page_shows(hostile_page, hostile_facts, parsed):
    content = json.loads(hostile_page.with_suffix(".json").read_text())
    assert content == json.loads(json.dumps(to_json([hostile_facts])))
    run, text = content["runs"][0], " ".join(" ".join(parsed.text).split())
    for row in run["comparison"]["rows"]:
        assert row["name"] in text and all(fixed(value) in text for value in row["values"].values())
        assert all(
            signed(value) in text for value in row["difference"].values() if value == row["difference"][run["measure"]]
        )
    for stage in run["stages"]:
        assert stage["key"] in text
    for one in run["fingerprints"]:
        assert one["sha256"] in text
    assert run["collection"]["fingerprint"] in text
    for step in run["steps"][1:]:
        assert step["label"] in text and pvalue(step["p"]) in text


def test_a_report_lies_in_the_runs_folder_at_its_end(tiny_run):
    assert json.loads((tiny_run / "report.json").read_text())["runs"][0]["name"] == "tiny"
    assert (tiny_run / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_runs_over_one_collection_share_a_figure(facts):
    groups = joint([facts, facts])
    assert len(groups) == 1 and [number for number, _ in groups[0]["members"]] == [1, 2]
    assert "1. BM25" in groups[0]["figure"].wide and "2. BM25" in groups[0]["figure"].wide


def test_runs_that_are_not_finished_have_a_page_too(facts):
    nothing = {name: [] for name in ("costs", "record", "answers", "trainings", "scores", "refined", "mined", "steps")}
    begun = replace(facts, comparison=None, finished=None, final=None, start=None, missing=["<not there>"], **nothing)
    alone, both = page([begun]), page([begun, replace(begun, name="other")])
    assert "&lt;not there&gt;" in alone and alone.count("Not there:") == 8 and "<svg" not in alone
    assert "2 runs compared" in both and 'href="#r2"' in both


def test_other_files_are_not_written_over(facts, tmp_path):
    with pytest.raises(StepwellError, match=r"ends in \.html"):
        write([facts], tmp_path / "results.json")
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(StepwellError, match="no report"):
        write([facts], tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_without_matplotlib_one_sentence_says_how_to_get_it(tiny_run, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(StepwellError, match=r"pip install 'stepwell\[report\]'"):
        api.report([tiny_run], tmp_path / "report.html")
    api._report_at_the_end(tiny_run)  # a run does not fail for it
    assert "pip install 'stepwell[report]'" in capsys.readouterr().err
    assert api.report_facts([tiny_run])["runs"][0]["name"] == "tiny"  # the facts need no matplotlib


@pytest.mark.parametrize(
    "shown, value",
    [(fixed(None), "–"), (fixed(1234.5, 1), "1,234.5"), (signed(-0.0304), "−0.030"), (pvalue(0.0004), "< 0.001")],
)
def test_numbers_are_written_alike(shown, value):
    assert shown == value
