"""A report's page, twice: `report.md` with its plots beside it, and `report.html`, the same in one file.

What is said is written once, as Markdown; the page of HTML is made of it. It needs no network and runs no script, and
says so itself (its Content-Security-Policy).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Literal, NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token
from matplotlib.figure import Figure

from homoexport.choices import TOO_CLOSE, TOO_NOISY
from homoexport.data import rendered_html
from homoexport.documents.document import write_text
from homoexport.documents.layout import HTML_REPORT, PLOTS, REPORT
from homoexport.report.plots import save_figures
from homoexport.report.svg import svg_of

Verdict = Literal["kept", "missed", "unclear", ""]
_READER = MarkdownIt("commonmark", {"html": False}).enable("table")
_VERDICTS = {"kept": "kept", "missed": "missed", TOO_NOISY: "unclear", TOO_CLOSE: "unclear"}


class Tile(NamedTuple):
    """A figure in large letters above a page: what it is of, the figure, and what it is made of."""

    label: str
    figure: str
    detail: str = ""


def verdict_of(kept: bool | None, *, asked: bool) -> Verdict:
    """The verdict that a page is coloured by; none where nothing was asked."""
    if not asked:
        return ""
    if kept is None:
        return "unclear"
    return "kept" if kept else "missed"


def write_page(
    folder: Path, markdown: str, figures: Mapping[str, Figure], *, verdict: Verdict = "", tiles: Sequence[Tile] = ()
) -> None:
    """Write a report into a folder: as Markdown with plots, and as one page of HTML; see `html_page`."""
    save_figures(folder, figures)
    write_text(folder / REPORT, markdown)
    write_text(folder / HTML_REPORT, html_page(markdown, figures, verdict=verdict, tiles=tiles))


def html_page(
    markdown: str, figures: Mapping[str, Figure], *, verdict: Verdict = "", tiles: Sequence[Tile] = ()
) -> str:
    """A page of HTML out of one of Markdown, whose first heading is its title and whose second ones are its sections.

    Args:
        markdown: every word of it that is a stranger's is escaped already; HTML in it is text.
        figures: those that stand in place of the pictures `plots/NAME.png`, by their names.
        verdict: what the page is coloured by.
        tiles: figures in large letters, which stand before the first section.
    """
    head, *others = [_Section(title, _rendered(part, figures)) for title, part in _parts(_READER.parse(markdown))]
    return rendered_html("report.html.jinja", verdict=verdict, tiles=tiles, head=head, sections=others)


class _Section(NamedTuple):
    title: str
    html: str

    @property
    def anchor(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def _parts(tokens: Sequence[Token]) -> Iterator[tuple[str, Sequence[Token]]]:
    """Each heading's text and what stands below it; the first is the page's."""
    starts = [place for place, token in enumerate(tokens) if token.type == "heading_open" and token.tag in ("h1", "h2")]
    for start, end in zip(starts, [*starts[1:], len(tokens)], strict=True):
        yield _plain(tokens[start + 1]), tokens[start + 3 : end]


def _plain(inline: Token) -> str:
    """The text of a heading, or of what stands for a picture."""
    return "".join(child.content for child in inline.children or ())


def _rendered(tokens: Sequence[Token], figures: Mapping[str, Figure]) -> str:
    """HTML of a part of a page: pictures drawn, tables in boxes that scroll, verdicts marked, links to other pages."""
    told: list[Token] = []
    for place, token in enumerate(tokens):
        picture = _picture(token)
        inside = {"paragraph_open": place + 1, "paragraph_close": place - 1}.get(token.type)
        if picture is not None:
            told.append(_html(_figure(picture, figures)))
        elif inside is not None and _picture(tokens[inside]) is not None:
            pass  # the paragraph of a picture
        elif token.type == "table_open":
            told += [_html('<div class="scroll" tabindex="0">'), token]
        elif token.type == "table_close":
            told += [token, _html("</div>")]
        else:
            if token.type == "td_open" and (state := _state(tokens[place + 1].content)):
                token.attrSet("class", state)
            for child in token.children or ():
                _lead_to_html(child)
            told.append(token)
    return str(_READER.renderer.render(told, _READER.options, {}))


def _state(cell: str) -> str | None:
    """What a cell of a table is coloured by: the verdict that it is, or that it ends with."""
    return _VERDICTS.get(cell.rpartition(", ")[2])


def _html(text: str) -> Token:
    return Token("html_block", "", 0, content=text)


def _picture(token: Token) -> Token | None:
    """The picture of a paragraph that has nothing else."""
    children = token.children or []
    return children[0] if len(children) == 1 and children[0].type == "image" else None


def _figure(picture: Token, figures: Mapping[str, Figure]) -> str:
    says, name = _plain(picture), str(picture.attrs["src"]).removeprefix(f"{PLOTS}/").removesuffix(".png")
    drawn = svg_of(figures[name], name=name, says=says)
    return f'<figure><div class="scroll" tabindex="0">{drawn}</div><figcaption>{escape(says)}</figcaption></figure>\n'


def _lead_to_html(token: Token) -> None:
    """Of a link to another report: to its page of HTML."""
    href = token.attrGet("href")
    if token.type == "link_open" and isinstance(href, str) and href.endswith(REPORT):
        token.attrSet("href", href.removesuffix(REPORT) + HTML_REPORT)
