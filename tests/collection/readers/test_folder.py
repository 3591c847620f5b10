"""Folders of text files are passages: cut at headings, with the path of headings as title."""

import pytest

from stepwell.collection import check_directory, open_collection
from stepwell.collection.readers import folder as reading, html_page
from stepwell.collection.readers.folder import Folder, text_files
from stepwell.collection.readers.markdown import sections
from stepwell.errors import StepwellError

GUIDE = """\
---
title: The guide
tags: [a, b]
---
Before any heading,
on two lines.

# Install *now*

Run `pip` with [care](https://example.org/x "why").

```python
# not a heading
x = 1
```

## On Linux

- one
- two, with ![a picture](x.png)
  and more

| name | size |
|---|---|
| a | 1 |

Setext
------
> quoted <b>words</b> &amp; more

<div>shown<script>hidden()</script></div>

# Empty
"""


def passages(home, **files):
    for name, text in files.items():
        path = home / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    problems = []
    found = list(Folder(home).texts("passage", problems.append))
    return found, problems


def test_markdown_is_cut_at_headings_and_loses_its_markup(tmp_path):
    found, problems = passages(tmp_path, guide_md=GUIDE)
    assert not problems
    assert [(text.line, text.id, text.title, text.text) for text in found] == [
        (5, "guide.md#1", "The guide", "Before any heading, on two lines."),
        (10, "guide.md#2", "The guide > Install now", "Run pip with care.\n\n# not a heading\nx = 1"),
        (
            19,
            "guide.md#3",
            "The guide > Install now > On Linux",
            "one\ntwo, with a picture and more\n\nname | size\na | 1",
        ),
        (29, "guide.md#4", "The guide > Install now > Setext", "quoted words & more\n\nshown"),
    ]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("---\ntitle: One\n---\n# One\nwords", ("One",)),
        ("---\ntitle: One\ndate: 2024-02-30\n---\n# Two\nwords", ("Two",)),
        ("+++\ntitle = 'One'\n+++\n## Two\nwords", ("One", "Two")),
        ("---\nbroken: [\n---\n# One\nwords", ("One",)),
        ("---\nwords without an end", ()),
        ("# One\n## Two\n# Three\nwords", ("Three",)),
        ("### Deep\n# Up\n### Down\nwords", ("Up", "Down")),
    ],
)
def test_the_path_of_headings(text, path):
    assert [section.path for section in sections(text.split("\n"))][-1] == path


PAGE = """<!doctype html><html><head><title>Pumps &amp; valves</title><style>p {}</style></head>
<body><nav><ul><li>Home<nav>deeper</nav></ul></nav>
<p>Before any <b>head</b>ing,
on two lines<br>and more
<h1>Pumps<a class="headerlink" href="#x">P</a></h1>
<div role="navigation"><div>up</div></div>
<p>One<!-- not seen --> word.<ul><li>first<li>second</ul>
<h2><span>On</span> <code>Linux</code></h2>
<pre>if x:
    y = "&lt;"
</pre><table><tr><th>name<th>size</tr><tr><td>a</td><td>1</td></tr></table>
<script>if (a < b) "<p>no</p>"</script>
<h2>Empty</h2><h1>Next</h1>last
</body></html>
"""


def test_html_is_cut_at_headings_without_what_stands_on_every_page(tmp_path):
    found, problems = passages(tmp_path, a_html=PAGE)
    assert not problems
    assert [(text.line, text.id, text.title, text.text) for text in found] == [
        (3, "a.html#1", "Pumps & valves", "Before any heading, on two lines and more"),
        (7, "a.html#2", "Pumps", "One word.\n\nfirst\n\nsecond"),
        (9, "a.html#3", "Pumps > On Linux", 'if x:\n    y = "<"\n\nname | size\n\na | 1'),
        (13, "a.html#4", "Next", "last"),
    ]


@pytest.mark.parametrize("page", ["", "<", "<p", "</p></nav></h1>", "<nav>a", "<h1>a", "<!--", "&#xFFFFFFFF;<a b='"])
def test_broken_html_is_no_error(page):
    for section in html_page.sections([(1, page)]):
        assert all(block.text.strip() for block in section.blocks)


def test_headings_of_restructured_text_are_told_by_their_underlines(tmp_path):
    text = "=====\nTitle\n=====\n\nwords here\n\nPart\n----\nmore words\n\nNext\n----\n\n::\n\n    code  here\n"
    found, _ = passages(tmp_path, a_rst=text)
    assert [(text.title, text.text) for text in found] == [
        ("Title", "words here"),
        ("Title > Part", "more words"),
        ("Title > Next", "::\n\n    code  here"),
    ]


def test_plain_text_has_paragraphs_and_no_titles(tmp_path):
    found, _ = passages(tmp_path, a_txt="\ufeffone\r\ntwo\r\n\r\n# three\r\n")
    assert [(text.title, text.text) for text in found] == [("", "one two\n\n# three")]


def test_files_are_in_order_and_hidden_ones_and_loops_are_passed_over(tmp_path):
    for name in ("b.md", "a/z.txt", "a/b/c.rst", ".hidden.md", ".git/x.md", "a/note.pdf", "UPPER.MD"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("words")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "self.md").symlink_to(tmp_path / "self.md")
    names = [file.relative_to(tmp_path).as_posix() for file in text_files(tmp_path)]
    assert names == ["UPPER.MD", "b.md", "a/z.txt", "a/b/c.rst"]


def test_what_is_no_utf_8_is_named_with_file_and_line(tmp_path):
    _, problems = passages(tmp_path, deep__a_md=b"fine\n\nst\xe4dte\n")
    assert [str(problem) for problem in problems if problem.severity == "error"] == [
        "deep/a.md:3: is not UTF-8 (byte 3 of the line is 0xe4); convert the file to UTF-8."
    ]


def test_a_name_that_qrels_cannot_hold_is_refused(tmp_path):
    (tmp_path / "a\tb.md").write_text("words")
    _, problems = passages(tmp_path)
    assert [problem.code for problem in problems] == ["id", "empty"]


def test_a_huge_markdown_file_is_read_as_plain_text(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "LARGEST", 10)
    monkeypatch.setattr(reading, "_LINES", 2)
    found, problems = passages(tmp_path, a_md="# one\n\n" + "a line of words\n" * 5)
    assert problems[0].code == "large"
    assert found[0].title == ""
    assert found[0].text == "# one\n\n" + "\n\n".join(["a line of words a line of words"] * 2 + ["a line of words"])


def test_a_folder_opens_without_queries_and_says_so_when_they_are_asked_for(tmp_path):
    passages(tmp_path, a_md=GUIDE)
    opened = open_collection(tmp_path)
    assert (opened.n_passages, opened.n_queries, opened.splits) == (4, 0, ())
    assert opened.passage_texts([0]) == ["The guide Before any heading, on two lines."]
    assert check_directory(tmp_path) == []
    with pytest.raises(StepwellError, match=r"no judged queries.*stepwell init"):
        opened.qrels("train")


def test_a_change_of_a_file_is_seen(tmp_path):
    passages(tmp_path, a_md="one")
    before = open_collection(tmp_path).fingerprint
    passages(tmp_path, a_md="another")
    assert open_collection(tmp_path).fingerprint != before


def test_a_collection_beside_a_readme_is_still_told(tiny_path, tmp_path):
    import shutil

    shutil.copytree(tiny_path, tmp_path / "tiny")
    (tmp_path / "tiny" / "README.md").write_text("# About\nit")
    assert open_collection(tmp_path / "tiny").n_queries == 40
