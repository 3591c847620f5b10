"""Kinds of teachers: what the ladder asks of each before anything is opened, and how a kind is added."""

from typing import get_args

import numpy as np
import pytest
from pydantic import TypeAdapter

from stepwell.errors import StepwellError
from stepwell.recipe import TokensSection
from stepwell.recipe.teachers import AnyTeacher
from stepwell.teachers import opening
from stepwell.teachers.kinds import Cost, Kind, Reads, Texts
from stepwell.teachers.opening import KINDS, kind_of

SECTIONS = {
    "de": {"kind": "dual-encoder", "from": "m"},
    "ce": {"kind": "cross-encoder", "from": "m", "layers": 2},
    "colbert": {"kind": "late-interaction", "from": "m", "imitate": "de"},
    "file": {"kind": "scores", "file": "scores.tsv", "missing": "drop"},
    "hosted": {"kind": "http", "url": "http://localhost:1/rerank", "batch": 4, "parallel": 2, "logit": True},
    "all": {"kind": "mean", "of": ["ce", "colbert", "file", "hosted"]},
    "pick": {"kind": "best", "of": ["de", "ce"]},
    "given": {"kind": "vectors", "passages": "vectors.parquet"},
    "api": {"kind": "embeddings-api", "url": "http://localhost:1/v1/embeddings"},
}


@pytest.fixture
def teachers():
    return {name: TypeAdapter(AnyTeacher).validate_python(section) for name, section in SECTIONS.items()}


@pytest.fixture
def texts(tiny_collection, tmp_path):
    return Texts(tiny_collection, TokensSection(), tmp_path)


def test_every_section_of_a_recipe_has_a_kind():
    sections = get_args(get_args(AnyTeacher)[0])
    assert {kind for section in sections for kind in get_args(section.model_fields["kind"].annotation)} == set(KINDS)


def test_a_teacher_is_opened_from_the_folders_of_its_stages(teachers):
    inputs = {name: kind_of(name, teachers).inputs() for name in teachers}
    assert inputs["de"] == ("teacher.de.vectors",) and inputs["ce"] == ("teacher.ce",)
    assert inputs["all"] == ("teacher.all", "teacher.ce", "teacher.colbert", "teacher.file", "teacher.hosted")
    assert inputs["pick"] == ("teacher.pick", "teacher.de.vectors", "teacher.ce")


def test_only_teachers_with_a_file_may_lack_scores(teachers):
    lacking = {name: kind_of(name, teachers).missing for name in teachers}
    assert {name for name, choices in lacking.items() if choices} == {"file", "all"}
    assert lacking["all"] == ("drop",)


def test_several_teachers_cost_what_each_of_them_does(teachers):
    costs = {name: kind_of(name, teachers).cost(10, 6) for name in teachers}
    assert costs["de"] == costs["file"] == Cost()
    assert costs["ce"] == Cost((Reads("m", 2, "pairs"),), kept=60)
    assert costs["hosted"] == Cost(rounds=10, kept=60)  # two requests a query, two at a time
    assert costs["all"] == Cost((Reads("m", 2, "pairs"), Reads("m", None, "texts")), rounds=10, kept=180)


@pytest.mark.parametrize(
    ("name", "others"),
    [
        *(("file", "another teacher"), ("given", "another teacher"), ("api", "another teacher")),
        *(("all", "ce, colbert, file, hosted"), ("pick", "de, ce")),
    ],
)
def test_what_scores_no_pair_by_itself_is_refused_outside_of_a_ladder(teachers, texts, name, others):
    with pytest.raises(StepwellError, match=f"scores no pair by itself.*Score with {others} instead"):
        kind_of(name, teachers).open(texts)


def test_a_new_kind_is_a_section_and_a_class(teachers, texts, monkeypatch):
    class Rows:
        """A teacher that likes later passages."""

        def score(self, queries, candidates, progress=None):
            return np.float32(candidates)

    class Latest(Kind):
        def open(self, texts, folders=None):
            return Rows()

    monkeypatch.setitem(opening.KINDS, "latest", Latest)
    new = teachers["file"].model_copy(update={"kind": "latest"})
    kind = kind_of("new", teachers | {"new": new})
    assert (kind.inputs(), kind.stage, kind.model) == (("teacher.new",), "name-teacher", None)
    teacher = kind.open(texts)
    assert kind.targets(teacher, np.int32([0]), np.int32([[3, 5]])).tolist() == [[3, 5]]
