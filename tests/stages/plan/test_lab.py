"""What is measured once is remembered; a machine's pace is taken out. Graphs and times are made up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from homoexport.choices import Runtime
from homoexport.documents.plan import PlanMemory
from homoexport.documents.recipe import DistillSettings, ExportSettings, MeasureSettings
from homoexport.encoder import Encoder, Pooling, count_parameters, family_of, parameters_at
from homoexport.errors import DoesNotFit
from homoexport.shape import Shape
from homoexport.stages.measure import FileFigures
from homoexport.stages.plan import lab
from homoexport.stages.plan.shapes import candidates
from homoexport.stages.plan.table import DEEP, Table
from homoexport.workflow.plan import instruments_for
from tests.conftest import tiny_bert, tiny_tokenizer

SETTINGS = DistillSettings(objective="sentence-embedding", steps=1, batch_size=2)


class Target:
    """A target whose pace changes from group to group."""

    def __init__(self) -> None:
        self.shapes: dict[Path, Shape] = {}
        self.groups: list[int] = []
        self.paces = [1.0]
        self.too_big: int | None = None
        self.crowded = False
        self.slow: dict[Shape, list[float]] = {}
        self.restless: list[float] = []  # the share of disturbed rounds, group by group; 0 from then on
        self.asked = (128, 1)

    def lab(
        self,
        encoder: Encoder,
        *,
        fresh: bool = False,
        settings: DistillSettings = SETTINGS,
        runtime: Runtime = "onnxruntime",
        **measure: Any,
    ) -> lab.Lab:
        asked = MeasureSettings(**{"threads": 1, **measure})
        export = ExportSettings(quantize="none", runtime=runtime)
        made = instruments_for(encoder, asked, export, "sentence-embedding")
        instruments = replace(made, time_files=self.time)
        return lab.Lab(encoder, candidates(encoder, settings), asked, instruments, fresh=fresh)

    def time(
        self, files: list[Path], *, outputs: tuple[str, ...], length: int, batch_size: int, **_: Any
    ) -> list[FileFigures | None]:
        assert outputs == ("sentence_embedding",)
        assert (length, batch_size) == self.asked
        pace = self.paces[len(self.groups) % len(self.paces)]
        self.groups.append(len(files))
        share = self.restless.pop(0) if self.restless else 0.0
        if self.crowded and len(files) > 2:
            return [None] * len(files)
        return [self._figures(self.shapes[file], pace * (1 + share), share) for file in files]

    def _figures(self, shape: Shape, pace: float, share: float) -> FileFigures | None:
        if self.too_big is not None and shape.hidden_size >= self.too_big:
            return None
        pace *= self.slow[shape].pop(0) if self.slow.get(shape) else 1.0
        ms = pace * (0.1 + 0.01 * shape.num_hidden_layers * (shape.hidden_size + shape.intermediate_size / 2))
        return FileFigures({50: ms, 90: ms, 95: 1.1 * ms, 99: 1.2 * ms}, ms, 60.0 + shape.hidden_size, share)


@pytest.fixture
def target(monkeypatch, tmp_path) -> Target:
    made = Target()

    class Templates:
        def __init__(self, *_: object, **__: object) -> None: ...

        def best_form(self, forms: Mapping[str, object], *_: object) -> str:
            return "standard" if "standard" in forms else next(iter(forms))

        def write(self, file: Path, shape: Shape, *_: object) -> Path:
            made.shapes[file] = shape
            file.write_bytes(b"0" * 1000 * shape.num_hidden_layers * shape.hidden_size)
            return file

    monkeypatch.setattr(lab, "Templates", Templates)
    monkeypatch.setenv("HOMOEXPORT_CACHE", str(tmp_path / "cache"))
    return made


@pytest.fixture
def encoder(tmp_path) -> Encoder:
    model = tiny_bert(hidden_size=128, heads=8, intermediate_size=512, layers=4)
    return Encoder(model, tiny_tokenizer(), "sentence-similarity", Pooling(), tmp_path, "tiny")


def test_second_plan_measures_nothing_and_another_condition_measures_anew(target, encoder):
    shapes = candidates(encoder, SETTINGS)
    with target.lab(encoder).open() as one:
        table, remembered = one.table()
        whole = one.whole(shapes[-1:], table)
    measured = len(target.groups)
    assert not remembered
    with target.lab(encoder).open() as again:
        assert again.table() == (table, True)
        assert again.whole(shapes[-1:], table) == whole
    assert len(target.groups) == measured
    narrow = SETTINGS.model_copy(update={"prune": ("hidden", "heads")})
    for other in ({"length": 64}, {"batch_size": 2}, {"fresh": True}, {"settings": narrow}, {"threads": None}):
        target.asked = (other.get("length", 128), other.get("batch_size", 1))
        with target.lab(encoder, **other).open() as another:
            assert another.table()[1] is False
        assert len(target.groups) > measured
        measured = len(target.groups)


def test_pace_of_the_machine_is_taken_out_and_told(target, encoder):
    shapes = candidates(encoder, SETTINGS)
    with target.lab(encoder).open() as quiet:
        steady, _ = quiet.table()
        whole = quiet.whole(shapes[-1:], steady)
    target.paces = [1.0, 1.3, 0.9]
    target.groups.clear()
    with target.lab(encoder, fresh=True).open() as drifting:
        table, _ = drifting.table()
        target.paces = [2.0]
        again = drifting.whole(shapes[-1:], table)
    assert steady.figures.drift == 0
    assert table.figures.drift == pytest.approx(0.4)
    for shape, figures in steady.measured.items():
        assert table.measured[shape].latency_p95_ms == pytest.approx(figures.latency_p95_ms)
    assert again[shapes[-1]].latency_p50_ms == pytest.approx(whole[shapes[-1]].latency_p50_ms)


def test_whole_models_that_are_not_as_predicted_are_measured_in_more_rounds(target, encoder):
    shapes = candidates(encoder, SETTINGS)
    with target.lab(encoder).open() as one:
        table, _ = one.table()
        true = one.whole(shapes[-1:], table)[shapes[-1]].latency_p50_ms
    target.slow = {family_of(encoder.model.config).widths(encoder.model).shape: [1.5, 1.0, 1.02]}
    with target.lab(encoder, fresh=True).open() as again:
        table, _ = again.table()
        before = len(target.groups)
        found = again.whole(shapes[-1:], table)[shapes[-1]]
    assert len(target.groups) - before == 3
    assert found.latency_p50_ms == pytest.approx(1.02 * true)


def test_the_teachers_shape_is_measured_at_the_tables_pace(target, encoder):
    whole = family_of(encoder.model.config).widths(encoder.model).shape
    with target.lab(encoder).open() as one, target.lab(encoder).open() as other:
        table, _ = one.table()
        true = other.alone([whole])[0][whole]
        target.paces = [1.7]
        assert one.reference(other, whole, table).latency_p50_ms == pytest.approx(true.latency_p50_ms)
        measured = len(target.groups)
        assert one.reference(other, whole, table).latency_p50_ms == pytest.approx(true.latency_p50_ms)
        assert other.alone([whole]) == ({whole: true}, True)
        assert len(target.groups) == measured
        slow, remembered = other.alone([whole], again=True)
        assert not remembered
        assert slow[whole].latency_p50_ms == pytest.approx(1.7 * true.latency_p50_ms)


def test_the_teachers_form_is_an_onnx_files_whatever_the_students_run_in(target, encoder):
    students = target.lab(encoder, runtime="ctranslate2")
    with students.open(), students.in_fp32(candidates(encoder, SETTINGS)).open() as teacher:
        assert (students.form, teacher.form) == ("ctranslate2", "standard")


def test_on_an_emulated_target_forms_are_ranked_by_instructions(target, encoder, tmp_path):
    made = target.lab(encoder)
    emulated = made.instruments.target.model_copy(update={"emulated": True})
    made.instruments = replace(made.instruments, target=emulated, count_files=lambda files, **_: [2.0e6 for _ in files])
    assert made._ranked([tmp_path / "form.onnx"]) == [2.0e6]
    assert target.groups == []


def test_a_cache_that_cannot_be_written_is_none(target, encoder, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOMOEXPORT_CACHE", str(tmp_path / "file"))
    with target.lab(encoder).open() as one:
        assert one.table()[1] is False


def test_what_does_not_fit_is_left_out(target, encoder):
    target.too_big = 100
    shapes = candidates(encoder, SETTINGS)
    with target.lab(encoder).open() as one:
        table, _ = one.table()
        assert {shape.hidden_size for shape in table.measured} == {s.hidden_size for s in shapes if s.hidden_size < 100}
        assert one.whole([shapes[0], shapes[-1]], table).keys() == {shapes[0]}
    assert not table.covers(shapes[-1])
    target.too_big = 0
    with (
        target.lab(encoder, fresh=True).open() as none,
        pytest.raises(DoesNotFit, match="does not fit into its memory"),
    ):
        none.table()


def test_models_that_fit_one_by_one_are_measured_so(target, encoder):
    with target.lab(encoder).open() as one:
        table, _ = one.table()
    target.crowded = True
    with target.lab(encoder, fresh=True).open() as again:
        assert again.table()[0].measured.keys() == table.measured.keys()


def test_groups_weigh_no_more_than_the_teacher(target, encoder):
    with target.lab(encoder).open() as one:
        groups = list(one._groups(candidates(encoder, SETTINGS)))
    family, most = family_of(encoder.model.config), count_parameters(encoder.model)
    for group in groups:
        assert len(group) == 1 or sum(parameters_at(encoder.model, family, s) for s in group) <= most
    assert [shape for group in groups for shape in group] == candidates(encoder, SETTINGS)


@pytest.mark.parametrize(
    "damage", ["{", "[]", "{}", {"table": {}}, {"form": 1}, {"whole": [3]}, {"form": "no such"}, {"no": "such"}]
)
def test_damaged_memory_is_measured_again(target, encoder, damage):
    with target.lab(encoder).open() as one:
        one.table()
        versioned = {"schema_version": PlanMemory.VERSION, **damage} if isinstance(damage, dict) else None
        one._file.write_text(json.dumps(versioned) if versioned else damage)
    with target.lab(encoder).open() as again:
        assert again.table()[1] is False
        assert again.form == "standard"


def narrow_of(table: Table) -> Shape:
    """A model of the table that is not the smallest, nor the widest, nor the anchor."""
    deep = [shape for shape in table.measured if shape.num_hidden_layers == DEEP]
    return deep[len(deep) // 4]


def test_a_group_that_others_disturbed_is_measured_again_at_once(target, encoder):
    with target.lab(encoder).open() as one:
        calm, _ = one.table()
    groups = len(target.groups)
    target.groups.clear()
    target.restless = [0.0, 0.8, 0.5, 0.0]  # the second group, and it again
    with target.lab(encoder, fresh=True).open() as again:
        table, _ = again.table()
    assert len(target.groups) == groups + 2
    assert table.measured == calm.measured
    assert (table.figures.suspect, table.figures.disturbed_share) == ((), 0.0)
    assert table.figures.measured_at


def test_what_stays_disturbed_is_suspect_and_the_next_plan_measures_it_again(target, encoder):
    with target.lab(encoder).open() as one:
        calm, _ = one.table()
    target.restless = [0.0, 0.8, 0.9, 0.8]
    with target.lab(encoder, fresh=True).open() as busy:
        table, _ = busy.table()
    suspect = set(table.figures.suspect)
    assert suspect
    assert suspect < set(table.measured)
    assert 0 < table.figures.disturbed_share < 0.8
    assert table.doubts(next(iter(suspect)))
    target.groups.clear()
    with target.lab(encoder).open() as later:
        mended, remembered = later.table()
        assert remembered
        assert target.groups
        assert mended.figures.suspect == ()
        for shape, cost in mended.measured.items():
            assert cost.latency_p50_ms == pytest.approx(calm.measured[shape].latency_p50_ms)
        measured = len(target.groups)
        assert later.table() == (mended, True)
        assert len(target.groups) == measured


def test_a_machine_that_is_always_busy_is_not_waited_for(target, encoder):
    with target.lab(encoder).open() as one:
        one.table()
    groups = len(target.groups)
    target.groups.clear()
    target.restless = [0.8] * 100
    with target.lab(encoder, fresh=True).open() as busy:
        table, _ = busy.table()
        assert set(table.figures.suspect) == set(table.measured)
        assert len(target.groups) == groups + 6
        whole = candidates(encoder, SETTINGS)[-1:]
        busy.whole(whole, table)
        busy.alone(whole)
        assert busy._known.whole == busy._known.alone == ()


def test_of_a_whole_models_measurements_those_that_nobody_disturbed_count(target, encoder):
    shapes = candidates(encoder, SETTINGS)
    with target.lab(encoder).open() as one:
        table, _ = one.table()
        true = one.whole(shapes[-1:], table)
    whole = family_of(encoder.model.config).widths(encoder.model).shape
    with target.lab(encoder, fresh=True).open() as again:
        table, _ = again.table()
        again._again = 99  # so that no group is measured again for it
        target.restless, target.slow = [0.8, 0.8, 0.0], {whole: [1.5, 1.6]}
        assert again.whole(shapes[-1:], table) == true
        assert not again.is_disturbed(whole)
        assert [cost.shape for cost in again._known.whole] == [whole]


def test_a_model_out_of_line_is_measured_again_and_the_table_keeps_what_is_true(target, encoder):
    with target.lab(encoder).open() as one:
        true, _ = one.table()
    odd = narrow_of(true)
    target.slow = {odd: [1.7, 1.0]}
    with target.lab(encoder, fresh=True).open() as again:
        table, _ = again.table()
    assert table.measured[odd].latency_p50_ms == pytest.approx(true.measured[odd].latency_p50_ms)
    assert table.figures.suspect == ()


def test_a_width_that_is_slow_here_stays_so(target, encoder):
    with target.lab(encoder).open() as one:
        true, _ = one.table()
    odd = narrow_of(true)
    target.slow = {odd: [1.7] * 9}
    with target.lab(encoder, fresh=True).open() as again:
        table, _ = again.table()
    assert table.measured[odd].latency_p50_ms == pytest.approx(1.7 * true.measured[odd].latency_p50_ms)
    assert table.figures.suspect == ()


def test_a_model_that_is_another_each_time_is_suspect(target, encoder):
    with target.lab(encoder).open() as one:
        true, _ = one.table()
    odd = narrow_of(true)
    target.slow = {odd: [2.6, 1.7, 1.2]}
    with target.lab(encoder, fresh=True).open() as again:
        table, _ = again.table()
    assert table.figures.suspect == (odd,)


def test_what_was_measured_on_a_slower_machine_is_taken_to_the_pace_of_now(target, encoder):
    shapes = candidates(encoder, SETTINGS)
    with target.lab(encoder).open() as quiet:
        true, _ = quiet.table()
        whole = quiet.whole(shapes[-1:], true)[shapes[-1]]
    target.paces = [1.7]
    with target.lab(encoder, fresh=True).open() as slow:
        slow_table, _ = slow.table()
    target.paces = [1.0]
    with target.lab(encoder).open() as now:
        table, remembered = now.table()
        assert remembered
        assert table == slow_table
        slow_whole = now.whole(shapes[-1:], table)[shapes[-1]]
        assert slow_whole.latency_p50_ms == pytest.approx(1.7 * whole.latency_p50_ms)  # at the table's pace
        assert now.slower_then == pytest.approx(1.7)
    with target.lab(encoder).open() as next_one:
        kept, _ = next_one.table()
        assert next_one.whole(shapes[-1:], kept)[shapes[-1]].latency_p50_ms == pytest.approx(whole.latency_p50_ms)
        assert next_one.slower_then == 1
        target.paces = [2.0]
        next_one.whole(shapes[:1], kept)
        assert next_one.slower_then == pytest.approx(0.5)
    with target.lab(encoder).open() as last:
        assert last.table() == (kept, True)  # a slower time changes nothing
    for shape, cost in kept.measured.items():
        assert cost.latency_p50_ms == pytest.approx(true.measured[shape].latency_p50_ms)
