"""Sentence encoders with layers behind their pooling: as teachers, and as students that answer in a teacher's space."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cosine_similarity

from homoexport.documents.artifact import DistilledManifest, verify
from homoexport.documents.recipe import DistillSettings, LossWeights, StudentShape
from homoexport.encoder import load_encoder, torch_answers
from homoexport.errors import RecipeError
from homoexport.shape import PartialShape
from homoexport.stages.distill import Run, distill_encoder, objective, targets_of
from homoexport.stages.distill.batches import BatchMaker, MicroBatch
from homoexport.workflow.distill import distill, distill_students
from homoexport.workflow.job import open_job
from homoexport.workflow.progress import Progress
from tests.dense import write_layers
from tests.stages.distill.test_loop import SHAPE, Stop, run_of, settings_of, text_of

IN_TEACHERS = SHAPE.model_copy(update={"output": "teacher"})
SLOWER = ("one-shot", "layers", "minilm", "tinybert", "repair")
ONLY_VECTORS = LossWeights(task=0, kl=0, hidden=0, attention=0, embedding=0, relation=0, vectors=1)


def final_vectors(folder: Path, micro: MicroBatch) -> torch.Tensor:
    """What the saved model answers to a micro-batch."""
    return torch_answers(load_encoder(str(folder), task="sentence-similarity"), micro.inputs)["sentence_embedding"]


def open_run(
    teacher: Path, corpus_file: Path, settings: DistillSettings, shape: PartialShape = IN_TEACHERS
) -> tuple[Run, BatchMaker]:
    job = open_job(str(teacher), text=text_of(corpus_file), settings=settings, seed=0, shapes=[shape])
    return Run(job, job.targets[0]), job.batches


def test_the_teacher_s_vectors_are_those_behind_its_layers(tiny_folder, corpus_file, tmp_path):
    teacher, out = write_layers(tiny_folder()), tmp_path / "student"
    settings = settings_of("sentence-embedding", steps=4, checkpoint_every=4)
    run, batches = run_of(teacher, corpus_file, settings)
    (micro,) = batches.of_step(0)
    _, theirs = run.loss.sentence_vectors(micro)
    torch.testing.assert_close(theirs, final_vectors(teacher, micro), atol=1e-5, rtol=0)
    distill(str(teacher), text=text_of(corpus_file), shape=SHAPE, settings=settings, output=out)
    assert load_encoder(str(out)).dense == ()  # it answers in its own width
    assert load_encoder(str(out)).width == 16


@pytest.mark.parametrize("layers", [(), None], ids=["bare", "with layers"])
def test_at_step_0_the_vectors_are_the_teacher_s(tiny_folder, corpus_file, layers):
    teacher = tiny_folder() if layers is not None else write_layers(tiny_folder())
    run, batches = open_run(teacher, corpus_file, settings_of("sentence-embedding"))
    terms = run.advance(batches.of_step(0)).terms
    assert set(terms) == {"task", "hidden", "attention", "embedding", "vectors"}
    assert max(map(abs, terms.values())) <= 1e-6


@pytest.mark.parametrize(
    "method",
    ["homodistil", "from-scratch", *(pytest.param(m, marks=pytest.mark.slow) for m in SLOWER)],
)
def test_the_saved_student_answers_as_it_was_taught(tiny_folder, corpus_file, tmp_path, method):
    """The held-out loss, which the run takes through its own matrix, is that of the saved folder's vectors."""
    teacher, out = write_layers(tiny_folder()), tmp_path / "student"
    settings = settings_of("sentence-embedding", method=method, steps=8, checkpoint_every=8)
    shape = IN_TEACHERS.model_copy(update={"num_hidden_layers": 1}) if method in ("layers", "tinybert") else IN_TEACHERS
    distill(str(teacher), text=text_of(corpus_file), shape=shape, settings=settings, output=out)
    details = verify(out, DistilledManifest).details
    student = load_encoder(str(out))
    assert (details.output, student.width, len(student.dense)) == ("teacher", 40, 3)
    assert details.parameters == student.parameters
    texts = (out / "held_out.txt").read_text().splitlines()
    tokens = student.tokenizer(texts, padding=True, truncation=True, max_length=24, return_tensors="pt")
    inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    ours, theirs = (torch_answers(load_encoder(str(folder)), inputs)["sentence_embedding"] for folder in (out, teacher))
    found = objective.similarity_error(ours, theirs, temperature=1.0).item()
    assert details.held_out_loss == pytest.approx(found, rel=1e-3, abs=1e-6)


def test_widths_that_stay_keep_the_layer(tiny_folder, corpus_file, tmp_path):
    out = tmp_path / "student"
    shape = StudentShape(intermediate_size=24, output="teacher")
    settings = settings_of("sentence-embedding", steps=4, checkpoint_every=4)
    distill(str(tiny_folder()), text=text_of(corpus_file), shape=shape, settings=settings, output=out)
    (layer,) = load_encoder(str(out)).dense
    assert layer.linear.weight.shape == (32, 32)


