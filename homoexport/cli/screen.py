"""What a person sees: results on stdout, progress and errors on stderr, and no word that the terminal would obey."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import IO, TYPE_CHECKING, Any

from pydantic import BaseModel
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from homoexport.plain import visible
from homoexport.runtime.worker.machine import peak_rss_bytes
from homoexport.units import duration

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from homoexport.report.table import Table
    from homoexport.stages.finetune import FinetuneProgress
    from homoexport.workflow.progress import DistillProgress, EmbedProgress

_QUIET_SECONDS = 30.0  # without a terminal, a line comes at least this often

_LAYOUT = "\n\t"  # the control characters that lay out what is shown
_BEGAN = time.monotonic()


class Loudness(Enum):
    """How much is said of work in progress."""

    QUIET, USUAL, VERBOSE = range(3)


class VisibleConsole(Console):
    """Every text that it shows, alone or in a cell of a table, is `visible`."""

    loudness = Loudness.USUAL

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
    if speaks() and errors.loudness is not Loudness.QUIET:
        since = f"[{time.monotonic() - _BEGAN:.1f} s] " if errors.loudness is Loudness.VERBOSE else ""
        errors.print(Text(visible(f"{since}{text}"), style=style), soft_wrap=True)


def stage_line(title: str) -> None:
    """Say which stage begins."""
    say(title, style="bold")


class Bars:
    """How far work has come: one bar at a time in a terminal, lines elsewhere. A stage that begins ends the bar."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._stages: set[str] = set()
        self._begun: dict[str, tuple[float, int]] = {}  # when the first step was over, and its number
        self._spoke = time.monotonic()
        self._said: tuple[str, int] | None = None  # the last line's step

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def on_stage(self, title: str) -> None:
        """A stage begins."""
        self._end()
        self._begun.clear()
        self._said = None
        stage_line(title)

    def on_note(self, line: str) -> None:
        """Something worth knowing happened."""
        say(f"note: {line}")

    def on_distill(self, progress: DistillProgress) -> None:
        """A step of distilling: loss, gap, widths, texts a second, memory."""
        step, widths = progress.step, progress.step.widths
        heads = round(widths.num_attention_heads, 1)
        text = (
            f"loss {step.loss:.4f}  gap {step.gap:.4f}  {widths.num_hidden_layers} x {widths.hidden_size}/"
            f"{widths.intermediate_size}, {heads:g} head{'' if heads == 1 else 's'}  "
            f"{progress.batch_size / step.seconds:.0f} texts/s  {peak_rss_bytes() / 1e9:.1f} GB"
        )
        if errors.loudness is Loudness.VERBOSE:
            text += "".join(f"  {name} {value:.4f}" for name, value in step.terms.items())
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
        if errors.loudness is Loudness.QUIET:
            return
        if not errors.is_terminal:
            now = time.monotonic()
            if stage not in self._stages:
                self._stages.add(stage)
                self._spoke = now
                stage_line(stage[:1].upper() + stage[1:])
            elif share < 1 and now - self._spoke > _QUIET_SECONDS:
                self._spoke = now
                say(f"{stage}: {100 * share:.0f} %")
            return
        bar, task = self._task("", total=1.0)
        bar.update(task, description=stage, completed=share)

    def _step(self, verb: str, name: str, done: int, steps: int, text: str) -> None:
        if not speaks() or errors.loudness is Loudness.QUIET:
            return
        if errors.is_terminal:
            bar, task = self._task(f"{verb} {name}".strip(), total=steps)
            bar.update(task, completed=done, total=steps, text=f"{done}/{steps}  {text}")
            return
        now, is_new = time.monotonic(), self._said != (name, done)
        begun, first = self._begun.setdefault(name, (now, done))
        left = f"  {duration((now - begun) / (done - first) * (steps - done))} left" if first < done < steps else ""
        due = is_new and (done == 1 or done % -(-steps // 10) == 0 or done == steps)
        if due or now - self._spoke > _QUIET_SECONDS:
            self._spoke, self._said = now, (name, done)
            say(f"{name} step {done}/{steps}  {text}{left}".lstrip())

    def _task(self, title: str, total: float | None) -> tuple[Progress, TaskID]:
        """The bar, and the line of it that has this title."""
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        passing = total == 1.0
        if self._bar is not None and self._bar.live.transient != passing:
            self._end()
        if self._bar is None:
            folded = Column(overflow="fold")  # in a narrow terminal, where else it would be cut
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=min(40, errors.width // 8)),
                TextColumn("{task.fields[text]}", table_column=folded),
            )
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
