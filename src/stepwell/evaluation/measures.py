"""Measures of a run against qrels, per query: those of trec_eval, through ir-measures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import ir_measures
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stepwell.collection import Collection, Qrels
from stepwell.collection.row_tables import read_rows, write_rows
from stepwell.errors import StepwellError
from stepwell.evaluation.answers import judge
from stepwell.retrieval.run import Run

DEFAULT_MEASURES = ("RR@10", "nDCG@10", "R@5", "R@20", "R@100")


@dataclass(frozen=True)
class Evaluation:
    """What one system scores on each query."""

    queries: NDArray[np.int32]  # rows, (Q,), rising
    values: Mapping[str, NDArray[np.float64]]  # by measure (its ir-measures name): one value a query, (Q,), in 0..1

    def of(self, measure: str) -> NDArray[np.float64]:
        """Return the values (Q,) of a measure; aliases work (``MRR@10`` is ``RR@10``)."""
        name = measure_name(measure)
        if name not in self.values:
            raise StepwellError(
                f"The measure {name} was not computed for this run; there are {', '.join(self.values)}. "
                "Evaluate the run again with it."
            )
        return self.values[name]

    def mean(self, measure: str) -> float:
        """Return the mean over the queries, 0..1; NaN when there are none."""
        values = self.of(measure)
        return float(values.mean()) if len(values) else float("nan")

    def save(self, path: Path, collection: Collection) -> None:
        """Write one line a query as Parquet: query (its row), query_id, and one column a measure."""
        ids = [collection.query_ids[int(row)] for row in self.queries]
        columns = {"query": self.queries, "query_id": pa.array(ids, pa.string()), **self.values}
        write_rows(path, columns, collection)

    @classmethod
    def load(cls, path: Path, collection: Collection | None = None) -> Self:
        """Read what :meth:`save` wrote; of another collection than the one given it is refused."""
        table = read_rows(path, collection, "results")
        names = [name for name in table.column_names if name not in ("query", "query_id")]
        values = {name: table[name].to_numpy().astype(np.float64) for name in names}
        return cls(table["query"].to_numpy().astype(np.int32), values)


def measure_name(measure: str) -> str:
    """Return the one name that ir-measures has for a measure; refuse what nothing installed computes.

    >>> measure_name("MRR@10"), measure_name("NDCG@10")
    ('RR@10', 'nDCG@10')
    """
    return str(_parse(measure))


def cutoff_of_set(measure: str) -> int | None:
    """Return k where a measure looks at the set of the first k passages and not at their order, else None.

    >>> cutoff_of_set("R@20"), cutoff_of_set("Success@5"), cutoff_of_set("nDCG@20")
    (20, 5, None)
    """
    return cutoff_of(measure) if _parse(measure).NAME in ("R", "P", "Success") else None


def cutoff_of(measure: str) -> int | None:
    """Return k where a measure looks at the first k passages alone, else None.

    >>> cutoff_of("R@1000"), cutoff_of("nDCG@20"), cutoff_of("AP")
    (1000, 20, None)
    """
    parsed = _parse(measure)
    return int(parsed["cutoff"]) if "cutoff" in parsed.params else None


def reached(depth: int, measures: Sequence[str] = DEFAULT_MEASURES) -> list[str]:
    """Return the measures that lists of ``depth`` passages are deep enough for; of others the figure would be wrong.

    >>> reached(20)
    ['RR@10', 'nDCG@10', 'R@5', 'R@20']
    """
    return [measure for measure in measures if (cutoff_of(measure) or 0) <= depth]


def evaluate(run: Run, qrels: Qrels, measures: Sequence[str] = DEFAULT_MEASURES) -> Evaluation:
    """Measure a run on every query that has a positive or is asked; queries that the run lacks count 0.

    The ranking is the run's own order, also among equal scores: what a searcher sees is what is measured.
    :meth:`Run.to_trec` writes a file in which trec_eval sees that order too.

    The gain of nDCG is the grade; all other measures count grades from ``qrels.relevant_from`` (mostly 1) as relevant.
    Of a split with answers, passages of the run that hold one are relevant, with grade 1
    (:mod:`stepwell.evaluation.answers`): R@k is then 1 when one of the first k does and 0 else, as DPR's top-k accuracy
    is, and nDCG and AP know no other relevant passages than those of the run.
    """
    parsed = [_parse(measure) for measure in measures]
    cutoffs = [measure.params.get("cutoff") for measure in parsed]
    if cutoffs and all(cutoffs):
        run = run.top(max(cutoffs))  # no measure looks further down
    counted = [_counted(measure, qrels) for measure in parsed]
    if qrels.answers is not None:
        qrels = judge(run, qrels)
    queries = qrels.query_rows
    position = {str(query): i for i, query in enumerate(queries.tolist())}
    judged: dict[str, dict[str, int]] = {}  # queries without any grade count 0 in every measure
    entries = zip(qrels.queries.tolist(), qrels.passages.tolist(), qrels.grades.tolist(), strict=True)
    for query, passage, grade in entries:
        if str(query) in position:
            judged.setdefault(str(query), {})[str(passage)] = grade
    values = {str(measure): np.zeros(len(queries)) for measure in counted}
    if judged:
        for metric in ir_measures.iter_calc(counted, judged, _ranked(run, judged)):
            values[str(metric.measure)][position[metric.query_id]] = metric.value
    named = zip(parsed, counted, strict=True)
    return Evaluation(queries, {str(measure): values[str(by)] for measure, by in named})


def _counted(measure: Any, qrels: Qrels) -> Any:
    """Return the measure that gives the values: at the level of the qrels, and hits for recall by answers."""
    if qrels.answers is not None and str(measure).startswith("R@"):
        return _parse(f"Success@{measure.params['cutoff']}")
    if qrels.relevant_from > 1 and "rel" in measure.SUPPORTED_PARAMS and "rel" not in measure.params:
        return measure(rel=qrels.relevant_from)
    return measure


def _ranked(run: Run, judged: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Give each passage a score that falls by one a rank: no evaluator can then order ties another way."""
    fall = np.arange(run.depth, 0, -1, dtype=np.float64).tolist()
    return {
        str(query): {str(passage): score for passage, score in zip(row, fall, strict=True) if passage >= 0}
        for query, row in zip(run.queries.tolist(), run.passages.tolist(), strict=True)
        if str(query) in judged
    }


def _parse(measure: str) -> Any:
    try:
        parsed = ir_measures.parse_measure(measure)
        if int(parsed.params.get("cutoff", 1)) < 1:
            raise ValueError("its cutoff must be 1 or more")
        pipeline: Any = ir_measures.DefaultPipeline
        if not pipeline.supports(parsed):
            raise ValueError("nothing installed computes it")
    except (NameError, ValueError, SyntaxError, AssertionError) as error:
        raise StepwellError(
            f"There is no measure {measure!r} ({error}): nothing could be compared by it. Use a name of "
            f"ir-measures, such as {', '.join(DEFAULT_MEASURES)}."
        ) from error
    return parsed
