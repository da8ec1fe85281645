"""The choice: which schemes are tried where, what is faster, what breaks the gate and how that is mended."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from homoexport.documents.artifact import PackageManifest, verify
from homoexport.documents.package import Parity
from homoexport.errors import DeviceError
from homoexport.report import candidate_table, export_lines
from homoexport.schemes import embeddings_of, schemes_for
from homoexport.stages.export import candidates, choose
from homoexport.stages.export.candidates import Candidate
from homoexport.stages.export.choose import breakers, fastest
from homoexport.stages.export.forms import Form
from homoexport.stages.export.quantize import products_of
from homoexport.stages.export.smooth import channel_maxima, smooth
from homoexport.stages.export.surgery import array_of
from tests.stages.export.conftest import TIMED_AT, export_package, needs_exact_sums

TEXTS = ["w1", "w5 w6 w7 w8 w9 w10 w11 w12", "w20 w21 w22", "w3 w4 " * 20]


@pytest.mark.parametrize(
    ("quantize", "instruction_sets", "x86", "expected"),
    [
        ("auto", ["avx2", "avx512_vnni"], True, ("int8", "int8-static", "fp32")),
        ("auto", ["avx2"], True, ("int8", "int8-7-bit", "int8-unsigned", "int8-static", "fp32")),
        ("auto", ["asimddp"], False, ("int8", "int8-static", "fp32")),
        ("auto", [], False, ("int8", "int8-static", "fp32")),
        ("int8", ["avx2", "avx_vnni"], True, ("int8", "fp32")),
        ("none", ["avx2"], True, ("fp32",)),
        ("int4", ["amx_int8"], True, ("int4", "fp32")),
    ],
)
def test_schemes_follow_from_what_the_target_can_multiply(quantize, instruction_sets, x86, expected):
    assert schemes_for(quantize, instruction_sets, x86=x86, calibrated=True) == expected


def test_calibrated_scales_are_not_tried_by_themselves_without_text():
    assert "int8-static" not in schemes_for("auto", ["avx512_vnni"], x86=True, calibrated=False)


def test_other_providers_get_calibrated_scales_as_they_know_them():
    schemes = schemes_for("auto", ["avx_vnni"], x86=True, calibrated=True, provider="OpenVINOExecutionProvider")
    assert schemes == ("int8", "int8-static", "int8-qdq", "fp32")


@pytest.mark.parametrize("provider", ["wasm", "webgpu"])
def test_browsers_are_asked_for_fp16_too(provider):
    schemes = schemes_for("auto", ["avx_vnni"], x86=True, calibrated=False, provider=provider)
    assert schemes == ("int8", "fp16", "fp32")
    assert schemes_for("int8", ["avx_vnni"], x86=True, calibrated=False, provider=provider) == ("int8", "fp32")


def test_tables_are_quantized_where_the_weights_are_unless_asked_otherwise():
    assert [embeddings_of("auto", scheme) for scheme in ("int8", "int4", "fp32", "fp16")] == [
        "int8",
        "int8",
        "fp32",
        "fp32",
    ]
    assert embeddings_of("int4", "int8") == "int4"


def candidate(name: str, latency: float, size: int) -> Candidate:
    return Candidate(Form("standard"), "int8", "int8", Path(name), size, cost=latency)


def test_choice_is_the_fastest_and_the_smaller_on_a_tie():
    small, big, slow = candidate("small", 1.01, 20), candidate("big", 1.0, 30), candidate("slow", 1.1, 5)
    assert fastest([big, small, slow]) is small
    assert fastest([big, slow]) is big


@pytest.mark.parametrize("culprits", [[], [0], [35], [7, 8], [0, 17, 35]])
def test_those_that_break_the_gate_are_found_in_few_questions(culprits):
    names = [f"n{index}" for index in range(36)]
    asked = 0

    def breaks(part):
        nonlocal asked
        asked += 1
        return bool({f"n{index}" for index in culprits} & set(part))

    assert breakers(names, breaks) == [f"n{index}" for index in culprits]
    assert asked <= 1 + 2 * len(culprits) * 6


def test_those_that_break_it_together_alone_leave_the_rest_in():
    names = list("abcdef")
    keep = breakers(names, lambda part: {"b", "e"} <= set(part))
    assert keep == ["e"]


def poisoned(encoder, file: Path) -> ir.Model:
    """The exported graph with one value dimension 3,000 times as large, and what reads it as much smaller.

    The function is the same, but its one scale for all dimensions leaves the others without bits.
    """
    model = ir.load(file)
    graph = model.graph
    softmax = next(node for node in graph if node.op_type == "Softmax")
    value = next(node for node, _ in softmax.outputs[0].uses() if node.op_type == "MatMul").inputs[1]
    while (producer := value.producer()).op_type != "Add":
        value = producer.inputs[0]
    add, matmul = producer, producer.inputs[0].producer()
    reader, after = None, next(node for node, _ in softmax.outputs[0].uses() if node.op_type == "MatMul").outputs[0]
    while reader is None:
        ((node, _),) = after.uses()
        reader, after = (node, after) if node.op_type == "MatMul" else (None, node.outputs[0])
    factor = np.ones(32, np.float32)
    factor[5] = 3000
    for node, position, scale in ((matmul, 1, factor), (add, 1, factor), (reader, 1, 1 / factor[:, None])):
        value = node.inputs[position]
        value.const_value = ir.tensor(array_of(value) * scale, name=value.name)
    return model


@pytest.fixture
def with_a_wild_channel(tiny_encoder, exported, tmp_path, monkeypatch):
    """Exports a model of which one channel breaks the gate in 8 bits; the package's folder and details."""
    encoder = tiny_encoder("sentence-similarity")
    monkeypatch.setattr(
        candidates, "torch_to_onnx", lambda encoder, opset: poisoned(encoder, exported("sentence-similarity"))
    )
    monkeypatch.setattr("homoexport.stages.export.parity.FEWER_BITS_MEAN_COSINE", 0.995)

    def export(quantize: str) -> tuple[Path, dict]:
        out = export_package(
            encoder,
            out_dir=tmp_path / "package",
            texts=TEXTS * 20,
            quantize=quantize,
            graph="standard",
            rank=lambda files: [2.0 if "fp32" in file.name or "-" not in file.stem else 1.0 for file in files],
        )
        details = verify(out, PackageManifest).details.model_dump(mode="json")
        assert details["precision"] == "int8"
        assert details["parity"]["passed"]
        return out, details

    return export


