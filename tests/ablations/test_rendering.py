"""Tables as Markdown and LaTeX; the plain case of Markdown is in its docstring."""

import re

import pytest

from stepwell.ablations.rendering import escaped, latex, markdown
from stepwell.display import Table

TABLE = Table(
    "Ablation of a_b",
    ["variant", "updates", "nDCG@10", "p"],
    [["ladder", 1204, "0.412 [0.380, 0.445]", None], ["no | rung & 50 %", 60, "-0.019 [-0.038, +0.000]", "<0.001*"]],
    ["95% intervals.", "* differs."],
    [0],
)


def test_markdown_keeps_its_columns_whatever_is_in_a_cell():
    lines = markdown(TABLE).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 4 and {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {5}
    assert table[2] == "| **ladder** | **1,204** | **0.412 [0.380, 0.445]** |  |"
    assert table[3].endswith(r"| \<0.001\* |") and lines[0] == r"### Ablation of a\_b" and lines[-1] == r"\* differs."


def test_latex_is_a_table_for_booktabs():
    text = latex(Table("Gain", ["variant", "p"], [["no_keep", "<0.001*"]], highlight=[0]))
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"  \centering\footnotesize",
        r"  \caption{Gain}",
        r"  \label{tab:ablation}",
        r"  \begin{tabular}{lr}",
        r"    \toprule",
        r"    variant & p \\",
        r"    \midrule",
        r"    \textbf{no\_keep} & \textbf{\ensuremath{<}0.001*} \\",
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    assert text.splitlines() == lines


def test_latex_has_its_columns_escapes_and_real_minus_signs():
    text = latex(TABLE, "tab:it")
    rows = [line.strip() for line in text.splitlines() if line.endswith(r"\\")]
    assert rows[1] == r"\textbf{ladder} & \textbf{1,204} & \textbf{0.412 [0.380, 0.445]} &  \\"
    assert rows[2] == r"no | rung \& 50 \% & 60 & $-$0.019 [$-$0.038, +0.000] & \ensuremath{<}0.001* \\"
    assert r"\begin{tabular}{lrrr}" in text and r"\label{tab:it}" in text
    assert r"\caption{Ablation of a\_b. 95\% intervals. * differs.}" in text
    assert text.count("{") == text.count("}")


@pytest.mark.parametrize("letter", list("&%$#_{}") + ["\\", "~", "^"])
def test_no_letter_of_a_name_is_latex(letter):
    assert escaped(f"a{letter}b") not in (f"a{letter}b", "ab")


def test_a_hyphen_in_a_name_stays_one():
    assert escaped("2-layer, warm-up") == "2-layer, warm-up"
