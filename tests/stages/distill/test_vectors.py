"""Vectors of another model: asked for, or beside the text; they go with their rows, and are what the student learns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from tokenizers import pre_tokenizers
from torch.nn.functional import cosine_similarity
from transformers import Qwen3Config, Qwen3Model

from homoexport.documents.artifact import DistilledManifest, verify
from homoexport.documents.package import Pooling
from homoexport.documents.recipe import DistillSettings, LossWeights, StudentShape, TextSettings, TextSource
from homoexport.encoder import Encoder, input_names, load_encoder, torch_answers
from homoexport.errors import RecipeError, TeacherError, TextError, UserError
from homoexport.stages.distill import Job, Run, distill_encoder, objective
from homoexport.stages.distill.vectors import ask_for_vectors
from homoexport.stages.evaluate import torch_package
from homoexport.workflow.distill import distill, distill_students
from homoexport.workflow.job import check_before_loading, open_job
from homoexport.workflow.progress import Progress
from tests.conftest import WORDS, sentence_vectors, tiny_model, word_tokenizer
from tests.dense import write_layers
from tests.encoder.test_any import QWEN, write
from tests.pooling import write_modules
from tests.stages.distill.test_loop import SHAPE, Stop, settings_of, text_of

IN_THEIRS = SHAPE.model_copy(update={"output": "teacher"})
ONLY_VECTORS = LossWeights(task=0, kl=0, hidden=0, attention=0, embedding=0, relation=0, vectors=1)
WIDTH = 24  # of what teaches, where a file does
HALVED = ("layers", "tinybert")
SLOWER = ("one-shot", "minilm", "repair", *HALVED)


@pytest.fixture
def second(tmp_path: Path) -> str:
    """A DistilBERT of 40 dimensions, whose tokenizer has the words in another order."""
    torch.manual_seed(1)
    folder = tmp_path / "second"
    tiny_model("distilbert", hidden_size=40, layers=1).save_pretrained(folder)
    tokenizer = word_tokenizer(WORDS[:4:-1], pre_tokenizers.Whitespace(), model_max_length=64)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_vectors_that_are_kept_are_of_one_pooling_and_one_length(second):
    def kept_as(encoder: Encoder) -> str:
        return ask_for_vectors(encoder, device=torch.device("cpu"), on_begin=lambda: None).digest

    encoder = load_encoder(second, task="sentence-similarity")
    others = [replace(encoder, pooling=Pooling(mode=mode, normalize=False)) for mode in ("mean", "cls")]
    shorter = load_encoder(second, task="sentence-similarity")
    shorter.tokenizer.model_max_length = 16
    assert len({kept_as(each) for each in (encoder, *others, shorter)}) == 4
    assert kept_as(load_encoder(second, task="sentence-similarity")) == kept_as(encoder)


def rows_of(path: Path, **more: object) -> TextSettings:
    source = TextSource(files=str(path), unit="row", **more)
    return TextSettings(sources=(source,), max_length=24, held_out=20)


def job_of(teacher: Path, text: TextSettings, settings: DistillSettings, shape: StudentShape = IN_THEIRS) -> Job:
    return open_job(str(teacher), text=text, settings=settings, seed=0, shapes=[shape])


def write_vectors(path: Path, count: int, *, width: int = WIDTH) -> NDArray[np.float32]:
    vectors = np.random.default_rng(3).normal(size=(count, width)).astype(np.float32)
    np.save(path, vectors)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_a_second_model_s_vectors_are_those_of_the_texts(tiny_folder, corpus_file, second):
    """By its own tokenizer, of sentences that are drawn in any order, in training and held out."""
    lines = corpus_file.read_text().splitlines()
    corpus_file.write_text("\n".join(f"{line}. {lines[0]}." for line in lines))
    job = job_of(tiny_folder(), text_of(corpus_file), settings_of("sentence-embedding", vectors_from=second))
    corpus, encoder = job.corpus, load_encoder(second)
    assert len(corpus.sequences) == len(set(lines)) == corpus.size + 20
    seen = corpus.sequences[:]
    np.testing.assert_allclose(seen["vector"], sentence_vectors(encoder, seen["text"]), atol=1e-5)
    by_ids = {tuple(ids): vector for ids, vector in zip(seen["input_ids"], seen["vector"], strict=True)}
    for micro in (*job.batches.of_step(3), *job.batches.cut(corpus.held_out, first_position=0)):
        for ids, mask, vector in zip(micro.input_ids, micro.attention_mask, micro.vectors, strict=True):
            np.testing.assert_array_equal(vector, by_ids[tuple(ids[mask.bool()].tolist())])
    described = corpus.description.vectors
    assert (described.source, described.width) == (second, 40)


def test_a_second_model_s_own_prompt_stands_before_the_texts(tiny_folder, corpus_file, second):
    folder = write_modules(Path(second), {})
    settings = {"prompts": {"query": "w3 w4 "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    teacher, encoder = tiny_folder(), load_encoder(second)
    job = job_of(teacher, text_of(corpus_file), settings_of("sentence-embedding", vectors_from=second))
    seen = job.corpus.sequences[:]
    expected = sentence_vectors(encoder, [f"w3 w4 {text}" for text in seen["text"]])
    np.testing.assert_allclose(seen["vector"], expected, atol=1e-5)
    np.testing.assert_allclose(seen["vector"], torch_package(encoder).embed(seen["text"]), atol=1e-5)
    (folder / "1_Pooling/config.json").write_text('{"include_prompt": false}')
    with pytest.raises(TeacherError, match="its own prompt is read and not pooled"):
        job_of(teacher, text_of(corpus_file), settings_of("sentence-embedding", vectors_from=second))


def test_an_encoder_without_an_adapter_teaches_its_vectors(tiny_folder, corpus_file, tmp_path):
    torch.manual_seed(1)
    second = write(Qwen3Model(Qwen3Config(**QWEN)), tmp_path / "second", pooling="lasttoken")
    settings = settings_of("sentence-embedding", vectors_from=second, steps=40, prune_until=0)
    job = job_of(tiny_folder(), text_of(corpus_file), settings)
    encoder, seen = load_encoder(second), job.corpus.sequences[:8]
    for text, vector in zip(seen["text"], seen["vector"], strict=True):
        alone = encoder.tokenizer([text], return_tensors="pt")
        last = torch_answers(encoder, {name: alone[name] for name in input_names(encoder)})["last_hidden_state"][0, -1]
        np.testing.assert_allclose(vector, (last / last.norm()).numpy(), atol=1e-5)
    run = Run(job, job.targets[0])
    run.read_text(job.batches)
    told = [run.advance(job.batches.of_step(run.step)).terms["vectors"] for _ in range(40)]
    assert sum(told[-5:]) < 0.9 * sum(told[1:6])


def test_a_model_is_asked_once(tiny_folder, corpus_file, second):
    notes: list[str] = []
    settings, teacher = settings_of("sentence-embedding", vectors_from=second), str(tiny_folder())
    for seed in (0, 0, 1):
        progress = Progress(on_note=notes.append)
        open_job(teacher, text=text_of(corpus_file), settings=settings, seed=seed, shapes=[SHAPE], progress=progress)
    assert len(notes) == 1
    torch.manual_seed(2)
    tiny_model("distilbert", hidden_size=40, layers=1).save_pretrained(second)  # others in the same place
    open_job(teacher, text=text_of(corpus_file), settings=settings, seed=0, shapes=[SHAPE], progress=progress)
    assert len(notes) == 2


def test_the_terms_compare_with_the_second_model(tiny_folder, corpus_file, second):
    """Against a plain loop; the layers are compared with the teacher's, which the student still is."""
    job = job_of(tiny_folder(), text_of(corpus_file), settings_of("sentence-embedding", vectors_from=second))
    run = Run(job, job.targets[0])
    run.read_text(job.batches)
    micro_batches = job.batches.of_step(0)
    with torch.no_grad():
        ours = torch.cat([run.loss.sentence_vectors(micro)[0] for micro in micro_batches])
    theirs = torch.cat([micro.vectors for micro in micro_batches])
    terms = run.advance(micro_batches).terms
    rows = [1 - float(a @ b) / float(a.norm() * b.norm()) for a, b in zip(ours, theirs, strict=True)]
    assert terms["vectors"] == pytest.approx(sum(rows) / len(rows), rel=1e-4)
    divergences = []
    for row in range(len(ours)):
        others = [other for other in range(len(ours)) if other != row]
        p, q = (torch.softmax((side[row] @ side[others].T), 0) for side in (theirs, ours))
        divergences.append(float((p * (p / q).log()).sum()))
    assert terms["task"] == pytest.approx(sum(divergences) / len(divergences), rel=1e-3)
    assert max(terms[name] for name in ("hidden", "attention", "embedding")) <= 1e-6


