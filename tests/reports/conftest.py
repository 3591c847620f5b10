"""One finished run, its facts, and one page with hostile texts: shared by all tests of reports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stepwell.reports.answers import Answer, Found
from stepwell.reports.facts import RunFacts, facts_of

HOSTILE = "</script><script>window.hurt = 1</script><img src=x onerror='window.hurt = 1'> $\\frac{1}$ \" & {{ 7 * 7 }}"


@pytest.fixture(scope="session")
def facts(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFacts:
    """Return the facts of the tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPWELL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        return facts_of(tiny_run)


@pytest.fixture(scope="session")
def hostile_facts(facts: RunFacts) -> RunFacts:
    """Return the facts of the tiny run with texts by somebody who wants to hurt the reader."""
    found = Found(HOSTILE, HOSTILE, False, None)
    bad = Answer(facts.record[0].system, HOSTILE, HOSTILE, 1.0, 0.0, found, found, HOSTILE)
    step = replace(facts.steps[0], teacher=HOSTILE)
    return replace(facts, name=HOSTILE, recipe=HOSTILE, answers=[bad, *facts.answers], steps=[step, *facts.steps[1:]])


@pytest.fixture(scope="session")
def hostile_page(hostile_facts: RunFacts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the written report of ``hostile_facts``."""
    pytest.importorskip("matplotlib")
    from stepwell.reports.page import write

    target = tmp_path_factory.mktemp("hostile") / "report.html"
    write([hostile_facts], target)
    return target
