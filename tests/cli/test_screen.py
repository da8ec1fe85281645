"""How far work has come, in a terminal and without one."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from homoexport.cli import screen
from homoexport.stages.finetune import FinetuneProgress
from homoexport.workflow.progress import DistillProgress

WIDTHS = SimpleNamespace(hidden_size=16, intermediate_size=64, num_attention_heads=2.04, num_hidden_layers=2)


def distil(bars: screen.Bars, steps: int, student: str | None = None) -> None:
    for step in range(steps):
        record = SimpleNamespace(step=step, loss=0.5, gap=0.25, terms={"hidden": 0.125}, widths=WIDTHS, seconds=0.5)
        bars.on_distill(DistillProgress(record, steps, 32, student))


@pytest.fixture
def errors(monkeypatch):
    def console(terminal: bool) -> screen.VisibleConsole:
        made = screen.VisibleConsole(
            stderr=True, force_terminal=terminal, markup=False, highlight=False, width=160, record=True
        )
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
        for step in (0, 1, 2, 2):
            bars.on_finetune(FinetuneProgress(step, 2, 0.25, step == 2))
    lines = console.export_text().splitlines()
    said = "small step 40/40  loss 0.5000  gap 0.2500  2 x 16/64, 2 heads  64 texts/s  "
    assert lines[0] == "Distilling"
    assert lines[1].startswith(said.replace("40/40", "1/40"))
    assert re.fullmatch(rf"{re.escape(said)}\d+\.\d GB", lines[11])
    assert all(re.search(r" GB  \d+ s left$", line) for line in lines[2:11])
    assert [line.split("  1 s left")[0] for line in lines[12:]] == [
        "Measuring",
        *(f"step {n}/2  loss 0.2500{'  int8 simulated' * (n == 2)}" for n in (0, 1, 2)),
    ]


def test_the_time_left_is_of_this_stage(errors, monkeypatch):
    """Of a student that is pruned on, not of all that was done since its first turn began."""
    console, now = errors(terminal=False), [0.0]
    monkeypatch.setattr(screen, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with screen.Bars() as bars:
        for turn in range(2):
            bars.on_stage(f"Turn {turn}")
            now[0] += 10_000
            for step in range(10 * turn, 10 * turn + 4):
                record = SimpleNamespace(step=step, loss=0.5, gap=0.25, terms={}, widths=WIDTHS, seconds=2.0)
                bars.on_distill(DistillProgress(record, 10 * turn + 10, 32))
                now[0] += 2
    assert "step 14/20" in console.export_text(clear=False)
    assert console.export_text().splitlines()[-1].endswith("12 s left")


def test_without_a_terminal_a_long_stage_says_how_far_it_is_every_half_minute(errors, monkeypatch):
    console, now = errors(terminal=False), [0.0]
    monkeypatch.setattr(screen, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with screen.Bars() as bars:
        for quarter in range(5):
            bars.on_measure("mending", quarter / 4)
            now[0] += 20
    assert console.export_text().splitlines() == ["Mending", "mending: 50 %"]


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


def test_quiet_says_nothing_and_verbose_says_more(errors):
    console = errors(terminal=False)
    console.loudness = screen.Loudness.QUIET
    for terminal_stage in ("Distilling", "Measuring"):
        with screen.Bars() as bars:
            bars.on_stage(terminal_stage)
            bars.on_note("something")
            bars.on_measure("timing", 0.5)
            distil(bars, 2)
    assert console.export_text() == ""
    console.loudness = screen.Loudness.VERBOSE
    with screen.Bars() as bars:
        bars.on_stage("Distilling")
        distil(bars, 1)
    first, second = console.export_text().splitlines()
    assert re.fullmatch(r"\[\d+\.\d s\] Distilling", first)
    assert "hidden 0.1250" in second


def test_in_a_narrow_terminal_nothing_of_a_step_is_cut(monkeypatch):
    console = screen.VisibleConsole(stderr=True, force_terminal=True, width=80, record=True)
    monkeypatch.setattr(screen, "errors", console)
    with screen.Bars() as bars:
        distil(bars, 4)
    words = console.export_text().split()
    for word in ("4/4", "0.5000", "0.2500", "16/64,", "texts/s", "GB"):
        assert word in words


@pytest.mark.parametrize(("flags", "lines"), [((), 1), (("-q",), 0), (("--quiet",), 0), (("-v",), 1)])
def test_the_flags_of_every_command(homoexport, tmp_path, flags, lines):
    outcome = homoexport("verify", tmp_path, *flags)
    assert outcome.code == 2
    assert outcome.err.startswith("error:")  # errors are always told
    outcome = homoexport("eval", tmp_path, "--task", "sts", "--data", "none.tsv", *flags)
    stages = [line for line in outcome.err.splitlines() if line.endswith("Judging on sts")]
    assert (outcome.code, len(stages)) == (2, lines)


def test_no_color_is_heard(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    console = screen.VisibleConsole(force_terminal=True)
    with console.capture() as captured:
        console.print("error", style="red")
    assert "\x1b[31m" not in captured.get()
