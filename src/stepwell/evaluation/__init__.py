"""Proof: measures, significance, comparison."""

from stepwell.evaluation.comparison import Comparison, Row, compare, wins_and_losses
from stepwell.evaluation.measures import (
    DEFAULT_MEASURES,
    Evaluation,
    cutoff_of,
    cutoff_of_set,
    evaluate,
    measure_name,
    reached,
)
from stepwell.evaluation.significance import bootstrap_interval, bootstrap_intervals, holm, paired_test

__all__ = [
    "DEFAULT_MEASURES",
    "Comparison",
    "Evaluation",
    "Row",
    "bootstrap_interval",
    "bootstrap_intervals",
    "compare",
    "cutoff_of",
    "cutoff_of_set",
    "evaluate",
    "holm",
    "measure_name",
    "paired_test",
    "reached",
    "wins_and_losses",
]
