import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from homoexport.documents.artifact import PackageManifest, read_manifest, write_manifest
from homoexport.errors import PackageError, UserError
from homoexport.runtime.inference import open_package, read_package
from tests.stages.measure.tiny_onnx import WORDS, weights, write_package

TEXTS = ["w1 w2 w3", "", "w4", "w5 w6 w7 w8 w9 w10", "w1 unheard", "w2 " * 40]


def expected_vector(text: str, arrays: dict[str, np.ndarray], max_length: int) -> np.ndarray:
    """The mean hidden state of one text by itself, without any padding, in numpy."""
    words = [WORDS.index(word) if word in WORDS else 1 for word in text.split()][: max_length - 2]
    hidden = np.tanh(arrays["embedding"][[2, *words, 3]] @ arrays["layer0"])
    return hidden.mean(axis=0)


def test_vectors_are_those_of_each_text_by_itself_in_its_own_row(tmp_path: Path) -> None:
    arrays = weights()
    expected = np.stack([expected_vector(text, arrays, max_length=16) for text in TEXTS])
    plain = write_package(tmp_path / "plain", "feature-extraction", arrays=arrays, max_length=16)
    pooled = write_package(tmp_path / "pooled", "sentence-similarity", arrays=arrays, max_length=16)
    for batch_size in (1, 2, 32):
        vectors = open_package(plain, threads=1).embed(TEXTS, batch_size=batch_size)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors, expected, atol=1e-6)
        unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(open_package(pooled, threads=1).embed(TEXTS, batch_size=batch_size), unit, atol=1e-6)


def test_no_text_gives_no_vector_of_the_right_width(tmp_path: Path) -> None:
    vectors = open_package(write_package(tmp_path / "package"), threads=1).embed([])
    assert vectors.shape == (0, 16)
    assert vectors.dtype == np.float32


def test_a_runtime_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no runtime is called 'toast'; name one of: auto, onnxruntime, openvino"):
        open_package(write_package(tmp_path / "package"), runtime="toast")  # type: ignore[arg-type]


def test_tokens_are_right_padded_and_truncated(tmp_path: Path) -> None:
    package = open_package(write_package(tmp_path / "package", max_length=6), threads=1)
    tokens = package.tokenize(["w0 w1", "w0 w1 w2 w3 w4 w5 w6"])
    assert tokens["input_ids"].tolist() == [[2, 5, 6, 3, 0, 0], [2, 5, 6, 7, 8, 3]]
    assert tokens["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]]
    assert tokens["token_type_ids"].tolist() == [[0] * 6] * 2


def test_text_without_any_token_still_has_a_finite_vector(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "package", "feature-extraction")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**tokenizer, "post_processor": None}))
    write_manifest(folder, "package", details=read_manifest(folder, PackageManifest).details)
    arrays = weights()
    vectors = open_package(folder, threads=1).embed(["", "w0"])
    np.testing.assert_allclose(vectors, np.tanh(arrays["embedding"][[0, 5]] @ arrays["layer0"]), atol=1e-6)


def test_fill_mask_package_gives_logits_and_no_vectors(tmp_path: Path) -> None:
    arrays = weights()
    package = open_package(write_package(tmp_path / "package", "fill-mask", arrays=arrays), threads=1)
    (logits,) = package.run(package.tokenize(["w0"]), ["logits"])
    hidden = np.tanh(arrays["embedding"][[2, 5, 3]] @ arrays["layer0"])
    np.testing.assert_allclose(logits[0], hidden @ arrays["head"], atol=1e-5)
    with pytest.raises(PackageError, match="gives no vectors"):
        package.embed(["w0"])
    with pytest.raises(PackageError, match="cannot run it"):
        package.run(package.tokenize(["w0"]), ["sentence_embedding"])


