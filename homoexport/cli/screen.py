"""What a person sees: results on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

if TYPE_CHECKING:
    from homoexport.distill import Progress as DistillProgress
    from homoexport.finetune import FinetuneProgress

_QUIET_SECONDS = 30.0  # without a terminal, a line comes at least this often

# No markup: paths and globs may hold square brackets.
output = Console(markup=False, highlight=False)
errors = Console(stderr=True, markup=False, highlight=False)


def print_json(value: Any) -> None:
    """Machine-readable output: JSON alone on stdout."""
    output.print(json.dumps(value, indent=2), soft_wrap=True)


def speaks() -> bool:
    """Whether this process talks to the user: the first of many does."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def distill_bar() -> Iterator[Callable[[DistillProgress], None]]:
    """A bar with loss, widths, parameters, steps per second and time left; without a terminal, lines."""
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
        TimeRemainingColumn(),
        console=errors,
        disable=not (errors.is_terminal and speaks()),
    )
    tasks: dict[str, TaskID] = {}
    spoke = time.monotonic()
    with bar:

        def show(progress: DistillProgress) -> None:
            nonlocal spoke
            report, steps = progress.report, progress.steps
            name = progress.student or ""
            if name not in tasks:
                tasks[name] = bar.add_task(f"distilling {name}".strip(), total=steps, text="")
            widths = report.widths
            text = (
                f"loss {report.loss:.4f}  width {widths['hidden_size']}/{widths['intermediate_size']}  "
                f"heads {round(widths['num_attention_heads'], 1):g}x{widths['head_dim']}  "
                f"layers {widths['num_hidden_layers']}  {report.parameters / 1e6:.2f} M  "
                f"{1 / report.seconds:.2f} steps/s"
            )
            bar.update(tasks[name], completed=report.step + 1, text=text)
            due = (report.step + 1) % max(1, steps // 10) == 0 or report.step == 0
            if bar.disable and speaks() and (due or time.monotonic() - spoke > _QUIET_SECONDS):
                spoke = time.monotonic()
                errors.print(f"{name} step {report.step + 1}/{steps}  {text}".lstrip(), soft_wrap=True)

        yield show


@contextmanager
def finetune_bar() -> Iterator[Callable[[FinetuneProgress], None]]:
    """A bar for each training; without a terminal, lines."""
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
        TimeRemainingColumn(),
        console=errors,
        disable=not errors.is_terminal,
    )
    task: TaskID | None = None
    with bar:

        def show(progress: FinetuneProgress) -> None:
            nonlocal task
            text = f"loss {progress.loss:.4f}{'  int8 simulated' if progress.int8 else ''}"
            if bar.disable:
                errors.print(f"step {progress.step}/{progress.steps}  {text}", soft_wrap=True)
                return
            if task is None:
                task = bar.add_task("fine-tuning", total=progress.steps, text="")
            bar.update(task, completed=progress.step, text=text)
            if progress.step == progress.steps:
                task = None

        yield show


@contextmanager
def measure_bar() -> Iterator[Callable[[str, float], None]]:
    """A bar for measuring."""
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        console=errors,
        transient=True,
        disable=not errors.is_terminal,
    )
    task = bar.add_task("measuring", total=1.0)
    with bar:
        yield lambda stage, share: bar.update(task, description=stage, completed=share)


@contextmanager
def plan_bar() -> Iterator[Callable[[str, float], None]]:
    """A bar for planning; without a terminal a line for each step, as they take minutes."""
    told: set[str] = set()

    def tell(stage: str, _share: float) -> None:
        if stage not in told:
            told.add(stage)
            stage_line(stage[:1].upper() + stage[1:])

    if not errors.is_terminal:
        yield tell
        return
    with measure_bar() as bar:
        yield bar


def stage_line(title: str) -> None:
    """Say which stage begins."""
    if speaks():
        errors.print(Text(title, style="bold"), soft_wrap=True)


class StageBars(ExitStack):
    """The bars of a run: each exists only while its stage works, for two cannot share a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._distill: Callable[[DistillProgress], None] | None = None
        self._measure: Callable[[str, float], None] | None = None

    def on_stage(self, title: str) -> None:
        """End the bar of the stage before, and say which begins."""
        self.close()
        self._distill = self._measure = None
        stage_line(title)

    def on_distill(self, progress: DistillProgress) -> None:
        """Show a distillation step."""
        if self._distill is None:
            self._distill = self.enter_context(distill_bar())
        self._distill(progress)

    def on_measure(self, stage: str, share: float) -> None:
        """Show how far measuring has come."""
        if self._measure is None:
            self._measure = self.enter_context(measure_bar())
        self._measure(stage, share)
