"""What a run would do, before it begins, for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from homoexport.documents.outlook import Learning, Outlook, RunTime, SourceFound
from homoexport.plain import visible
from homoexport.report.table import Table
from homoexport.report.wording import budget_line, parameters, quantity
from homoexport.units import duration

_STAGES = {
    "finetune": "fine-tuning the teacher",
    "plan": "planning",
    "text": "reading the text",
    "vectors": "asking for vectors",
    "distill": "distilling",
    "teacher": "exporting the teacher",
    "export": "exporting the student",
    "measure": "measuring",
    "quality": "judging",
}
_FEW_LABELS = 5


def outlook_table(outlook: Outlook) -> Table:
    """A row for each thing that was found."""
    threads = "all cores" if outlook.threads is None else f"{outlook.threads} thread{'s' * (outlook.threads > 1)}"
    batch_size, length = outlook.workload
    student = "planned for each budget" if outlook.budgets else "planned for the budget"
    if outlook.vocab_sizes:
        student += f", with all words or {' or '.join(f'{size:,}' for size in outlook.vocab_sizes)}"
    if outlook.student_shape is not None and outlook.student_parameters is not None:
        student = f"{outlook.student_shape.name}, {parameters(outlook.student_parameters)}"
    students = [f"{name}: {shape.name}" for name, shape in outlook.students.items()] or [student]
    budgets = [f"{name}: {_lines(lines)}" for name, lines in outlook.budgets.items()] or [_lines(outlook.budget)]
    rows = [
        ("Teacher", outlook.teacher),
        (
            "",
            f"{outlook.family}, {outlook.task}: {outlook.teacher_shape.name}, {parameters(outlook.teacher_parameters)}",
        ),
        ("Learns first", "" if outlook.finetuning is None else _learning(outlook.finetuning)),
        *_rows("Text", list(map(_source, outlook.text))),
        (
            "Sequences",
            f"{outlook.tokens:.0f} tokens on average, {outlook.max_length} at most; {outlook.held_out:,} held out",
        ),
        ("Objective", f"{outlook.objective}, {outlook.method}: {outlook.steps:,} steps of {outlook.batch_size:,}"),
        *_rows("Student", students),
        ("Device", f"{outlook.device}, {threads}, {batch_size} x {length} tokens"),
        *_rows("Budget", budgets),
        ("Quality", outlook.quality or ""),
        ("Disk", f"{_gigabytes(outlook.disk_needed_bytes)} at least, {_gigabytes(outlook.disk_free_bytes)} free"),
        ("Time", "" if outlook.time is None else time_in_words(outlook.time)),
    ]
    return Table(("", f"{outlook.recipe} can run"), [row for row in rows if row[1]], left=(0, 1))


def row_lines(outlook: Outlook) -> list[str]:
    """The first rows of each source, as they were read."""
    lines = []
    for source in outlook.text:
        lines.append(f"First rows of {source.source}:")
        lines += ["  " + "  ".join(f"{role}: {cell}" for role, cell in row.items()) for row in source.rows]
    return lines


def time_in_words(found: RunTime) -> str:
    """How long a run takes, which of its stages how long, and what that is taken from."""
    stages = ", ".join(f"{_STAGES[stage]} {duration(seconds)}" for stage, seconds in found.seconds.items())
    turn = "" if found.turn is None else f"; {duration(found.turn)} more for each turn after a missed budget"
    return f"about {duration(found.total)}: {stages}{turn} (by {found.basis})"


def _rows(name: str, cells: Sequence[str]) -> list[tuple[str, str]]:
    """A row for each of several things of a kind, the first of which says what they are."""
    return [("" if place else name, cell) for place, cell in enumerate(cells)]


def _learning(found: Learning) -> str:
    labels = _labels(found.labels) if found.labels else "scores"
    count = f"{found.examples:,} of {found.of_examples:,} examples, {found.steps:,} steps of {found.batch_size:,}"
    return f"{labels} by {found.train}: {count}; judged on {found.dev}"


def _labels(counts: Mapping[str, int]) -> str:
    """A few with how many examples each has; of many the rarest."""
    told = f"{len(counts)} labels"
    if len(counts) > _FEW_LABELS:
        rarest = min(counts, key=lambda label: counts[label])
        return f"{told} (the rarest, {visible(rarest)}, has {counts[rarest]:,})"
    return f"{told} ({', '.join(f'{visible(label)} {count:,}' for label, count in counts.items())})"


def _source(source: SourceFound) -> str:
    files = "" if source.files is None else f" ({source.files:,} file{'s' * (source.files != 1)})"
    columns = ", ".join(f"{role} in '{column}'" if role != column else role for role, column in source.columns.items())
    count = "" if source.sequences is None else f"; about {float(f'{source.sequences:.2g}'):,.0f} sequences"
    return f"{source.source}{files}: {columns}{count}"


def _lines(budget: Mapping[str, float | str]) -> str:
    return "; ".join(_line(*line) for line in budget.items())


def _line(name: str, limit: float | str) -> str:
    label, unit = budget_line(name)
    return f"{label} {limit if isinstance(limit, str) else quantity(limit, unit)}"


def _gigabytes(count: int) -> str:
    return quantity(count / 1e9, "GB")
