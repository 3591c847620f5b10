"""A table as Markdown and as LaTeX."""

import re
from collections.abc import Callable, Iterator

from stepwell.display import Table, cell_text

_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\ensuremath{<}",
    ">": r"\ensuremath{>}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}

_MINUS = re.compile(r"(?<!\w)-(?=\d)")


def markdown(table: Table) -> str:
    r"""Return a table as GitHub's Markdown, its notes as paragraphs beneath it.

    >>> print(markdown(Table("Gain", ["variant", "nDCG@10"], [["a|b", 0.5]], ["All of it."], [0])))
    ### Gain
    <BLANKLINE>
    | variant | nDCG@10 |
    |---|---:|
    | **a\|b** | **0.500** |
    <BLANKLINE>
    All of it.
    """
    lines = ["|---" + "|---:" * (len(table.columns) - 1) + "|"]
    for row in _rows(table, _plain, "**{}**"):
        lines.append(f"| {' | '.join(row)} |")
    title, head = _plain(table.title), " | ".join(map(_plain, table.columns))
    return "\n".join([f"### {title}\n\n| {head} |", *lines, *(f"\n{_plain(note)}" for note in table.notes)])


def latex(table: Table, label: str = "tab:ablation") -> str:
    """Return a table as LaTeX for booktabs, its notes in the caption; every letter of a text is escaped."""
    caption = " ".join(escaped(part) for part in (f"{table.title}." if table.notes else table.title, *table.notes))
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"  \centering\footnotesize",
        rf"  \caption{{{caption}}}",
        rf"  \label{{{label}}}",
        rf"  \begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
        r"    \toprule",
        rf"    {' & '.join(map(escaped, table.columns))} \\",
        r"    \midrule",
        *(rf"    {' & '.join(row)} \\" for row in _rows(table, escaped, r"\textbf{{{}}}")),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def escaped(text: str) -> str:
    r"""Return a text as LaTeX shows it.

    >>> escaped(r"50 % of a_b & \c")
    '50 \\% of a\\_b \\& \\textbackslash{}c'
    """
    return _MINUS.sub("$-$", "".join(_TEX.get(letter, letter) for letter in text))


def _rows(table: Table, write: Callable[[str], str], bold: str) -> Iterator[list[str]]:
    """Yield the cells of each row as texts; those of a row that stands out in bold."""
    for number, row in enumerate(table.rows):
        cells = [write(cell_text(cell).strip()) for cell in row]
        yield [bold.format(cell) if cell and number in table.highlight else cell for cell in cells]


def _plain(text: str) -> str:
    """Keep what Markdown would take for its own: the bars of a table, stars, tags."""
    for letter in "\\|*_`<":
        text = text.replace(letter, f"\\{letter}")
    return text