def test_vectors_alone_teach_the_student_and_its_layer(tiny_folder, corpus_file):
    """By the term alone, on one batch, the student's vectors go to the teacher's."""
    settings = settings_of(
        "sentence-embedding", method="from-scratch", weights=ONLY_VECTORS, steps=60, learning_rate=1e-2
    )
    run, batches = open_run(tiny_folder(), corpus_file, settings)
    micro_batches = batches.of_step(0)
    with torch.no_grad():
        pairs = [run.loss.sentence_vectors(micro) for micro in micro_batches]
    before, of_rows = run.projections.hidden[-1].detach().clone(), torch.cat([1 - cosine_similarity(*p) for p in pairs])
    told = [run.advance(micro_batches).terms["vectors"] for _ in range(60)]
    assert told[0] == pytest.approx(of_rows.mean().item(), rel=1e-5)
    assert told[-1] < 0.3 * told[0]
    assert (run.projections.hidden[-1] - before).abs().max() > 0.01


@pytest.mark.parametrize("weights", [LossWeights(), LossWeights(hidden=0, attention=0, embedding=0), ONLY_VECTORS])
def test_micro_batches_have_the_gradients_of_the_whole(tiny_folder, corpus_file, weights):
    teacher, seen = write_layers(tiny_folder()), []
    for micro in (None, 8, 3):
        settings = settings_of("sentence-embedding", method="from-scratch", weights=weights, micro_batch_size=micro)
        run, batches = open_run(teacher, corpus_file, settings)
        terms = run.loss.backward(batches.of_step(0), also=[*run.projections.parameters()])
        parameters = [*run.student.parameters(), run.projections.hidden[-1]]
        gradients = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
        seen.append((terms, gradients))
    assert seen[0][0]["vectors"] > 1e-3
    for terms, gradients in seen[1:]:
        assert terms == pytest.approx(seen[0][0], rel=1e-3)
        torch.testing.assert_close(gradients, seen[0][1], rtol=1e-3, atol=1e-5)


def test_a_resumed_run_ends_with_the_same_layer(tiny_folder, corpus_file, tmp_path):
    torch.set_num_threads(1)
    arguments = {"text": text_of(corpus_file), "shape": IN_TEACHERS, "settings": settings_of("sentence-embedding")}
    teacher = str(tiny_folder())
    distill(teacher, output=tmp_path / "whole", **arguments)

    def stop(progress: object) -> None:
        if progress.step.step == 6:
            raise Stop

    with pytest.raises(Stop):
        distill(teacher, output=tmp_path / "stopped", progress=Progress(on_distill=stop), **arguments)
    distill(teacher, output=tmp_path / "stopped", resume=True, **arguments)
    layers = [(tmp_path / name / "2_Dense/model.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert layers[0] == layers[1]


def test_several_students_answer_in_one_space(tiny_folder, corpus_file, tmp_path):
    shapes = [
        StudentShape(name="wide", hidden_size=24, intermediate_size=48, num_attention_heads=4, output="teacher"),
        StudentShape(name="narrow", hidden_size=16, intermediate_size=32, num_attention_heads=2, output="teacher"),
    ]
    settings = settings_of("sentence-embedding", steps=12, prune_every=1)
    arguments = {"text": text_of(corpus_file), "settings": settings}
    folders = distill_students(str(tiny_folder()), shapes=shapes, output=tmp_path / "all", **arguments)
    layers = [load_encoder(str(folder)).dense[0].linear for folder in folders]
    assert [(layer.in_features, layer.out_features) for layer in layers] == [(24, 32), (16, 32)]
    mixed = [shapes[0], shapes[1].model_copy(update={"output": "student"})]
    with pytest.raises(RecipeError, match="one space"):
        distill_students(str(tiny_folder()), shapes=mixed, output=tmp_path / "mixed", **arguments)


@pytest.mark.parametrize(
    ("objective_name", "changes", "output", "told"),
    [
        ("masked-lm", {}, "teacher", "student.output: a student of masked-lm gives no vectors"),
        ("sentence-embedding", {"compare_in": "student"}, "teacher", "set distill.compare_in to teacher"),
        ("sentence-embedding", {"weights": LossWeights(vectors=1)}, "student", "distill.weights.vectors"),
    ],
)
def test_spaces_that_a_student_cannot_answer_in_are_refused(tiny_folder, objective_name, changes, output, told):
    encoder = load_encoder(str(tiny_folder(masked_lm=True)), task="fill-mask")
    settings = settings_of(objective_name, **changes)
    with pytest.raises(RecipeError, match=told):
        targets_of(encoder, [SHAPE.model_copy(update={"output": output})], settings, max_length=24)


def test_a_model_without_its_layer_is_not_given(tiny_folder):
    encoder = load_encoder(str(tiny_folder()), task="sentence-similarity")
    with pytest.raises(RecipeError, match="without the layer"):
        distill_encoder(encoder, None, IN_TEACHERS, settings=settings_of("sentence-embedding"))
