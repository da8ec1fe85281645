"""Fine-tuning learns what it is shown, from labels and from a teacher, and leaves a stock classifier."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import log_softmax
from transformers import AutoModelForSequenceClassification

from homoexport.documents.recipe import FinetuneSettings
from homoexport.encoder.fake_quant import round_columns
from homoexport.errors import TrainingError
from homoexport.stages.evaluate import open_model
from homoexport.stages.finetune import FinetuneProgress, Trained, train_classifier
from homoexport.stages.finetune.train import distance_to_teacher

RNG = np.random.default_rng(0)
TEXTS = [" ".join(f"w{word}" for word in RNG.integers(2, 60, 3 + i % 5)) + f" w{i % 2}" for i in range(128)]
LABELS = np.arange(128) % 2  # whether the last word is w1
SETTINGS = FinetuneSettings(epochs=8, batch_size=16, learning_rate=2e-3, threads=1)


def trained(source: Path, folder: Path, *, settings: FinetuneSettings = SETTINGS, **other: Any) -> Trained:
    folder.mkdir()
    given: dict[str, Any] = {"labels": LABELS, "names": ("no", "yes"), "seed": 0, **other}
    return train_classifier(str(source), TEXTS, settings=settings, folder=folder, **given)


def guesses(folder: Path) -> np.ndarray:
    return np.stack(open_model(str(folder), threads=1).logits(TEXTS)).argmax(axis=1)


def test_a_task_is_learned_into_a_stock_classifier(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    told: list[FinetuneProgress] = []
    made = trained(tiny_folder(), tmp_path / "out", on_progress=told.append)
    assert (guesses(tmp_path / "out") == LABELS).mean() > 0.95
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.config.id2label == {0: "no", 1: "yes"}
    assert (made.steps, made.family) == (64, "bert")
    assert told[-1].loss < told[0].loss / 2
    assert (told[-1].step, told[-1].steps, told[-1].int8) == (64, 64, False)


def test_the_seed_decides(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    short = SETTINGS.model_copy(update={"epochs": 0.5})
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        trained(tiny_folder(), tmp_path / name, settings=short, seed=seed)
    a, b, c = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["classifier.weight"], c["classifier.weight"])


def test_scores_are_learned(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    scores = np.where(LABELS == 1, 4.0, 1.0).astype(np.float32)
    settings = SETTINGS.model_copy(update={"epochs": 30, "learning_rate": 4e-3})
    trained(tiny_folder(), tmp_path / "out", settings=settings, labels=scores, names=())
    found = np.stack(open_model(str(tmp_path / "out"), threads=1).logits(TEXTS))
    assert found.shape == (128, 1)
    assert np.abs(found[:, 0] - scores).mean() < 0.7


def test_a_teacher_is_believed_as_far_as_it_is_told(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    contrary = np.where(LABELS[:, None] == np.arange(2), -4.0, 4.0)  # it is wrong about every text
    for weight, expected in ((1.0, 1 - LABELS), (0.0, LABELS)):
        folder = tmp_path / str(weight)
        settings = SETTINGS.model_copy(update={"teacher_weight": weight})
        trained(tiny_folder(), folder, settings=settings, teacher_logits=contrary)
        assert (guesses(folder) == expected).mean() > 0.95


def test_distance_to_the_teacher_is_hintons() -> None:
    ours, theirs = RNG.normal(size=(5, 3)), RNG.normal(size=(5, 3))
    mine, soft = log_softmax(ours / 2, axis=1), log_softmax(theirs / 2, axis=1)
    expected = 4 * (np.exp(soft) * (soft - mine)).sum(axis=1).mean()
    found = distance_to_teacher(torch.tensor(ours), torch.tensor(theirs), temperature=2.0)
    assert found.item() == pytest.approx(expected)
    scores = distance_to_teacher(torch.tensor(ours[:, :1]), torch.tensor(theirs[:, :1]), temperature=2.0)
    assert scores.item() == pytest.approx(((ours[:, 0] - theirs[:, 0]) ** 2).mean())


def test_int8_is_in_the_loop_for_the_last_steps(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    told: list[FinetuneProgress] = []
    settings = SETTINGS.model_copy(update={"int8_share": 0.5})
    trained(tiny_folder(), tmp_path / "out", settings=settings, on_progress=told.append)
    assert [line.int8 for line in told] == [line.step > 32 for line in told]
    assert (guesses(tmp_path / "out") == LABELS).mean() > 0.95
    weights = load_file(tmp_path / "out" / "model.safetensors")
    weight = weights["bert.encoder.layer.0.output.dense.weight"]
    torch.testing.assert_close(round_columns(weight), weight)
    assert "bert.encoder.layer.0.output.dense.bias" in weights


def test_a_loss_that_is_no_number_ends_the_training(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the loss is nan at step"):
        trained(tiny_folder(), tmp_path / "out", settings=SETTINGS.model_copy(update={"learning_rate": 1e12}))
