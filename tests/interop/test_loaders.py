"""Optimum and sentence-transformers, where optimum-onnx lives (transformers 4.57), against torch."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession
from scipy.special import softmax
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

from homoexport.encoder import Encoder, load_encoder, max_length_of, save_encoder
from homoexport.runtime.inference import open_package
from homoexport.stages.export.package import STRINGS_FILE
from homoexport.stages.measure import host_of
from tests.conftest import BERT_TINY
from tests.dense import IDENTITY, TANH, write_layers
from tests.pooling import move_inside
from tests.snippets import snippets
from tests.stages.export.conftest import export_package
from tests.trimmed import FAMILIES, ids_alone, package_once, rows_of, texts_for, told_alike, trimmed_once

pytestmark = [pytest.mark.interop, pytest.mark.weights]
TEXTS = ["A cat sat on the mat.", "The committee met on Tuesday and voted against the plan.", "Why?"]
INT8 = "model_quantized.onnx"
LABELS = ("bad", "middling", "good")
CLASSES = {
    "sentence-similarity": "ORTModelForFeatureExtraction",
    "fill-mask": "ORTModelForMaskedLM",
    "text-classification": "ORTModelForSequenceClassification",
    "token-classification": "ORTModelForTokenClassification",
}


def in_order(files: list[Path]) -> list[float]:
    return [1.0 + index for index, _ in enumerate(files)]


def with_random_head(task: str, folder: Path) -> str:
    """The packaged tiny BERT with a head for three labels."""
    encoder = load_encoder(BERT_TINY, task="feature-extraction")
    config = AutoConfig.from_pretrained(encoder.folder, id2label=dict(enumerate(LABELS)))
    kinds = {
        "text-classification": AutoModelForSequenceClassification,
        "token-classification": AutoModelForTokenClassification,
    }
    torch.manual_seed(0)
    model = kinds[task].from_config(config)
    model.base_model.load_state_dict(encoder.model.state_dict(), strict=False)
    torch.nn.init.normal_(model.classifier.weight, std=0.5)
    model.save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def package_of(tmp_path_factory):
    """A package and what it was made from, for a task and a scheme."""
    encoders: dict[str, Encoder] = {}
    made: dict[tuple[str, str], Path] = {}

    def make(task: str, quantize: str) -> tuple[Encoder, Path]:
        if task not in encoders:
            folder = tmp_path_factory.mktemp("model")
            source = with_random_head(task, folder) if task.endswith("classification") else BERT_TINY
            encoders[task] = load_encoder(source, task=task)
        if (task, quantize) not in made:
            out, here = tmp_path_factory.mktemp(task) / "package", host_of("cpu")
            export_package(encoders[task], out_dir=out, rank=in_order, quantize=quantize, graph="standard", target=here)
            made[task, quantize] = out
        return encoders[task], made[task, quantize]

    return make


def answer_of(output) -> torch.Tensor:
    return output.logits if "logits" in output else output.last_hidden_state


@pytest.mark.parametrize("quantize", ["none", pytest.param("int8", marks=pytest.mark.slow)])
@pytest.mark.parametrize("task", list(CLASSES))
def test_every_class_loads_its_package_without_a_file_name(package_of, task, quantize):
    from optimum import onnxruntime

    encoder, package = package_of(task, quantize)
    tokens = AutoTokenizer.from_pretrained(package)(TEXTS, padding=True, return_tensors="pt")
    model = getattr(onnxruntime, CLASSES[task]).from_pretrained(package)
    found = answer_of(model(**tokens))
    named = getattr(onnxruntime, CLASSES[task]).from_pretrained(package, file_name=model.path.name)
    assert torch.equal(answer_of(named(**tokens)), found)
    with torch.no_grad():
        expected = answer_of(encoder.model(**tokens))
    if expected.dim() == 3:
        mask = tokens["attention_mask"].bool()
        found, expected = found[mask], expected[mask]
    if quantize == "none":
        np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-3)
    else:
        assert torch.nn.functional.cosine_similarity(found, expected).mean() > 0.97


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_the_docs_snippets(package_of, monkeypatch, tmp_path, quantize):
    monkeypatch.chdir(tmp_path)
    encoder, package = package_of("text-classification", quantize)
    Path("classifier").symlink_to(package)
    Path("package").symlink_to(package_of("sentence-similarity", "int8")[1])
    loading, classifying = snippets("loading.md", "Optimum", "python")
    names: dict[str, object] = {}
    exec(loading, names)
    assert names["hidden"].shape[::2] == (1, 128)
    exec(classifying, names)
    # Against the file's own logits: what int8 changes depends on the host, and the head's logits lie close together.
    tokens = encoder.tokenizer(TEXTS[0], return_tensors="np")
    (file,) = (package / "onnx").glob("*.onnx")
    session = InferenceSession(file, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {each.name: tokens[each.name] for each in session.get_inputs()})
    (found,) = names["labels"]
    assert found["label"] == LABELS[logits[0].argmax()]
    assert found["score"] == pytest.approx(softmax(logits[0]).max(), abs=1e-4)


@pytest.mark.parametrize(
    ("quantize", "settings"), [("none", {}), ("none", {"file_name": "model.onnx"}), ("int8", {"file_name": INT8})]
)
def test_the_tokenizer_s_file_is_not_taken_for_the_model(package_of, tmp_path, quantize, settings):
    from optimum.onnxruntime import ORTModelForFeatureExtraction

    package = tmp_path / "package"
    shutil.copytree(package_of("sentence-similarity", quantize)[1], package)
    packed = package / STRINGS_FILE
    packed.parent.mkdir()
    packed.write_bytes(b"needs operators that Optimum does not register")
    assert ORTModelForFeatureExtraction.from_pretrained(package, **settings).path.parent.name == "onnx"


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_sentence_transformers_loads_the_package_as_torch_does(package_of, tmp_path, monkeypatch, quantize):
    from sentence_transformers import SentenceTransformer

    encoder, package = package_of("sentence-similarity", quantize)
    monkeypatch.chdir(tmp_path)
    Path("package").symlink_to(package)
    Path("student").mkdir()
    save_encoder(encoder, encoder.model, Path("student"), max_length=512)
    expected = SentenceTransformer("student", device="cpu").encode(TEXTS)
    plain = SentenceTransformer("package", backend="onnx")
    file_name = "model.onnx" if quantize == "none" else INT8
    named = SentenceTransformer("package", backend="onnx", model_kwargs={"file_name": file_name})
    assert (plain.max_seq_length, plain.similarity_fn_name) == (512, "cosine")
    found = plain.encode(TEXTS)
    np.testing.assert_array_equal(named.encode(TEXTS), found)
    least = 0.999999 if quantize == "none" else 0.97
    assert (found * expected).sum(1).min() > least
    names: dict[str, object] = {}
    exec(snippets("loading.md", "sentence-transformers", "python")[0], names)
    assert (names["vectors"] * expected[[0, 2]]).sum(1).min() > least


def test_sentence_transformers_goes_through_the_dense_layers_as_the_graph_does(tmp_path):
    from sentence_transformers import SentenceTransformer

    source, package, student = tmp_path / "source", tmp_path / "package", tmp_path / "student"
    tiny = load_encoder(BERT_TINY, task="sentence-similarity")
    for folder in (source, student):
        folder.mkdir()
    save_encoder(tiny, tiny.model, source, max_length=512)
    shutil.rmtree(source / "1_Pooling")
    encoder = load_encoder(str(write_layers(source, ((96, True, TANH), (384, False, IDENTITY)), width=128)))
    save_encoder(encoder, encoder.model, student, max_length=512)
    export_package(encoder, out_dir=package, rank=in_order, quantize="none", graph="standard", target=host_of("cpu"))
    of_graph = open_package(package).embed(TEXTS)
    of_student = SentenceTransformer(str(student), device="cpu")
    found = SentenceTransformer(str(package), backend="onnx").encode(TEXTS)
    for vectors in (SentenceTransformer(str(source), device="cpu").encode(TEXTS), of_student.encode(TEXTS), found):
        np.testing.assert_allclose(vectors, of_graph, atol=1e-4)


@pytest.mark.parametrize(  # a Unigram and a BPE without a class of its own; the ids of all are held in the core's tests
    "family", [pytest.param(family, marks=[pytest.mark.slow] * (family in ("bert", "roberta"))) for family in FAMILIES]
)
def test_sentence_transformers_loads_what_is_trimmed(family, tmp_path_factory):
    from sentence_transformers import SentenceTransformer

    folder, package = trimmed_once(tmp_path_factory, family), package_once(tmp_path_factory, family)
    of_torch = SentenceTransformer(str(folder / "trimmed"), device="cpu")
    of_onnx = SentenceTransformer(str(package), backend="onnx")
    texts = texts_for(package)
    expected = ids_alone(folder / "trimmed", texts, of_onnx.max_seq_length)
    for model in (of_torch, of_onnx):
        tokens = model.tokenize(texts)
        assert rows_of(tokens["input_ids"], tokens["attention_mask"]) == expected
    told, vectors = told_alike(folder)
    np.testing.assert_allclose(of_torch.encode(told), vectors, atol=1e-5)
    assert (of_onnx.encode(told) * vectors).sum(1).min() > 0.97


@pytest.mark.parametrize(("quantize", "inner"), [("none", ""), ("int8", ""), ("none", "0_Transformer")])
def test_cross_encoder_loads_the_package_as_torch_does(tmp_path, monkeypatch, quantize, inner):
    """Its own folder is the judge: the activation is in a file of CrossEncoder's."""
    from sentence_transformers import CrossEncoder

    tiny = load_encoder(BERT_TINY, task="feature-extraction")
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(tiny.folder, num_labels=1)
    model = AutoModelForSequenceClassification.from_config(config)
    model.base_model.load_state_dict(tiny.model.state_dict(), strict=False)
    torch.nn.init.normal_(model.classifier.weight, std=0.5)
    model.save_pretrained(tmp_path / "plain")
    tiny.tokenizer.save_pretrained(tmp_path / "plain")
    judge = CrossEncoder(str(tmp_path / "plain"), device="cpu", max_length=64, activation_fn=torch.nn.Tanh())
    judge.save_pretrained(str(tmp_path / "teacher"))
    monkeypatch.chdir(tmp_path)
    if inner:
        move_inside(tmp_path / "teacher", inner)
    encoder = load_encoder("teacher")
    here = host_of("cpu")
    export_package(encoder, out_dir=Path("reranker"), rank=in_order, quantize=quantize, graph="standard", target=here)
    pairs = [(TEXTS[0], text) for text in TEXTS]
    names: dict[str, object] = {}
    exec(snippets("rerankers.md", "sentence-transformers", "python")[0], names)
    found, expected = names["model"].predict(pairs), judge.predict(pairs)
    assert names["model"].max_seq_length == max_length_of(encoder) == 64
    np.testing.assert_allclose(found, np.tanh(open_package("reranker").score(pairs)), atol=1e-3)
    np.testing.assert_allclose(found, expected, atol=1e-4 if quantize == "none" else 0.1)
    assert [each["corpus_id"] for each in names["ranking"]] != []