def test_a_space_that_a_matrix_reaches_is_found_before_training(tiny_folder, corpus_file, tmp_path):
    """The second model is the teacher, with one linear layer behind it: least squares finds that layer."""
    teacher = tiny_folder()
    wide = write_layers(tiny_folder("wide"), [(48, False, "torch.nn.modules.linear.Identity")])
    settings = settings_of("sentence-embedding", vectors_from=str(wide))
    job = job_of(teacher, text_of(corpus_file), settings)
    run = Run(job, job.targets[0])
    run.read_text(job.batches)
    with torch.no_grad():
        (micro,) = job.batches.of_step(9)
        ours, theirs = run.loss.sentence_vectors(micro)
    assert (1 - cosine_similarity(ours, theirs)).max() < 0.02


def test_what_the_student_can_reach_it_learns(tiny_folder, corpus_file, second):
    settings = settings_of(
        "sentence-embedding", vectors_from=second, weights=ONLY_VECTORS, steps=80, learning_rate=2e-2, prune_until=0
    )
    job = job_of(tiny_folder(), text_of(corpus_file), settings)
    run, micro_batches = Run(job, job.targets[0]), job.batches.of_step(0)
    run.read_text(job.batches)
    told = [run.advance(micro_batches).terms["vectors"] for _ in range(80)]
    assert told[0] > 0.15
    assert told[-1] < 0.05


