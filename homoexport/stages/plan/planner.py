"""Which student a deployment can afford, answered on the target and before any training.

Latency, memory and size of every shape are predicted from a table of small models (`stages.plan.table`), the
predictions are held against whole models, and of the shapes that keep the budget the one is chosen that keeps most
of the teacher's sensitivity (`stages.plan.retention`).
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from operator import attrgetter
from statistics import median

from homoexport.data import sample_text
from homoexport.documents.artifact import sha256_file
from homoexport.documents.budget import DOWNLOAD, TIMED_LINES, Budget
from homoexport.documents.document import digest_of, read_document
from homoexport.documents.package import PAGE_FILES
from homoexport.documents.plan import COST_FIGURES, Check, Plan, Row, TeacherSensitivity
from homoexport.documents.recipe import DistillSettings, MeasureSettings
from homoexport.encoder import Encoder, family_of, max_length_of, parameters_at, save_tokenizer, weights_digest
from homoexport.errors import PackageError, RecipeError
from homoexport.lock import scratch_folder
from homoexport.shape import Shape
from homoexport.stages.plan.choice import LIGHTER, Limits, NoneKeepsError, best_of, make_plan
from homoexport.stages.plan.instruments import Instruments, Progress
from homoexport.stages.plan.lab import Lab
from homoexport.stages.plan.remembered import keep, seconds_since
from homoexport.stages.plan.retention import Retention, teacher_retention
from homoexport.stages.plan.shapes import candidates
from homoexport.stages.plan.table import DEEP, ONE, Table, byte_features, fit_bytes, tails_of, with_tails

_TEXTS = 32  # that sensitivity is summed over
_MOST_ATTEMPTS = 5  # at a choice that keeps the budget when it is measured whole
_OTHER_WAYS = (
    ", measure with fewer tokens, plan for another device, or, if the machine was busy, measure again with --fresh"
)
_FEWER_WORDS = ", or plan with fewer words, too (--vocab-size 12k)"
_STATIC_WIDTH = 256  # of word vectors that are averaged, as model2vec makes them


def plan_encoder(
    encoder: Encoder,
    texts: Sequence[str] = (),
    *,
    budget: Budget,
    measure: MeasureSettings,
    distill: DistillSettings,
    instruments: Instruments,
    fresh: bool = False,
    progress: Progress = lambda _stage, _share: None,
) -> Plan:
    """Choose the shape that keeps a budget on a target and most of a teacher's sensitivity.

    Args:
        texts: of the kind that the teacher is for; by default sentences of the project's own.
        distill: how the student will be distilled: what may be pruned, and the objective.
        fresh: measure again what an earlier plan has measured under the same conditions.
        progress: gets each step, and the share of it that is done.

    Raises:
        BudgetError: not even the smallest student keeps it; with what that one needs.
        RecipeError: a length above the teacher's own.
        DeviceError: a target that cannot be used.
        UserError: 4-bit weights.
    """
    if measure.length > (longest := max_length_of(encoder)):
        raise RecipeError(
            f"length {measure.length} is more than the teacher's {longest} tokens",
            where="measure.length",
            hint=f"at most {longest}",
        )
    shapes = candidates(encoder, distill)
    count = _parameter_counter(encoder, shapes)
    lab = Lab(encoder, shapes, measure, instruments, progress=progress, fresh=fresh)
    with lab.open():
        limits, table, remembered = _measured(lab, shapes, budget, count)
        progress("summing up the teacher's sensitivity", 0.0)
        weights = weights_digest(encoder)
        retention = _retention(encoder, weights, texts or sample_text(), distill, shapes, instruments)
        rows, choice, checks = _checked(lab, table, _rows(shapes, table, count, retention), limits)
        return make_plan(
            limits,
            rows,
            choice,
            checks,
            reference=limits.reference,
            teacher=encoder.source,
            teacher_digest=weights,
            budget=budget,
            measure=measure,
            scheme=instruments.scheme,
            form=lab.form,
            target=instruments.target,
            models_measured=len(table.measured),
            remembered=remembered,
            not_tried=instruments.not_tried,
            table_age_s=seconds_since(table.figures.measured_at) if remembered else 0.0,
            disturbed_share=table.figures.disturbed_share,
            suspect=table.figures.suspect,
            slower_then=lab.slower_then,
        )


def _measured(
    lab: Lab, shapes: Sequence[Shape], budget: Budget, count: Callable[[Shape], int]
) -> tuple[Limits, Table, bool]:
    """The budget as figures, with what the teacher's shape costs where a line is relative to it, the table of small
    models, and whether that was remembered."""
    teacher = family_of(lab.encoder.model.config).widths(lab.encoder.model).shape
    of_budget = partial(
        Limits.of, budget, lab.measure.batch_size, parameters=count(teacher), beside_mb=_beside_mb(lab.encoder)
    )
    if not {*budget.relative} - {"parameters"}:
        limits = of_budget(None)
        _refuse_hopeless(lab, limits, shapes, count)
        table, remembered = lab.table()
        return replace(limits, drift=table.figures.drift), table, remembered
    lab.progress("measuring the teacher's shape in fp32", 0.0)
    with lab.in_fp32([teacher]).open() as teacher_lab:
        reference = teacher_lab.alone([teacher])[0][teacher]
        _refuse_hopeless(lab, of_budget(reference), shapes, count)
        table, remembered = lab.table()
        reference = lab.reference(teacher_lab, teacher, table)
    limits = of_budget(reference)
    return replace(limits, drift=table.figures.drift), table, remembered


def _beside_mb(encoder: Encoder) -> float:
    """What a browser downloads beside a graph: the tokenizer and the configuration, which no shape changes."""
    with scratch_folder() as folder:
        save_tokenizer(encoder.tokenizer, folder)
        shutil.copy(encoder.folder / "config.json", folder)
        return sum((folder / name).stat().st_size for name in PAGE_FILES if (folder / name).is_file()) / 10**6


def _rows(shapes: Sequence[Shape], table: Table, count: Callable[[Shape], int], retention: Retention) -> list[Row]:
    """Every shape between the smallest and the largest of the table, as it is predicted."""
    return [
        Row(
            **table.predict(shape).figures,
            shape=shape,
            parameters=count(shape),
            retained=retention.share(**shape.as_json()),
            measured=False,
            suspect=table.doubts(shape),
        )
        for shape in shapes
        if table.covers(shape)
    ]


def _refuse_hopeless(lab: Lab, limits: Limits, shapes: Sequence[Shape], count: Callable[[Shape], int]) -> None:
    """Stop before the table is measured where even the smallest shape is too dear: by what is remembered or seen at a
    glance, and then by what is measured now."""
    sizes = attrgetter("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    least = min(shapes, key=sizes)
    one, deep = (replace(least, num_hidden_layers=layers) for layers in (ONE, DEEP))
    steps = (least.num_hidden_layers - ONE) / (DEEP - ONE)
    for again in (False, True):
        measured, _ = lab.alone([one, deep], again=again, glance=not again)
        high = measured[deep].figures
        cost = {name: low + steps * (high[name] - low) for name, low in measured[one].figures.items()}
        row = Row(**cost, shape=least, parameters=count(least), retained=0.0, measured=False, suspect=False)
        if not limits.missed_by(row, margin=False):
            return
    raise _hopeless(limits, row, "smallest", other=_static_way(limits, lab.encoder))


def _static_way(limits: Limits, encoder: Encoder) -> str:
    """What is told of a sentence teacher's word vectors, without any layer, where the budget has room for them."""
    numbers = encoder.model.config.vocab_size * _STATIC_WIDTH  # of a byte each
    most_mb = min(limits.values.get("file_mb", inf), limits.values.get(DOWNLOAD, inf) - limits.beside_mb)
    has_room = numbers <= min(1e6 * most_mb, limits.values.get("parameters", inf))
    if encoder.task != "sentence-similarity" or not has_room:
        return ""
    return (
        f", or do without layers: the mean of static word vectors (of {_STATIC_WIDTH} in int8: {numbers / 1e6:.1f} MB) "
        "takes a small part of that time; docs/study.md tells what it keeps"
    )


