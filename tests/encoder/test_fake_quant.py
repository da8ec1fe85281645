"""int8 simulated in torch is int8 as it is exported, and leaves the model as it should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch.nn import functional

from homoexport.encoder import input_names, load_encoder
from homoexport.encoder.fake_quant import round_columns, round_tensor, rounded_to_int8, simulated_int8
from homoexport.stages.export.graph import torch_to_onnx
from homoexport.stages.export.quantize import quantize
from tests.conftest import tiny_model, tiny_tokenizer


def test_activations_are_rounded_as_onnx_says() -> None:
    graph = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 19]> g (float[N, M] x) => (float[N, M] y)'
        "{ q, s, z = DynamicQuantizeLinear(x)  y = DequantizeLinear(q, s, z) }"
    )
    rng = np.random.default_rng(0)
    for low, high in ((-1, 3), (0.5, 2), (-4, -1)):
        values = rng.uniform(low, high, (7, 5)).astype(np.float32)
        (expected,) = ReferenceEvaluator(graph).run(None, {"x": values})
        np.testing.assert_allclose(round_tensor(torch.from_numpy(values)).numpy(), expected, atol=1e-6)


def test_weights_are_rounded_by_output_column_and_gradients_pass() -> None:
    weight = torch.randn(6, 9, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 2, 6)[:, None]
    weight[3] = 0
    scale = weight.abs().amax(1) / 127
    expected = torch.fake_quantize_per_channel_affine(
        weight, torch.where(scale > 0, scale, 1.0), torch.zeros(6, dtype=torch.int32), 0, -127, 127
    )
    leaf = weight.clone().requires_grad_()
    rounded = round_columns(leaf)
    torch.testing.assert_close(rounded.detach(), expected)
    torch.testing.assert_close(round_columns(expected), expected)  # what is rounded stays as it is
    (rounded * 3).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(leaf.grad, torch.full_like(weight, 3))


def with_exact_sums(file: Path) -> None:
    """Shifts signed weights by 128: the same products, which no CPU adds up in 16 bits."""
    model = onnx.load(file)
    weights = {name for node in model.graph.node if node.op_type == "MatMulInteger" for name in node.input[1::2]}
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            shifted = (onnx.numpy_helper.to_array(tensor).astype(np.int16) + 128).astype(np.uint8)
            tensor.CopyFrom(onnx.numpy_helper.from_array(shifted, tensor.name))
    onnx.save(model, file)


OTHERS = [
    pytest.param(kind, marks=pytest.mark.slow) for kind in ("distilbert", "electra-projected", "roberta", "mpnet")
]


@pytest.mark.parametrize("kind", ["bert", *OTHERS])
def test_simulated_logits_are_the_int8_files(kind: str, tmp_path: Path, token_batch: dict[str, torch.Tensor]) -> None:
    torch.manual_seed(0)
    tiny_model(kind, "sequence").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path))
    ir.save(torch_to_onnx(encoder, opset=18), tmp_path / "fp32.onnx")
    quantize(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", "int8", embeddings="int8")
    with_exact_sums(tmp_path / "int8.onnx")
    tokens = {name: token_batch.get(name, torch.zeros_like(token_batch["input_ids"])) for name in input_names(encoder)}
    session = onnxruntime.InferenceSession(tmp_path / "int8.onnx", providers=["CPUExecutionProvider"])
    (shipped,) = session.run(None, {name: value.numpy() for name, value in tokens.items()})
    with torch.no_grad(), simulated_int8(encoder.model) as switch:
        exact = encoder.model(**tokens).logits.numpy()
        switch.on = True
        simulated = encoder.model(**tokens).logits.numpy()
    assert np.abs(shipped - simulated).mean() < np.abs(shipped - exact).mean() / 10


@pytest.mark.parametrize("on", [False, True])
def test_the_model_comes_back_under_its_own_names(on: bool, token_batch: dict[str, torch.Tensor]) -> None:
    torch.manual_seed(0)
    model = tiny_model("bert", "sequence")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with simulated_int8(model) as switch:
        switch.on = on
        with torch.no_grad():
            inside = model(**token_batch).logits
    after = model.state_dict()
    assert after.keys() == before.keys()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert bool(changed) == on
    assert not any("bias" in name or "LayerNorm" in name for name in changed)
    with torch.no_grad():
        outside = model(**token_batch).logits
    assert torch.equal(inside, outside) != on  # the weights stay rounded, the activations do not
    torch.testing.assert_close(functional.softmax(inside, 1), functional.softmax(outside, 1), atol=0.2, rtol=0)


def test_rounding_within_a_block_is_the_simulations_and_leaves_the_weights(token_batch) -> None:
    plain, simulated = tiny_model("bert"), tiny_model("bert")
    simulated.load_state_dict(plain.state_dict())
    before = {name: weight.clone() for name, weight in plain.state_dict().items()}
    with rounded_to_int8(plain):
        rounded = plain(**token_batch).last_hidden_state
        rounded.square().sum().backward()
    with simulated_int8(simulated) as switch:
        switch.on = True
        expected = simulated(**token_batch).last_hidden_state
        expected.square().sum().backward()
        gradients = {
            name.replace("parametrizations.weight.original", "weight"): p.grad
            for name, p in simulated.named_parameters()
        }
        switch.on = False
    torch.testing.assert_close(rounded, expected)
    assert all(torch.equal(weight, before[name]) for name, weight in plain.state_dict().items())
    for name, weight in plain.named_parameters():
        torch.testing.assert_close(weight.grad, gradients[name])
    assert (plain(**token_batch).last_hidden_state - rounded).abs().max() > 1e-4  # the hooks are gone
