"""Matplotlib figures as SVG that stands inside of a page: its colours are the page's, its text is text.

Figures are drawn in stand-in colours, which become CSS variables of the page: one drawing is right in light and dark.
One unit of a drawing is one CSS pixel at its full width.
"""

import io
import re
from typing import Any

from stepwell.errors import MissingPackage

COLOURS = {
    name: f"#0{number:x}0000"
    for number, name in enumerate(("ink", "soft", "line", "student", "teacher", "bm25", "third"), start=1)
}
"""Stand-ins by the name of the page's CSS variable; no drawing uses another colour."""

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "stepwell",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a system's name may hold dollars
    "font.size": 12.0,
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["soft"],
    "axes.labelsize": 12.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 1.0,
    "text.color": COLOURS["ink"],
    **{f"{axis}tick.color": COLOURS["line"] for axis in "xy"},
    **{f"{axis}tick.labelcolor": COLOURS["soft"] for axis in "xy"},
    **{f"{axis}tick.labelsize": 11.0 for axis in "xy"},
    **{f"{axis}tick.minor.size": 0.0 for axis in "xy"},
    "legend.frameon": False,
    "legend.fontsize": 11.0,
    "legend.labelcolor": COLOURS["soft"],
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.6,
}


def need_matplotlib() -> None:
    """Raise a sentence when the packages of a report are missing."""
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingPackage(
            f"a report needs matplotlib and jinja2, and {error.name or error} is not installed: "
            "pip install 'stepwell[report]', then `stepwell report` with the run's folder.",
            str(error.name or error),
            "report",
        ) from error


def figure(width: float, height: float, columns: int = 1, rows: int = 1, **options: Any) -> tuple[Any, Any]:
    """Return a new figure of so many pixels, and its axes; call it, draw and :func:`svg` inside of :func:`style`."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(width / 72, height / 72), layout="constrained")
    return made, made.subplots(rows, columns, **options)


def style() -> Any:
    """Return a context in which matplotlib has the style of reports; outside of it nothing is changed."""
    import matplotlib

    return matplotlib.rc_context(STYLE)


def svg(made: Any, name: str, label: str) -> str:
    """Return a matplotlib figure as an ``<svg>`` element.

    ``name`` (letters, digits and hyphens) is unique on its page and goes in front of every id; ``label`` says what it
    shows, for those who can't see it.
    """
    from markupsafe import escape

    file = io.StringIO()
    made.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style type=.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    box = re.search(r'viewBox="0 0 ([\d.]+) [\d.]+"', text)
    width = float(box.group(1)) if box else 0.0
    head = f'<svg role="img" aria-label="{escape(label)}" style="max-width:{width:.0f}px"'
    text = re.sub(r'<svg\b(.*?) width="[^"]*"', lambda found: head + found.group(1), text, count=1, flags=re.DOTALL)
    text = re.sub(r' height="[\d.]+pt"', "", text, count=1)
    for variable, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{variable})")
    return re.sub(r"\n\s*\n+", "\n", text).strip()