def _hopeless(limits: Limits, row: Row, which: str, *, other: str = "") -> NoneKeepsError:
    line = max(limits.missed_by(row), key=lambda line: limits.used(row, line))
    room = (
        "" if limits.used(row, line) > 1 else f", and {100 * limits.margin(line):.0f} % of room for what measuring adds"
    )
    return NoneKeepsError(
        f"no student keeps {limits.in_words(line, limits.values[line])}: the {which} ({row.shape.name}) needs "
        f"{limits.in_words(line, limits.figure(row, line))}{room}",
        where=f"budget.{line}",
        hint="allow that with some room" + (_OTHER_WAYS + other if line in TIMED_LINES else _FEWER_WORDS),
        limits=limits,
    )


def _checked(lab: Lab, table: Table, rows: list[Row], limits: Limits) -> tuple[list[Row], Row, list[Check]]:
    """The rows, corrected by what whole models cost against their prediction, the choice, and those models.

    The choice is measured whole; where it does not keep the budget, predictions are corrected and another one is
    chosen. Two more models are measured beside the first choice, so that the predictions' error is known.
    """
    predicted = {row.shape: row for row in rows}
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
        checks += [Check.of(shape, predicted[shape], cost) for shape, cost in found.items()]
        if checks:
            rows = _corrected(rows, predicted, checks, table)
            doubtful = {check.shape for check in checks if lab.is_disturbed(check.shape)}
            rows = [row.model_copy(update={"suspect": True}) if row.shape in doubtful else row for row in rows]
    # Predictions are of little use here: what was measured is worth more than what may be better.
    sure = best_of([row for row in rows if row.measured and limits.kept_by(row)])
    return rows, sure or _best_that_keeps(rows, limits), checks


