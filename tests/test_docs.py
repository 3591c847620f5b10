"""The code blocks of README and docs do what they say: each page in order, in one empty folder."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from processes import Done, Program, stepwell
from stepwell.cli import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = [page for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))] if page.is_file()]
FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<language>\w*)[^\n`]*$")
MARK = re.compile(r"^\s*<!--\s*(?P<word>no-run|run|file)\b:?\s*(?P<value>[^>]*?)\s*-->\s*$")
RUN = {"python", "bash", "console"}


@dataclass(frozen=True)
class Block:
    language: str
    line: int
    text: str
    mark: str
    value: str


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a page; a mark is for the next block when only empty lines lie between."""
    found, mark, value = [], "", ""
    lines = iter(enumerate(text.splitlines(), start=1))
    for number, line in lines:
        fence, marked = FENCE.match(line), MARK.match(line)
        if fence:
            body = []
            for _, inner in lines:
                if inner.strip() == fence["ticks"]:
                    break
                body.append(inner.removeprefix(fence["indent"]))
            found.append(Block(fence["language"], number, "\n".join(body) + "\n", mark, value))
        if marked:
            mark, value = marked["word"], marked["value"]
        elif line.strip():
            mark, value = "", ""
    return found


def commands(block: Block) -> str:
    """Return what a shell is given: of a console block, the lines after ``$`` and what continues them."""
    if block.language == "bash":
        return block.text
    kept, going = [], False
    for line in block.text.splitlines():
        if line.startswith("$ ") or going:
            kept.append(line.removeprefix("> " if going else "$ "))
            going = line.endswith("\\")
    return "\n".join(kept)


def run_commands(text: str) -> subprocess.CompletedProcess[str] | Done:
    """Run the lines of a block in a shell; one that is a call of stepwell alone needs none, and no import."""
    words = shlex.split(text)
    if words[0] == "stepwell" and "\n" not in text.strip() and not set(text) & set("|&;<>()$`\\*?[]#~%"):
        return Program(stepwell, *words[1:]).wait()
    shell = ["bash", "-euo", "pipefail", "-c", text]
    return subprocess.run(shell, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600)


def run_page(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, object] = {"__name__": "__docs__"}
    for block in blocks(page.read_text(encoding="utf-8")):
        where = f"{page.name}:{block.line}"
        if block.mark == "file":
            target = (folder / block.value).resolve()
            assert target.is_relative_to(folder.resolve()), f"{where} writes outside of its folder"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text, encoding="utf-8")
        elif block.mark or block.language not in RUN:
            continue
        elif block.language == "python":
            code = compile("\n" * block.line + block.text, str(page), "exec")
            exec(code, names)
        else:
            done = run_commands(commands(block))
            assert done.returncode == 0, f"{where} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"


@pytest.fixture
def as_installed(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = tmp_path_factory.getbasetemp() / "docs-cache"  # one for all pages: the demo is built once
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("STEPWELL_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")


@pytest.mark.skipif(not PAGES, reason="there are no pages")
@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_page(page, tmp_path, monkeypatch)


def calls(block: Block) -> list[list[str]]:
    """Return the arguments of each call of stepwell in the commands of a block, up to what a shell does with it."""
    found = []
    for line in commands(block).replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        words = words[: next((at for at, word in enumerate(words) if re.match(r"[|&;>]|\d>", word)), len(words))]
        if "stepwell" in words:
            found.append(words[words.index("stepwell") + 1 :])
    return found


def test_commands_of_the_pages_that_are_not_run_have_verbs_and_options_that_there_are() -> None:
    told = [
        (f"{page.name}:{block.line}", arguments)
        for page in PAGES
        for block in blocks(page.read_text(encoding="utf-8"))
        if block.mark in ("no-run", "run") and block.language in RUN
        for arguments in calls(block)
    ]
    assert len(told) > 40
    for arguments, where in {tuple(arguments): where for where, arguments in told}.items():
        done = CliRunner().invoke(app, [*arguments, "--help"])  # which is shown when all else could be read
        assert done.exit_code == 0, f"{where}: stepwell {shlex.join(arguments)}: {done.output}"


PAGE = """\
# A page

<!-- file: in/words.txt -->
```text
well
```

```python
word = open("in/words.txt").read().strip()
```

```console
$ echo more \\
> words >> in/words.txt
this is output
```

<!-- no-run -->
```bash
exit 3
```

1. A list:

   ```python
   assert open("in/words.txt").read().split() == [word, "more", "words"]
   ```
"""


def test_blocks_of_a_page_run_in_order_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "page.md").write_text(PAGE)
    run_page(tmp_path / "page.md", tmp_path, monkeypatch)
    assert (tmp_path / "in/words.txt").read_text() == "well\nmore words\n"


@pytest.mark.parametrize("language, code", [("bash", "false\ntrue"), ("console", "$ exit 1"), ("python", "1 / 0")])
def test_a_block_that_fails_fails_its_page(
    language: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "page.md").write_text(f"```{language}\n{code}\n```\n")
    with pytest.raises((AssertionError, ZeroDivisionError)):
        run_page(tmp_path / "page.md", tmp_path, monkeypatch)


def test_a_mark_counts_for_the_next_block_only() -> None:
    found = blocks("<!-- no-run -->\n```bash\na\n```\n\n```bash\nb\n```\n<!-- no-run -->\nwords\n```bash\nc\n```\n")
    assert [(block.text, block.mark) for block in found] == [("a\n", "no-run"), ("b\n", ""), ("c\n", "")]


def test_the_page_about_existing_vectors_shows_the_recipe_that_is_shipped() -> None:
    recipe = (ROOT / "recipes" / "existing-vectors.yaml").read_text(encoding="utf-8")
    assert recipe[recipe.index("name:") :] in (ROOT / "docs" / "existing-vectors.md").read_text(encoding="utf-8")