@needs_exact_sums
@pytest.mark.parametrize("quantize", ["int8", "int8-static"])
def test_a_channel_that_breaks_the_gate_is_smoothed(with_a_wild_channel, quantize):
    out, details = with_a_wild_channel(quantize)
    assert "+smoothed-0." in details["graph"]
    assert details["kept_in_fp32"] == []
    names = [item.name for item in onnx.load(out / details["model_file"]).graph.initializer]
    assert any(name.endswith("_smoothing") for name in names)


@pytest.mark.parametrize("quantize", ["int8", "auto"])
def test_a_layer_that_breaks_the_gate_alone_is_found_and_left_in_fp32(with_a_wild_channel, monkeypatch, quantize):
    monkeypatch.setattr(choose, "STRENGTHS", ())
    out, details = with_a_wild_channel(quantize)
    assert len(details["kept_in_fp32"]) == 1
    constants = [onnx.numpy_helper.to_array(item) for item in onnx.load(out / details["model_file"]).graph.initializer]
    left = [array for array in constants if array.dtype == np.float32 and array.ndim == 2]
    assert [array.shape for array in left] == [(32, 32)]
    largest, others = np.sort(np.abs(left[0]).max(axis=1))[::-1][[0, -1]]
    assert others < largest / 1000  # it is the product that reads the inflated dimension


def test_smoothing_changes_nothing_in_fp32(exported, tmp_path):
    source, target = exported("sentence-similarity"), tmp_path / "smoothed.onnx"
    ids = np.random.default_rng(0).integers(5, 60, (1, 12))
    tokens = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    maxima = channel_maxima(source, [tokens], work=tmp_path)
    assert {len(largest) for largest in maxima.values()} == {32, 64}
    smooth(source, target, maxima, strength=0.8)
    before, after = (ort.InferenceSession(str(file)).run(["sentence_embedding"], tokens) for file in (source, target))
    np.testing.assert_allclose(before, after, atol=1e-5)
    assert len(products_of(target)) == len(products_of(source))
    assert not list(tmp_path.glob("*.telling.onnx"))


def test_a_sound_candidate_is_not_lost_to_an_unsound_one_of_a_higher_mean():
    def held(name: str, mean: float, least: float, *, passed: bool) -> Candidate:
        parity = Parity(
            output="x",
            max_difference=0.1,
            max_relative_difference=0.1,
            min_cosine=least,
            mean_cosine=mean,
            top1_agreement=None,
            passed=passed,
        )
        return replace(candidate(name, 1.0, 1), parity=parity)

    made = {"min-max": held("sound", 0.985, 0.95, passed=True), "percentile": held("unsound", 0.99, 0.89, passed=False)}
    maker = SimpleNamespace(
        quantize=lambda form, scheme, embeddings, calibration: made[calibration],
        check=lambda one: one,
        discard=lambda one: None,
    )
    assert choose._most_alike(maker, [Form("flash")], "int8-static", "int8") is made["min-max"]