def _best_that_keeps(rows: Sequence[Row], limits: Limits) -> Row:
    best = best_of([row for row in rows if limits.kept_by(row)])
    if best is None:
        if not rows:
            what = "no student fits into its memory"
            raise NoneKeepsError(what, where="measure.device", hint="give it more", limits=limits)
        raise _hopeless(limits, min(rows, key=limits.strain), "nearest")
    return best


def _corrected(rows: Sequence[Row], predicted: Mapping[Shape, Row], checks: Sequence[Check], table: Table) -> list[Row]:
    """Rows with what whole models cost, and with predictions that are off as those were in the median.

    Tails are the machine's, and a second of one model has too few to go by: all models have those of the table or
    those of the whole models, whichever are calmer, for what disturbs a machine only adds to them.
    """
    measured = {check.shape: check.measured for check in checks}
    now = tails_of(list(measured.values()))
    calm = {name: min(tail, table.tails[name]) for name, tail in now.items()}
    off = {
        name: median(cost.figures[name] / predicted[shape].figures[name] for shape, cost in measured.items())
        for name in COST_FIGURES
    }

    def corrected(row: Row) -> Row:
        if row.shape in measured:
            return row.with_figures(measured[row.shape].figures).model_copy(update={"measured": True})
        return predicted[row.shape].times(off)

    return [with_tails(corrected(row), calm) for row in rows]


def _companions(best: Row, rows: Sequence[Row], limits: Limits) -> list[Shape]:
    """A narrower and a wider shape of as many layers, so that one exported graph serves all; none too big."""
    other = [line for line in limits.values if line in ("peak_rss_mb", "file_mb", DOWNLOAD, "parameters")]
    alike = sorted(
        (
            row
            for row in rows
            if row.shape.num_hidden_layers == best.shape.num_hidden_layers
            and row is not best
            and not {*other} & {*limits.missed_by(row, margin=False)}
        ),
        key=lambda row: row.latency_p50_ms,
    )
    if not alike:
        return []
    times = [row.latency_p50_ms for row in alike]
    own = best.latency_p50_ms
    places = [min(range(len(alike)), key=lambda place: abs(times[place] - own * share)) for share in (0.6, 1.5)]
    return list(dict.fromkeys(alike[place].shape for place in places))


def _parameter_counter(encoder: Encoder, shapes: Sequence[Shape]) -> Callable[[Shape], int]:
    """Parameters of any shape: a polynomial in the sizes, found from three times as many models without weights as it
    has terms. They are drawn, for every n-th of the shapes may have the same number of heads."""
    family = family_of(encoder.model.config)
    drawn = random.Random(0).sample(shapes, min(len(shapes), 3 * len(byte_features(shapes[0]))))
    known = {shape: parameters_at(encoder.model, family, shape) for shape in [*drawn, shapes[-1]]}
    fitted = fit_bytes(known)
    return lambda shape: known.get(shape) or round(float(byte_features(shape) @ fitted))


def _retention(
    encoder: Encoder,
    weights: str,
    texts: Sequence[str],
    settings: DistillSettings,
    shapes: Sequence[Shape],
    instruments: Instruments,
) -> Retention:
    """Of the teacher, remembered in the user's cache for the same weights and texts."""
    chosen = [texts[i * len(texts) // _TEXTS] for i in range(_TEXTS)] if len(texts) > _TEXTS else list(texts)
    hidden_sizes = sorted({shape.hidden_size for shape in shapes})
    ffn_sizes = sorted({shape.intermediate_size for shape in shapes})
    head_shapes = sorted({(shape.num_attention_heads, shape.head_dim) for shape in shapes})
    files = [encoder.folder / name for name in ("config.json", "tokenizer.json")]
    other = [sha256_file(file) for file in files if file.is_file()]
    sizes = [hidden_sizes, ffn_sizes, head_shapes]
    name = digest_of([TeacherSensitivity.VERSION, weights, other, chosen, settings.objective, sizes])[:24]
    file = instruments.cache / "plans" / f"sensitivity-{name}.json"
    try:
        return Retention(read_document(file, TeacherSensitivity))
    except PackageError:
        found = teacher_retention(
            encoder,
            chosen,
            probe=instruments.probe,
            hidden_sizes=hidden_sizes,
            ffn_sizes=ffn_sizes,
            head_shapes=head_shapes,
        )
    keep(file, found.sums)
    return found
