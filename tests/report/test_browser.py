"""Every kind of report in a real browser: on a phone and a desk, in light and dark, on paper."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.devtools import BROWSER, Page
from tests.report.conftest import KINDS

pytestmark = [
    pytest.mark.web,
    pytest.mark.processes,
    pytest.mark.skipif(BROWSER is None, reason="lacks a browser (apt-get install chromium)"),
]
BACKGROUND = "getComputedStyle(document.body).backgroundColor"
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def brightness(colour: str) -> float:
    """From 0 for black to 1 for white."""
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / (3 * 255)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [390, 1280])
def test_a_page_is_whole_by_itself_and_fits(pages: dict[str, Path], tmp_path: Path, kind: str, width: int) -> None:
    with Page(tmp_path / "profile", width=width) as page:
        page.open(pages[kind])
        assert page.complaints() == []
        assert [url for url in page.requests() if not url.startswith("data:")] == [pages[kind].resolve().as_uri()]
        assert page.value("document.querySelectorAll('h1').length") == 1
        assert page.value("document.querySelectorAll('figure svg').length") >= 1
        assert page.value(OVERFLOW) == 0
        assert brightness(page.value(BACKGROUND)) > 0.9
        # Ids are unique over all figures, and everything that is pointed at is there.
        ids = page.value("[...document.querySelectorAll('[id]')].map(each => each.id)")
        assert len(ids) == len(set(ids))
        links = page.value("[...document.querySelectorAll('use')].map(each => each.href.baseVal.slice(1))")
        assert set(links) <= set(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_dark_where_the_reader_wants_it(pages: dict[str, Path], tmp_path: Path, kind: str) -> None:
    with Page(tmp_path / "profile", width=1280, dark=True) as page:
        page.open(pages[kind])
        assert page.complaints() == []
        assert brightness(page.value(BACKGROUND)) < 0.2
        assert brightness(page.value("getComputedStyle(document.body).color")) > 0.8
        texts = "[...document.querySelectorAll('svg text')].map(each => getComputedStyle(each).fill)"
        drawn = [brightness(colour) for colour in page.value(texts)]
        on_maps = kind == "grid"  # whose cells have colours of their own
        assert sum(each > 0.5 for each in drawn) >= (0.3 if on_maps else 1.0) * len(drawn) > 0
        page.call("Emulation.setEmulatedMedia", media="print", features=[])
        assert brightness(page.value(BACKGROUND)) > 0.9
        assert page.value("getComputedStyle(document.querySelector('figure svg')).minWidth") == "0px"


def test_strangers_words_are_text(hostile_page: Path, tmp_path: Path) -> None:
    with Page(tmp_path / "profile", width=390) as page:
        page.open(hostile_page)
        assert page.complaints() == []
        assert len([url for url in page.requests() if not url.startswith("data:")]) == 1
        assert page.value("document.querySelectorAll('script, img, iframe, object').length") == 0
        assert page.value(OVERFLOW) == 0
        assert "<script>alert(1)</script>" in page.value("document.querySelector('h1').textContent")
