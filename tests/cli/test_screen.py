"""How far work has come, in a terminal and without one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from rich.console import Console

from homoexport.cli import screen
from homoexport.stages.finetune import FinetuneProgress

WIDTHS = SimpleNamespace(
    hidden_size=16, intermediate_size=64, num_attention_heads=2.04, head_dim=8, num_hidden_layers=2
)


def distil(bars: screen.Bars, steps: int, student: str | None = None) -> None:
    for step in range(steps):
        record = SimpleNamespace(step=step, loss=0.5, widths=WIDTHS, parameters=2_500_000, seconds=0.5)
        bars.on_distill(SimpleNamespace(step=record, steps=steps, student=student))


@pytest.fixture
def errors(monkeypatch):
    def console(terminal: bool) -> Console:
        made = Console(stderr=True, force_terminal=terminal, markup=False, highlight=False, width=160, record=True)
        monkeypatch.setattr(screen, "errors", made)
        return made

    return console


def test_without_a_terminal_about_ten_lines_and_each_stage_once(errors):
    console = errors(terminal=False)
    with screen.Bars() as bars:
        bars.on_stage("Distilling")
        distil(bars, 40, "small")
        for share in (0.1, 0.2):
            bars.on_measure("measuring", share)
        for step in (0, 1, 2):
            bars.on_finetune(FinetuneProgress(step, 2, 0.25, step == 2))
    lines = console.export_text().splitlines()
    said = "small step 40/40  loss 0.5000  width 16/64  heads 2x8  layers 2  2.50 M  2.00 steps/s"
    assert lines[:2] == ["Distilling", said.replace("40/40", "1/40")]
    assert lines.index(said) == 11
    assert lines[12:] == ["Measuring", *(f"step {n}/2  loss 0.2500{'  int8 simulated' * (n == 2)}" for n in (0, 1, 2))]


def test_in_a_terminal_one_bar_at_a_time(errors):
    console = errors(terminal=True)
    with screen.Bars() as bars:
        distil(bars, 4, "wide")
        distil(bars, 4, "narrow")
        bars.on_stage("Measuring")
        bars.on_measure("timing", 0.5)
    said = console.export_text()
    for part in ("distilling wide", "distilling narrow", "4/4  loss 0.5000", "Measuring", "timing"):
        assert part in said


def test_in_a_terminal_a_passing_bar_leaves_and_the_next_stays(errors):
    console = errors(terminal=True)
    with screen.Bars() as bars:
        bars.on_measure("mending", 0.5)
        assert bars._bar.live.transient
        distil(bars, 4)
        assert not bars._bar.live.transient
        assert list(bars._tasks) == ["distilling"]
    assert "4/4  loss 0.5000" in console.export_text()


def test_of_many_processes_one_speaks(errors, monkeypatch):
    console = errors(terminal=False)
    monkeypatch.setenv("RANK", "1")
    with screen.Bars() as bars:
        bars.on_stage("Distilling")
        distil(bars, 4)
    assert console.export_text() == ""


@pytest.mark.parametrize(
    ("rank", "speaks"), [("", True), ("0", True), ("abc", True), ("1", False), ("9" * 5000, False)]
)
def test_the_first_process_speaks_whatever_its_rank_is_called(monkeypatch, rank, speaks):
    monkeypatch.setenv("RANK", rank)
    assert screen.speaks() is speaks
