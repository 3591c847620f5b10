"""Passages, queries and relevance labels."""

from stepwell.collection.collection import Collection
from stepwell.collection.qrels import Qrels
from stepwell.collection.source import Problem
from stepwell.collection.splits import Splits, resolve_splits
from stepwell.collection.store import check_directory, open_collection

__all__ = ["Collection", "Problem", "Qrels", "Splits", "check_directory", "open_collection", "resolve_splits"]
