"""What a person sees: results on stdout, progress and errors on stderr, and no word that the terminal would obey."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from typing import IO, TYPE_CHECKING, Any

from pydantic import BaseModel
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from homoexport.plain import visible

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from homoexport.report.table import Table
    from homoexport.stages.finetune import FinetuneProgress
    from homoexport.workflow.progress import DistillProgress, EmbedProgress

_QUIET_SECONDS = 30.0  # without a terminal, a line comes at least this often

_LAYOUT = "\n\t"  # the control characters that lay out what is shown


class VisibleConsole(Console):
    """Every text that it shows, alone or in a cell of a table, is `visible`."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        if isinstance(renderable, str):
            renderable = visible(renderable, keep=_LAYOUT)
        elif isinstance(renderable, Text):
            renderable = renderable.copy()
            renderable.plain = visible(renderable.plain, keep=_LAYOUT)
        return super().render(renderable, options)

    def print(self, *objects: Any, **layout: Any) -> None:
        """Print; where errors and progress cannot be written, they are lost, and the work goes on."""
        try:
            super().print(*objects, **layout)
        except OSError:
            if not self.stderr:
                raise
            del self._buffer[:]  # else they would come with the next


class VisibleStream:
    """What libraries print to stderr by themselves is `visible`, too; the console goes past it, to the stream."""

    def __init__(self, stream: IO[str]) -> None:
        self.rich_proxied_file = stream  # the name under which rich looks for it

    def write(self, text: str) -> int:
        """Write to the stream."""
        return self.rich_proxied_file.write(visible(text, keep=_LAYOUT))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


# No markup: paths and globs may hold square brackets.
output = VisibleConsole(markup=False, highlight=False)
errors = VisibleConsole(stderr=True, markup=False, highlight=False)


def print_json(value: Any) -> None:
    """Machine-readable output: JSON alone on stdout."""
    output.print(json.dumps(value, indent=2), soft_wrap=True)


def show(found: BaseModel | Sequence[BaseModel], *told: str | Text | Table, as_json: bool) -> None:
    """What a command found: JSON for machines, or what is told of it, a line or a table each."""
    if as_json:
        if isinstance(found, BaseModel):
            print_json(found.model_dump(mode="json"))
        else:
            print_json([each.model_dump(mode="json") for each in found])
        return
    for each in told:
        output.print(visible(each) if isinstance(each, str) else each, soft_wrap=isinstance(each, str | Text))


def speaks() -> bool:
    """Whether this process talks to the user: the first of many does."""
    rank = os.environ.get("RANK", "")
    return not (rank.isdecimal() and rank.strip("0"))


def say(text: str, *, style: str = "") -> None:
    """A line on stderr; of many processes, one prints it."""
    if speaks():
        errors.print(Text(visible(text), style=style), soft_wrap=True)


def stage_line(title: str) -> None:
    """Say which stage begins."""
    say(title, style="bold")


class Bars:
    """How far work has come: one bar at a time in a terminal, lines elsewhere. A stage that begins ends the bar."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._stages: set[str] = set()
        self._spoke = time.monotonic()

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def on_stage(self, title: str) -> None:
        """A stage begins."""
        self._end()
        stage_line(title)

    def on_note(self, line: str) -> None:
        """Something worth knowing happened."""
        if speaks():
            errors.print(Text(f"note: {line}"), soft_wrap=True)

    def on_distill(self, progress: DistillProgress) -> None:
        """A step of distilling: loss, widths, parameters, steps per second."""
        step = progress.step
        widths = step.widths
        text = (
            f"loss {step.loss:.4f}  width {widths.hidden_size}/{widths.intermediate_size}  "
            f"heads {round(widths.num_attention_heads, 1):g}x{widths.head_dim}  "
            f"layers {widths.num_hidden_layers}  {step.parameters / 1e6:.2f} M  "
            f"{1 / step.seconds:.2f} steps/s"
        )
        self._step("distilling", progress.student or "", step.step + 1, progress.steps, text)

    def on_finetune(self, progress: FinetuneProgress) -> None:
        """Some steps of fine-tuning: the loss."""
        text = f"loss {progress.loss:.4f}{'  int8 simulated' if progress.int8 else ''}"
        self._step("fine-tuning", "", progress.step, progress.steps, text)

    def on_embed(self, progress: EmbedProgress) -> None:
        """Some more texts were embedded: how many, how fast."""
        text = f"{progress.texts:,} texts  {progress.texts / progress.seconds:,.0f} texts/s"
        if errors.is_terminal:
            bar, task = self._task("embedding", total=progress.about)
            bar.update(task, completed=min(progress.texts, progress.about or progress.texts), text=text)
        elif time.monotonic() - self._spoke > _QUIET_SECONDS:
            self._spoke = time.monotonic()
            say(text)

    def on_measure(self, stage: str, share: float) -> None:
        """A part of measuring, planning or pruning, and the share of it that is done."""
        if not errors.is_terminal:
            if stage not in self._stages:
                self._stages.add(stage)
                stage_line(stage[:1].upper() + stage[1:])
            return
        bar, task = self._task("", total=1.0)
        bar.update(task, description=stage, completed=share)

    def _step(self, verb: str, name: str, done: int, steps: int, text: str) -> None:
        if not speaks():
            return
        if errors.is_terminal:
            bar, task = self._task(f"{verb} {name}".strip(), total=steps)
            bar.update(task, completed=done, total=steps, text=f"{done}/{steps}  {text}")
            return
        due = done == 1 or done % max(1, steps // 10) == 0 or done == steps
        if due or time.monotonic() - self._spoke > _QUIET_SECONDS:
            self._spoke = time.monotonic()
            say(f"{name} step {done}/{steps}  {text}".lstrip())

    def _task(self, title: str, total: float | None) -> tuple[Progress, TaskID]:
        """The bar, and the line of it that has this title."""
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        passing = total == 1.0
        if self._bar is not None and self._bar.live.transient != passing:
            self._end()
        if self._bar is None:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[text]}"))
            self._bar = Progress(
                *columns,
                TimeRemainingColumn(),
                console=errors,
                transient=passing,
                redirect_stdout=False,  # rich would take escape sequences in what libraries say for styles
                redirect_stderr=False,
            )
            self._bar.start()
        if title not in self._tasks:
            self._tasks[title] = self._bar.add_task(title, total=total, text="")
        return self._bar, self._tasks[title]

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._tasks = None, {}
