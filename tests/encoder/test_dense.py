"""Sentence encoders with Dense modules: what they answer, how they are saved, and what is refused of a stranger's."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from homoexport.encoder import Dense, load_classifier, load_encoder, save_encoder, torch_answers, weights_digest
from homoexport.errors import TeacherError
from homoexport.stages.evaluate import digest_of_source
from tests.dense import BY_HAND, IDENTITY, TANH, TWO, vectors_by_hand, write_layers

TEXTS = ["w1", "w5 w6 w7 w8 w9 w10 w11 w12", "w20 w21 w22"]


def answers(folder: Path) -> np.ndarray:
    encoder = load_encoder(str(folder))
    return torch_answers(encoder, encoder.tokenizer(TEXTS, padding=True, return_tensors="pt"))["sentence_embedding"]


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("layers", [TWO, *(((24, True, name),) for name in BY_HAND)])
def test_vectors_go_through_the_layers_in_their_order(tiny_folder, layers, normalize):
    folder = write_layers(tiny_folder(), layers, normalize=normalize)
    encoder = load_encoder(str(folder))
    assert encoder.width == layers[-1][0]
    expected = vectors_by_hand(encoder, TEXTS, normalize=normalize)
    np.testing.assert_allclose(answers(folder), expected, atol=1e-5)


def test_a_saved_encoder_has_the_files_it_was_loaded_from(tiny_folder, tmp_path):
    folder, saved = write_layers(tiny_folder()), tmp_path / "saved"
    saved.mkdir()
    encoder = load_encoder(str(folder))
    save_encoder(encoder, encoder.model, saved)
    for name in ("modules.json", "2_Dense/config.json", "3_Dense/config.json"):
        assert json.loads((saved / name).read_text()) == json.loads((folder / name).read_text())
    for name in ("2_Dense", "3_Dense"):
        found, wanted = (load_file(path / name / "model.safetensors") for path in (saved, folder))
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[key], wanted[key]) for key in found)
    np.testing.assert_array_equal(answers(saved), answers(folder))
    assert encoder.parameters == sum(p.numel() for p in encoder.model.parameters()) + 24 * 33 + 40 * 24


def test_a_classifier_made_of_it_has_none_of_its_layers(tiny_folder):
    assert load_classifier(str(write_layers(tiny_folder())), ["a", "b"]).dense == ()


def test_digests_are_of_the_layers_too(tiny_folder):
    folder = write_layers(tiny_folder())
    encoder = load_encoder(str(folder))
    doubled = (Dense(encoder.dense[0].linear.weight * 2, encoder.dense[0].linear.bias), encoder.dense[1])
    before = digest_of_source(str(folder))
    for where in (encoder.folder, Path("/dev/null")):
        seen = {weights_digest(replace(encoder, folder=where, dense=dense)) for dense in (encoder.dense, doubled, ())}
        assert len(seen) == 3
    save_file({"linear.weight": encoder.dense[1].linear.weight * 2}, folder / "3_Dense/model.safetensors")
    assert digest_of_source(str(folder)) != before


def settings(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "2_Dense/config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def weights(**changes: torch.Tensor | None) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "2_Dense/model.safetensors"
        tensors = load_file(path) | {f"linear.{name}": tensor for name, tensor in changes.items()}
        save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)

    return change


def modules(change: Callable[[list[dict[str, str]]], object]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        entries = json.loads((folder / "modules.json").read_text())
        change(entries)
        (folder / "modules.json").write_text(json.dumps(entries))

    return write


def _as_pickle(folder: Path) -> None:
    (folder / "2_Dense/model.safetensors").unlink()
    (folder / "2_Dense/pytorch_model.bin").write_bytes(pickle.dumps({}))


def _as_link(folder: Path) -> None:
    shutil.move(folder / "2_Dense/model.safetensors", folder.parent / "elsewhere")
    (folder / "2_Dense/model.safetensors").symlink_to(folder.parent / "elsewhere")


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "code for an activation": (settings(activation_function="os.system"), "activation_function"),
    "an activation that nobody asked for": (settings(activation_function="torch.nn.modules.Softmax"), "Identity, Tanh"),
    "an activation that is a list": (settings(activation_function=[TANH]), "activation_function"),
    "a layer on tokens": (settings(module_input_name="token_embeddings"), "module_input_name"),
    "a key that nobody knows": (settings(auto_map="evil.Dense"), "auto_map"),
    "a width that is text": (settings(out_features="24"), "out_features"),
    "a width without end": (settings(out_features=10**12), "linear.weight [1000000000000, 32]"),
    "a bias that is not there": (weights(bias=None), "linear.bias [24]"),
    "weights that nobody asked for": (weights(more=torch.ones(1)), "alone"),
    "a width before it": (settings(in_features=31), "takes vectors of 31, and those before it are of 32"),
    "a layer that is narrower": (weights(weight=torch.ones(24, 31)), "linear.weight [24, 32]"),
    "no numbers": (weights(bias=torch.full((24,), torch.nan)), "no number"),
    "bytes": (lambda folder: (folder / "2_Dense/model.safetensors").write_bytes(b"\xff") and None, "do not load"),
    "a pickle": (_as_pickle, "no model.safetensors"),
    "a link": (_as_link, "link"),
    "a folder elsewhere": (modules(lambda entries: entries[2].update(path="../other")), "leads out"),
    "the model's own folder": (modules(lambda entries: entries[2].update(path="")), "in_features"),
    "a name that no folder can have": (modules(lambda entries: entries[2].update(path="a" * 5000)), "cannot be read"),
    "a layer before the pooling": (modules(lambda entries: entries.insert(1, entries.pop(2))), "is not supported"),
    "layers without end": (modules(lambda entries: entries.extend([entries[2]] * 10_000)), "up to 8 Dense"),
}


@pytest.mark.parametrize(("change", "told"), REFUSED.values(), ids=REFUSED)
def test_what_a_stranger_may_have_put_there_is_refused_in_one_line(tiny_folder, change, told):
    folder = write_layers(tiny_folder(), ((24, True, TANH), (40, False, IDENTITY)))
    change(folder)
    with pytest.raises(Exception, match=r".") as caught:
        load_encoder(str(folder))
    assert caught.value.exit_code == 2
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_half_precision_is_read_in_fp32(tiny_folder):
    folder = write_layers(tiny_folder())
    path = folder / "3_Dense/model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path)
    assert load_encoder(str(folder)).dense[1].linear.weight.dtype == torch.float32


def test_another_task_of_the_folder_reads_no_layers(tiny_folder):
    folder = write_layers(tiny_folder())
    settings(activation_function="os.system")(folder)
    assert load_encoder(str(folder), task="feature-extraction").dense == ()
    with pytest.raises(TeacherError, match="activation_function"):
        load_encoder(str(folder))
