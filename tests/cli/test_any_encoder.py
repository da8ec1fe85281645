"""Encoders without an adapter through export, bench, eval, verify and trim, with the answers that torch gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from transformers import AutoConfig, AutoModel, AutoModelForTokenClassification

from homoexport.documents.artifact import PackageManifest, verify
from homoexport.encoder import load_encoder, torch_answers
from homoexport.runtime.inference import open_package
from tests.conftest import WORDS, tiny_tokenizer, write_sentences

TEXTS = [" ".join(f"w{(i * 7 + j * j) % 95}" for j in range(2 + i % 19)) for i in range(40)]
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
SENTENCES = [
    ("ernie", "cls", {}),  # the quickest to trace
    *(
        pytest.param(kind, pooling, more, marks=pytest.mark.slow)
        for kind, pooling, more in [
            ("gemma3_text", "mean", GROUPED | {"use_bidirectional_attention": True}),
            ("qwen3", "lasttoken", GROUPED | {"is_causal": False}),
            ("eurobert", "mean", GROUPED),
            ("roformer", "mean", {}),
            ("deberta", "mean", {}),
        ]
    ),
]


def write(folder: Path, kind: str, pooling: str | None, **more: object) -> Path:
    """A tiny random model of a kind; with a pooling, a sentence encoder, or else one that labels tokens."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        **{"vocab_size": len(WORDS), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
        **{"intermediate_size": 64, "max_position_embeddings": 64, "pad_token_id": 0, "num_labels": 3, **more},
    )
    model = (AutoModelForTokenClassification if pooling is None else AutoModel).from_config(config)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name.lower() and parameter.dim() == 1), std=0.2)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    if pooling is not None:
        kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
        modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds]
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode": pooling}))
    return folder


def answers(folder: Path, texts: list[str]) -> dict[str, np.ndarray]:
    """Torch's, of texts that are asked together."""
    encoder = load_encoder(str(folder))
    tokens = encoder.tokenizer(texts, padding=True, return_tensors="pt")
    found = torch_answers(encoder, {name: tokens[name] for name in ("input_ids", "attention_mask")})
    return {name: value.numpy() for name, value in found.items()}


@pytest.mark.parametrize(("kind", "pooling", "more"), SENTENCES)
def test_a_sentence_encoder_answers_as_torch_does(homoexport, tmp_path, kind, pooling, more):
    model = write(tmp_path / "model", kind, pooling, **more)
    expected = answers(model, TEXTS)["sentence_embedding"]
    out = tmp_path / "package"
    told = homoexport("export", "--onnx", model, "-o", out, "--quantize", "int8", "--seconds", "0.05")
    assert told.code == 0, told.err
    fp32 = [one for one in verify(out, PackageManifest).details.candidates if one.name.endswith("-fp32")]
    assert max(one.parity.max_difference for one in fp32 if one.parity) < 1e-4
    found = open_package(out).embed(TEXTS)
    assert (found * expected).sum(1).min() > 0.98

    pairs = [(TEXTS[i], TEXTS[i + 1], i % 6) for i in range(38)]
    rows = "\n".join("\t".join(map(str, row)) for row in [("sentence1", "sentence2", "score"), *pairs])
    (tmp_path / "dev.tsv").write_text(rows)
    judged = homoexport("eval", out, model, "--task", "sts", "--data", tmp_path / "dev.tsv", "--json")
    ours, torchs = (result["metrics"][0]["value"] for result in json.loads(judged.out)["results"])
    by_hand = spearmanr([float(expected[i] @ expected[i + 1]) for i in range(38)], [score for *_, score in pairs])
    assert torchs == pytest.approx(by_hand.statistic, abs=1e-3)
    assert ours == pytest.approx(by_hand.statistic, abs=0.1)

    timed = homoexport("bench", out, "--length", "32", "--min-seconds", "0.05", "--json")
    assert (timed.code, json.loads(timed.out)["kind"]) == (0, "measurement")
    assert homoexport("verify", out).code == 0


def test_labels_of_tokens_are_torchs(homoexport, tmp_path):
    model = write(tmp_path / "model", "ernie", None)
    how = ("--quantize", "none", "--graph", "standard", "--seconds", "0.05")
    assert homoexport("export", "--onnx", model, "-o", tmp_path / "package", *how).code == 0
    package = open_package(tmp_path / "package")
    tokens = package.tokenize(TEXTS)
    (logits,) = package.run(tokens, ["logits"])
    mask = tokens["attention_mask"].astype(bool)
    np.testing.assert_allclose(logits[mask], answers(model, TEXTS)["logits"][mask], atol=1e-4)


def test_only_pruning_asks_for_an_adapter(homoexport, tmp_path):
    model = write(tmp_path / "model", "ernie", "mean")
    text = write_sentences(tmp_path / "text.txt")
    flags = ("--teacher", model, "--data", text, "--objective", "sentence-embedding", "--steps", "2")
    told = homoexport("distill", *flags, "--hidden-size", "16", "-o", tmp_path / "student")
    assert (told.code, "model family 'ernie' cannot be pruned" in told.err) == (2, True)
    assert not (tmp_path / "student").exists()
