"""What verdicts come to: a headline that names the lines, rows of the summary, and what to do about a line next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from homoexport.documents.budget import DOWNLOAD, LATENCY_LINES, QUALITY_LINE, TIMED_LINES, BudgetVerdict
from homoexport.documents.layout import PACKAGE, TEACHER
from homoexport.documents.summary import Summary
from homoexport.report.wording import (
    is_fidelity,
    label,
    limit,
    measured,
    metric,
    number,
    quality_name,
    quantity,
    share_kept,
)

HELD_OUT = "held-out text"  # as floors say what they were judged on, where their recipe names no data
_CLASSIFIERS = ("label_agreement", "score_spearman")  # qualities of students that `finetune` trains further
_SMALLER_FILE = "words in fewer bits (export.embeddings), fewer words (student.vocab_size), or a narrower student"
_SMALLER = {
    "file_mb": _SMALLER_FILE,
    DOWNLOAD: _SMALLER_FILE,
    "peak_rss_mb": "a smaller student, fewer words (student.vocab_size), shorter texts or smaller batches",
    "parameters": "a narrower student, or fewer words (student.vocab_size)",
}


def headline(verdicts: Sequence[BudgetVerdict]) -> str:
    """One sentence: kept, or which lines are missed, else which cannot be called."""
    missed = [verdict for verdict in verdicts if verdict.kept is False]
    if missed:
        return f"The budget is missed: {_told(missed)}."
    noisy = [verdict for verdict in verdicts if verdict.kept is None and not verdict.is_quality]
    close = [verdict for verdict in verdicts if verdict.kept is None and verdict.is_quality]
    told = [f"{word} to call: {_told(some)}." for word, some in (("Too noisy", noisy), ("Too close", close)) if some]
    return " ".join(told) or "The budget is kept."


def _told(verdicts: Sequence[BudgetVerdict]) -> str:
    return "; ".join(
        f"{label(verdict)} is {measured(verdict)}, where {limit(verdict)} was asked for" for verdict in verdicts
    )


def quality_rows(summary: Summary) -> list[tuple[str, str, str, str]]:
    """Rows of quality: teacher, student, and of each floor the share that is kept, with the verdict's interval.

    The likeness on held-out text that any run is judged by comes last, where it is not a floor's.
    """
    rows = []
    likeness = summary.quality_metric, HELD_OUT
    floors = [verdict for verdict in summary.budget if verdict.is_quality and verdict.teacher is not None]
    for verdict in floors:
        assert verdict.teacher is not None
        paired = verdict.share_interval is not None
        ours = number(verdict.measured) if paired else quantity(verdict.measured, "", verdict.interval)
        name = quality_name(verdict)
        if _judged_by(verdict) == likeness:
            name = metric(summary.quality_metric, summary.quality_documents)[0]
        rows.append(
            (f"Quality: {name}", number(verdict.teacher), ours, share_kept(verdict) if verdict.teacher > 0 else "")
        )
    if likeness not in map(_judged_by, floors):
        detail, name = summary.quality_detail, metric(summary.quality_metric, summary.quality_documents)[0]
        theirs, ours = (quantity(each.value, "", each.interval) for each in (detail.teacher, detail.student))
        rows.append((f"Quality: {name}", theirs, ours, ""))
    return rows


def _judged_by(verdict: BudgetVerdict) -> tuple[str, str | None]:
    return verdict.line.removeprefix(QUALITY_LINE), verdict.data


def judged_on_task(summary: Summary) -> list[str]:
    """The floors that are quality on a task, in words; likeness to the teacher is none."""
    return [quality_name(verdict) for verdict in summary.budget if verdict.is_quality and not is_fidelity(verdict)]


def next_steps(summary: Summary, folder: Path | None = None) -> list[str]:
    """What may help, a line for each line of the budget that is missed or cannot be called.

    `folder` is the run's, as commands are to name it; by default they are for whoever is in it.
    """
    steps = [(verdict, _next(verdict, summary, folder)) for verdict in summary.budget if verdict.kept is not True]
    return [f"{label(verdict)}: {step}" for verdict, step in steps]


def _next(verdict: BudgetVerdict, summary: Summary, folder: Path | None) -> str:
    if verdict.is_quality and verdict.teacher is not None and verdict.teacher <= 0:
        told = "the teacher itself is no better than chance: name another, or train it longer (finetune.epochs)"
        return f"{told}, or on more examples"
    if verdict.is_quality:
        closer = "" if verdict.kept is False else "judge on more examples (quality.data), or "
        return f"{closer}{_better(summary)}"
    if verdict.kept is None:
        here = "" if folder else ", from this folder"
        return f"measure again when nothing else runs there{here}: {_measure_again(verdict, summary, folder or Path())}"
    if verdict.line in TIMED_LINES:
        return _faster(summary)
    return _SMALLER[verdict.line]


def _better(summary: Summary) -> str:
    """What makes a student better."""
    ways = ["train for more steps (distill.steps)", "allow a wider shape"]
    if summary.quality_metric in _CLASSIFIERS:
        ways.append("fine-tune the student on the task (homoexport finetune)")
    if summary.student.precision == "int8":
        ways.append("simulate int8 in the last steps (distill.int8_share)")
    return ", or ".join(ways)


def _faster(summary: Summary) -> str:
    """What makes a student faster, of what was not done yet."""
    ways = ["a narrower or shallower student" if summary.plan else "a shape that the budget allows (run --plan)"]
    if summary.student.precision == "fp32":
        ways.append("int8 (export.quantize: auto)")
    if summary.student.runtime == "onnxruntime":
        ways.append("another runtime, where it is faster (export.runtime: auto)")
    return ", or ".join(ways)


def _measure_again(verdict: BudgetVerdict, summary: Summary, folder: Path) -> str:
    """The command that holds the package against the same line of time, under the same conditions."""
    at = summary.measured
    conditions = ["--threads", str(at.threads), "--batch-size", str(at.batch_size), "--length", str(at.length)]
    packages = [str(folder / name) for name in ([TEACHER] if verdict.asked else []) + [PACKAGE]]
    return shlex.join(["homoexport", "bench", "--device", at.device, *conditions, *packages, *_flag(verdict)])


def _flag(verdict: BudgetVerdict) -> list[str]:
    """A line of time as it is asked of a measurement."""
    unit = "ms" if verdict.line in LATENCY_LINES else "/s"
    name = verdict.line.removesuffix("_ms").removesuffix("_per_s").replace("_", "-")
    return [f"--{name}", verdict.asked or f"{verdict.limit:g}{unit}"]
