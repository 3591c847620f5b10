"""The page in a real Chromium: without one these tests skip and say so."""

import re

import pytest

from browser import overflow

WIDTHS = (380, 1440)

CONTRAST = """() => {
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = numbers(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const texts = "h1, h2, p, td, th, dt, dd, a, figcaption, span, label, output, svg text";
  for (const node of document.querySelectorAll(texts)) {
    if (!node.textContent.trim() || !node.getClientRects().length) continue;
    const style = getComputedStyle(node);
    const colour = numbers(node instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [light(colour), light(behind(node))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), node.tagName, node.textContent.trim().slice(0, 40)]);
  }
  return found.sort((x, y) => x[0] - y[0])[0];
}"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_renders_without_errors_and_fits(open_page, hostile_page, hostile_facts, width, dark):
    page = open_page(hostile_page.as_uri(), width=width, dark=dark)
    assert page.inner_text("h1") == " ".join(hostile_facts.name.split())
    assert page.evaluate("window.hurt") is None
    for details in page.query_selector_all("details"):
        details.evaluate("node => node.open = true")
    assert overflow(page) == 0
    shown = page.query_selector_all(".wide svg" if width > 760 else ".narrow svg")
    assert len(shown) == 3 and all(svg.bounding_box()["height"] > 100 for svg in shown)
    ratio, tag, text = page.evaluate(CONTRAST)
    assert ratio >= 4.5, (ratio, tag, text)  # WCAG AA


def test_the_queries_filter(open_page, hostile_page, hostile_facts):
    page = open_page(hostile_page.as_uri())

    def shown():
        return page.locator(".answer:visible").count()

    answers, first = hostile_facts.answers, hostile_facts.record[0].system
    own = [answer for answer in answers if answer.system == first]
    assert shown() == len(own)
    page.select_option("select[name=outcome]", "lost")
    assert shown() == len([answer for answer in own if answer.difference < 0])
    page.select_option("select[name=outcome]", "")
    page.select_option("select[name=system]", "")
    assert shown() == len(answers)
    assert page.inner_text("output") == f"{len(answers)} of {len(answers)} shown"
    page.fill("input[name=words]", "ONERROR hurt")
    assert shown() == 1
    page.fill("input[name=words]", "nothing has these words")
    assert shown() == 0 and re.match("0 of", page.inner_text("output"))


def test_on_paper_it_fits_and_has_no_controls(open_page, hostile_page):
    page = open_page(hostile_page.as_uri(), width=718, dark=True)  # A4 within Chromium's margins
    page.emulate_media(media="print")
    assert overflow(page) == 0
    assert not page.is_visible("nav") and not page.is_visible("form.filter")
    assert page.locator(".wide:visible svg").count() == 3 and page.locator(".narrow:visible").count() == 0
    assert page.locator(".split").first.is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
