"""Training queries made from the passages themselves, where nobody has asked any yet."""

from stepwell.intake.synthetic.collection import SyntheticOptions, make_collection
from stepwell.intake.synthetic.real_queries import RealQueries
from stepwell.intake.synthetic.report import SyntheticReport

__all__ = ["RealQueries", "SyntheticOptions", "SyntheticReport", "make_collection"]
