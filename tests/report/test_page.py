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

from homoexport.documents.budget import BudgetVerdict
from homoexport.documents.student import WidthFigures
from homoexport.documents.summary import Summary
from homoexport.report import side_by_side_notes, side_by_side_table, write_report, write_side_by_side
from homoexport.report.kept import kept_figure, kept_table
from homoexport.report.page import Tile, html_page, verdict_of
from homoexport.report.plots import BLUE, INK, STYLE, distribution_figure
from homoexport.report.side_by_side import names_of
from homoexport.report.svg import svg_of
from homoexport.report.wording import verdict_word
from tests.hostile import HOSTILE
from tests.report.conftest import KINDS, OF_SEVERAL, kept_neurons, log_line, typed
from tests.report.test_verdicts import ACCURACY, LATENCY, told_of

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


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in OF_SEVERAL])
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
    words = ("kept", "missed", "too noisy to call", "too close to call", "9 MB, at most 8 MB, missed", "not missed")
    table = "| a | b |\n|---|---|\n" + "".join(f"| x | {word} |\n" for word in words)
    page = html_page(f"# T\n\n{table}", {})
    assert re.findall(r'<td class="(\w+)">', page) == ["kept", "missed", "unclear", "unclear", "missed"]


@pytest.mark.parametrize("verdict", [ACCURACY, LATENCY])
@pytest.mark.parametrize("kept", [True, False, None])
def test_every_word_of_a_verdict_is_one_that_pages_mark(verdict: BudgetVerdict, kept: bool | None) -> None:
    word = verdict_word(verdict.model_copy(update={"kept": kept}))
    page = html_page(f"# T\n\n| a | b |\n|---|---|\n| x | {word} |\n", {})
    assert f'<td class="{verdict_of(kept, asked=True)}">' in page


def test_a_runs_page_has_floors_of_quality_in_large_letters(
    run_dir: Path, summary: Summary, measurement: dict[str, Any]
) -> None:
    figure = ACCURACY.model_copy(update={"teacher": None, "share_interval": None, "asked": None})
    for verdict, large, small in (
        (ACCURACY, "92.9 % (90.8 to 94.9)", "0.831 to 0.772"),
        (figure, "0.874 (0.861 to 0.886)", "teacher: 1.00"),
    ):
        write_report(run_dir, told_of(summary, verdict), measurement=typed(measurement))
        page = (run_dir / "report.html").read_text()
        head, tiles = page.partition('<dl class="tiles">')[::2]
        assert "The budget is missed: Quality (accuracy, sst2 dev)" in head
        assert "Next: Quality (accuracy, sst2 dev)" in head
        assert f"<strong>{large}</strong><span>{small}</span>" in tiles.partition("</dl>")[0]
        assert "teacher: 1.00" in tiles.partition("</dl>")[0]  # the likeness that every run is judged by


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
    assert kept_table(few, one_head).rows == [("1", "1 of 2: no. 1", "2 of 2", "2 of 4")]
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


def test_runs_side_by_side_have_the_words_of_each_ones_verdict(
    tmp_path: Path, summary: Summary, measurement: dict[str, Any]
) -> None:
    """A quality that is too close to call is none of the machine's noise; floors on several data are several rows."""
    close = ACCURACY.model_copy(update={"kept": None})
    other = close.model_copy(update={"data": "mrpc dev", "kept": True})
    runs = {"one": told_of(summary, close, other), "two": summary}
    assert side_by_side_table(runs).rows[0] == ("Budget", "too close to call", "kept")
    write_side_by_side(tmp_path / "page.html", runs, [typed(measurement)] * 2)
    text = Elements((tmp_path / "page.html").read_text()).text
    assert "too noisy to call" not in text
    for line in ("Quality (accuracy, sst2 dev)", "Quality (accuracy, mrpc dev)", "Latency p95"):
        assert line in text


def test_runs_of_one_recipe_were_measured_in_turns_and_share_stages(
    tmp_path: Path, summary: Summary, measurement: dict[str, Any]
) -> None:
    notes = side_by_side_notes({"one": summary}, of=["one", "two"])
    assert notes[0] == "two is left out: its student does not fit the device, or its run is not finished"
    assert "in turns" in notes[1]
    shared = {"distill": 1234.5}
    write_side_by_side(tmp_path / "page.html", {"one": summary}, [typed(measurement)], of=["one", "two"], shared=shared)
    page = (tmp_path / "page.html").read_text()
    assert '<a href="one/report.html">one</a>' in page
    text = Elements(page).text
    assert notes[0] in text
    assert "for all" in text
    assert text.count("1,234.5 s") == 2  # of the stage, and together


def test_a_run_that_another_beats_in_all_is_not_on_the_front(summary: Summary) -> None:
    smaller, better, same = (
        summary.model_copy(update={"student": summary.student.model_copy(update=changes)})
        for changes in ({"file_bytes": 1000}, {"quality": summary.student.quality + 0.1}, {})
    )
    runs = {"one": summary, "smaller": smaller, "better": better, "same": same}
    bare = {name: run.model_copy(update={"budget": ()}) for name, run in runs.items()}
    (row,) = [row for row in side_by_side_table(bare).rows if row[0] == "Pareto"]
    assert row[1:] == ("worse than smaller", "on the front", "on the front", "worse than smaller")
    lossy = {name: run.model_copy(update={"quality_metric": "loss"}) for name, run in bare.items()}
    (row,) = [row for row in side_by_side_table(lossy).rows if row[0] == "Pareto"]
    assert row[3] == "worse than one"
    (row,) = [row for row in side_by_side_table({"one": summary, "same": summary}).rows if row[0] == "Pareto"]
    assert row[1:] == ("on the front", "on the front")


def test_runs_are_called_by_their_folders(tmp_path: Path) -> None:
    assert names_of([tmp_path / "a/run", tmp_path / "b"]) == ["run", "b"]
    assert names_of([tmp_path / "a/run", tmp_path / "b/run"]) == ["a/run", "b/run"]