def test_micro_batches_have_the_gradients_of_the_whole(tiny_folder, corpus_file, second):
    seen = []
    for micro in (None, 3):
        settings = settings_of("sentence-embedding", vectors_from=second, micro_batch_size=micro)
        job = job_of(tiny_folder(), text_of(corpus_file), settings)
        run = Run(job, job.targets[0])
        run.read_text(job.batches)
        terms = run.loss.backward(job.batches.of_step(0), also=[*run.projections.parameters()])
        parameters = [*run.student.parameters(), *run.projections.parameters()]
        seen.append((terms, [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]))
    assert seen[1][0] == pytest.approx(seen[0][0], rel=1e-3, abs=1e-6)
    torch.testing.assert_close(seen[1][1], seen[0][1], rtol=1e-3, atol=1e-5)


TEXTS = ["w1 w2 w3", "", "w1 w2", "W1 w2 w3", "w5 w6 w7", " ", *(f"w{i} w{i + 1} w{i + 2}" for i in range(8, 60))]


def write_text(folder: Path, kind: str, vectors: NDArray[np.float32]) -> tuple[TextSettings, DistillSettings]:
    """Texts with others that are empty, short or there before, and their vectors."""
    cells = [row.tolist() for row in vectors]
    if kind == "parquet":
        flat = pyarrow.array(vectors.reshape(-1))
        column = pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS, "vector": column}), folder / "text.parquet")
        return rows_of(folder / "text.parquet", vector_column="vector"), settings_of("sentence-embedding")
    rows = [json.dumps({"text": text, "vector": cell}) for text, cell in zip(TEXTS, cells, strict=True)]
    (folder / "text.jsonl").write_text("\n".join(rows))
    if kind == "jsonl":
        return rows_of(folder / "text.jsonl", vector_column="vector"), settings_of("sentence-embedding")
    np.save(folder / "vectors.npy", 3 * vectors)
    settings = settings_of("sentence-embedding", vectors_from=str(folder / "vectors.npy"))
    return rows_of(folder / "text.jsonl"), settings


@pytest.mark.parametrize("kind", ["npy", "jsonl", "parquet"])
def test_rows_keep_their_vectors_whatever_is_dropped(tiny_folder, tmp_path, kind):
    vectors = write_vectors(tmp_path / "unused.npy", len(TEXTS))
    text, settings = write_text(tmp_path, kind, vectors)
    job = job_of(tiny_folder(), text, settings)
    seen = job.corpus.sequences[:]
    assert len(seen["text"]) == len(TEXTS) - 3  # of which one is there twice for the teacher's tokenizer
    assert job.corpus.size == len(TEXTS) - 4 - 20
    for found, vector in zip(seen["text"], seen["vector"], strict=True):
        np.testing.assert_allclose(vector, vectors[TEXTS.index(found)], atol=1e-6)
    expected = {tuple(job.encoder.tokenizer(line)["input_ids"]): row for row, line in reversed([*enumerate(TEXTS)])}
    for example in [*job.corpus.batch(0, 34), *job.corpus.held_out]:
        np.testing.assert_allclose(example.vector, vectors[expected[tuple(example.input_ids)]], atol=1e-6)
    assert job.corpus.description.vectors.width == WIDTH