def test_files_that_do_not_fit_are_not_chosen_and_where_none_does_the_smallest_is(tiny_encoder, export_once, tmp_path):
    def rank(files: list[Path]) -> list[float]:
        return [math.inf if "static" in file.name else 1.0 + ("int8" not in file.name) for file in files]

    out = export_package(
        tiny_encoder("feature-extraction"), out_dir=tmp_path / "package", texts=TEXTS, graph="standard", rank=rank
    )
    details = verify(out, PackageManifest).details.model_dump(mode="json")
    assert details["scheme"] == "int8"
    assert [reason for name, reason in details["left_out"].items() if "static" in name] == [
        "could not be timed, for it does not fit into the target's memory"
    ]
    nowhere = export_package(
        tiny_encoder("feature-extraction"),
        out_dir=tmp_path / "other",
        texts=TEXTS,
        quantize="auto",
        rank=lambda files: [math.inf] * len(files),
    )
    details = verify(nowhere, PackageManifest).details.model_dump(mode="json")
    of_form = f"{details['graph']}-"
    sizes = {
        item["name"]: item["file_bytes"]
        for item in details["candidates"]
        if item["name"] in details["left_out"] and item["name"].startswith(of_form)
    }
    assert len(sizes) > 1
    assert sizes[f"{of_form}{details['scheme']}"] == min(sizes.values())
    assert details["refused"] == {}
    for folder in (out, nowhere):
        assert "Infinity" not in (folder / "manifest.json").read_text()


def test_a_target_that_is_gone_ends_the_export(tiny_encoder, export_once, tmp_path):
    def answer(file: Path, batches: object) -> list[np.ndarray]:
        raise DeviceError("the phone is gone", where="ssh://phone")

    with pytest.raises(DeviceError, match="the phone is gone"):
        export_package(
            tiny_encoder("feature-extraction"),
            out_dir=tmp_path / "package",
            texts=TEXTS,
            rank=lambda files: [1.0] * len(files),
            answer=answer,
        )


def test_int8_that_is_slower_is_refused_with_the_figures(tiny_encoder, export_once, tmp_path):
    encoder = tiny_encoder("feature-extraction")
    out = export_package(
        encoder,
        out_dir=tmp_path / "package",
        texts=TEXTS,
        graph="standard",
        rank=lambda files: [3.0 if "int8" in file.name else 1.5 for file in files],
    )
    details = verify(out, PackageManifest).details.model_dump(mode="json")
    assert details["precision"] == "fp32"
    assert details["model_file"] == "onnx/model.onnx"
    reason = details["refused"]["standard-int8"]
    assert reason.startswith("takes 2.00 times as long as standard-fp32 (3.000 ms against 1.500 ms")


def test_counted_instructions_are_told_as_such(tiny_encoder, export_once, tmp_path):
    out = export_package(
        tiny_encoder("feature-extraction"),
        out_dir=tmp_path / "package",
        quantize="int8",
        graph="standard",
        timed_at=TIMED_AT.model_copy(update={"device": "arm64:cortex-a53", "unit": "instructions"}),
        rank=lambda files: [4.0e7 if "int8" in file.name else 5.0e7 for file in files],
    )
    manifest = verify(out, PackageManifest)
    details = manifest.details
    counted = {item.name: (item.instructions, item.latency_p50_ms) for item in details.candidates}
    assert counted == {"standard-int8": (4.0e7, None), "standard-fp32": (5.0e7, None)}
    told = "takes 1.25 times as many instructions as standard-int8 (50.00 M against 40.00 M; "
    assert details.refused["standard-fp32"].startswith(told)
    shown = candidate_table(details)
    assert shown.head[3] == "M instructions"
    assert {row[3] for row in shown.rows} == {"40.00", "50.00"}
    assert any(line.startswith("Instructions counted, ") for line in export_lines("package", manifest))
    card = (out / "README.md").read_text()
    assert "| instructions, M |" in card
    assert "| 40.000 |" in card
    assert " ms" not in card


def test_a_form_that_wins_is_held_against_more_and_one_that_is_wrong_is_not_taken():
    """The fastest answers one text rightly and others wrongly, the next one all."""
    costs = {"flash": 1.0, "standard": 2.0, "unfused": 3.0}
    forms = {name: Form(name) for name in costs}
    parity = Parity(
        output="x",
        max_difference=0,
        max_relative_difference=0,
        min_cosine=1,
        mean_cosine=1,
        top1_agreement=None,
        passed=True,
    )
    written = {form: replace(candidate(form.name, 0, 1), form=form, parity=parity) for form in forms.values()}
    asked = []

    def hold(form: Form) -> Candidate:
        asked.append(form.name)
        return replace(written[form], parity=parity.model_copy(update={"passed": form.name != "flash"}))

    maker = SimpleNamespace(
        write=lambda form: written[form],
        hold=hold,
        quantize=lambda form, scheme, embeddings: replace(written[form], scheme=scheme),
        runs_there=lambda one: True,
        progress=lambda step: None,
        left_out={},
    )
    wrong, timed = choose._timed_forms(
        maker, list(forms.values()), "int8", "int8", lambda files: [costs[file.stem] for file in files], 1
    )
    assert asked == ["flash", "standard"]
    assert [item.form.name for item in wrong] == ["flash"]
    assert [item.form.name for item in timed] == ["standard", "unfused"]
