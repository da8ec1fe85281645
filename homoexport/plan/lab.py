"""Measuring shapes on the target, and remembering what was measured.

A graph of every shape is made from one exported template (`homoexport.export.Templates`), in the form that is fastest
on the target, and measured by the worker that measures packages. What was measured under the same conditions is kept in
the user's cache and not measured again.

Models are measured in groups, for the target may not hold all of them at once; one model, the anchor, is part of every
group, so that what slows the machine down for a group is taken out again. How much that was is the table's drift.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from homoexport.choices import EmbeddingPrecision, Scheme
from homoexport.documents.document import digest_of, read_json, to_json, write_text
from homoexport.documents.recipe import ExportSettings, MeasureSettings
from homoexport.encoder import OUTPUT_NAMES, Encoder, count_parameters, family_of, parameters_at
from homoexport.errors import DoesNotFit, PackageError, UserError
from homoexport.export import Form, embeddings_of, schemes_for
from homoexport.host import available_cores, library_versions
from homoexport.measure import FileFigures, cache_folder, host_of, time_files
from homoexport.plan.shapes import shape_of
from homoexport.plan.table import DEEP, Figures, Table, figures_of, shapes_to_measure, table_of
from homoexport.plan.template import Templates, refuse_blocks
from homoexport.shape import Shape

FORMAT = 7  # of what is remembered; raised when it, or what the figures mean, changes
_GROUP = 6  # models that are measured at a time, besides the one that all groups have
_SECONDS = 0.5  # of each small model
_WHOLE_SECONDS = 1.0  # of each whole one
_ALONE_SECONDS = 3.0  # of one that has tails of its own
_DOUBT, _MORE_ROUNDS = 0.1, 2  # how far off its prediction a whole model is measured again, and how often
_NAMES = frozenset(("_name_or_path", "architectures", "id2label", "label2id"))  # of a config: no figure depends on them
_LATENCIES = {50: "latency_p50_ms", 95: "latency_p95_ms", 99: "latency_p99_ms"}


class Lab:
    """Figures of shapes of one teacher's architecture, on one target, in one scheme.

    Args:
        encoder: the teacher.
        shapes: all that may be asked about.
        measure: the target, and the threads, batch and length.
        export: how students will be exported.
        reference: the lab whose exports it shares, where it is about the teacher's own package, in fp32.
        progress: is told each step, and the share of it that is done.
        fresh: measure again what is remembered.

    Raises:
        UserError: 4-bit weights, which templates know nothing of.
        DeviceError: the target cannot be used.
    """

    def __init__(
        self,
        encoder: Encoder,
        shapes: Sequence[Shape],
        measure: MeasureSettings,
        export: ExportSettings,
        *,
        reference: Lab | None = None,
        progress: Callable[[str, float], None] | None = None,
        fresh: bool = False,
    ) -> None:
        self.encoder, self.measure, self.progress = encoder, measure, progress or (lambda _stage, _share: None)
        self.opset, self._sharing = export.opset, reference
        self.host = host_of(measure.device)
        quantize = "none" if reference is not None else export.quantize
        schemes = schemes_for(quantize, self.host.instruction_sets, x86=self.host.x86, calibrated=False)
        self.scheme: Scheme = schemes[0]
        self.embeddings: EmbeddingPrecision = embeddings_of(
            "auto" if reference is not None else export.embeddings, self.scheme
        )
        refuse_blocks(self.scheme, self.embeddings)
        self._wanted = shapes_to_measure(shapes)
        self._file = cache_folder() / "plans" / f"{digest_of(self._conditions())[:24]}.json"
        self._fresh = fresh
        self._known: dict[str, Any] = {} if fresh else self._remembered()
        self._templates: Templates | None = None
        self._folder: Path | None = None

    def _conditions(self) -> dict[str, Any]:
        """All that figures depend on."""
        encoder, config = self.encoder, self.encoder.model.config.to_dict()
        cores = self.host.cores if self.measure.threads is None else None
        return {
            "format": FORMAT,
            "target": vars(self.host) | {"cores": cores},
            "measure": self.measure.model_dump(mode="json", exclude={"text", "min_seconds"}),
            "scheme": self.scheme,
            "embeddings": self.embeddings,
            "opset": self.opset,
            "task": encoder.task,
            "pooling": encoder.pooling and vars(encoder.pooling),
            "config": {name: value for name, value in config.items() if name not in _NAMES},
            "labels": encoder.model.config.num_labels,
            "table": [shape.as_json() for shape in self._wanted],
            "versions": library_versions(),
        }

    def _remembered(self) -> dict[str, Any]:
        try:
            known: dict[str, Any] = read_json(self._file)
            for name, read in _READERS.items():
                if name in known:
                    read(known[name])
        except (PackageError, KeyError, TypeError, AttributeError):  # damaged: it is measured again
            return {}
        return known if isinstance(known, dict) else {}

    def _remember(self, name: str, value: Any) -> None:
        others = {} if self._fresh else self._remembered()  # of a plan that is made at the same time
        self._known = {**others, **self._known, name: value}
        keep(self._file, self._known)

    @property
    def form_name(self) -> str:
        """Of the graphs that were measured."""
        return Form(**self._known["form"]).name

    @contextmanager
    def open(self) -> Iterator[Lab]:
        """A folder for the graphs, inside the block."""
        with tempfile.TemporaryDirectory(prefix="homoexport-plan-") as folder:
            self._folder = Path(folder)
            yield self
            self._folder = self._templates = None

    def table(self) -> tuple[Table, bool]:
        """What shapes can be predicted from, and whether all of it was remembered.

        A hidden size whose models do not all fit into the target's memory is not in it.

        Raises:
            DoesNotFit: not even those of the smallest one do.
        """
        if saved := self._known.get("table"):
            return table_of(saved), True
        anchor = _anchor_of(self._wanted)
        others = [shape for shape in self._wanted if shape != anchor]
        timed: list[dict[Shape, Figures]] = []
        for group in self._groups(others):
            self.progress("measuring small models", sum(map(len, timed)) / (len(others) * (1 + 1 / _GROUP)))
            timed.append(self._timed([anchor, *group]))
            if anchor not in timed[-1]:
                raise self._no_room(anchor)
        paces = [figures[anchor].latency_p50_ms for figures in timed]
        pace = median(paces)
        found = {shape: each for figures in timed for shape, each in _at_pace(figures, anchor, pace).items()}
        gone = {shape.hidden_size for shape in self._wanted if shape not in found}
        figures = {shape: found[shape] for shape in self._wanted if shape.hidden_size not in gone}
        least = min(self._wanted, key=lambda shape: shape.hidden_size)
        if least.hidden_size in gone:
            raise self._no_room(least)
        drift = (max(paces) - min(paces)) / pace
        table = Table(self.measure.batch_size, self.measure.length, figures, found[anchor].latency_p50_ms, drift)
        self._remember("table", table.as_json())
        return table, False

    def whole(self, shapes: Sequence[Shape], table: Table) -> dict[Shape, Figures]:
        """Figures of whole models with random weights, remembered or measured; without those that do not fit.

        The table's anchor is measured beside them, so that a machine that is slower or faster now than it was does not
        count. Models that are not as predicted are measured in two more rounds, by new processes, and the round of
        the middle median counts.
        """
        known = _figures_by_shape(self._known.get("whole", []))
        for group in self._groups([shape for shape in dict.fromkeys(shapes) if shape not in known]):
            rounds = [self._beside_anchor(group, table)]
            if any(
                abs(each.latency_p50_ms / table.predict(shape).latency_p50_ms - 1) > _DOUBT
                for shape, each in rounds[0].items()
            ):
                rounds += [self._beside_anchor(group, table) for _ in range(_MORE_ROUNDS)]
            for shape in group:
                if found := [each[shape] for each in rounds if shape in each]:
                    known[shape] = sorted(found, key=lambda each: each.latency_p50_ms)[len(found) // 2]
            self._remember("whole", _rows_by_shape(known))
        return {shape: known[shape] for shape in shapes if shape in known}

    def reference(self, teacher: Lab, whole: Shape, table: Table) -> Figures:
        """Figures of the teacher's own shape, whose graph another lab makes, measured beside the table's anchor.

        Raises:
            DoesNotFit: it does not fit into the target's memory.
        """
        if saved := self._known.get("reference"):
            return figures_of(saved)
        self.progress("measuring the teacher's shape in fp32", 0.0)
        found = self._beside_anchor([whole], table, maker=teacher, seconds=_ALONE_SECONDS)
        if whole not in found:
            raise self._no_room(whole)
        self._remember("reference", found[whole].as_json())
        return found[whole]

    def _beside_anchor(
        self, shapes: Sequence[Shape], table: Table, *, maker: Lab | None = None, seconds: float = _WHOLE_SECONDS
    ) -> dict[Shape, Figures]:
        """Figures as they were if the anchor had taken as long as it did in the table."""
        self.progress("measuring whole models", 0.0)
        anchor = _anchor_of(self._wanted)
        timed = self._timed([anchor, *shapes], seconds=seconds, makers=[self, *[maker or self] * len(shapes)])
        if anchor not in timed:
            raise self._no_room(anchor)
        return _at_pace(timed, anchor, table.pace_ms)

    def alone(self, shapes: Sequence[Shape], *, again: bool = False) -> tuple[dict[Shape, Figures], bool]:
        """Figures of models as they are measured before there is a table, and whether all of them were remembered.

        Args:
            shapes: the models.
            again: measure them, remembered or not.

        Raises:
            DoesNotFit: one of them does not fit into the target's memory.
        """
        known = {} if again else _figures_by_shape(self._known.get("alone", []))
        missing = [shape for shape in shapes if shape not in known]
        if missing:
            self.progress("measuring whole models", 0.0)
            known |= self._timed(missing, seconds=_ALONE_SECONDS)
            self._remember("alone", _rows_by_shape(known))
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
    ) -> dict[Shape, Figures]:
        """Figures of models that are measured in turns; without those that do not fit, not even by themselves."""
        assert self._folder is not None
        files = [self._folder / f"{number}.onnx" for number in range(len(shapes))]
        for file, shape, maker in zip(files, shapes, makers or [self] * len(shapes), strict=True):
            maker._write(file, shape)
        timed = self._time(files, device=self.measure.device, seconds=seconds)
        figures = {}
        for file, shape, found in zip(files, shapes, timed, strict=True):
            if found is None and len(files) > 1:
                (found,) = self._time([file], device=self.measure.device, seconds=seconds)
            if found is not None:
                latencies = {name: found.latency_ms[percent] for percent, name in _LATENCIES.items()}
                figures[shape] = Figures(
                    **latencies,
                    latency_mean_ms=found.latency_mean_ms,
                    peak_rss_mb=found.peak_rss_mb,
                    file_mb=file.stat().st_size / 10**6,
                )
            file.unlink()
        return figures

    def _write(self, file: Path, shape: Shape) -> None:
        templates = self._made_templates()
        if not templates.write(file, shape, self._form()):
            raise UserError(
                f"its graph of {shape.num_hidden_layers} layers does not answer as the model does in the form of "
                f"{DEEP} layers",
                where=self.encoder.source,
                hint="name the student's shape, and let the export choose",
            )

    def _made_templates(self) -> Templates:
        assert self._folder is not None
        if self._templates is None and self._sharing is not None:
            self._templates = self._sharing._made_templates().stored_as(self.scheme, self.embeddings)
        if self._templates is None:
            folder = self._folder / "templates"
            folder.mkdir()
            self._templates = Templates(
                self.encoder,
                folder,
                scheme=self.scheme,
                embeddings=self.embeddings,
                opset=self.opset,
                progress=lambda step: self.progress(step, 0.0),
            )
        return self._templates

    def _form(self) -> Form:
        """The fastest form at the teacher's width; remembered."""
        if saved := self._known.get("form"):
            return Form(**saved)
        whole = family_of(self.encoder.model.config).widths(self.encoder.model).shape
        few = replace(whole, num_hidden_layers=DEEP)
        form = self._made_templates().best_form(few, self._ranked)
        self._remember("form", vars(form))
        return form

    def _ranked(self, files: Sequence[Path]) -> list[float]:
        # As the export does: an emulator's times say nothing of the device.
        found = self._time(files, device="cpu" if self.host.emulated else self.measure.device, seconds=_SECONDS)
        return [float("inf") if figures is None else figures.latency_ms[50] for figures in found]

    def _time(self, files: Sequence[Path], *, device: str, seconds: float) -> list[FileFigures | None]:
        threads = self.measure.threads
        return time_files(
            files,
            device=device,
            threads=threads if threads is None or device == self.measure.device else min(threads, available_cores()),
            batch_size=self.measure.batch_size,
            length=self.measure.length,
            vocab_size=self.encoder.model.config.vocab_size,
            outputs=(OUTPUT_NAMES[self.encoder.task][0],),
            min_seconds=seconds,
        )


