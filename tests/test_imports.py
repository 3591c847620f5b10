"""The house keeps its floor plan: rooms import downward (import-linter), and no import runs in a circle."""

import ast
import graphlib
from pathlib import Path

SRC = Path(__file__).resolve().parents[1] / "src"


def modules():
    return {
        ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__"): path
        for path in SRC.rglob("*.py")
    }


def imports_of(path, known):
    """Return the modules that a file imports anywhere, also for its types alone or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inside & known) or {node.module}
    return found & known


def test_no_import_runs_in_a_circle():
    known = modules()
    graph = {name: imports_of(path, known.keys()) - {name} for name, path in known.items() if name != "stepwell"}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError with the circle


def test_few_files_stand_at_the_root():
    assert len(list((SRC / "stepwell").glob("*.py"))) <= 8
