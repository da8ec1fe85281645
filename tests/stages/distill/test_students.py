"""Several students out of one run."""

from __future__ import annotations

import json
import math

import pytest
import torch
from transformers import AutoModel

from homoexport.documents.artifact import StudentManifest, verify
from homoexport.documents.layout import LOG
from homoexport.documents.recipe import StudentShape
from homoexport.errors import RecipeError
from homoexport.stages.distill import Run
from homoexport.workflow.distill import distill_students
from homoexport.workflow.progress import Progress
from tests.stages.distill.test_loop import Stop, settings_of, text_of

SHAPES = [
    StudentShape(name="wide", hidden_size=24, intermediate_size=48, num_attention_heads=4),
    StudentShape(name="middle", hidden_size=16, intermediate_size=32, num_attention_heads=2),
    StudentShape(name="narrow", hidden_size=12, intermediate_size=24, num_attention_heads=3, finish=0.5),
]


def arguments_of(corpus_file, **changes: object) -> dict[str, object]:
    settings = settings_of("sentence-embedding", steps=20, prune_every=1, checkpoint_every=3, **changes)
    return {"text": text_of(corpus_file), "shapes": SHAPES, "settings": settings}


def log_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def test_each_student_is_a_stock_model_of_its_shape_with_its_whole_way(tiny_folder, corpus_file, tmp_path):
    folders = distill_students(str(tiny_folder()), output=tmp_path / "all", **arguments_of(corpus_file))
    assert [folder.name for folder in folders] == ["wide", "middle", "narrow"]
    for folder, shape in zip(folders, SHAPES, strict=True):
        details = verify(folder, StudentManifest).details
        config = AutoModel.from_pretrained(folder).config
        for name in ("hidden_size", "intermediate_size", "num_attention_heads"):
            assert getattr(config, name) == getattr(shape, name)
        log = log_of(folder)
        assert [line["step"] for line in log] == list(range(details.steps))
        assert log[0]["gap"] == pytest.approx(0, abs=1e-6)
        widths = [line["widths"]["hidden_size"] for line in log]
        assert widths == sorted(widths, reverse=True)
        assert widths[-1] == shape.hidden_size
        assert log[-1]["learning_rate"] < log[len(log) // 2]["learning_rate"]
    alone = verify(folders[0], StudentManifest).details.steps - 5  # finish 0.25 of 20
    assert log_of(folders[0])[:alone] == log_of(folders[2])[:alone]  # they share the trunk
    assert not list((tmp_path / "all").rglob(".checkpoint*"))


def test_a_branch_ends_with_its_own_share_of_steps(tiny_folder, corpus_file, tmp_path):
    folders = distill_students(str(tiny_folder()), output=tmp_path / "all", **arguments_of(corpus_file))
    trunk = verify(folders[2], StudentManifest).details.steps
    assert trunk == round((0.6 + 0.5) * 20)
    rates = [line["learning_rate"] for line in log_of(folders[0])]
    branched = len(rates) - 5  # finish 0.25 of 20
    trunk_rates = [line["learning_rate"] for line in log_of(folders[2])]
    assert rates[:branched] == trunk_rates[:branched]
    assert rates[branched] == pytest.approx(trunk_rates[branched], rel=1e-6)
    assert rates[-1] < trunk_rates[len(rates) - 1]


def test_a_branch_of_one_step_is_mended_no_more(tiny_folder, corpus_file, tmp_path):
    """It has its widths and layers from the trunk, which was mended as it lost them."""
    way = {"method": "homodistil", "steps": 4, "prune_every": 1, "prune_until": 0.5}
    settings = settings_of("sentence-embedding", repair=True, **way)
    shapes = [
        StudentShape(name=str(width), hidden_size=width, num_attention_heads=4, finish=0.25) for width in (24, 16)
    ]
    arguments = {"text": text_of(corpus_file), "shapes": shapes, "settings": settings}
    folders = distill_students(str(tiny_folder()), output=tmp_path / "all", **arguments)
    assert [log_of(folder)[-1]["widths"]["hidden_size"] for folder in folders] == [24, 16]


@pytest.mark.parametrize(
    "stop_after",
    [
        pytest.param(1, id="before", marks=pytest.mark.slow),
        pytest.param(9, id="trunk", marks=pytest.mark.slow),
        pytest.param(16, id="trunk's end"),
        pytest.param(23, id="branch"),
    ],
)
def test_killed_and_resumed_ends_with_the_same_bits(tiny_folder, corpus_file, tmp_path, stop_after):
    torch.set_num_threads(1)
    teacher, arguments = str(tiny_folder()), arguments_of(corpus_file)
    whole = distill_students(teacher, output=tmp_path / "whole", **arguments)
    seen = 0

    def stop(_progress: object) -> None:
        nonlocal seen
        seen += 1
        if seen == stop_after:
            raise Stop

    with pytest.raises(Stop):
        distill_students(teacher, output=tmp_path / "stopped", progress=Progress(on_distill=stop), **arguments)
    if stop_after < 3:
        assert not (tmp_path / "stopped").exists()  # nothing to resume
        return
    resumed = distill_students(teacher, output=tmp_path / "stopped", resume=True, **arguments)
    for one, other in zip(whole, resumed, strict=True):
        assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
        assert [line["loss"] for line in log_of(one)] == [line["loss"] for line in log_of(other)]


@pytest.mark.parametrize(
    "stop_after", [pytest.param(24, id="before it goes back"), pytest.param(26, id="after", marks=pytest.mark.slow)]
)
def test_a_branch_that_diverges_goes_back_to_where_it_branched_off(
    tiny_folder, corpus_file, tmp_path, monkeypatch, stop_after
):
    torch.set_num_threads(1)
    train, teacher, arguments, seen = Run._train, str(tiny_folder()), arguments_of(corpus_file), []

    def lose(run: Run) -> float:
        rate = train(run)
        if run.settings.steps == 5 and run.step == 2 and not run.slowed:  # a branch's third
            next(run.student.parameters()).data.fill_(math.nan)
        return rate

    def stop(_progress: object) -> None:
        seen.append(1)
        if len(seen) == stop_after:
            raise Stop

    monkeypatch.setattr(Run, "_train", lose)
    whole = distill_students(teacher, output=tmp_path / "whole", **arguments)
    with pytest.raises(Stop):
        distill_students(teacher, output=tmp_path / "stopped", progress=Progress(on_distill=stop), **arguments)
    resumed = distill_students(teacher, output=tmp_path / "stopped", resume=True, **arguments)
    for one, other in zip(whole, resumed, strict=True):
        assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
        assert [line["loss"] for line in log_of(one)] == [line["loss"] for line in log_of(other)]


def test_widths_passed_in_one_event_are_all_reached(tiny_folder, corpus_file, tmp_path):
    arguments = arguments_of(corpus_file)
    arguments["settings"] = arguments["settings"].model_copy(update={"prune_every": 100})  # a single event
    folders = distill_students(str(tiny_folder()), output=tmp_path / "all", **arguments)
    assert [verify(folder, StudentManifest).details.widths.hidden_size for folder in folders] == [24, 16, 12]


@pytest.mark.parametrize(
    ("shapes", "settings", "words"),
    [
        (SHAPES, {"prune_until": 0.0}, "pruning at step 0 has no path of widths"),
        (SHAPES[::-1], {}, "give the widest student first"),
        ([SHAPES[0], SHAPES[1].model_copy(update={"num_hidden_layers": 1})], {}, "keep all of the teacher's layers"),
        (SHAPES, {"method": "one-shot"}, "one-shot has no path of widths"),
    ],
)
def test_students_that_have_no_common_way_are_refused(tiny_folder, corpus_file, tmp_path, shapes, settings, words):
    arguments = {**arguments_of(corpus_file, **settings), "shapes": shapes}
    with pytest.raises(RecipeError, match=words):
        distill_students(str(tiny_folder()), output=tmp_path / "all", **arguments)
    assert not (tmp_path / "all").exists()
