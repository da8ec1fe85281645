"""Measuring shapes on the target, and remembering what was measured.

A graph of every shape is made from one exported template (`stages.plan.template`), in the form that is fastest on
the target, and measured by the worker that measures packages. What was measured under the same conditions is kept in
the user's cache (`PlanMemory`) and not measured again.

Models are measured in groups, for the target may not hold all of them at once; one model, the anchor, is part of every
group, so that what slows the machine down for a group is taken out again. How much that was is the table's drift.

A group whose models waited for a core that others had is measured again at once, and so is a model that is out of line
with its neighbours'. What stays disturbed, or is another figure each time, is suspect: it is not remembered, or, in the
table, with a mark that has the next plan measure it again. Where the anchor is faster now than it was in the table, the
machine was slower then: all that is remembered is taken to the faster pace for the next plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from homoexport.choices import OUTPUT_NAMES
from homoexport.documents.document import digest_of, read_document
from homoexport.documents.plan import Cost, MeasuredTable, PlanMemory
from homoexport.documents.recipe import MeasureSettings
from homoexport.encoder import Encoder, count_parameters, family_of, parameters_at
from homoexport.errors import DoesNotFit, PackageError, UserError
from homoexport.host import library_versions
from homoexport.lock import scratch_folder
from homoexport.shape import Shape
from homoexport.stages.plan.instruments import Instruments, Progress, TimedFile
from homoexport.stages.plan.remembered import (
    ALIKE,
    are_settled,
    at_a_faster_pace,
    at_pace,
    by_shape,
    cost_of,
    keep,
    middle,
    now,
    unrest,
    with_shapes,
)
from homoexport.stages.plan.table import DEEP, Table, outliers, shapes_to_measure
from homoexport.stages.plan.template import Stored, Templates, refuse_blocks, remove

_GROUP = 6  # models that are measured at a time, besides the one that all groups have
_SECONDS = 0.5  # of each small model
_WARM_SECONDS = 0.1  # at most, of every model; what the first of 20 rounds still lack does not move a median
_WHOLE_SECONDS = 1.0  # of each whole one
_ALONE_SECONDS = 3.0  # of one that has tails of its own
_MORE_ROUNDS = 2  # in which a model is measured again that is off its prediction, out of line or disturbed
_RESTLESS = 0.25  # of its rounds, in which a model waited for a core, from which on its figures are disturbed
_MOST_AGAIN = 6  # groups that are measured again for that: a machine that is always busy is not waited for
_NAMES = frozenset(("_name_or_path", "architectures", "id2label", "label2id"))  # of a config: no figure depends on them


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
        self._disturbed: dict[Shape, float] = {}  # the share of rounds in which each waited, where its figures are from
        self._anchor_ms: list[float] = []  # its medians beside whole models
        self._again = 0

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
        if self.slower_then > 1 + ALIKE:
            self._remember(**at_a_faster_pace(self._known, self.slower_then))

    @property
    def slower_then(self) -> float:
        """How many times as long the anchor took when the table was measured as at the best time since then."""
        if self._known.table is None or not self._anchor_ms:
            return 1.0
        return self._known.table.pace_ms / min(self._anchor_ms)

    def table(self) -> tuple[Table, bool]:
        """What shapes can be predicted from, and whether all of it was remembered.

        It lacks hidden sizes whose models do not all fit into the target's memory; the smallest must fit (DoesNotFit).
        """
        if self._known.table is not None:
            return self._mended(self._known.table), True
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
        found = {shape: cost for costs in timed for shape, cost in at_pace(costs, anchor, pace).items()}
        gone = {shape.hidden_size for shape in self._wanted if shape not in found}
        least = min(self._wanted, key=lambda shape: shape.hidden_size)
        if least.hidden_size in gone:
            raise self._no_room(least)
        measured = {shape: found[shape] for shape in self._wanted if shape.hidden_size not in gone}
        disturbed = {shape for shape in measured if self.is_disturbed(shape)}
        share = sum(self._disturbed[shape] for shape in measured) / len(measured)
        odd = [shape for shape in outliers(measured) if shape not in {anchor, *disturbed}]
        settled, unsettled = self._settled({shape: [measured[shape]] for shape in odd}, pace)
        table = MeasuredTable(
            batch_size=self.measure.batch_size,
            length=self.measure.length,
            measured=with_shapes(measured | settled),
            pace_ms=found[anchor].latency_p50_ms,
            drift=(max(anchor_ms) - min(anchor_ms)) / pace,
            measured_at=now(),
            disturbed_share=share,
            suspect=tuple(shape for shape in measured if shape in {*disturbed, *unsettled}),
        )
        self._remember(table=table)
        return Table(table), False

    def _mended(self, table: MeasuredTable) -> Table:
        """A remembered table, whose suspect models are measured again."""
        if table.suspect:
            known = by_shape(table.measured)
            settled, unsettled = self._settled({shape: [] for shape in table.suspect}, table.pace_ms)
            changed = {"measured": with_shapes(known | settled), "suspect": tuple(unsettled)}
            table = table.model_copy(update=changed)
            self._remember(table=table)
        return Table(table)

    def _settled(self, attempts: dict[Shape, list[Cost]], pace_ms: float) -> tuple[dict[Shape, Cost], list[Shape]]:
        """What models cost at a pace once two of their measurements are alike, and those of which no two are.

        `attempts` are the measurements that there are; more are added.
        """
        for _ in range(_MORE_ROUNDS + 1):
            asked = [
                shape for shape, costs in attempts.items() if len(costs) <= _MORE_ROUNDS and not are_settled(costs)
            ]
            for group in self._groups(asked):
                self.progress("measuring again what is out of line", 0.0)
                timed = self._timed([self._anchor, *(shape for shape in group if shape != self._anchor)])
                if self._anchor in timed:
                    costs = at_pace(timed, self._anchor, pace_ms)
                    for shape in group:
                        if shape in costs and not self.is_disturbed(shape):
                            attempts[shape].append(costs[shape])
        known = {shape: middle(costs) for shape, costs in attempts.items() if costs}
        return known, [shape for shape, costs in attempts.items() if not are_settled(costs)]

    def is_disturbed(self, shape: Shape) -> bool:
        """Whether others had the cores of the target when what counts of a model of this shape was measured."""
        return self._disturbed.get(shape, 0.0) > _RESTLESS

    def _calm(self, costs: Mapping[Shape, Cost]) -> dict[Shape, Cost]:
        """What is worth remembering of these."""
        return {shape: cost for shape, cost in costs.items() if not self.is_disturbed(shape)}

    def whole(self, shapes: Sequence[Shape], table: Table) -> dict[Shape, Cost]:
        """Figures of whole models with random weights, remembered or measured; without those that do not fit.

        The table's anchor is measured beside them, so that a machine that is slower or faster now than it was does not
        count. Models that are not as predicted are measured in two more rounds, by new processes, and the round of
        the middle median counts, of those that were not disturbed if there are any.
        """
        known = by_shape(self._known.whole)
        for group in self._groups([shape for shape in dict.fromkeys(shapes) if shape not in known]):
            rounds = [self._beside_anchor(group, table)]
            calm = [self._calm(rounds[0])]
            if any(
                abs(each.latency_p50_ms - expected) > ALIKE * expected
                for shape, each in rounds[0].items()
                for expected in [table.predict(shape).latency_p50_ms]
            ):
                for _ in range(_MORE_ROUNDS):
                    rounds.append(self._beside_anchor(group, table))
                    calm.append(self._calm(rounds[-1]))
            for shape in group:
                quiet = [each[shape] for each in calm if shape in each]
                if found := quiet or [each[shape] for each in rounds if shape in each]:
                    known[shape] = middle(found)
                    self._disturbed[shape] = 0.0 if quiet else self._disturbed[shape]
            self._remember(whole=with_shapes(self._calm(known)))
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
        if not self.is_disturbed(whole):
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
        self._anchor_ms.append(timed[self._anchor].latency_p50_ms)
        return at_pace(timed, self._anchor, table.figures.pace_ms)

    def alone(
        self, shapes: Sequence[Shape], *, again: bool = False, glance: bool = False
    ) -> tuple[dict[Shape, Cost], bool]:
        """Figures of models, all of which must fit (DoesNotFit), as they are measured before there is a table, at a
        glance where no more is needed, and whether all of them were remembered.
        """
        known = {} if again else by_shape(self._known.alone)
        missing = [shape for shape in shapes if shape not in known]
        if missing:
            self.progress("measuring whole models", 0.0)
            known |= self._timed(missing, seconds=_SECONDS if glance else _ALONE_SECONDS)
            self._remember(alone=with_shapes(self._calm(known)))
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
        for file, shape, found in zip(files, shapes, self._time_calmly(files, seconds=seconds), strict=True):
            if found is None and len(files) > 1:
                (found,) = self._time_calmly([file], seconds=seconds)
            if found is not None:
                costs[shape] = cost_of(found, file)
                self._disturbed[shape] = found.disturbed_share
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

    def _time_calmly(self, files: Sequence[Path], *, seconds: float) -> Sequence[TimedFile | None]:
        """Times of files; of a few attempts, where others had the cores, those of the calmest."""
        attempts = [self._time(files, seconds=seconds)]
        while unrest(attempts[-1]) > _RESTLESS and len(attempts) <= _MORE_ROUNDS and self._again < _MOST_AGAIN:
            self._again += 1
            attempts.append(self._time(files, seconds=seconds))
        return min(attempts, key=unrest)

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
