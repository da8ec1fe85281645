"""docs/adding-an-export-scheme.md: its toy scheme works as it stands there."""

from __future__ import annotations

import numpy as np
import onnx

from homoexport import schemes
from homoexport.stages.export import quantize
from homoexport.stages.export.ladder import make_batches
from homoexport.stages.export.parity import check_parity
from tests.snippets import snippets

NAME = "int8-per-tensor"
TEXTS = ["w1", "w5 w6 w7 w8 w9 w10 w11 w12", "w20 w21 w22", "w3 w4 " * 20]


def test_the_toy_scheme_is_tried_written_and_right(tiny_encoder, exported, tmp_path, monkeypatch):
    row, function = snippets("adding-an-export-scheme.md", "A toy scheme", "python")
    for table in (schemes.SCHEMES, quantize._WRITERS):
        monkeypatch.setitem(table, NAME, None)  # so that it goes again
    exec(row, vars(schemes))
    exec(function, dict(vars(quantize)))

    tried = schemes.schemes_for("auto", ["avx_vnni"], x86=True, calibrated=False)
    assert NAME in tried
    assert NAME in schemes.schemes_for("int8", [], x86=False, calibrated=False)
    assert NAME not in schemes.schemes_for("int8-static", [], x86=False, calibrated=True)

    target = tmp_path / "quantized.onnx"
    quantize.quantize(exported("feature-extraction"), target, NAME, embeddings=schemes.embeddings_of("auto", NAME))
    graph = onnx.load(target).graph
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMulInteger"]
    assert products
    assert {constants[node.input[1]].dtype for node in products} == {np.dtype(np.int8)}
    assert all(constants[node.input[3]].size == 1 for node in products)

    batches = make_batches(tiny_encoder("feature-extraction"), TEXTS, max_length=64)
    parity = check_parity(target, batches.all, task="feature-extraction", precision=schemes.SCHEMES[NAME].precision)
    assert parity.passed, parity
