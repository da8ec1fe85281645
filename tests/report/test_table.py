"""Tables in a terminal of 80 columns: lines break between words, names stay whole."""

from __future__ import annotations

import pytest
from rich.console import Console

from homoexport.report.table import Table

LONG = "runs/quickstart-of-a-longer-name/{}-onnx-package-with-a-name"


def shown(table: Table, width: int = 80) -> list[str]:
    console = Console(width=width, record=True, force_terminal=False)
    console.print(table)
    return console.export_text().splitlines()


def test_a_narrow_one_is_as_wide_as_it_needs_to_be():
    lines = shown(Table(("", "a"), [("first row", "1"), ("second", "2")]))
    assert max(map(len, lines)) < 25
    assert any("first row" in line and "1" in line for line in lines)


def test_lines_break_between_words():
    rows = [(LONG.format(1), "onnxruntime, int8", "0.8593\n0.8401 to 0.8766"), ("short", "torch, fp32", "0.9\n-")]
    lines = shown(Table(("model", "runs in", "spearman"), rows, left=(0, 1)), width=90)
    assert max(map(len, lines)) <= 90
    assert sum(LONG.format(1) in line for line in lines) == 1
    words = " ".join(lines).replace("│", " ").replace("┃", " ").split()
    for word in ("onnxruntime,", "0.8593", "0.8401", "0.8766"):
        assert word in words


def test_long_names_break_behind_a_plus():
    name = "unfused+merged+smoothed-0.8+attention-int8-static"
    rows = [(name, "23.14", "2", "15.061", "0.99812", "ships"), ("flash", "90.39", "1", "18.500", "-", "went on")]
    head = ("candidate", "MB", "round", "p50 ms", "cosine, mean", "outcome")
    lines = shown(Table(head, rows, left=(0, 5)))
    cells = [line.split("│")[1].strip() for line in lines if line.startswith("│")]
    assert "".join(cells[:-1]) == name
    assert all(cell.endswith("+") for cell in cells[:-2])
    assert cells[-1] == "flash"
    wide = shown(Table(head, rows, left=(0, 5)), width=120)
    assert sum(name in line for line in wide) == 1


def test_where_words_are_too_wide_each_row_is_a_block():
    metrics = [f"metric-{number}" for number in range(6)]
    rows = [
        (LONG.format(place), "torch, fp32", *(f"0.{place}{number}\n0.1 to 0.9" for number in range(6)))
        for place in (1, 2)
    ]
    lines = shown(Table(("model", "runs in", *metrics), rows, "sts on dev.tsv", left=(0, 1)))
    assert max(map(len, lines)) <= 80
    assert lines[0].strip() == "sts on dev.tsv"
    start = lines.index(LONG.format(2))
    assert lines[start + 1 : start + 4] == [
        "    runs in: torch, fp32",
        "    metric-0: 0.20, 0.1 to 0.9",
        "    metric-1: 0.21, 0.1 to 0.9",
    ]


def test_names_of_columns_are_told_above():
    names = [LONG.format(place) for place in (1, 2)]
    rows = [("Latency p50", "26.4 ms (26.1 to 26.6)", "5.52 ms (5.47 to 5.58)"), ("File", "90.3 MB", "9.75 MB")]
    lines = shown(Table(("", *names), rows, "cpu, 1 thread", by_column=True))
    assert max(map(len, lines)) <= 80
    assert lines[:3] == ["cpu, 1 thread", f"1: {names[0]}", f"2: {names[1]}"]
    assert any("26.4 ms (26.1 to 26.6)" in line and "5.52 ms (5.47 to 5.58)" in line for line in lines)


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_no_word_is_ever_cut(width):
    table = Table(
        ("model", "runs in", "accuracy"), [("a-model-of-some-length", "torch, fp32", "0.81\n0.7 to 0.9")], left=(0,)
    )
    words = " ".join(shown(table, width)).replace("│", " ").replace(",", " ").replace(":", " ").split()
    assert {"a-model-of-some-length", "torch", "fp32", "0.81", "0.7", "0.9"} <= set(words)