@pytest.mark.parametrize("task", ["text-classification", "token-classification"])
def test_classifier_gives_each_texts_logits_and_no_vectors(tmp_path: Path, task: str) -> None:
    arrays = {**weights(), "head": weights(vocab_size=3)["head"]}
    package = open_package(
        write_package(tmp_path / "package", task, arrays=arrays, labels=["a", "b", "c"], max_length=16), threads=1
    )
    assert package.details.labels == ("a", "b", "c")
    for batch_size in (1, 4, 32):
        logits = package.logits(TEXTS, batch_size=batch_size)
        for text, actual in zip(TEXTS, logits, strict=True):
            words = [WORDS.index(word) if word in WORDS else 1 for word in text.split()][:14]
            expected = np.tanh(arrays["embedding"][[2, *words, 3]] @ arrays["layer0"]) @ arrays["head"]
            np.testing.assert_allclose(actual, expected[0] if task == "text-classification" else expected, atol=1e-5)
    assert package.logits([]) == []
    with pytest.raises(PackageError, match=f"is a {task} model, which gives no vectors"):
        package.embed(["w0"])
    with pytest.raises(UserError, match="a batch of 0"):
        package.logits(["w0"], batch_size=0)


def test_package_without_logits_or_labels_says_so(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="is a sentence-similarity model, which gives no logits"):
        open_package(write_package(tmp_path / "package"), threads=1).logits(["w0"])
    unnamed = write_package(tmp_path / "unnamed", "token-classification", labels=["a"])
    manifest = json.loads((unnamed / "manifest.json").read_text())
    del manifest["details"]["labels"]
    (unnamed / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PackageError, match=r"'details\.labels': Field required"):
        read_package(unnamed)


def test_vectors_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    arrays = weights()
    arrays["embedding"][5] = np.nan
    package = open_package(write_package(tmp_path / "package", arrays=arrays), threads=1)
    with pytest.raises(PackageError, match="not finite"):
        package.embed(["w1", "w0"])


def test_damaged_file_is_told_in_one_line(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "package")
    model = folder / "onnx" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-100])
    with pytest.raises(PackageError, match=r"model\.onnx: truncated"):
        open_package(folder, threads=1)
    details = read_manifest(folder, PackageManifest).details
    write_manifest(folder, "package", details=details)  # truncated before the manifest was written
    with pytest.raises(PackageError, match=r"model\.onnx: onnxruntime cannot load it") as raised:
        open_package(folder, threads=1)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 2


def test_what_the_manifest_lacks_is_named(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "package")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["details"]["task"] = "juggling"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PackageError, match=r"'details\.task': Input should be 'fill-mask', 'sentence-similarity'"):
        read_package(folder)
    manifest["details"]["task"] = "fill-mask"
    del manifest["details"]["max_length"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PackageError, match=r"'details\.max_length': Field required"):
        read_package(folder)


def test_another_models_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "package")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["w58"] = 64
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    write_manifest(folder, "package", details=read_manifest(folder, PackageManifest).details)
    with pytest.raises(PackageError, match=r"ids go up to 64 and the model knows 64 tokens; put the tokenizer there"):
        open_package(folder, threads=1)


def test_missing_tokenizer_and_wrong_settings_are_named(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "package")
    with pytest.raises(UserError, match="0 threads"):
        open_package(folder, threads=0)
    for wrong, told in (("two", "threads: 'two' threads"), (None, "threads: None threads"), (1.5, "1.5 threads")):
        with pytest.raises(UserError, match=f"{told}; give a whole number, 1 or more"):
            open_package(folder, threads=wrong)
    for wrong in (0, "all", None):
        with pytest.raises(UserError, match=f"a batch of {wrong!r} texts; give a whole number"):
            open_package(folder, threads=np.int64(1)).embed(["w0"], batch_size=wrong)
    (folder / "tokenizer.json").unlink()
    write_manifest(folder, "package", details=read_manifest(folder, PackageManifest).details)
    with pytest.raises(PackageError, match=r"tokenizer\.json: is missing"):
        open_package(folder, threads=1)


@pytest.mark.processes
def test_inference_needs_neither_torch_nor_transformers() -> None:
    code = "import sys, homoexport.runtime.inference; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
