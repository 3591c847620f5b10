"""A table as Markdown and as LaTeX."""

import re

from stepwell.display import Cell, Table

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

    Examples
    --------
    >>> print(markdown(Table("Gain", ["variant", "nDCG@10"], [["a|b", 0.5]], ["All of it."], [0])))
    ### Gain
    <BLANKLINE>
    | variant | nDCG@10 |
    |---|---:|
    | **a\|b** | **0.500** |
    <BLANKLINE>
    All of it.
    """
    lines = [f"### {_plain(table.title)}", "", _row([_plain(head) for head in table.columns])]
    lines.append("|---" + "|---:" * (len(table.columns) - 1) + "|")
    for number, row in enumerate(table.rows):
        cells = [_plain(_text(cell)) for cell in row]
        lines.append(_row([f"**{cell}**" if cell and number in table.highlight else cell for cell in cells]))
    return "\n".join([*lines, *(f"\n{_plain(note)}" for note in table.notes)])


def latex(table: Table, label: str = "tab:ablation") -> str:
    r"""Return a table as LaTeX for booktabs, its notes in the caption; every letter of a text is escaped.

    Examples
    --------
    >>> print(latex(Table("Gain", ["variant", "p"], [["no_keep", "<0.001*"]], highlight=[0])))
    % needs \usepackage{booktabs}
    \begin{table}
      \centering\footnotesize
      \caption{Gain}
      \label{tab:ablation}
      \begin{tabular}{lr}
        \toprule
        variant & p \\
        \midrule
        \textbf{no\_keep} & \textbf{\ensuremath{<}0.001*} \\
        \bottomrule
      \end{tabular}
    \end{table}
    """
    body = []
    for number, row in enumerate(table.rows):
        cells = [escaped(_text(cell)) for cell in row]
        body.append([rf"\textbf{{{cell}}}" if cell and number in table.highlight else cell for cell in cells])
    caption = " ".join(escaped(part) for part in (f"{table.title}." if table.notes else table.title, *table.notes))
    lines = [
        r"\toprule",
        " & ".join(map(escaped, table.columns)) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in body),
        r"\bottomrule",
    ]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"  \centering\footnotesize",
            rf"  \caption{{{caption}}}",
            rf"  \label{{{label}}}",
            rf"  \begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
            *(f"    {line}" for line in lines),
            r"  \end{tabular}",
            r"\end{table}",
        ]
    )


def escaped(text: str) -> str:
    r"""Return a text as LaTeX shows it.

    Examples
    --------
    >>> escaped(r"50 % of a_b & \c")
    '50 \\% of a\\_b \\& \\textbackslash{}c'
    """
    return _MINUS.sub("$-$", "".join(_TEX.get(letter, letter) for letter in text))


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """Keep what Markdown would take for its own: the bars of a table, stars, tags."""
    for letter in "\\|*_`<":
        text = text.replace(letter, f"\\{letter}")
    return text


def _text(value: Cell) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else value.strip()
