"""The search page in a real browser: what it shows, what keys do, and that texts stay texts."""

import pytest

from browser import overflow


@pytest.fixture
def page_at(served_hostile, open_page):
    def make(where="", **options):
        page = open_page(served_hostile + where, **options)
        page.wait_for_selector("#a option", state="attached")
        return page

    return make


def focused(page):
    return page.evaluate("document.activeElement.closest('li.passage')?.dataset.id ?? document.activeElement.id")


def test_typing_searches_and_keys_walk_through_the_passages(page_at):
    page = page_at()
    assert page.locator("#examples button").count() >= 1
    page.keyboard.type("castle", delay=5)  # the box has the focus
    page.wait_for_selector("li.passage")
    page.wait_for_load_state("networkidle")  # what a part of the word finds may come before, and is drawn over
    assert page.locator("li.passage").count() == 10
    assert page.locator("#summary").get_attribute("aria-live") == "polite"
    assert "10 passages in" in page.inner_text("#summary") and "ms" in page.inner_text(".head p")
    assert {mark.lower() for mark in page.locator("mark").all_inner_texts()} <= {"castle"}
    page.keyboard.press("ArrowDown")
    first = focused(page)
    page.keyboard.press("ArrowDown")
    assert focused(page) != first
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"
    page.keyboard.press("ArrowUp")
    assert focused(page) == first
    page.keyboard.press("Escape")
    assert focused(page) == "query"
    page.locator("#k").focus()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("/")
    assert focused(page) == "query"


def test_two_systems_side_by_side_with_what_moved(page_at):
    page = page_at("?q=the+old+river&b=bm25&k=5")
    page.wait_for_selector("#legend:not([hidden])")
    columns = page.locator("section")
    assert columns.locator("h2").all_inner_texts() == ["student", "BM25"]
    ours, theirs = (
        columns.nth(at).locator("li.passage").evaluate_all("nodes => nodes.map(node => node.dataset.id)")
        for at in (0, 1)
    )
    expected = []
    for rank, passage in enumerate(ours):
        up = theirs.index(passage) - rank if passage in theirs else None
        expected.append("new" if up is None else "=" if up == 0 else f"{'▲' if up > 0 else '▼'} {abs(up)}")
    assert columns.nth(0).locator(".badge").all_inner_texts() == expected
    lost = [passage for passage in theirs if passage not in ours]
    assert columns.nth(1).locator(".badge").all_inner_texts() == ["gone"] * len(lost)
    assert f"{expected.count('new')} new" in page.inner_text("#summary")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.closest('section').getAttribute('aria-labelledby')") == "system-1"


def test_texts_that_try_to_be_markup_stay_texts(page_at, hostile_systems):
    page = page_at("?q=river&a=bm25&k=20")
    page.wait_for_selector("li.passage")
    texts = page.locator("li.passage").all_inner_texts()
    assert any("<script>" in text and "onerror" in text for text in texts)
    assert page.locator("main img, main script, main b").count() == 0
    assert page.title() == f"{hostile_systems.collection.name} · stepwell"
    marked = page.locator("mark").all_inner_texts()
    assert set(marked) == {"river"}  # also behind a letter outside of the first plane


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [380, 1440])
def test_nothing_is_wider_than_the_window(page_at, width, dark):
    page = page_at(width=width, dark=dark)
    assert overflow(page) == 0
    page.fill("#query", "x" * 300)
    page.select_option("#b", "fused")
    page.wait_for_selector("section + section li.passage")
    assert overflow(page) == 0
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 384) is dark


def test_every_control_has_a_name(page_at):
    page = page_at("?q=river&b=bm25")
    page.wait_for_selector("section + section li.passage")
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input, select, button')].filter(n => !n.closest('[hidden]') && "
        "!(n.labels?.length || n.textContent.trim() || n.ariaLabel)).length"
    )
    assert unnamed == 0
    assert page.locator("h3 button[tabindex='0']").count() == 1  # one stop for Tab; arrows do the rest
