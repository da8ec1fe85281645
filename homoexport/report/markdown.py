"""`report.md`: a run told to the person who decides on the release."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from homoexport.documents.artifact import output_errors
from homoexport.documents.document import read_document, write_text
from homoexport.documents.measurement import Measurement
from homoexport.documents.run_folder import LOG, MEASURED, MEASUREMENT, PACKAGE, PLOTS, REPORT, STUDENT, SUMMARY
from homoexport.documents.student import StepRecord, read_log
from homoexport.documents.summary import PlannedTurns, Summary
from homoexport.report.measured import latency_rows, measurement_remarks
from homoexport.report.plots import homotopy_figure, latency_figure, terms_figure, width_of
from homoexport.report.table import Table
from homoexport.report.tables import conditions, host_line, summary_rows
from homoexport.report.wording import budget_line, judgement, limit, metric, number, parameters, quantity
from homoexport.runtime.inference import PackageInfo, read_package

_DPI = 150
_NO_GAP = 1e-5


def write_report(run_dir: Path, summary: Summary, *, log_path: Path, measurement: Measurement) -> Path:
    """Write `report.md` and its plots into a run's folder.

    Args:
        run_dir: holds the student's package in `2-onnx`; takes `report.md` and `plots/`.
        summary: of the run.
        log_path: the distillation's log, a JSON object a line.
        measurement: the measurement as JSON, teacher's package first, student's second.

    Returns:
        The path of `report.md`.

    Raises:
        PackageError: a log that cannot be read, or no sound package in `2-onnx`.
        OutputError: the folder cannot be written.
    """
    log = read_log(log_path)
    package = read_package(run_dir / PACKAGE)
    with output_errors(run_dir):
        (run_dir / PLOTS).mkdir(exist_ok=True)
        models = {"teacher": summary.teacher, "student": summary.student}
        labels = [f"{who}\n({model.precision})" for who, model in models.items() if model.latency_p50_ms is not None]
        figures = {
            "homotopy": homotopy_figure(log),
            "terms": terms_figure(log),
            "latency": latency_figure(measurement, labels=labels),
        }
        for name, figure in figures.items():
            figure.savefig(run_dir / PLOTS / f"{name}.png", dpi=_DPI)
        sections = (
            _verdict(summary),
            _comparison(summary),
            *([_planned(summary.plan)] if summary.plan else []),
            _distilling(log),
            _measuring(summary, measurement),
            _use(package),
            _caveats(summary),
            _stages(summary),
        )
        report = run_dir / REPORT
        write_text(report, "\n\n".join(sections) + "\n")
    return report


def rebuild_report(run_dir: Path) -> Path:
    """Write a run's report again from its `summary.json`, log and measurement.

    Raises:
        PackageError: one of these is missing or cannot be read.
        OutputError: the folder cannot be written.
    """
    summary = read_document(run_dir / SUMMARY, Summary, hint="run the recipe again")
    measurement = read_document(run_dir / MEASURED / MEASUREMENT, Measurement)
    return write_report(run_dir, summary, log_path=run_dir / STUDENT / LOG, measurement=measurement)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown: the first column to the left, the others to the right."""
    alignment = ["---", *["---:"] * (len(head) - 1)]
    lines = [head, alignment, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _verdict(summary: Summary) -> str:
    asked = (
        f"The teacher `{summary.teacher.name}` was distilled to a student of {parameters(summary.student.parameters)} "
        f"parameters, exported to ONNX ({summary.student.precision}) and measured on {conditions(summary.measured)}."
    )
    if not summary.budget:
        return f"# {summary.name}\n\n{asked} The recipe set no budget."
    told = {
        True: "**The budget is kept.**",
        False: "**The budget is missed.**",
        None: "**Too noisy to call:** an interval lies on both sides of its limit. Measure again on a quieter machine.",
    }[summary.budget_kept]
    rows = []
    for verdict in summary.budget:
        label, unit = budget_line(verdict.line)
        figure = quantity(verdict.measured, unit, verdict.interval)
        rows.append((label, limit(verdict), figure, judgement(verdict)))
    table = markdown_table(("Budget", "Asked for", "Measured (95 % interval)", "Verdict"), rows)
    return f"# {summary.name}\n\n{told} {asked}\n\n{table}"


def _comparison(summary: Summary) -> str:
    table = markdown_table(("", "Teacher", "Student", "Student is"), summary_rows(summary))
    return f"## Teacher against student\n\n{table}\n\n![Latency of teacher and student]({PLOTS}/latency.png)"


def _planned(plan: PlannedTurns) -> str:
    """How the shape was found, turn by turn."""
    lines = [
        "## How the shape was chosen",
        f"The budget can afford {plan.choice.shape.name}, which keeps "
        f"{100 * plan.choice.retained:.1f} % of the teacher's squared sensitivity: the most among the shapes "
        "that keep every line ([plan](plan/report.md)).",
    ]
    rows = []
    for number_, turn in enumerate(plan.turns, start=1):
        name = f"{number_}: {turn.shape.name}"
        if not turn.budget:
            planned = quantity(turn.planned.peak_rss_mb, "MB")
            rows.append((name, "Peak memory", "", planned, "", "it does not fit into the target's memory"))
        for verdict in turn.budget:
            label, unit = budget_line(verdict.line)
            figure = turn.planned_lines.get(verdict.line)
            rows.append(
                (
                    name,
                    label,
                    limit(verdict),
                    "" if figure is None else quantity(figure, unit),
                    quantity(verdict.measured, unit, verdict.interval),
                    judgement(verdict),
                )
            )
    lines.append(markdown_table(("Turn", "Budget", "Asked for", "Planned", "Measured", "Verdict"), rows))
    if len(plan.turns) > 1:
        lines.append("A turn that missed was pruned on from where its distillation ended.")
    if plan.wider is not None:
        lines.append(
            f"There is room to spare: {plan.wider.shape.name} would have fitted, too, and keeps "
            f"{100 * plan.wider.retained:.1f} %."
        )
    return "\n\n".join(lines)


def _gap(step: StepRecord) -> str:
    return number(0.0 if abs(step.gap) < _NO_GAP else step.gap)


def _distilling(log: Sequence[StepRecord]) -> str:
    first, last = log[0], log[-1]
    widest = max(log, key=lambda step: step.gap)
    names = {
        "hidden_size": "hidden size",
        "intermediate_size": "feed-forward size",
        "num_attention_heads": "attention heads",
        "head_dim": "head dimension",
        "num_hidden_layers": "layers",
    }
    ways = [(label, getattr(first.widths, name), getattr(last.widths, name)) for name, label in names.items()]
    widths = ", ".join(f"{label} {width_of(old)} to {width_of(new)}" for label, old, new in ways if old != new)
    began = (
        "The student started as the teacher"
        if abs(first.gap) < _NO_GAP
        else "The student started apart from the teacher"
    )
    pruned = f" and was pruned while it learned from it: {widths}" if widths else " and learned from it at one width"
    return (
        "## How the student came about\n\n"
        f"{began}{pruned}. "
        f"The gap between them was {_gap(first)} at the first of {len(log)} steps, "
        f"{_gap(widest)} at its widest (step {widest.step}) and {_gap(last)} at the last.\n\n"
        f"![Widths and gap over the steps]({PLOTS}/homotopy.png)\n\n"
        f"![Loss terms over the steps]({PLOTS}/terms.png)"
    )


def _measuring(summary: Summary, measurement: Measurement) -> str:
    results = measurement.results
    runs = " and ".join(f"{result.runs}" for result in results)
    whole = "of full-length sequences" if measurement.texts is None else "of real texts"
    who, each = ("Both packages", "each in") if len(results) == 2 else ("The student's package", "in")
    lines = [
        f"{who} ran on {conditions(measurement)}, {each} a fresh process that imports only numpy and "
        f"onnxruntime, timed in turns in one run ({runs} timed calls {whole}). "
        "Peak memory is the kernel's high-water mark of the whole process; "
        f"{quantity(results[-1].runtime_rss_mb, 'MB')} of the student's were there before the model was loaded.",
        *[f"{remark}." for remark in measurement_remarks(measurement)],
        Table(
            ("Figure", "Teacher", "Student") if len(results) == 2 else ("Figure", "Student"),
            [
                ("Load", *(quantity(result.load_ms, "ms") for result in results)),
                ("First inference", *(quantity(result.first_inference_ms, "ms") for result in results)),
                *((label, *cells) for label, cells in latency_rows(results)),
                ("Throughput", *(quantity(result.throughput_per_s, "/s") for result in results)),
            ],
        ).markdown(),
        *([] if summary.host is None else [host_line(summary.host)]),
        "Versions: " + ", ".join(f"{name} {version}" for name, version in summary.versions.items()) + ".",
        f"Recipe: `{summary.recipe_digest}`.",
    ]
    return "## How it was measured\n\n" + "\n\n".join(lines)


def _use(package: PackageInfo) -> str:
    output = package.output
    return f"""## How to use it

In the folder of this report, with nothing but `onnxruntime` and `transformers`:

```python
import onnxruntime, transformers
tokenizer = transformers.AutoTokenizer.from_pretrained("{PACKAGE}")
session = onnxruntime.InferenceSession("{PACKAGE}/{package.model_file}")
tokens = tokenizer(["A text.", "Another one."], padding=True, truncation=True, return_tensors="np")
answer = session.run(["{output}"], {{node.name: tokens[node.name] for node in session.get_inputs()}})[0]
```"""


def _caveats(summary: Summary) -> str:
    lines = [
        f"Quality is {metric(summary.quality_metric)[1]}. Training never saw the held-out text. It is not accuracy "
        "on your task: evaluate the package on your own data before you release it.",
        "Latency and memory are those of the host above. Measure again on the device that will serve: "
        f"`homoexport bench --device {summary.measured.device} {PACKAGE}`.",
        "The tokenizer is not in the timed region, and not in the memory figures.",
    ]
    return "## What to keep in mind\n\n" + "\n".join(f"- {line}" for line in lines)


def _stages(summary: Summary) -> str:
    rows = [(stage, f"{seconds:,.1f} s") for stage, seconds in summary.seconds.items()]
    rows.append(("together", f"{sum(summary.seconds.values()):,.1f} s"))
    return "## Where the time went\n\n" + markdown_table(("Stage", "Wall time"), rows)
