"""Pages of HTML: the same words as in Markdown, whole by themselves, and nothing that a stranger could slip in."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure

from homoexport.documents.student import WidthFigures
from homoexport.documents.summary import Summary
from homoexport.report import side_by_side_notes, side_by_side_table, write_report
from homoexport.report.kept import kept_figure, kept_table
from homoexport.report.page import Tile, html_page
from homoexport.report.plots import BLUE, INK, STYLE, distribution_figure
from homoexport.report.side_by_side import names_of
from homoexport.report.svg import svg_of
from tests.hostile import HOSTILE
from tests.report.conftest import KINDS, kept_neurons, log_line, typed

VOID = {"meta", "link", "br", "hr", "img", "input"}
WORDS = " ".join(text for name, text in HOSTILE.items() if name != "half a character")


class Elements(HTMLParser):
    """The elements of a page with their attributes' names, in their order, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.text = ""
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(" ".join([tag, *sorted(name for name, _ in attrs)]))
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


def line_figure(label: str = "a line") -> Figure:
    with rc_context(STYLE):
        figure = Figure(figsize=(4, 3))
        axes = figure.subplots()
        axes.plot([1, 2, 3], color=BLUE)
        axes.set_title(label, color=INK)
    return figure


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_asks_for_nothing_and_runs_nothing(pages: dict[str, Path], kind: str) -> None:
    page = Elements(pages[kind].read_text())
    assert not {"script", "img", "iframe", "object", "embed"} & {each.split()[0] for each in page.found}
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    outside = [value for _, name, value in page.attributes if name in ("href", "src", "xlink:href")]
    assert all(value.startswith(("#", "data:", "plan/")) for value in outside)
    assert "url(http" not in pages[kind].read_text()
    assert page.text.count("\x1b") == 0


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "side by side"])
def test_a_page_says_what_its_markdown_says(pages: dict[str, Path], kind: str) -> None:
    """Every figure of the Markdown is in the page, in its order."""
    told = re.sub(r"!\[[^]]*\]\([^)]*\)|\(plan/report.md\)", "", (pages[kind].parent / "report.md").read_text())
    page = Elements(re.sub(r"<(svg|figcaption|nav).*?</\1>|<dl.*?</dl>", "", pages[kind].read_text(), flags=re.S))
    figures = re.findall(r"\d[\d,.]*\d|\d", told.replace("\\", ""))
    assert figures
    assert re.findall(r"\d[\d,.]*\d|\d", page.text.split("\n", 2)[2])[-len(figures) :] == figures


def test_sections_verdict_and_tiles_are_where_they_should_be() -> None:
    markdown = "# Name\n\n**The budget is kept.**\n\n## One\n\n"
    markdown += "![What it says](plots/line.png)\n\n## Two & three\n\nText."
    page = html_page(markdown, {"line": line_figure()}, verdict="kept", tiles=[Tile("Size", "9x", "a < b")])
    assert '<body class="kept">' in page
    order = ["<h1>Name", "The budget is kept", "a &lt; b", 'id="one"', "<svg", "<figcaption>What it says"]
    order.append('id="two-three"')
    assert [page.index(each) for each in order] == sorted(page.index(each) for each in order)
    assert "<h2>Two &amp; three</h2>" in page
    assert 'aria-label="What it says"' in page


def test_verdicts_in_tables_are_marked() -> None:
    page = html_page("# T\n\n| a | b |\n|---|---|\n| x | kept |\n| y | missed |\n| z | too noisy to call |\n", {})
    assert re.findall(r'<td class="(\w+)">', page) == ["kept", "missed", "unclear"]


def test_a_link_to_another_report_leads_to_its_page() -> None:
    assert '<a href="plan/report.html">plan</a>' in html_page("# T\n\n[plan](plan/report.md)\n", {})


def test_strangers_words_are_text_in_every_place(run_dir: Path, summary: Summary, measurement: dict[str, Any]) -> None:
    def page(word: str) -> Elements:
        teacher = summary.teacher.model_copy(update={"name": word, "precision": word})
        told = summary.model_copy(update={"name": word, "teacher": teacher, "versions": {word: word}})
        found = measurement | {"device": word, "host": measurement["host"] | {"cpu": word}}
        write_report(run_dir, told, measurement=typed(found))
        text = (run_dir / "report.html").read_text()
        assert not set("\x1b\x07\x08\x9b\u202e") & set(text)
        return Elements(re.sub(r"<svg.*?</svg>", "", text, flags=re.S))

    hostile, plain = page(WORDS), page("word")
    assert hostile.found == plain.found
    assert "<script>alert(1)</script>" in hostile.text


