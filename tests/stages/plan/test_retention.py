"""What a shape keeps of a teacher, against sums over masks."""

from __future__ import annotations

import json

import pytest
import torch

from homoexport.documents.document import parse_document, to_json
from homoexport.documents.plan import TeacherSensitivity
from homoexport.encoder import Encoder, Pooling, family_of
from homoexport.stages.distill.batches import Counts, MicroBatch
from homoexport.stages.distill.probe import probe_loss
from homoexport.stages.plan.retention import teacher_retention
from homoexport.workflow.plan import probe_of
from tests.conftest import FAMILY_CONFIGS, tiny_model, tiny_tokenizer
from tests.grouped import KINDS, grouped

TEXTS = [" ".join(f"w{(i * 7 + j) % 95}" for j in range(3 + i % 9)) for i in range(16)]
SIZES = {"hidden_sizes": [8, 16, 24], "ffn_sizes": [16, 48], "head_shapes": [(2, 8), (2, 4), (4, 4)]}


def encoder_of(kind: str, tmp_path) -> Encoder:
    model = grouped(kind) if kind in KINDS else tiny_model(kind)
    return Encoder(model, tiny_tokenizer(), "sentence-similarity", Pooling(), tmp_path, kind)


def squares(encoder: Encoder) -> dict[str, torch.Tensor]:
    """(θ·g)² of every weight, summed over the batches, the plain way."""
    model, family = encoder.model, family_of(encoder.model.config)
    sums = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for start in range(0, len(TEXTS), 8):
        tokens = encoder.tokenizer(TEXTS[start : start + 8], padding=True, return_tensors="pt")
        micro = MicroBatch(tokens["input_ids"], tokens["attention_mask"])
        counts = Counts(8, int(micro.attention_mask.sum()), 0, 8, {})
        model.zero_grad()
        probe_loss(model, family, micro, objective="sentence-embedding", counts=counts).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                sums[name] += (parameter.detach() * parameter.grad) ** 2
    model.zero_grad()
    return sums


def test_share_is_the_sum_over_what_stays(tmp_path):
    encoder = encoder_of("bert", tmp_path)
    found = teacher_retention(encoder, TEXTS, probe=probe_of(encoder, "sentence-embedding"), **SIZES)
    sums = squares(encoder)
    total = sum(each.double().sum() for each in sums.values())
    hidden = sum(
        sums[name].double() if sums[name].dim() == 1 else sums[name].double().sum(1 - axis)
        for name, axis in hidden_axes(encoder)
    )
    kept = torch.zeros(32, dtype=torch.bool)
    kept[hidden.argsort(descending=True)[:16]] = True
    stays = 0.0
    for name, values in sums.items():
        mine = values.double()
        for axis, of_hidden in enumerate(axes_of(name, mine.dim())):
            if of_hidden:
                mine = mine[kept] if axis == 0 else mine[:, kept]
        stays += float(mine.sum())
    shape = {"num_hidden_layers": 2, "intermediate_size": 64, "num_attention_heads": 4, "head_dim": 8}
    assert found.share(hidden_size=16, **shape) == pytest.approx(stays / float(total), rel=1e-5)
    assert found.share(hidden_size=32, **shape) == pytest.approx(1.0)


def test_ffn_heads_their_width_and_layers_leave_with_all_that_is_theirs(tmp_path):
    encoder = encoder_of("bert", tmp_path)
    found = teacher_retention(encoder, TEXTS, probe=probe_of(encoder, "sentence-embedding"), **SIZES)
    sums = {name: values.double() for name, values in squares(encoder).items()}
    total = float(sum(each.sum() for each in sums.values()))
    whole = {
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "head_dim": 8,
    }

    def neurons(layer: int, inward: tuple[str, ...], outward: str) -> torch.Tensor:
        """What belongs to each inner neuron: its rows, biases and columns."""
        of = f"encoder.layer.{layer}."
        rows = [sums[f"{of}{name}.weight"].sum(1) + sums[f"{of}{name}.bias"] for name in inward]
        return sum(rows) + (sums[f"{of}{outward}.weight"].sum(0) if outward else 0)

    def lost(values: torch.Tensor, kept: int) -> float:
        return float(values.sort(descending=True).values[..., kept:].sum())

    attention = "attention.self."
    ffn, fewer, narrower = 0.0, 0.0, 0.0
    for layer in range(2):
        ffn += lost(neurons(layer, ("intermediate.dense",), "output.dense"), 48)
        compared = neurons(layer, (f"{attention}query", f"{attention}key"), "").view(4, 8)
        carried = neurons(layer, (f"{attention}value",), "attention.output.dense").view(4, 8)
        fewer += lost((compared + carried).sum(1), 2)
        narrower += lost(compared, 4) + lost(carried, 4)
    for change, gone in (
        ({"intermediate_size": 48}, ffn),
        ({"num_attention_heads": 2}, fewer),
        ({"head_dim": 4}, narrower),
        (
            {"num_hidden_layers": 1},
            min(sum(float(v.sum()) for k, v in sums.items() if f"layer.{i}." in k) for i in range(2)),
        ),
    ):
        assert found.share(**whole | change) == pytest.approx(1 - gone / total, rel=1e-5)


def axes_of(name: str, dim: int) -> list[bool]:
    """Which of a BERT parameter's axes are the residual stream's."""
    if any(part in name for part in ("query", "key", "value", "intermediate")):
        return [False, True] if dim == 2 else [False]
    if name.endswith("output.dense.weight"):
        return [True, False]
    if "embeddings.weight" in name or "_embeddings" in name:
        return [False, True]
    if "pooler" in name:
        return [True, True] if dim == 2 else [True]
    return [True]


def hidden_axes(encoder: Encoder) -> list[tuple[str, int]]:
    return [
        (name, axis)
        for name, parameter in encoder.model.named_parameters()
        for axis, of_hidden in enumerate(axes_of(name, parameter.dim()))
        if of_hidden
    ]


@pytest.mark.parametrize("kind", [*(kind for kind in FAMILY_CONFIGS if kind != "albert"), "qwen3", "gemma3_text"])
def test_more_of_anything_keeps_more(kind, tmp_path):
    encoder = encoder_of(kind, tmp_path)
    family = family_of(encoder.model.config)
    widths = family.widths(encoder.model)
    sizes = SIZES if family.prunes_head_width else SIZES | {"head_shapes": [(2, widths.head_dim)]}
    found = teacher_retention(encoder, TEXTS, probe=probe_of(encoder, "sentence-embedding"), **sizes)
    whole = widths.shape.as_json()
    assert found.share(**whole) == pytest.approx(1.0, abs=1e-6)
    for change in (
        {"num_hidden_layers": 1},
        {"hidden_size": 16},
        {"intermediate_size": 16},
        {"num_attention_heads": 2, "head_dim": 8 if family.prunes_head_width else widths.head_dim},
    ):
        assert 0 < found.share(**whole | change) < 1
    assert found.share(**whole | {"hidden_size": 8}) < found.share(**whole | {"hidden_size": 16})
    assert all(parameter.grad is None for parameter in encoder.model.parameters())
    assert parse_document(json.loads(to_json(found.sums)), TeacherSensitivity, where="cache") == found.sums
