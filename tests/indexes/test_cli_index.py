"""The verb index on the command line: what it prints, and that search reads what it made."""

import json

import pytest
from typer.testing import CliRunner

from stepwell.cli import app
from stepwell.errors import StepwellError

run = CliRunner().invoke


def test_index_prints_a_table_and_search_reads_it(tiny_run, tmp_path):
    out = tmp_path / "index"
    done = run(app, ["index", str(tiny_run), "--out", str(out), "--precision", "int8"], catch_exceptions=False)
    assert done.exit_code == 0
    assert all(word in done.output for word in ("recall@100", "queries/s", "int8", "6 queries of dev"))
    found = run(app, ["search", str(out), "the old river", "-k", "3", "--json"], catch_exceptions=False)
    hits = json.loads(found.stdout)
    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    again = run(app, ["index", str(tiny_run), "--out", str(out), "--precision", "int8", "--json"])
    (report,) = json.loads(again.stdout)
    assert report["settings"]["precision"] == "int8" and report["measured"]["queries"] == 6


@pytest.mark.parametrize("options", [[], ["--compare", "--out", "x"]])
def test_either_a_folder_or_a_comparison(options, tiny_run):
    with pytest.raises(StepwellError, match="--compare"):
        run(app, ["index", str(tiny_run), *options], catch_exceptions=False)