@pytest.mark.parametrize("text", [text for name, text in HOSTILE.items() if name != "half a character"])
def test_a_figure_says_them_as_text(text: str) -> None:
    found, plain = (Elements(svg_of(line_figure(label), name="line", says=label)) for label in (text, "word"))
    assert {each.split()[0] for each in found.found} == {each.split()[0] for each in plain.found}


def test_a_figure_is_the_same_every_time_and_its_own() -> None:
    first, again = (svg_of(line_figure(), name="line", says="a line") for _ in range(2))
    assert first == again
    other = svg_of(line_figure(), name="other", says="a line")
    ids, others = (set(re.findall(r'\bid="([^"]+)"', drawn)) for drawn in (first, other))
    assert ids
    assert not ids & others
    assert set(re.findall(r"url\(#([^)]+)\)", first)) <= ids
    assert ">a line</text>" in first  # text is text


def test_a_figures_colours_are_the_pages() -> None:
    drawn = svg_of(line_figure(), name="line", says="a line")
    assert "var(--blue)" in drawn
    assert "var(--ink)" in drawn
    assert re.findall(r"#[0-9a-f]{6}\b", drawn) == []


def test_what_stayed_is_told_layer_by_layer() -> None:
    whole = log_line(0).widths
    rows = kept_table(kept_neurons(), whole).rows
    assert rows[0] == ("1", "all 12", "16 of 32", "768 of 1536")
    assert rows[-1] == ("6", "the layer is gone", "", "")
    one_head = WidthFigures(
        hidden_size=4, intermediate_size=4, num_attention_heads=2.0, head_dim=2, num_hidden_layers=1
    )
    layer = kept_neurons().layers[0].model_copy(update={"query_key": "c0", "value_out": "c0", "ffn": "90"})
    few = kept_neurons().model_copy(update={"hidden": "80", "layers": (layer,)})
    assert kept_table(few, one_head).rows == [("1", "1 of 2", "2 of 2", "2 of 4")]
    above, left, right = kept_figure(few, one_head).axes
    assert above.get_title(loc="left") == "Residual stream: 1 of 4 dimensions"
    assert [bar.get_x() for bar in left.patches] == [0.0]
    assert [bar.get_x() for bar in right.patches] == [0.0, 0.75]


def test_a_distribution_goes_through_its_percentiles(measurement: dict[str, Any]) -> None:
    results = typed(measurement).results
    (axes,) = distribution_figure(results, ["teacher", "student"]).axes
    line, dots = axes.get_lines()[:2]
    at = dict(zip(line.get_ydata(), line.get_xdata(), strict=True))
    np.testing.assert_allclose([at[50.0], at[95.0]], [results[0].latency_p50_ms, results[0].latency_p95_ms])
    np.testing.assert_allclose(dots.get_xdata(), [at[50.0], at[95.0]])


def test_runs_side_by_side_are_told_what_does_not_compare(summary: Summary) -> None:
    other = summary.model_copy(update={"host": None, "quality_metric": "label_agreement"})
    table = side_by_side_table({"one": summary, "two": other})
    assert table.head == ("Student", "one", "two")
    assert ("File", "9.10 MB\n10.0x smaller", "9.10 MB\n10.0x smaller") in table.rows
    notes = side_by_side_notes({"one": summary, "two": other})
    assert [note.split(",")[0] for note in notes[:-1]] == [
        "The runs have different machines",
        "The runs have different metrics of quality",
    ]
    assert len(side_by_side_notes({"one": summary, "two": summary})) == 1


def test_runs_are_called_by_their_folders(tmp_path: Path) -> None:
    assert names_of([tmp_path / "a/run", tmp_path / "b"]) == ["run", "b"]
    assert names_of([tmp_path / "a/run", tmp_path / "b/run"]) == [str(tmp_path / "a/run"), str(tmp_path / "b/run")]
