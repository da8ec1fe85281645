"""Measuring shapes on the target, and remembering what was measured.

A graph of every shape is made from one exported template (`stages.plan.template`), in the form that is fastest on
the target, and measured by the worker that measures packages. What was measured under the same conditions is kept in
the user's cache (`PlanMemory`) and not measured again.

Models are measured in groups, for the target may not hold all of them at once; one model, the anchor, is part of every
group, so that what slows the machine down for a group is taken out again. How much that was is the table's drift.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from homoexport.choices import OUTPUT_NAMES
from homoexport.documents.document import Document, digest_of, read_document, write_document
from homoexport.documents.package import parts_of
from homoexport.documents.plan import Cost, MeasuredTable, PlanMemory, ShapeCost
from homoexport.documents.recipe import MeasureSettings
from homoexport.encoder import Encoder, count_parameters, family_of, parameters_at
from homoexport.errors import DoesNotFit, PackageError, UserError
from homoexport.host import library_versions
from homoexport.lock import scratch_folder
from homoexport.shape import Shape
from homoexport.stages.plan.instruments import Instruments, Progress, TimedFile
from homoexport.stages.plan.table import DEEP, Table, shapes_to_measure
from homoexport.stages.plan.template import Stored, Templates, refuse_blocks, remove

_GROUP = 6  # models that are measured at a time, besides the one that all groups have
_SECONDS = 0.5  # of each small model
_WARM_SECONDS = 0.1  # at most, of every model; what the first of 20 rounds still lack does not move a median
_WHOLE_SECONDS = 1.0  # of each whole one
_ALONE_SECONDS = 3.0  # of one that has tails of its own
_DOUBT, _MORE_ROUNDS = 0.1, 2  # how far off its prediction a whole model is measured again, and how often
_NAMES = frozenset(("_name_or_path", "architectures", "id2label", "label2id"))  # of a config: no figure depends on them
_LATENCIES = {50: "latency_p50_ms", 95: "latency_p95_ms", 99: "latency_p99_ms"}


class Lab:
    """What shapes of one teacher's architecture cost on one target, in one scheme, but for 4-bit ones (UserError)."""

    def __init__(
        self,
        encoder: Encoder,
        shapes: Sequence[Shape],
        measure: MeasureSettings,
        instruments: Instruments,
        *,
        sharing: Lab | None = None,
        progress: Progress = lambda _stage, _share: None,
        fresh: bool = False,
    ) -> None:
        self.encoder, self.measure, self.instruments, self.progress = encoder, measure, instruments, progress
        self.stored: Stored = ("fp32", "fp32") if sharing else (instruments.scheme, instruments.embeddings)
        refuse_blocks(instruments.scheme)
        self._sharing, self._fresh = sharing, fresh
        self._wanted = shapes_to_measure(shapes)
        deep = [shape for shape in self._wanted if shape.num_hidden_layers == DEEP]
        self._anchor = deep[len(deep) // 2]  # of middling cost
        self._file = instruments.cache / "plans" / f"{self._digest()[:24]}.json"
        self._known = PlanMemory() if fresh else self._remembered()
        self._templates: Templates | None = None
        self._folder: Path | None = None

    def in_fp32(self, shapes: Sequence[Shape]) -> Lab:
        """A lab for shapes of the teacher's own kind of package, an ONNX file, which shares this one's exports."""
        return Lab(
            self.encoder,
            shapes,
            self.measure,
            replace(self.instruments, forms=self.instruments.onnx_forms),
            sharing=self,
            progress=self.progress,
            fresh=self._fresh,
        )

    def _digest(self) -> str:
        """Hex sha256 of all that figures depend on."""
        encoder, config = self.encoder, self.encoder.model.config.to_dict()
        target = self.instruments.target
        cores = target.cores if self.measure.threads is None else None
        conditions = {
            "version": PlanMemory.VERSION,
            "target": target.model_dump(mode="json") | {"cores": cores},
            "measure": self.measure.model_dump(mode="json", exclude={"text", "min_seconds"}),
            "stored": self.stored,
            "opset": self.instruments.opset,
            "forms": {name: list(variants) for name, variants in self.instruments.forms.items()},
            "task": encoder.task,
            "pooling": encoder.pooling and vars(encoder.pooling),
            "config": {name: value for name, value in config.items() if name not in _NAMES},
            "labels": encoder.model.config.num_labels,
            "table": [shape.as_json() for shape in self._wanted],
            "versions": library_versions(),
        }
        return digest_of(conditions)

    def _remembered(self) -> PlanMemory:
        try:
            return read_document(self._file, PlanMemory)
        except PackageError:  # missing, damaged or of another version: it is measured again
            return PlanMemory()

    def _remember(self, **parts: Any) -> None:
        others = PlanMemory() if self._fresh else self._remembered()  # of a plan that is made at the same time
        known = {name: value for name, value in self._known if value}
        self._known = others.model_copy(update={**known, **parts})
        keep(self._file, self._known)

    @property
    def form(self) -> str:
        """Name of the fastest form at the teacher's width; remembered."""
        forms, known = self.instruments.forms, self._known.form
        if known is not None and known in {*forms, *(name for variants in forms.values() for name in variants)}:
            return known
        teacher = family_of(self.encoder.model.config).widths(self.encoder.model).shape
        deep = replace(teacher, num_hidden_layers=DEEP)
        form = self._made_templates().best_form(forms, deep, self.stored, self._ranked)
        self._remember(form=form)
        return form

    @contextmanager
    def open(self) -> Iterator[Lab]:
        with scratch_folder("homoexport-plan-") as folder:
            self._folder = folder
            yield self
            self._folder = self._templates = None

    def table(self) -> tuple[Table, bool]:
        """What shapes can be predicted from, and whether all of it was remembered.

        It lacks hidden sizes whose models do not all fit into the target's memory; the smallest must fit (DoesNotFit).
        """
        if self._known.table is not None:
            return Table(self._known.table), True
        anchor = self._anchor
        others = [shape for shape in self._wanted if shape != anchor]
        timed: list[dict[Shape, Cost]] = []
        for group in self._groups(others):
            self.progress("measuring small models", sum(map(len, timed)) / (len(others) * (1 + 1 / _GROUP)))
            timed.append(self._timed([anchor, *group]))
            if anchor not in timed[-1]:
                raise self._no_room(anchor)
        anchor_ms = [costs[anchor].latency_p50_ms for costs in timed]
        pace = median(anchor_ms)
        found = {shape: cost for costs in timed for shape, cost in _at_pace(costs, anchor, pace).items()}
        gone = {shape.hidden_size for shape in self._wanted if shape not in found}
        least = min(self._wanted, key=lambda shape: shape.hidden_size)
        if least.hidden_size in gone:
            raise self._no_room(least)
        measured = {shape: found[shape] for shape in self._wanted if shape.hidden_size not in gone}
        table = MeasuredTable(
            batch_size=self.measure.batch_size,
            length=self.measure.length,
            measured=_with_shapes(measured),
            pace_ms=found[anchor].latency_p50_ms,
            drift=(max(anchor_ms) - min(anchor_ms)) / pace,
        )
        self._remember(table=table)
        return Table(table), False

    def whole(self, shapes: Sequence[Shape], table: Table) -> dict[Shape, Cost]:
        """Figures of whole models with random weights, remembered or measured; without those that do not fit.

        The table's anchor is measured beside them, so that a machine that is slower or faster now than it was does not
        count. Models that are not as predicted are measured in two more rounds, by new processes, and the round of
        the middle median counts.
        """
        known = _by_shape(self._known.whole)
        for group in self._groups([shape for shape in dict.fromkeys(shapes) if shape not in known]):
            rounds = [self._beside_anchor(group, table)]
            if any(
                abs(each.latency_p50_ms - expected) > _DOUBT * expected
                for shape, each in rounds[0].items()
                for expected in [table.predict(shape).latency_p50_ms]
            ):
                rounds += [self._beside_anchor(group, table) for _ in range(_MORE_ROUNDS)]
            for shape in group:
                if found := [each[shape] for each in rounds if shape in each]:
                    known[shape] = sorted(found, key=lambda each: each.latency_p50_ms)[len(found) // 2]
            self._remember(whole=_with_shapes(known))
        return {shape: known[shape] for shape in shapes if shape in known}

    def reference(self, teacher: Lab, whole: Shape, table: Table) -> Cost:
        """Figures of the teacher's own shape, whose graph another lab makes, measured beside the table's anchor; it
        must fit (DoesNotFit).
        """
        if self._known.reference is not None:
            return self._known.reference
        self.progress("measuring the teacher's shape in fp32", 0.0)
        found = self._beside_anchor([whole], table, maker=teacher, seconds=_ALONE_SECONDS)
        if whole not in found:
            raise self._no_room(whole)
        self._remember(reference=found[whole])
        return found[whole]

    def _beside_anchor(
        self, shapes: Sequence[Shape], table: Table, *, maker: Lab | None = None, seconds: float = _WHOLE_SECONDS
    ) -> dict[Shape, Cost]:
        """Figures as they were if the anchor had taken as long as it did in the table."""
        self.progress("measuring whole models", 0.0)
        makers = [self, *[maker or self] * len(shapes)]
        timed = self._timed([self._anchor, *shapes], seconds=seconds, makers=makers)
        if self._anchor not in timed:
            raise self._no_room(self._anchor)
        return _at_pace(timed, self._anchor, table.figures.pace_ms)

    def alone(
        self, shapes: Sequence[Shape], *, again: bool = False, glance: bool = False
    ) -> tuple[dict[Shape, Cost], bool]:
        """Figures of models, all of which must fit (DoesNotFit), as they are measured before there is a table, at a
        glance where no more is needed, and whether all of them were remembered.
        """
        known = {} if again else _by_shape(self._known.alone)
        missing = [shape for shape in shapes if shape not in known]
        if missing:
            self.progress("measuring whole models", 0.0)
            known |= self._timed(missing, seconds=_SECONDS if glance else _ALONE_SECONDS)
            self._remember(alone=_with_shapes(known))
        for shape in shapes:
            if shape not in known:
                raise self._no_room(shape)
        return {shape: known[shape] for shape in shapes}, not missing

    def _no_room(self, shape: Shape) -> DoesNotFit:
        return DoesNotFit(
            f"a model of {shape.name} does not fit into its memory",
            where=self.measure.device,
            hint="give it more, or leave lines that are relative to the teacher out",
        )

    def _groups(self, shapes: Sequence[Shape]) -> Iterator[list[Shape]]:
        """A few shapes at a time: as many as have fewer bytes together than the teacher in fp32."""
        model, family = self.encoder.model, family_of(self.encoder.model.config)
        most = count_parameters(model)
        group: list[Shape] = []
        weight = 0
        for shape in shapes:
            mine = parameters_at(model, family, shape)
            if group and (len(group) == _GROUP or weight + mine > most):
                yield group
                group, weight = [], 0
            group.append(shape)
            weight += mine
        if group:
            yield group

    def _timed(
        self, shapes: Sequence[Shape], *, seconds: float = _SECONDS, makers: Sequence[Lab] | None = None
    ) -> dict[Shape, Cost]:
        """What models cost that are measured in turns; without those that do not fit, not even by themselves."""
        assert self._folder is not None
        files = [
            maker._write(self._folder / f"{number}.onnx", shape)
            for number, (shape, maker) in enumerate(zip(shapes, makers or [self] * len(shapes), strict=True))
        ]
        costs = {}
        for file, shape, found in zip(files, shapes, self._time(files, seconds=seconds), strict=True):
            if found is None and len(files) > 1:
                (found,) = self._time([file], seconds=seconds)
            if found is not None:
                costs[shape] = _cost_of(found, file)
            remove(file)
        return costs

    def _write(self, file: Path, shape: Shape) -> Path:
        written = self._made_templates().write(file, shape, self.form, self.stored)
        if written is None:
            raise UserError(
                f"its graph of {shape.num_hidden_layers} layers does not answer as the model does in the form of "
                f"{DEEP} layers",
                where=self.encoder.source,
                hint="name the student's shape, and let the export choose",
            )
        return written

    def _made_templates(self) -> Templates:
        assert self._folder is not None
        if self._sharing is not None:
            return self._sharing._made_templates()
        if self._templates is None:
            folder = self._folder / "templates"
            folder.mkdir()
            self._templates = Templates(self.encoder, folder, self.instruments, lambda step: self.progress(step, 0.0))
        return self._templates

    def _ranked(self, files: Sequence[Path]) -> Sequence[float]:
        if self.instruments.target.emulated:  # its times say nothing of the device
            return self.instruments.count_files(files, **self._conditions())
        found = self._time(files, seconds=_SECONDS, race=True)
        return [float("inf") if timed is None else timed.latency_ms[50] for timed in found]

    def _time(self, files: Sequence[Path], *, seconds: float, race: bool = False) -> Sequence[TimedFile | None]:
        return self.instruments.time_files(
            files, min_seconds=seconds, warm_seconds=_WARM_SECONDS, race=race, **self._conditions()
        )

    def _conditions(self) -> dict[str, Any]:
        """What files are measured at."""
        return {
            **self.measure.model_dump(include={"device", "threads", "batch_size", "length"}),
            "vocab_size": self.encoder.model.config.vocab_size,
            "outputs": (OUTPUT_NAMES[self.encoder.task][0],),
        }


def keep(file: Path, document: Document) -> None:
    """Put a document into the cache; where that cannot be written, nothing is kept."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_document(file, document)


def _cost_of(timed: TimedFile, file: Path) -> Cost:
    return Cost(
        **{name: timed.latency_ms[percent] for percent, name in _LATENCIES.items()},
        latency_mean_ms=timed.latency_mean_ms,
        peak_rss_mb=timed.peak_rss_mb,
        file_mb=sum(part.stat().st_size for part in parts_of(file)) / 10**6,
    )


def _by_shape(costs: Sequence[ShapeCost]) -> dict[Shape, Cost]:
    return {cost.shape: Cost(**cost.figures) for cost in costs}


def _with_shapes(costs: Mapping[Shape, Cost]) -> tuple[ShapeCost, ...]:
    return tuple(ShapeCost.of(shape, cost) for shape, cost in costs.items())


def _at_pace(costs: Mapping[Shape, Cost], anchor: Shape, pace_ms: float) -> dict[Shape, Cost]:
    """What the models of a group cost if its anchor takes `pace_ms`."""
    factors = dict.fromkeys((*_LATENCIES.values(), "latency_mean_ms"), pace_ms / costs[anchor].latency_p50_ms)
    return {shape: cost.times(factors) for shape, cost in costs.items()}
