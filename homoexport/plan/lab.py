"""Measuring shapes on the target, and remembering what was measured.

A graph of every shape is made from one exported template (`homoexport.export.Templates`), in the form that is fastest
on the target, and measured by the worker that measures packages. What was measured under the same conditions is kept in
the user's cache and not measured again.

Models are measured in groups, for the target may not hold all of them at once; one model, the anchor, is part of every
group, so that what slows the machine down for a group is taken out again. How much that was is the table's unrest.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from homoexport.artifact import digest_of, output_errors, read_json, write_json
from homoexport.encoder import Encoder, family_of
from homoexport.errors import DoesNotFit, PackageError
from homoexport.export import Embeddings, Form, Scheme, Templates, embeddings_of, schemes_for
from homoexport.host import library_versions
from homoexport.measure import FileFigures, cache_folder, host_of, time_files
from homoexport.plan.shapes import Shape, shape_of
from homoexport.plan.table import DEEP, Figures, Table, figures_of, shapes_to_measure, table_of
from homoexport.recipe import ExportSettings, MeasureSettings

FORMAT = 3  # of what is remembered; raised when it, or what the figures mean, changes
_GROUP = 6  # models that are measured at a time, besides the one that all groups have
_SECONDS = 0.5  # of each model
_SIZES = frozenset(
    (
        *("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "layer_types"),
        *("dim", "hidden_dim", "n_heads", "n_layers"),
        *("_name_or_path", "architectures", "id2label", "label2id"),
    )
)  # of a config: what a plan varies, and names
_LATENCIES = {50: "latency_p50_ms", 95: "latency_p95_ms", 99: "latency_p99_ms"}


class Lab:
    """Figures of shapes of one teacher's architecture, on one target, in one scheme.

    Args:
        encoder: the teacher.
        measure: the target, and the threads, batch and length.
        export: how students will be exported.
        reference: whether it is about the teacher's own package, in fp32.
        progress: is told each step, and the share of it that is done.
        fresh: measure again what is remembered.
    """

    def __init__(
        self,
        encoder: Encoder,
        measure: MeasureSettings,
        export: ExportSettings,
        *,
        reference: bool = False,
        progress: Callable[[str, float], None] | None = None,
        fresh: bool = False,
    ) -> None:
        self.encoder, self.measure, self.progress = encoder, measure, progress or (lambda _stage, _share: None)
        self.opset = export.opset
        self.host = host_of(measure.device)
        quantize = "none" if reference else export.quantize
        schemes = schemes_for(quantize, self.host.instruction_sets, x86=self.host.x86, calibrated=False)
        self.scheme: Scheme = schemes[0]
        self.embeddings: Embeddings = embeddings_of("auto" if reference else export.embeddings, self.scheme)
        self._file = cache_folder() / "plans" / f"{digest_of(self._conditions())[:24]}.json"
        self._known = {} if fresh else self._remembered()
        self._templates: Templates | None = None
        self._folder: Path | None = None

    def _conditions(self) -> dict[str, Any]:
        """All that figures depend on."""
        encoder, config = self.encoder, self.encoder.model.config.to_dict()
        return {
            "format": FORMAT,
            "target": vars(self.host),
            "measure": self.measure.model_dump(mode="json", exclude={"text", "min_seconds"}),
            "scheme": self.scheme,
            "embeddings": self.embeddings,
            "opset": self.opset,
            "task": encoder.task,
            "pooling": encoder.pooling and vars(encoder.pooling),
            "config": {name: value for name, value in config.items() if name not in _SIZES},
            "labels": encoder.model.config.num_labels,
            "versions": library_versions(),
        }

    def _remembered(self) -> dict[str, Any]:
        try:
            known = read_json(self._file)
        except PackageError:
            return {}
        return known if isinstance(known, dict) else {}

    def _remember(self, name: str, value: Any) -> None:
        self._known[name] = value
        with output_errors(self._file):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._file, self._known)

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

    def table(self, candidates: Sequence[Shape]) -> tuple[Table, bool]:
        """What the candidates can be predicted from, and whether all of it was remembered.

        Raises:
            DoesNotFit: a model of the table does not fit into the target's memory.
        """
        wanted = shapes_to_measure(candidates)
        if saved := self._known.get("table"):
            table = table_of(saved)
            if set(wanted) <= table.measured.keys():
                return table, True
        anchor = _anchor_of(wanted)
        others = [shape for shape in wanted if shape != anchor]
        groups = [others[start : start + _GROUP] for start in range(0, len(others), _GROUP)]
        timed: list[dict[Shape, Figures]] = []
        for number, group in enumerate(groups):
            self.progress("measuring small models", number / len(groups))
            timed.append(self._timed([anchor, *group]))
        paces = [figures[anchor].latency_p50_ms for figures in timed]
        pace = median(paces)
        found = {shape: each for figures in timed for shape, each in _at_pace(figures, anchor, pace).items()}
        unrest = (max(paces) - min(paces)) / pace
        figures = {shape: found[shape] for shape in wanted}
        table = Table(self.measure.batch_size, self.measure.length, figures, anchor, unrest)
        self._remember("table", table.as_json())
        return table, False

    def whole(self, shapes: Sequence[Shape], table: Table | None = None) -> dict[Shape, Figures]:
        """Figures of whole models with random weights, remembered or measured, at the pace of the table.

        Args:
            shapes: of the models.
            table: whose anchor is measured beside them, so that a machine that is slower or faster now than it was does
                not count; none before there is one.

        Raises:
            DoesNotFit: one of them does not fit into the target's memory.
        """
        known = {shape_of(row["shape"]): figures_of(row) for row in self._known.get("whole", [])}
        missing = [shape for shape in dict.fromkeys(shapes) if shape not in known]
        for start in range(0, len(missing), _GROUP):
            self.progress("measuring whole models", start / len(missing))
            group = missing[start : start + _GROUP]
            if table is None:
                known |= self._timed(group)
            else:
                timed = self._timed([table.anchor, *group])
                known |= _at_pace(timed, table.anchor, table.measured[table.anchor].latency_p50_ms)
            rows = [{"shape": shape.as_json(), **figures.as_json()} for shape, figures in known.items()]
            self._remember("whole", rows)
        return {shape: known[shape] for shape in shapes}

    def _timed(self, shapes: Sequence[Shape]) -> dict[Shape, Figures]:
        assert self._folder is not None
        files = [self._folder / f"{number}.onnx" for number in range(len(shapes))]
        for file, shape in zip(files, shapes, strict=True):
            self._write(file, shape)
        timed = self._time(files, min_seconds=_SECONDS)
        figures = {}
        for file, shape, found in zip(files, shapes, timed, strict=True):
            if found is None:
                raise DoesNotFit(
                    f"a model of {shape.name} does not fit into its memory",
                    where=self.measure.device,
                    mend="give it more, or plan for a smaller teacher",
                )
            latencies = {name: found.latency_ms[percent] for percent, name in _LATENCIES.items()}
            file_mb = file.stat().st_size / 10**6
            figures[shape] = Figures(**latencies, peak_rss_mb=found.peak_rss_mb, file_mb=file_mb)
            file.unlink()
        return figures

    def _write(self, file: Path, shape: Shape) -> None:
        templates = self._made_templates()
        written = templates.write(file, shape.widths, self._form())
        assert written, "the form was right for another number of layers"

    def _made_templates(self) -> Templates:
        assert self._folder is not None
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
        """The fastest form at half of the teacher's width; remembered."""
        if saved := self._known.get("form"):
            return Form(**saved)
        widths = family_of(self.encoder.model.config).widths(self.encoder.model)
        middle = replace(widths, heads=widths.heads[:1] * DEEP)
        form = self._made_templates().best_form(middle, self._ranked)
        self._remember("form", vars(form))
        return form

    def _ranked(self, files: Sequence[Path]) -> list[float]:
        found = self._time(files, min_seconds=_SECONDS)
        return [float("inf") if figures is None else figures.latency_ms[50] for figures in found]

    def _time(self, files: Sequence[Path], *, min_seconds: float) -> list[FileFigures | None]:
        return time_files(
            files,
            device=self.measure.device,
            threads=self.measure.threads,
            batch_size=self.measure.batch_size,
            length=self.measure.length,
            vocab_size=self.encoder.model.config.vocab_size,
            min_seconds=min_seconds,
        )


def _anchor_of(shapes: Sequence[Shape]) -> Shape:
    """One model of the table, of middling cost, that every group is measured with."""
    deep = [shape for shape in shapes if shape.layers == DEEP]
    return deep[len(deep) // 2]


def _at_pace(figures: dict[Shape, Figures], anchor: Shape, pace_ms: float) -> dict[Shape, Figures]:
    """Figures of a group as they were if its anchor had taken `pace_ms`."""
    factors = dict.fromkeys(_LATENCIES.values(), pace_ms / figures[anchor].latency_p50_ms)
    return {shape: each.times(factors) for shape, each in figures.items()}