def test_other_vectors_are_another_run_s(tiny_folder, tmp_path):
    text, settings = write_text(tmp_path, "npy", write_vectors(tmp_path / "unused.npy", len(TEXTS)))
    teacher = tiny_folder()
    before = job_of(teacher, text, settings).sources
    assert job_of(teacher, text, settings).sources == before
    np.save(tmp_path / "vectors.npy", np.random.default_rng(4).normal(size=(len(TEXTS), WIDTH)))
    assert job_of(teacher, text, settings).sources != before


@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [
        ("npy", np.nan, "NaN"),
        ("npy", np.inf, "NaN or infinity"),
        ("npy", 0.0, "a vector of zeros, which has no direction"),
        ("jsonl", 0.0, "a vector of zeros, which has no direction"),
    ],
)
def test_vectors_that_are_none_are_refused_by_file_and_row(tiny_folder, tmp_path, kind, value, told):
    vectors = write_vectors(tmp_path / "unused.npy", len(TEXTS))
    vectors[10, slice(None) if value == 0 else 3] = value
    with pytest.raises(TextError, match=f"{'vectors.npy' if kind == 'npy' else 'text.jsonl'}, row 11: .*{told}"):
        job_of(tiny_folder(), *write_text(tmp_path, kind, vectors))


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ([1.0, 2.0], r"row 5: holds a vector of 2, and those before it are of 24"),
        (None, "row 5: holds no vector"),
        ([], "row 5: holds no vector"),
        ("1 2", "row 5: holds no vector"),
        (["1"] * 24, "row 5: holds no vector, which is a list of numbers"),
        ([True, False] * 12, "row 5: holds no vector, which is a list of numbers"),
        ([10**400] * 24, "row 5: holds a vector with what is no number"),
        ([1.0], "row 5: holds a vector of 1, and those before it are of 24"),
        ([[1.0], [2.0]], "row 5: holds no vector"),
        ([1.0] * 23 + [None], "row 5: holds a vector with what is no number"),
        ([1.0, "a"], "row 5: holds no vector"),
    ],
)
def test_cells_that_are_no_vectors_are_refused(tiny_folder, tmp_path, cell, told):
    text, settings = write_text(tmp_path, "jsonl", write_vectors(tmp_path / "unused.npy", len(TEXTS)))
    path = tmp_path / "text.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[4]["vector"] = cell
    rows[1]["vector"] = None  # of a row without text
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(TextError, match=told):
        job_of(tiny_folder(), text, settings)


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.ones((57, WIDTH)), "holds 57 vectors, and the text has more rows"),
        (np.random.default_rng(0).normal(size=(59, WIDTH)), "holds 59 vectors, and the text has 58 rows"),
        (np.ones((58, WIDTH)), "the vectors of all texts are the same"),
        (np.ones(58), r"holds float64 of \(58,\), not vectors"),
        (np.ones((58, WIDTH), dtype=np.int8), r"holds whole numbers \(int8\), as quantized vectors are"),
        (np.array([["1", "2"]] * 58), r"holds <U1 of \(58, 2\), not vectors"),
        (np.random.default_rng(0).normal(size=(58, 1)), "holds vectors of one number, so that its cosine"),
        (np.array([{}] * 58), "cannot be read"),
        (b"\x93NUMPY none", "cannot be read"),
        (b"w1 w2", r"vectors.npy: is no npy file, whatever its name is; save a matrix of floats"),
        (None, r"vectors.npy: no such file; name the npy file"),
    ],
)
def test_files_that_hold_other_vectors_are_refused(tiny_folder, tmp_path, array, told):
    text, settings = write_text(tmp_path, "npy", write_vectors(tmp_path / "unused.npy", len(TEXTS)))
    path = tmp_path / "vectors.npy"
    path.unlink()
    if isinstance(array, bytes):
        path.write_bytes(array)
    elif array is not None:
        np.save(path, array)
    with pytest.raises(TextError, match=told):
        job_of(tiny_folder(), text, settings)
    if "rows" not in told and "the same" not in told:  # before anything is loaded
        with pytest.raises(TextError, match=told):
            check_before_loading(text, settings)


