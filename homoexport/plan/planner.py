"""Which student a deployment can afford, answered on the target and before any training.

Latency, memory and size of every shape are predicted from a table of small models (`homoexport.plan.table`), the
predictions are held against whole models, and of the shapes that keep the budget the one is chosen that keeps most
of the teacher's sensitivity (`homoexport.distill.teacher_retention`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from homoexport.data import sample_text
from homoexport.distill import TASKS
from homoexport.documents.artifact import sha256_file
from homoexport.documents.budget import TIMED_LINES, Budget
from homoexport.documents.document import digest_of, read_json
from homoexport.documents.recipe import DistillSettings, ExportSettings, MeasureSettings
from homoexport.encoder import Encoder, family_of, load_encoder, max_length_of, parameters_at, weights_digest
from homoexport.errors import BudgetError, PackageError, RecipeError
from homoexport.measure import cache_folder, check_measurement
from homoexport.plan.choice import LIGHTER, Check, Limits, Plan, Row, best_of
from homoexport.plan.lab import Lab, keep
from homoexport.plan.retention import Retention, teacher_retention
from homoexport.plan.shapes import candidates
from homoexport.plan.table import DEEP, ONE, Figures, Table, byte_features, tails_of, with_tails
from homoexport.shape import Shape

_SENSITIVITY = 2  # raised whenever what is remembered of it would be another
_TEXTS = 32  # that sensitivity is summed over
_MOST_ATTEMPTS = 5  # at a choice that keeps the budget when it is measured whole
_OTHER_WAYS = (
    ", measure with fewer tokens, plan for another device, or, if the machine was busy, measure again with --fresh"
)

Progress = Callable[[str, float], None]


def plan_student(
    teacher: str,
    *,
    budget: Budget,
    measure: MeasureSettings,
    export: ExportSettings,
    distill: DistillSettings | None = None,
    texts: Sequence[str] = (),
    fresh: bool = False,
    progress: Progress | None = None,
) -> Plan:
    """Choose the shape that keeps a budget on a target and most of the teacher's sensitivity.

    Args:
        teacher: hub name, folder, or `package:DISTRIBUTION/PATH`.
        budget: the lines to keep, at least one of them.
        measure: the target, and the threads, batch and length.
        export: how the student will be exported.
        distill: how it will be distilled: what may be pruned, and the objective.
        texts: of the kind that it is for; by default sentences of the project's own.
        fresh: measure again what an earlier plan has measured under the same conditions.
        progress: is told each step, and the share of it that is done.

    Raises:
        BudgetError: not even the smallest student keeps it; with what that one needs.
        RecipeError: no line to plan for, or a length above the teacher's own.
        DeviceError: a target that cannot be used, or more threads than it has cores.
        Others: see `load_encoder`, `Lab` and `teacher_retention`.
    """
    if not budget.lines():
        raise RecipeError("there is no line to plan for", where="budget", hint="give --latency-p95 8ms, for example")
    workload = measure.threads, measure.batch_size, measure.length
    check_measurement(measure.device, [workload], min_seconds=measure.min_seconds)
    tell = progress or (lambda _stage, _share: None)
    tell("loading the teacher", 0.0)
    settings = distill
    encoder = load_encoder(teacher, task=None if settings is None else TASKS[settings.objective])
    if settings is None:
        objective = next((name for name, task in TASKS.items() if task == encoder.task), "sentence-embedding")
        settings = DistillSettings(objective=objective, steps=1, batch_size=2)
    if measure.length > (longest := max_length_of(encoder)):
        raise RecipeError(
            f"length {measure.length} is more than the teacher's {longest} tokens",
            where="measure.length",
            hint=f"at most {longest}",
        )
    timed = measure.model_copy(update={"text": None})
    whole = family_of(encoder.model.config).widths(encoder.model).shape
    shapes = candidates(encoder, settings)
    count = _parameter_counter(encoder, shapes)
    with ExitStack() as stack:
        lab = stack.enter_context(Lab(encoder, shapes, timed, export, progress=tell, fresh=fresh).open())
        teacher_lab = reference = None
        if {*budget.relative} - {"parameters"}:
            tell("measuring the teacher's shape in fp32", 0.0)
            alike = Lab(encoder, [whole], timed, export, reference=lab, progress=tell, fresh=fresh)
            teacher_lab = stack.enter_context(alike.open())
            reference = teacher_lab.alone([whole])[0][whole]
        limits = Limits.of(budget, measure.batch_size, reference, count(whole))
        _refuse_hopeless(lab, limits, shapes, count)
        table, remembered = lab.table()
        if teacher_lab is not None:
            reference = lab.reference(teacher_lab, whole, table)
            limits = Limits.of(budget, measure.batch_size, reference, count(whole))
        limits = replace(limits, drift=table.drift)
        tell("summing up the teacher's sensitivity", 0.0)
        weights = weights_digest(encoder)
        retention = _retention(encoder, weights, texts or sample_text(), settings, shapes)
        rows = [
            Row(
                shape,
                table.predict(shape),
                count(shape),
                retention.share(**shape.as_json()),
            )
            for shape in shapes
            if table.covers(shape)
        ]
        rows, choice, checks = _checked(lab, table, rows, limits)
        return Plan(
            teacher=teacher,
            teacher_digest=weights,
            budget=budget,
            limits=limits,
            measure=measure,
            scheme=lab.scheme,
            form=lab.form_name,
            target=lab.host,
            reference=reference,
            rows=tuple(rows),
            choice=choice,
            checks=tuple(checks),
            measured=len(table.measured),
            remembered=remembered,
        )


def _refuse_hopeless(lab: Lab, limits: Limits, shapes: Sequence[Shape], count: Callable[[Shape], int]) -> None:
    """Stop before the table is measured where even the smallest shape is too dear, by what is measured now."""
    least = min(
        shapes,
        key=lambda shape: (
            shape.hidden_size,
            shape.intermediate_size,
            shape.num_hidden_layers,
            shape.num_attention_heads,
        ),
    )
    one, deep = (replace(least, num_hidden_layers=layers) for layers in (ONE, DEEP))
    steps = (least.num_hidden_layers - ONE) / (DEEP - ONE)
    for again in (False, True):
        measured, remembered = lab.alone([one, deep], again=again)
        figures = Figures(
            **{
                name: value + steps * (getattr(measured[deep], name) - value)
                for name, value in measured[one].as_json().items()
            }
        )
        row = Row(least, figures, count(least), 0.0)
        if not limits.missed_by(row, margin=False):
            return
        if not remembered:
            raise _hopeless(limits, row, "smallest")


def _hopeless(limits: Limits, row: Row, which: str) -> BudgetError:
    line = max(limits.missed_by(row), key=lambda line: limits.used(row, line))
    room = (
        "" if limits.used(row, line) > 1 else f", and {100 * limits.margin(line):.0f} % of room for what measuring adds"
    )
    return BudgetError(
        f"no student keeps {limits.told(line, limits.values[line])}: the {which} ({row.shape.name}) needs "
        f"{limits.told(line, limits.figure(row, line))}{room}",
        where=f"budget.{line}",
        hint="allow that with some room" + _OTHER_WAYS * (line in TIMED_LINES),
    )


def _checked(lab: Lab, table: Table, rows: list[Row], limits: Limits) -> tuple[list[Row], Row, list[Check]]:
    """The rows, corrected by what whole models cost against their prediction, the choice, and those models.

    The choice is measured whole; where it does not keep the budget, predictions are corrected and another one is
    chosen. Two more models are measured beside the first choice, so that the predictions' error is known.
    """
    predicted = {row.shape: row.figures for row in rows}
    checks: list[Check] = []
    attempts = 0
    while attempts < _MOST_ATTEMPTS:
        best = _best_that_keeps(rows, limits)
        if best.measured:
            return rows, best, checks
        asked = [best.shape] if checks else [best.shape, *_companions(best, rows, limits)]
        found = lab.whole(asked, table)
        if too_big := [predicted[shape].peak_rss_mb for shape in asked if shape not in found]:
            most = (1 - LIGHTER) * min(too_big)
            rows = [row for row in rows if row.shape in found or predicted[row.shape].peak_rss_mb <= most]
        attempts += best.shape in found
        checks += [Check(shape, predicted[shape], figures) for shape, figures in found.items()]
        if checks:
            rows = _corrected(rows, predicted, checks, table)
    # Predictions are of little use here: what was measured is worth more than what may be better.
    sure = best_of([row for row in rows if row.measured and limits.kept_by(row)])
    return rows, sure or _best_that_keeps(rows, limits), checks


def _best_that_keeps(rows: Sequence[Row], limits: Limits) -> Row:
    best = best_of([row for row in rows if limits.kept_by(row)])
    if best is None:
        if not rows:
            raise BudgetError("no student fits into its memory", where="measure.device", hint="give it more")
        raise _hopeless(limits, min(rows, key=limits.strain), "nearest")
    return best


def _corrected(
    rows: Sequence[Row], predicted: Mapping[Shape, Figures], checks: Sequence[Check], table: Table
) -> list[Row]:
    """Rows with what whole models cost, and with predictions that are off as those were in the median.

    Tails are the machine's, and a second of one model has too few to go by: all models have those of the table or
    those of the whole models, whichever are calmer, for what disturbs a machine only adds to them.
    """
    measured = {check.shape: check.measured for check in checks}
    now = tails_of(list(measured.values()))
    calm = {name: min(tail, table.tails[name]) for name, tail in now.items()}
    off = {
        name: median(getattr(each, name) / getattr(predicted[shape], name) for shape, each in measured.items())
        for name in Figures.__dataclass_fields__
    }
    return [
        replace(row, figures=with_tails(measured[row.shape], calm), measured=True)
        if row.shape in measured
        else replace(row, figures=with_tails(predicted[row.shape].times(off), calm))
        for row in rows
    ]


def _companions(best: Row, rows: Sequence[Row], limits: Limits) -> list[Shape]:
    """A narrower and a wider shape of as many layers, so that one exported graph serves all; none too big."""
    other = [line for line in limits.values if line in ("peak_rss_mb", "file_mb", "parameters")]
    alike = sorted(
        (
            row
            for row in rows
            if row.shape.num_hidden_layers == best.shape.num_hidden_layers
            and row is not best
            and not {*other} & {*limits.missed_by(row, margin=False)}
        ),
        key=lambda row: row.figures.latency_p50_ms,
    )
    if not alike:
        return []
    times = [row.figures.latency_p50_ms for row in alike]
    own = best.figures.latency_p50_ms
    places = [min(range(len(alike)), key=lambda place: abs(times[place] - own * share)) for share in (0.6, 1.5)]
    return list(dict.fromkeys(alike[place].shape for place in places))


def _parameter_counter(encoder: Encoder, shapes: Sequence[Shape]) -> Callable[[Shape], int]:
    """Parameters of any shape: a polynomial in the sizes, found from twice as many models without weights as terms."""
    family = family_of(encoder.model.config)
    every = max(1, len(shapes) // (2 * len(byte_features(shapes[0]))))
    known = {shape: parameters_at(encoder.model, family, shape) for shape in [*shapes[::every], shapes[-1]]}
    rows: NDArray[np.float64] = np.array([byte_features(shape) for shape in known])
    scale = np.maximum(np.abs(rows).max(axis=0), 1.0)
    fitted = np.linalg.lstsq(rows / scale, np.array(list(known.values()), dtype=float), rcond=None)[0] / scale
    return lambda shape: known.get(shape) or round(float(byte_features(shape) @ fitted))


def _retention(
    encoder: Encoder, weights: str, texts: Sequence[str], settings: DistillSettings, shapes: Sequence[Shape]
) -> Retention:
    """Of the teacher, remembered in the user's cache for the same weights and texts."""
    chosen = [texts[i * len(texts) // _TEXTS] for i in range(_TEXTS)] if len(texts) > _TEXTS else list(texts)
    hidden_sizes = sorted({shape.hidden_size for shape in shapes})
    ffn_sizes = sorted({shape.intermediate_size for shape in shapes})
    head_shapes = sorted({(shape.num_attention_heads, shape.head_dim) for shape in shapes})
    sizes = [hidden_sizes, ffn_sizes, head_shapes]
    files = [encoder.folder / name for name in ("config.json", "tokenizer.json")]
    other = [sha256_file(file) for file in files if file.is_file()]
    name = digest_of([_SENSITIVITY, weights, other, chosen, settings.objective, sizes])[:24]
    file: Path = cache_folder() / "plans" / f"sensitivity-{name}.json"
    try:
        return Retention.from_json(read_json(file))
    except (PackageError, KeyError, TypeError):
        found = teacher_retention(
            encoder,
            chosen,
            objective=settings.objective,
            hidden_sizes=hidden_sizes,
            ffn_sizes=ffn_sizes,
            head_shapes=head_shapes,
        )
    keep(file, found.as_json())
    return found
