"""Pages out of strangers' words have the parts that pages out of plain words have, and no others."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt
from matplotlib import rc_context
from matplotlib.figure import Figure

from homoexport.cli.screen import VisibleConsole, VisibleStream
from homoexport.documents.artifact import PackageManifest, read_manifest
from homoexport.documents.package import OrtFormat, PackageDetails
from homoexport.documents.summary import Summary
from homoexport.report import write_bench_report, write_report
from homoexport.report.plots import STYLE
from homoexport.report.table import Table
from homoexport.stages.export.card import model_card
from tests.hostile import HOSTILE
from tests.report.conftest import typed

WORDS = {name: text for name, text in HOSTILE.items() if name != "half a character"}  # which no JSON that is read holds
AT_START = [WORDS[name] for name in ("heading at the start", "rule", "list", "block")]
PAGES = pytest.mark.parametrize("text", [*AT_START, " ".join(WORDS.values())])
ANY = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def parts_of(page: str) -> list[str]:
    """The kinds of what a reader of Markdown finds, in their order."""
    assert "\x1b" not in page
    found: list[str] = []
    for token in READER.parse(page):
        inside = [child.type for child in token.children or () if child.type not in ("text", "text_special")]
        found += [f"{token.type} {token.tag}", *inside]
    assert not [kind for kind in found if kind.startswith(("html", "image"))]
    return found


def card_of(details: PackageDetails, word: str) -> tuple[dict[str, Any], str]:
    """Front matter and text of the card of a package in which that word is everywhere."""
    first = details.candidates[0] if details.candidates else None
    hostile = details.model_copy(
        update={
            "labels": (word, word),
            "kept_in_fp32": (word,),
            "quantization": word,
            "embeddings": word,
            "graph": word,
            "candidate": word,
            "candidates": (first.model_copy(update={"full_name": word}),) if first else (),
            "left_out": {word: word},
            "held_on": word,
            "oldest_onnxruntime": word,
            "output_names": (word,),
            "model_file": word,
            "ort_format": OrtFormat(file=word, operators=word),
        }
    )
    card = model_card(word, hostile, parent="0" * 64, source=f"me/{word}")
    front, text = card.removeprefix("---\n").split("\n---\n", 1)
    return yaml.safe_load(front), text


@ANY
def test_a_card_says_them_and_is_a_card(run_dir: Path, text: str) -> None:
    for task in ("text-classification", "sentence-similarity"):
        details = read_manifest(run_dir / "2-onnx", PackageManifest).details.model_copy(update={"task": task})
        (front, page), (plain_front, plain_page) = card_of(details, text), card_of(details, "word")
        assert front.keys() == plain_front.keys()
        assert parts_of(page) == parts_of(plain_page)


@PAGES
def test_a_report_says_them_and_is_a_report(
    run_dir: Path, summary: Summary, measurement: dict[str, Any], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homoexport.report.page.save_figures", lambda *_: None)

    def page(word: str) -> str:
        update = {"name": word, "recipe_digest": word, "versions": {word: word}, "quality_metric": word}
        told = summary.model_copy(
            update=update | {"teacher": summary.teacher.model_copy(update={"name": word, "precision": word})}
        )
        told = told.model_copy(update={"measured": told.measured.model_copy(update={"device": word})})
        found = measurement | {"device": word, "host": measurement["host"] | {"cpu": word}}
        write_report(run_dir, told, measurement=typed(found))
        return (run_dir / "report.md").read_text().replace("![", "[")  # our own plots

    assert parts_of(page(text)) == parts_of(page("word"))


@PAGES
def test_a_measurement_says_them(tmp_path: Path, measurement: dict[str, Any], text: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("homoexport.report.page.save_figures", lambda *_: None)

    def page(word: str) -> str:
        found = measurement | {"device": word}
        found["results"] = [result | {"name": word, "package": word} for result in measurement["results"]]
        found["failures"] = [{"package": word, "stage": word, "reason": word}]
        write_bench_report(tmp_path, typed(found))
        return (tmp_path / "report.md").read_text().replace("![", "[")

    assert parts_of(page(text)) == parts_of(page("word"))


def test_a_plot_shows_names_as_they_are(tmp_path: Path) -> None:
    with rc_context(STYLE):
        figure = Figure()
        figure.suptitle(HOSTILE["mathematics"])
        figure.savefig(tmp_path / "plot.png")


@ANY
@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_is_told_nothing_to_do(text: str, terminal: bool) -> None:
    def shown(word: str) -> str:
        stream = io.StringIO()
        console = VisibleConsole(
            file=stream, force_terminal=terminal, markup=False, highlight=False, width=400, color_system=None
        )
        console.print(Table(("figure", word), [(word, word)], word))
        console.print(word, soft_wrap=True)
        print(word, file=VisibleStream(stream))
        return stream.getvalue()

    assert not set("\x1b\x07\x08\r\x9b\x9d\x9c\u202e\u2066\udcff\ud800") & set(shown(text))
