"""Proof: measures, significance, comparison."""

from stepwell.evaluation.comparison import Comparison, compare, wins_and_losses
from stepwell.evaluation.measures import Evaluation, cutoff_of, cutoff_of_set, evaluate, measure_name, reached
from stepwell.evaluation.significance import bootstrap_interval, holm, paired_test

__all__ = ["Comparison", "Evaluation", "bootstrap_interval", "compare", "cutoff_of", "cutoff_of_set", "evaluate"]
__all__ += ["holm", "measure_name", "paired_test", "reached", "wins_and_losses"]
