"""Models judged on data: torch and packages behind one face, and the figures against oracles."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from homoexport.choices import ModelTask
from homoexport.documents.artifact import write_manifest
from homoexport.documents.evaluation import Columns
from homoexport.encoder import load_encoder
from homoexport.errors import PackageError, TeacherError, TextError, UserError
from homoexport.runtime.inference import open_package
from homoexport.stages.evaluate import (
    TASKS,
    Examples,
    digest_of_source,
    evaluate_models,
    open_model,
    read_examples,
    refuse_unfit,
)
from homoexport.stages.evaluate.models import torch_package
from homoexport.stages.evaluate.retrieval import retrieval_qualities
from tests.conftest import MINILM, sentence_vectors, tiny_model, tiny_tokenizer
from tests.samples import student_details
from tests.stages.measure.tiny_onnx import WORDS, weights, write_package

LABELLED = Columns(text="text", label="label")
TEXTS = tuple(f"w{i} w{i * 7 % 50} w{i * i % 40}" for i in range(30))


def pairs(scores: list[str]) -> Examples:
    return Examples("pairs", tuple(zip(TEXTS, TEXTS[::-1], strict=True))[: len(scores)], tuple(scores))


def test_sts_is_scipys_correlation_of_the_cosines(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "package")
    scores = np.random.default_rng(0).integers(0, 6, 30)
    (found,) = evaluate_models([str(folder)], pairs([str(score) for score in scores]), task="sts")
    vectors = open_package(folder, threads=1).embed(TEXTS)
    norms = np.linalg.norm(vectors, axis=1)
    cosines = (vectors * vectors[::-1]).sum(axis=1) / norms / norms[::-1]
    spearman, pearson = found.metrics
    assert spearman.value == pytest.approx(stats.spearmanr(cosines, scores).statistic, abs=1e-6)
    assert pearson.value == pytest.approx(stats.pearsonr(cosines, scores).statistic, abs=1e-6)
    assert all(each.interval[0] < each.value < each.interval[1] for each in found.metrics)
    assert (found.runtime, found.precision) == ("onnxruntime", "fp32")


@pytest.mark.weights
def test_torch_models_are_used_as_packages_are() -> None:
    encoder = load_encoder(MINILM)
    texts = ["A cat sat on the mat.", "Why?", "word " * 100]
    np.testing.assert_allclose(torch_package(encoder).embed(texts), sentence_vectors(encoder, texts), atol=1e-5)
    (found,) = evaluate_models(
        [MINILM], Examples("", (("A cat.", "A kitten."), ("Why?", "No."), ("a", "b")), ("3", "2", "1")), task="sts"
    )
    assert found.runtime == "torch"
    assert len(found.digest) == 64


@pytest.mark.parametrize("head", ["sequence", "token", "masked-lm"])
def test_torch_logits_are_the_models_own(head: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tiny_model("distilbert", head).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path))
    for text, ours in zip(TEXTS, torch_package(encoder).logits(TEXTS, batch_size=4), strict=True):
        tokens = encoder.tokenizer(text, return_tensors="pt")
        names = {"input_ids", "attention_mask"}
        with torch.no_grad():
            theirs = encoder.model(**{name: tokens[name] for name in names}).logits[0].numpy()
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_an_altered_student_is_not_judged_and_others_are_known_by_all_their_files(tiny_folder, tmp_path: Path) -> None:
    folder = tiny_folder()
    digests = {digest_of_source(str(folder))}
    for name in ("tokenizer.json", "config.json"):
        (folder / name).write_text((folder / name).read_text() + "\n")
        digests.add(digest_of_source(str(folder)))
    assert len(digests) == 3
    other = shutil.copytree(folder, tmp_path / "other")
    for name in ("modules.json", "1_Pooling/config.json", "config_sentence_transformers.json", "tokenizer_config.json"):
        (other / name).parent.mkdir(exist_ok=True)
        (other / name).write_text("[]" if name == "modules.json" else "{}")
        digests.add(digest_of_source(str(other)))
    (other / "thesis.txt").write_text("is not read")
    digests.add(digest_of_source(str(other)))
    assert len(digests) == 7
    write_manifest(folder, "student", details=student_details())
    open_model(str(folder), threads=1)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(PackageError, match="altered: its sha256 is not the manifest's"):
        open_model(str(folder), threads=1)


def test_of_search_results_those_that_the_teacher_has_are_counted() -> None:
    angles = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.1, 13))  # on an arc, in order
    teacher = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    same = {each.metric: each.value for each in retrieval_qualities(teacher, 3 * teacher, seed=0)}
    assert same == pytest.approx({"overlap@10": 1, "ndcg@10": 1, "mean_cosine": 1})
    turned = angles.copy()
    turned[[0, 12]] = turned[[12, 0]]  # the ends of the arc have changed places
    wider = np.stack([np.cos(turned), np.sin(turned), np.zeros(13)], axis=1)
    figures = {each.metric: each for each in retrieval_qualities(teacher, wider, seed=0)}
    assert set(figures) == {"overlap@10", "ndcg@10"}  # vectors of other widths have no cosine
    shared, gains = [], []
    for query in range(13):
        wanted, got = (
            sorted(set(range(13)) - {query}, key=lambda other: abs(at[other] - at[query]))[:10]
            for at in (angles, turned)
        )
        shared.append(len(set(wanted) & set(got)) / 10)
        worth = {text: 10 - place for place, text in enumerate(wanted)}
        ideal = sum((10 - place) / np.log2(place + 2) for place in range(10))
        gains.append(sum(worth.get(text, 0) / np.log2(place + 2) for place, text in enumerate(got)) / ideal)
    assert figures["overlap@10"].value == pytest.approx(np.mean(shared))
    assert figures["ndcg@10"].value == pytest.approx(np.mean(gains))
    assert np.mean(shared) < 1
    with pytest.raises(TextError, match="give 12 or more"):
        retrieval_qualities(teacher[:11], teacher[:11], seed=0)


def test_fidelity_falls_with_noise_and_classifiers_keep_decisions(tmp_path: Path) -> None:
    arrays = weights()
    teacher = write_package(tmp_path / "teacher", arrays=arrays)
    noise = np.random.default_rng(0).normal(size=arrays["embedding"].shape).astype(np.float32)
    near, far = (
        str(write_package(tmp_path / f"{share}", arrays={**arrays, "embedding": arrays["embedding"] + share * noise}))
        for share in (0.1, 3)
    )
    own, *others = evaluate_models(
        [str(teacher), near, far], Examples("", TEXTS, None), task="fidelity", teacher=str(teacher)
    )
    figures = [{each.metric: each.value for each in one.metrics} for one in (own, *others)]
    assert figures[0] == pytest.approx(dict.fromkeys(figures[0], 1.0))
    assert all(figures[1][name] > figures[2][name] for name in figures[0])
    classifier = write_package(tmp_path / "classifier", "text-classification", labels=["no", "yes", "perhaps"])
    (kept,) = evaluate_models([str(classifier)], Examples("", TEXTS, None), task="fidelity", teacher=str(classifier))
    assert [(each.metric, each.value) for each in kept.metrics] == [("label_agreement", 1.0)]


def test_masked_tokens_are_restored_within_five_more_often_than_at_once(tmp_path: Path) -> None:
    package = write_package(tmp_path / "package", "fill-mask")
    (found,) = evaluate_models([str(package)], Examples("", TEXTS, None), task="masked-lm")
    figures = {each.metric: each.value for each in found.metrics}
    assert set(figures) == {"loss", "perplexity", "top1", "top5"}
    assert figures["perplexity"] == pytest.approx(np.exp(figures["loss"]))
    assert 0 <= figures["top1"] <= figures["top5"] <= 1
    blank = {name: np.zeros_like(array) for name, array in weights().items()}
    nothing = write_package(tmp_path / "nothing", "fill-mask", arrays=blank)
    (found,) = evaluate_models([str(nothing)], Examples("", TEXTS, None), task="masked-lm")
    figures = {each.metric: each.value for each in found.metrics}
    assert figures["loss"] == pytest.approx(np.log(len(WORDS)))  # every word is as likely
    assert (figures["top1"], figures["top5"]) == (0, 0)


def test_what_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    package, masked = write_package(tmp_path / "package"), write_package(tmp_path / "masked", "fill-mask")
    texts = Examples("texts.txt", TEXTS, None)
    with pytest.raises(UserError, match="--teacher"):
        evaluate_models([str(package)], texts, task="fidelity")
    with pytest.raises(UserError, match="leave --teacher out"):
        evaluate_models([str(package)], pairs(["1", "2", "3"]), task="sts", teacher=str(package))
    with pytest.raises(TextError, match="gives no second texts"):
        evaluate_models([str(package)], texts, task="sts")
    with pytest.raises(TextError, match="example 2: the label 'high' is no number"):
        evaluate_models([str(package)], pairs(["1", "high", "3"]), task="sts")
    with pytest.raises(TextError, match="has the score 2 alone"):
        evaluate_models([str(package)], pairs(["2", "2.0", "2"]), task="sts")
    with pytest.raises(PackageError, match="is a fill-mask model, which --task sts cannot judge"):
        evaluate_models([str(masked)], pairs(["1", "2", "3"]), task="sts")
    with pytest.raises(PackageError, match="is a sentence-similarity model"):
        evaluate_models([str(package)], texts, task="masked-lm")
    with pytest.raises(TeacherError, match="no such model folder"):
        evaluate_models([str(tmp_path / "nowhere")], texts, task="masked-lm")


@pytest.mark.parametrize(
    ("kind", "labels", "fitting"),
    [
        ("sentence-similarity", 0, {"sts", "search", "fidelity"}),
        ("feature-extraction", 0, {"sts", "search", "fidelity"}),
        ("fill-mask", 0, {"masked-lm"}),
        ("text-classification", 3, {"fidelity", "classification"}),
        ("text-classification", 1, {"sts", "fidelity", "classification"}),  # a reranker
        ("token-classification", 3, {"fidelity", "tagging"}),
    ],
)
def test_which_tasks_can_judge_a_model(kind: ModelTask, labels: int, fitting: set[str]) -> None:
    for task in TASKS:
        with nullcontext() if task in fitting else pytest.raises(PackageError) as caught:
            refuse_unfit("it", kind, labels=labels, task=task)
        if caught is not None:
            said = str(caught.value).partition("--task ")[2].partition("; judge it with --task ")[2].partition(",")[0]
            assert set(said.split(" or ")) == fitting


def test_a_whole_number_is_one_label_however_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "label": 1}\n{"text": "b", "label": 1.0}\n{"text": "c", "label": 0.5}\n')
    assert read_examples(str(path), LABELLED).labels == ("1", "1", "0.5")
    (tmp_path / "rows.csv").write_text("text,label\na,1.0\nb,v1.0\n")
    assert read_examples(str(tmp_path / "rows.csv"), LABELLED).labels == ("1.0", "v1.0")


def test_rows_without_a_label_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\na,1\nb,\nc,\n")
    with pytest.raises(TextError, match=r"rows.csv, row 2: has no label, and 1 of 3 rows more; name another"):
        read_examples(str(path), LABELLED)
    path.write_text("text,label\n")
    with pytest.raises(TextError, match="holds no text"):
        read_examples(str(path), LABELLED)
