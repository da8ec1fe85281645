"""The file for OpenVINO beside the ONNX file: when it is written, what it answers, who runs it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.machinery import ModuleSpec

import numpy as np
import openvino
import pytest

from homoexport.documents.artifact import PackageManifest, verify
from homoexport.documents.budget import BudgetVerdict
from homoexport.errors import DeviceError, PackageError, ParityError, UserError
from homoexport.runtime.inference import open_package
from homoexport.runtime.installed import install_hint
from homoexport.runtime.vectors import cosines
from homoexport.schemes import NO_TEXT, attends_in_int8, schemes_in
from homoexport.stages.export import openvino_file
from homoexport.stages.export.openvino_file import OPENVINO_FILE
from homoexport.stages.measure import Extras, answers_of_file
from homoexport.workflow.evaluate import evaluate
from homoexport.workflow.measure import measure
from tests.stages.export.conftest import export_package

TEXTS = [f"word {number} and another one" for number in range(60)]
run_here = partial(answers_of_file, device="cpu", pad_token_id=0, output="sentence_embedding")


def slower_by(ratio):
    """A ranking in which OpenVINO takes so many times as long."""
    return lambda files: [ratio if file.suffix == ".xml" else 1.0 for file in files]


def exported(encoder, out, *, ratio, openvino=run_here, texts=TEXTS, judge=None, **settings):
    options = {"runtime": "auto", "graph": "unfused", "quantize": "none", **settings}
    made = {"rank": slower_by(ratio), "texts": texts, "beside": {"openvino": openvino}, "judge": judge}
    folder = export_package(encoder, out_dir=out, **made, **options)
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


@pytest.mark.parametrize("sound", [True, False])
def test_attention_is_in_int8_on_processors_where_that_is_faster_unless_it_breaks_the_gate(
    tiny_encoder, export_once, tmp_path, monkeypatch, sound
):
    monkeypatch.setattr(openvino_file, "attends_in_int8", lambda _sets: True)

    def answer(file, batches):
        spoilt = not sound and "+attention" in file.parent.name
        return [value + np.resize([0, 1.0], value.shape[-1]) * spoilt for value in run_here(file, batches)]

    encoder = tiny_encoder("sentence-similarity")
    _, details = exported(encoder, tmp_path / "package", ratio=0.5, openvino=answer, quantize="int8")
    assert details.openvino.candidate.endswith("+attention-int8-static") == sound
    left_out = [name for name in details.left_out if name.endswith("+attention-int8-static")]
    assert (left_out == []) == sound


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (("avx512_vnni",), True),
        (("avx_vnni",), True),
        (("avx2",), False),
        (("avx512_vnni", "avx512_bf16"), False),
        ((), False),
    ],
)
def test_processors_on_which_attention_is_faster_in_int8(sets, expected):
    assert attends_in_int8(sets) == expected


def test_it_is_measured_and_judged_in_the_runtime_that_it_was_fastest_in(tiny_encoder, export_once, tmp_path):
    encoder = tiny_encoder("sentence-similarity")
    fast, details = exported(encoder, tmp_path / "fast", ratio=0.5)
    slow, _ = exported(encoder, tmp_path / "slow", ratio=1.5, runtime="openvino")
    plain, _ = exported(encoder, tmp_path / "plain", ratio=1.5)
    quick = {"length": 8, "min_seconds": 0.05}
    found = measure([fast, slow, plain], **quick).results
    assert [one.runtime for one in found] == ["openvino", "onnxruntime", "onnxruntime"]
    assert (found[0].precision, found[0].file_bytes) == (details.openvino.precision, details.openvino.file_bytes)
    (found,) = measure([fast], **quick, runtime="onnxruntime").results
    assert (found.runtime, found.precision) == ("onnxruntime", details.precision)
    with pytest.raises(PackageError, match=r"plain: it has no file for OpenVINO \(left out: takes 1.50 times"):
        measure([plain], **quick, runtime="openvino")
    with pytest.raises(DeviceError, match=r"is for openvino"):
        measure([fast], **quick, runtime="openvino", device="openvino")
    data = tmp_path / "data.tsv"
    rows = [f"{number % 5}\tword {number}\tword {number % 7}" for number in range(30)]
    data.write_text("\n".join(["score\tsentence1\tsentence2", *rows]))
    judged = evaluate([str(fast), str(plain)], task="sts", data=str(data)).results
    assert [one.runtime for one in judged] == ["openvino", "onnxruntime"]


def test_what_misses_the_floor_in_openvino_is_left_out(tiny_encoder, export_once, tmp_path):
    def judge(file):
        kept = file.suffix != ".xml"
        return BudgetVerdict(line="quality.f", limit=0.9, measured=0.95 if kept else 0.5, kept=kept, interval=None)

    _, details = exported(tiny_encoder("sentence-similarity"), tmp_path / "package", ratio=0.5, judge=judge)
    assert details.openvino is None
    assert details.left_out["openvino"] == "nothing in OpenVINO keeps the floor of quality"
    assert details.left_out["openvino unfused-fp32"] == "is below the floor: f 0.5000 of at least 0.9000"


def test_of_what_misses_the_floor_the_best_ships_where_the_runtime_was_asked_for(tiny_encoder, export_once, tmp_path):
    figures = {"int8-static": 0.5, "fp32": 0.7}

    def judge(file):
        figure = next((value for name, value in figures.items() if name in str(file)), 0.95)
        measured = figure if file.suffix == ".xml" else 0.95
        return BudgetVerdict(line="quality.f", limit=0.9, measured=measured, kept=measured > 0.9, interval=None)

    encoder = tiny_encoder("sentence-similarity")
    settings = {"ratio": 0.5, "judge": judge, "runtime": "openvino", "quantize": "auto"}
    _, details = exported(encoder, tmp_path / "package", **settings)
    assert details.openvino.candidate.endswith("-fp32")
    figures["int8-static"] = 0.93
    _, details = exported(encoder, tmp_path / "other", **settings)
    assert "int8-static" in details.openvino.candidate


def test_threads_that_share_a_package_have_answers_of_their_own(tiny_encoder, export_once, tmp_path):
    folder, _ = exported(tiny_encoder("sentence-similarity"), tmp_path / "package", ratio=0.5)
    package = open_package(folder, runtime="openvino")
    texts = [f"word {number} " * (number + 1) for number in range(8)]
    alone = [package.embed([text]) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        shared = list(pool.map(lambda text: package.embed([text]), texts * 20))
    for number, vectors in enumerate(shared):
        np.testing.assert_allclose(vectors, alone[number % 8], atol=1e-6)
    (found,) = measure([folder], length=8, min_seconds=0.05, extras=Extras(streams=(1, 3))).results
    assert [one.streams for one in found.streams] == [1, 3]


def test_the_chosen_file_is_still_there_to_be_timed_beside(tiny_encoder, export_once, tmp_path):
    def rank(files):
        assert all(file.exists() for file in files)
        return [1.0] * len(files)

    out, encoder = tmp_path / "package", tiny_encoder("sentence-similarity")
    settings = {"runtime": "openvino", "graph": "unfused", "quantize": "none", "embeddings": "int8"}
    folder = export_package(encoder, out_dir=out, rank=rank, texts=TEXTS, beside={"openvino": run_here}, **settings)
    assert verify(folder, PackageManifest).details.openvino is not None


def test_a_folder_of_a_runtimes_name_is_not_the_runtime(monkeypatch):
    assert install_hint("openvino") is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: ModuleSpec(name, None))
    assert install_hint("openvino") == "pip install 'homoexport[openvino]'"


def test_where_it_is_slower_the_package_says_so(tiny_encoder, export_once, tmp_path):
    folder, details = exported(tiny_encoder("sentence-similarity"), tmp_path / "package", ratio=1.5)
    assert details.openvino is None
    assert not (folder / "openvino").exists()
    assert details.left_out["openvino"].startswith("takes 1.50 times as long as ")
    assert details.left_out["openvino"].endswith(" (its unfused-fp32 1.500 ms against 1.000 ms)")
    with pytest.raises(PackageError, match=r"no file for OpenVINO \(left out: takes 1.50 times as long as .*export it"):
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
    assert "breaks the gate: (sentence_embedding) largest difference" in details.left_out["openvino"]
    with pytest.raises(ParityError, match=r"nothing in OpenVINO answers as the model does .*cosine -"):
        exported(encoder, tmp_path / "other", ratio=0.5, openvino=wrong, runtime="openvino")
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
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
    why = "OpenVINO is not installed"
    folder, details = exported(tiny_encoder("sentence-similarity"), tmp_path / "package", ratio=0.5, openvino=why)
    assert details.left_out["openvino"] == why
    assert np.isfinite(open_package(folder).embed(["a word"])).all()


def test_without_the_library_a_package_is_refused_in_one_line(tiny_encoder, export_once, tmp_path, monkeypatch):
    folder, _ = exported(tiny_encoder("sentence-similarity"), tmp_path / "package", ratio=0.5)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(UserError, match=r"OpenVINO is not installed; pip install 'homoexport\[openvino\]'"):
        open_package(folder, runtime="openvino")


def test_what_was_not_tried_for_want_of_text_is_told(tiny_encoder, export_once, tmp_path):
    settings = {"ratio": 0.5, "runtime": "auto", "quantize": "auto"}
    _, details = exported(tiny_encoder("sentence-similarity"), tmp_path / "package", texts=(), **settings)
    untried = {name: why for name, why in details.left_out.items() if "--text" in why}
    assert untried == dict.fromkeys(["int8-static", "openvino int8-static"], NO_TEXT)
    _, details = exported(tiny_encoder("sentence-similarity"), tmp_path / "other", **settings)
    assert not any("--text" in why for why in details.left_out.values())