ROWS, SENTENCES = {"unit": "row"}, {"unit": "sentence"}


@pytest.mark.parametrize(
    ("vectors_from", "sources", "changes", "told"),
    [
        ("v.npy", [SENTENCES], {}, "distill.vectors_from: a file of vectors has one for each row"),
        ("v.npy", [ROWS, ROWS], {}, "a file of vectors has one for each row"),
        ("v.npy", [{**ROWS, "vector_column": "v"}], {}, "the sources have a 'vector_column'; give either"),
        (None, [{**ROWS, "vector_column": "v"}, ROWS], {}, "text.sources: some sources have a 'vector_column'"),
        ("model", [ROWS], {"crop": 0.3}, "a part of a text has another vector"),
        ("model", [ROWS], {"objective": "masked-lm"}, "masked-lm matches no vectors"),
        (None, [{**ROWS, "vector_column": "v"}], {"objective": "classification"}, "classification matches no vectors"),
        ("model", [{"pair_column": "b"}], {}, "each text has one vector"),
        ("v.npz", [ROWS], {}, r"'v.npz' is a file, and no model; .*FILE\.npy with one matrix"),
        (__file__, [ROWS], {}, "test_vectors.py' is a file, and no model"),
        ("model", [{"files": None, "dataset": "d", "streaming": True}], {}, "leave 'streaming' out"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(vectors_from, sources, changes, told):
    settings = settings_of(**{"objective": "sentence-embedding", "vectors_from": vectors_from, **changes})
    text = TextSettings(sources=[TextSource(**{"files": "a.txt", **source}) for source in sources])
    with pytest.raises(RecipeError, match=told):
        check_before_loading(text, settings)


@pytest.mark.parametrize("source", [{"files": "a.parquet"}, {"dataset": "d", "unit": "row"}])
def test_a_column_of_vectors_is_of_rows_of_files(source):
    with pytest.raises(ValidationError, match="give 'unit: row'"):
        TextSource(vector_column="v", **source)


def test_a_second_model_that_gives_no_vectors_is_refused(tiny_folder, corpus_file):
    teacher, settings = tiny_folder(), settings_of("sentence-embedding")
    tiny = tiny_folder("second", masked_lm=True)
    with pytest.raises(TeacherError, match="second: is for fill-mask, and gives no vectors of texts"):
        job_of(teacher, text_of(corpus_file), settings.model_copy(update={"vectors_from": str(tiny)}))
    with pytest.raises(RecipeError, match="the corpus has its text alone"):
        distill_encoder(None, None, SHAPE, settings=settings.model_copy(update={"vectors_from": str(tiny)}))


def test_vectors_that_no_term_matches_are_refused(tiny_folder, corpus_file, second):
    weights = LossWeights(task=0)
    settings = settings_of("sentence-embedding", vectors_from=second, weights=weights)
    with pytest.raises(RecipeError, match="no term with a weight matches these vectors"):
        job_of(tiny_folder(), text_of(corpus_file), settings, SHAPE)


def test_a_second_model_that_answers_with_no_numbers_is_refused(tiny_folder, corpus_file, second):
    model = load_encoder(second).model
    with torch.no_grad():
        model.transformer.layer[-1].output_layer_norm.weight.fill_(1e30).mul_(1e8)
    model.save_pretrained(second)
    with pytest.raises(UserError, match="its vectors are not finite numbers"):
        job_of(tiny_folder(), text_of(corpus_file), settings_of("sentence-embedding", vectors_from=second))


SLOW = [pytest.param(method, "teacher", marks=pytest.mark.slow) for method in SLOWER]


@pytest.mark.parametrize(
    ("method", "output"),
    [("homodistil", "teacher"), ("homodistil", "student"), ("from-scratch", "teacher"), *SLOW],
)
def test_the_saved_student_answers_as_it_was_taught(tiny_folder, corpus_file, tmp_path, second, method, output):
    """Its held-out loss is that of the saved folder's vectors against the second model's, who is in the manifest."""
    out = tmp_path / "student"
    settings = settings_of("sentence-embedding", vectors_from=second, method=method, steps=8, checkpoint_every=8)
    shape = SHAPE.model_copy(update={"output": output, **({"num_hidden_layers": 1} if method in HALVED else {})})
    distill(str(tiny_folder()), text=text_of(corpus_file), shape=shape, settings=settings, output=out)
    details, student = verify(out, DistilledManifest).details, load_encoder(str(out))
    assert (details.output, student.width, len(student.dense)) == (
        output,
        *((40, 1) if output == "teacher" else (16, 0)),
    )
    assert details.text.vectors.source == second
    texts = (out / "held_out.txt").read_text().splitlines()
    ours, theirs = (torch.from_numpy(torch_package(load_encoder(str(folder))).embed(texts)) for folder in (out, second))
    ours, theirs = (torch.nn.functional.normalize(side, dim=1) for side in (ours, theirs))
    found = objective.similarity_error(ours, theirs, temperature=1.0).item()
    assert details.held_out_loss == pytest.approx(found, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("kind", ["npy", pytest.param("model", marks=pytest.mark.slow)])
def test_a_resumed_run_ends_with_the_same_student(tiny_folder, corpus_file, tmp_path, second, kind):
    torch.set_num_threads(1)
    write_vectors(tmp_path / "vectors.npy", 400)
    origin = second if kind == "model" else str(tmp_path / "vectors.npy")
    arguments = {
        "text": rows_of(corpus_file),
        "shape": IN_THEIRS,
        "settings": settings_of("sentence-embedding", vectors_from=origin),
    }
    teacher = str(tiny_folder())
    distill(teacher, output=tmp_path / "whole", **arguments)

    def stop(progress: object) -> None:
        if progress.step.step == 6:
            raise Stop

    with pytest.raises(Stop):
        distill(teacher, output=tmp_path / "stopped", progress=Progress(on_distill=stop), **arguments)
    if kind == "npy":
        kept = (tmp_path / "vectors.npy").read_bytes()
        np.save(tmp_path / "vectors.npy", np.load(tmp_path / "vectors.npy")[::-1])  # as many, and as wide
        with pytest.raises(RecipeError, match="the text or its vectors are not what the run was started with"):
            distill(teacher, output=tmp_path / "stopped", resume=True, **arguments)
        (tmp_path / "vectors.npy").write_bytes(kept)
    distill(teacher, output=tmp_path / "stopped", resume=True, **arguments)
    for file in ("2_Dense/model.safetensors", "model.safetensors"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "stopped" / file).read_bytes()


@pytest.mark.slow
def test_several_students_answer_in_the_second_model_s_space(tiny_folder, corpus_file, tmp_path, second):
    shapes = [
        StudentShape(name="wide", hidden_size=24, intermediate_size=48, num_attention_heads=4, output="teacher"),
        StudentShape(name="narrow", hidden_size=16, intermediate_size=32, num_attention_heads=2, output="teacher"),
    ]
    settings = settings_of("sentence-embedding", vectors_from=second, steps=12, prune_every=1)
    folders = distill_students(
        str(tiny_folder()), text=text_of(corpus_file), shapes=shapes, settings=settings, output=tmp_path / "all"
    )
    layers = [load_encoder(str(folder)).dense[0].linear for folder in folders]
    assert [(layer.in_features, layer.out_features) for layer in layers] == [(24, 40), (16, 40)]


def test_its_queries_search_the_second_model_s_documents(homoexport, tiny_folder, corpus_file, tmp_path):
    """From flags alone; the second model is the teacher with a layer behind it."""
    teacher, out = tiny_folder(), tmp_path / "student"
    second = write_layers(tiny_folder("wide"), [(48, False, "torch.nn.modules.linear.Identity")])
    flags = ("--teacher", teacher, "--data", corpus_file, "--objective", "sentence-embedding", "--max-length", 24)
    more = ("--intermediate-size", 60, "--student-output", "teacher", "--steps", 4, "--batch-size", 8)
    others = ("--vectors-from", second, "--set", "text.held_out=20", "--set", "distill.threads=1")
    outcome = homoexport("distill", *flags, *more, *others, "-o", out)
    assert outcome.code == 0, outcome.err
    assert f"asking {second} for the vectors of all texts" in outcome.err
    asked = ("eval", out, "--task", "fidelity", "--data", corpus_file, "--teacher", second, "--documents", second)
    outcome = homoexport(*asked, "--json")
    assert outcome.code == 0, outcome.err
    figures = json.loads(outcome.out)["results"][0]["metrics"]
    assert {figure["metric"]: figure["value"] for figure in figures}["overlap@10"] > 0.5
