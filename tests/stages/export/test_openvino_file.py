"""The file for OpenVINO beside the ONNX file: when it is written, what it answers, who runs it."""

from __future__ import annotations

from functools import partial

import numpy as np
import openvino
import pytest

from homoexport.documents.artifact import PackageManifest, verify
from homoexport.errors import PackageError, ParityError, UserError
from homoexport.runtime.inference import open_package
from homoexport.runtime.vectors import cosines
from homoexport.schemes import schemes_in
from homoexport.stages.export.openvino_file import OPENVINO_FILE
from homoexport.stages.measure import answers_of_file
from tests.stages.export.conftest import export_package

TEXTS = [f"word {number} and another one" for number in range(60)]
run_here = partial(answers_of_file, device="cpu", pad_token_id=0, output="sentence_embedding")


def slower_by(ratio):
    """A ranking in which OpenVINO takes so many times as long."""
    return lambda files: [ratio if file.suffix == ".xml" else 1.0 for file in files]


def exported(encoder, out, *, ratio, openvino=run_here, texts=TEXTS, **settings):
    options = {"runtime": "auto", "graph": "unfused", "quantize": "none", **settings}
    folder = export_package(
        encoder, out_dir=out, rank=slower_by(ratio), texts=texts, beside={"openvino": openvino}, **options
    )
    return folder, verify(folder, PackageManifest).details


@pytest.mark.parametrize(
    ("quantize", "calibrated", "expected"),
    [
        ("auto", True, ("int8-static", "fp32")),
        ("auto", False, ("fp32",)),
        ("int8", True, ("int8-static",)),
        ("int8", False, ()),
        ("none", True, ("fp32",)),
        ("int4", True, ()),
    ],
)
def test_schemes_in_openvino(quantize, calibrated, expected):
    assert schemes_in("openvino", quantize, calibrated=calibrated) == expected


def test_where_it_is_faster_it_lies_beside_and_answers_alike(tiny_encoder, export_once, tmp_path):
    folder, details = exported(tiny_encoder("sentence-similarity"), tmp_path / "package", ratio=0.5, quantize="auto")
    beside = details.openvino
    assert (beside.file, beside.latency_p50_ms, beside.onnx_latency_p50_ms) == (OPENVINO_FILE, 0.5, 1.0)
    assert beside.parity.passed
    assert beside.file_bytes == sum(file.stat().st_size for file in (folder / "openvino").iterdir())
    assert "is the same model for OpenVINO" in (folder / "README.md").read_text()
    texts = ["word 3 and another one", "word 7"]
    here, there = (open_package(folder, runtime=runtime).embed(texts) for runtime in ("onnxruntime", "openvino"))
    assert cosines(here, there).min() > 0.97
    (folder / "openvino" / "openvino_model.bin").write_bytes(b"")
    with pytest.raises(PackageError, match=r"openvino_model.bin: truncated"):
        open_package(folder, runtime="openvino")


def test_where_it_is_slower_the_package_says_so(tiny_encoder, export_once, tmp_path):
    folder, details = exported(tiny_encoder("sentence-similarity"), tmp_path / "package", ratio=1.5)
    assert details.openvino is None
    assert not (folder / "openvino").exists()
    assert details.left_out["openvino"].startswith("takes 1.50 times as long as ")
    with pytest.raises(PackageError, match=r"it has no file for OpenVINO; export it with --runtime openvino, or auto"):
        open_package(folder, runtime="openvino")


def test_who_asks_for_it_has_it_however_slow(tiny_encoder, export_once, tmp_path):
    encoder = tiny_encoder("sentence-similarity")
    _, details = exported(encoder, tmp_path / "package", ratio=1.5, runtime="openvino", quantize="int8")
    assert (details.openvino.precision, details.openvino.latency_p50_ms) == ("int8", 1.5)
    assert "int8-static" in details.openvino.candidate


def test_what_answers_otherwise_is_left_out_with_its_figures(tiny_encoder, export_once, tmp_path):
    def wrong(file, batches):
        return [-answer if file.suffix == ".xml" else answer for answer in run_here(file, batches)]

    encoder = tiny_encoder("sentence-similarity")
    _, details = exported(encoder, tmp_path / "package", ratio=0.5, openvino=wrong)
    assert details.openvino is None
    assert "nothing in OpenVINO answers as the model does" in details.left_out["openvino"]
    assert "breaks the gate: cosine -" in details.left_out["openvino"]
    with pytest.raises(ParityError, match=r"nothing in OpenVINO answers as the model does .*cosine -"):
        exported(encoder, tmp_path / "other", ratio=0.5, openvino=wrong, runtime="openvino")
    assert not (tmp_path / "other").exists()


def test_a_product_that_breaks_the_gate_alone_is_left_in_floats(tiny_encoder, export_once, tmp_path):
    def answer(file, batches):
        """Wrong where the second layer's last product is in int8."""
        products = [node for node in openvino.Core().read_model(file).get_ordered_ops() if is_product(node)]
        wrong = products[-1].input_value(0).get_node().get_type_name() == "FakeQuantize"
        return [-values if wrong else values for values in run_here(file, batches)]

    encoder = tiny_encoder("sentence-similarity")
    _, details = exported(
        encoder, tmp_path / "package", ratio=0.5, openvino=answer, runtime="openvino", quantize="int8"
    )
    assert details.openvino.parity.passed
    assert len(details.openvino.kept_in_fp32) == 1


def is_product(node):
    """Whether it is one of a weight, in floats or in int8."""
    kinds = ("Constant", "Multiply", "Convert")
    weight = node.input_value(1).get_node() if node.get_type_name() == "MatMul" else None
    return weight is not None and weight.get_type_name() in kinds and weight.get_output_partial_shape(0).is_static


def test_words_that_openvino_cannot_look_up_are_left_out(tiny_encoder, export_once, tmp_path):
    encoder = tiny_encoder("sentence-similarity")
    _, details = exported(encoder, tmp_path / "package", ratio=0.5, quantize="int8", embeddings="int4")
    assert details.openvino is None
    assert "openvino unfused+smoothed-0.8-int8-static" in details.left_out["openvino"]


def test_without_openvino_auto_says_what_it_did_not_try(tiny_encoder, export_once, tmp_path):
    why = "the package is for openvino, which is not installed"
    folder, details = exported(tiny_encoder("sentence-similarity"), tmp_path / "package", ratio=0.5, openvino=why)
    assert details.left_out["openvino"] == why
    assert np.isfinite(open_package(folder).embed(["a word"])).all()


def test_without_the_library_a_package_is_refused_in_one_line(tiny_encoder, export_once, tmp_path, monkeypatch):
    folder, _ = exported(tiny_encoder("sentence-similarity"), tmp_path / "package", ratio=0.5)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(UserError, match=r"OpenVINO is not installed; pip install 'homoexport\[openvino\]'"):
        open_package(folder, runtime="openvino")
