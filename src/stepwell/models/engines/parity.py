"""How far a way of running a model is from torch fp32 on real texts, and how far it may be."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from stepwell.models.engines.backends import Runner, parts

Measure = Literal["vectors", "components", "logits"]

TOLERANCE: dict[Measure, dict[str, float]] = {
    "vectors": {"fp32": 1e-6, "bf16": 2e-3, "int8": 3e-2},
    "components": {"fp32": 1e-4},
    "logits": {"fp32": 1e-3, "bf16": 3e-2, "int8": 2e-1},
}
"""How far a number type may be from torch fp32 on any text: 1 - cosine of vectors, the largest difference of a
component (of a graph that is handed on, vectors being of length 1), the relative error of logits."""


@dataclass(frozen=True)
class Deviation:
    """How far outputs are from torch fp32's, over the worst text."""

    distance: float = 0.0  # see :func:`distance`
    component: float = 0.0  # the largest difference of a component, of vectors scaled to torch's length
    cosine: float = 1.0  # the smallest of two vectors

    def refusal(self, way: str, measure: Measure) -> str | None:
        """Return why a way can't stand for torch fp32, or None when it can."""
        far, allowed = self.component if measure == "components" else self.distance, TOLERANCE[measure][parts(way)[1]]
        return None if far <= allowed else f"is {far:.1g} from torch fp32, where {allowed:.0e} is allowed"


def compare(pairs: Iterable[tuple[Tensor, Tensor]]) -> Deviation:
    """Compare outputs, vectors (B, D) or logits (B,), with torch fp32's; what is no number is as far as can be."""
    worst = Deviation()
    for ours, reference in pairs:
        component, cosine = 0.0, 1.0
        if reference.ndim == 2:
            a, b = ours.double(), reference.double()
            length = b.norm(dim=1)  # (B,)
            component = _number((a - b).abs().max() / length.min(), math.inf)
            cosine = _number(((a * b).sum(1) / (a.norm(dim=1) * length)).min(), -1.0)
        worst = Deviation(
            max(worst.distance, distance(ours, reference)), max(worst.component, component), min(worst.cosine, cosine)
        )
    return worst


def _number(value: Tensor, otherwise: float) -> float:
    return float(value) if value.isfinite() else otherwise


def distance(ours: Tensor, reference: Tensor) -> float:
    """Return how far vectors (B, D) or logits (B,) are from torch fp32's, over the worst text.

    Of vectors |a - b|^2 / (2 |b|^2), which is 1 - cosine when both are as long and sees a wrong length too; of logits
    the largest difference over the root mean square of the reference's. Infinity for what is no number.
    """
    error = (ours - reference).double()
    if reference.ndim == 2:
        far = error.square().sum(1) / (2 * reference.double().square().sum(1))
    else:
        far = error.abs() / reference.double().square().mean().sqrt()
    return float(far.nan_to_num(nan=math.inf).max())


def compare_on_samples(runner: Runner) -> Deviation:
    """Compare a runner with torch fp32 on its net's own samples."""
    return compare(
        (runner(batch), whole) for batch, whole in zip(runner.net.samples, runner.net.reference, strict=True)
    )


def disparity(runner: Runner, found: Deviation | None = None) -> str | None:
    """Return how a runner fails to agree with torch fp32 on its net's own samples, or None when it agrees."""
    measure: Measure = "logits" if runner.net.output == "scores" else "vectors"
    return (found or compare_on_samples(runner)).refusal(runner.way, measure)