def _figures_by_shape(rows: Sequence[dict[str, Any]]) -> dict[Shape, Figures]:
    return {shape_of(row["shape"]): figures_of(row) for row in rows}


_READERS: dict[str, Callable[[Any], object]] = {
    "form": lambda saved: Form(**saved),
    "table": table_of,
    "reference": figures_of,
    "whole": _figures_by_shape,
    "alone": _figures_by_shape,
}


def keep(file: Path, value: Any) -> None:
    """Put JSON into the cache; one that cannot be written is none."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, to_json(value))


def _rows_by_shape(figures: dict[Shape, Figures]) -> list[dict[str, Any]]:
    return [{"shape": shape.as_json(), **each.as_json()} for shape, each in figures.items()]


def _anchor_of(shapes: Sequence[Shape]) -> Shape:
    """One model of the table, of middling cost, that every group is measured with."""
    deep = [shape for shape in shapes if shape.num_hidden_layers == DEEP]
    return deep[len(deep) // 2]


def _at_pace(figures: dict[Shape, Figures], anchor: Shape, pace_ms: float) -> dict[Shape, Figures]:
    """Figures of a group as they were if its anchor had taken `pace_ms`."""
    factors = dict.fromkeys((*_LATENCIES.values(), "latency_mean_ms"), pace_ms / figures[anchor].latency_p50_ms)
    return {shape: each.times(factors) for shape, each in figures.items()}
