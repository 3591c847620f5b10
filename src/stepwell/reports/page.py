"""The page of a report: facts and figures in one HTML file that needs nothing else."""

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stepwell.display import duration
from stepwell.errors import StepwellError
from stepwell.files import write_text
from stepwell.reports import plots
from stepwell.reports.drawing import need_matplotlib
from stepwell.reports.facts import RunFacts
from stepwell.systems.records import funnel_grid

FORMAT = "stepwell report 1"
PARTS = ("teachers", "ladder", "refine", "proof")


class Figure(NamedTuple):
    """A drawing for wide pages, and one for narrow pages."""

    wide: str
    narrow: str


def to_json(runs: Sequence[RunFacts]) -> dict[str, Any]:
    """Return the facts of all runs as plain values."""
    return {"format": FORMAT, "runs": [run.to_json() for run in runs]}


def page(runs: Sequence[RunFacts]) -> str:
    """Return the page about one run or several."""
    need_matplotlib()
    import jinja2
    from markupsafe import Markup

    files = Path(__file__).parent / "page_files"
    script, sheet = ((files / name).read_text(encoding="utf-8") for name in ("script.js", "style.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(files),
        autoescape=True,  # every text of a collection is somebody else's
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": duration, "fixed": fixed, "signed": signed, "pvalue": pvalue, "svg": Markup}
    return environment.get_template("report.html").render(
        runs=[(f"r{n}", run, figures(run, f"r{n}"), derived(run)) for n, run in enumerate(runs, start=1)],
        joint=joint(runs) if len(runs) > 1 else [],
        format=FORMAT,
        sheet=Markup(sheet),
        script=Markup(script),
        script_hash=digest,
        parts=PARTS,
    )


def write(runs: Sequence[RunFacts], target: Path) -> Path:
    """Write the page, and the same facts beside it as JSON; return the JSON's path."""
    if target.suffix.lower() not in (".html", ".htm"):
        raise StepwellError(f"--out {target}: a report is a page; give it a name that ends in .html.")
    facts = target.with_suffix(".json")
    for path in (target, facts):
        if path.exists() and not _ours(path):
            raise StepwellError(
                f"{path} exists and is no report, so it is not written over. Name another page with --out (its facts "
                f"go to a .json of the same name)."
            )
    contents = {target: page(runs), facts: json.dumps(to_json(runs), indent=1)}
    target.parent.mkdir(parents=True, exist_ok=True)
    for path, text in contents.items():
        write_text(path, text)
    return facts


def _ours(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return FORMAT[:15].encode() in file.read(400)


def figures(run: RunFacts, prefix: str) -> dict[str, Any]:
    """Return the figures of a run by their section; a section without facts has none."""
    found: dict[str, Any] = dict.fromkeys(("ladder", "forest", "cost"))
    if run.start is not None:
        found["ladder"] = _both(f"{prefix}-ladder", plots.ladder, run.start, run.steps, run.measure)
    if run.comparison:
        reference = str(run.comparison["reference"])
        found["forest"] = _both(f"{prefix}-forest", plots.forest, _lines(run, True), run.measure, reference)
        values = {row["name"]: row["values"][run.measure] for row in run.comparison["rows"]}
        named = {reference} | {cost.system for cost in run.costs if cost.kind in ("teacher", "base")}
        found["cost"] = _both(f"{prefix}-cost", plots.quality_and_cost, run.costs, values, named, run.measure)
    found["losses"] = [plots.loss(one, f"{prefix}-loss{n}") for n, one in enumerate(run.trainings)]
    found["spreads"] = [plots.spread(one, f"{prefix}-spread{n}") for n, one in enumerate(run.scores)]
    found["funnels"] = [plots.funnel(one, f"{prefix}-funnel{n}") for n, one in enumerate(run.refined)]
    return found


def _both(name: str, draw: Callable[..., str], *facts: Any) -> Figure:
    return Figure(draw(*facts, f"{name}-wide", plots.WIDE), draw(*facts, f"{name}-narrow", plots.NARROW))


def _lines(run: RunFacts, differences: bool, prefix: str = "") -> list[plots.Line]:
    assert run.comparison is not None
    kinds = {cost.system: cost.kind for cost in run.costs}
    found = []
    for row in run.comparison["rows"]:
        final = row["name"] == run.comparison["reference"]
        kind = kinds.get(row["name"], "combined")
        colour = plots.STUDENT if final else plots.SOFT if kind == "student" else plots.KIND_COLOURS[kind]
        shown = [row[part].get(run.measure) for part in ("values", "interval", "difference", "difference_interval")]
        found.append(plots.Line(prefix + row["name"], colour, *(shown if differences else shown[:2])))
    return found


def joint(runs: Sequence[RunFacts]) -> list[dict[str, Any]]:
    """Return the runs by collection, measure and test queries: those of one group may stand in one figure."""
    groups: dict[tuple[str, str, int], list[tuple[int, RunFacts]]] = {}
    for number, run in enumerate(runs, start=1):
        queries = run.comparison["queries"] if run.comparison else 0
        groups.setdefault((run.collection["fingerprint"], run.measure, queries), []).append((number, run))
    found = []
    for at, ((_, measure, queries), members) in enumerate(groups.items()):
        lines = [line for n, run in members if run.comparison for line in _lines(run, False, f"{n}. ")]
        figure = _both(f"all{at}", plots.forest, lines, measure, "") if lines else None
        found.append({"measure": measure, "queries": queries, "members": members, "figure": figure})
    return found


def derived(run: RunFacts) -> dict[str, Any]:
    """Return what the template needs and would be clumsy there."""
    by_part = {part: sum(stage.seconds for stage in run.stages if stage.part == part) for part in PARTS}
    rows = {row["name"]: row for row in run.comparison["rows"]} if run.comparison else {}
    final = rows.get(run.comparison["reference"]) if run.comparison else None
    teachers = [cost for cost in run.costs if cost.kind == "teacher" and cost.parameters]
    return {
        "total": sum(stage.seconds for stage in run.stages),
        "longest": max((stage.seconds for stage in run.stages), default=0.0),
        "by_part": by_part,
        "final": final,
        "cost": next((cost for cost in run.costs if final and cost.system == final["name"]), None),
        "teacher": max(teachers, key=lambda cost: cost.parameters or 0, default=None),
        "reasons": list(dict.fromkeys(reason for one in run.mined for reason in one.report["dropped"])),
        "sources": list(dict.fromkeys(source for one in run.mined for source in one.report["negatives"])),
        "grids": [funnel_grid(one.funnel) for one in run.refined],
    }


def fixed(value: float | None, digits: int = 3) -> str:
    """Return a number with so many decimals and separators, a dash when it is not known."""
    return "–" if value is None else f"{value:,.{digits}f}"


def signed(value: float | None) -> str:
    """Return a difference with its sign, as the comparison writes it, with a true minus."""
    return "–" if value is None else f"{value:+.3f}".replace("-", "−")


def pvalue(value: float | None) -> str:
    """Return a p-value."""
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
