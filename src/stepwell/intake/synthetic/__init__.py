"""Training queries made from the passages themselves, where nobody has asked any yet."""

from stepwell.intake.synthetic.making import Making, make_collection
from stepwell.intake.synthetic.report import SyntheticReport

__all__ = ["Making", "SyntheticReport", "make_collection"]
