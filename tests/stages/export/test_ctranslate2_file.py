"""The folder for CTranslate2 beside the ONNX file: what it answers, who runs it, and what it cannot hold."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import ctranslate2
import numpy as np
import pytest
import torch

from homoexport.documents.artifact import PackageManifest, verify
from homoexport.documents.package import RUNTIME_FILES, Pooling
from homoexport.encoder import Dense, torch_answers
from homoexport.errors import PackageError, ParityError, UserError
from homoexport.runtime.ctranslate2_session import CTranslate2Session
from homoexport.runtime.inference import open_package
from homoexport.runtime.vectors import cosines
from homoexport.schemes import schemes_in
from homoexport.stages.export.ctranslate2_file import CTRANSLATE2, write_folder
from homoexport.stages.measure import answers_of_file
from tests.conftest import export_graphs_once, sentence_vectors, shared_folder
from tests.stages.export.conftest import export_package

TEXTS = ["w3 w4 w5 w6 w7", "w8", "w9 w10 w11"]
STATES = "last_hidden_state"
run_here = partial(answers_of_file, device="cpu", pad_token_id=0, output="sentence_embedding")


def exported(encoder, out, *, ratio=0.5, answer=run_here, **settings):
    """A package whose files for CTranslate2 take so many times as long as the ONNX file."""
    beside = {"openvino": "it is not there", "ctranslate2": answer}
    options = {"runtime": "auto", "graph": "unfused", "quantize": "int8", "beside": beside, **settings}
    texts = [f"w{number} w{number + 1} w7" for number in range(40)]
    rank = lambda files: [ratio if file.suffix == ".bin" else 1.0 for file in files]  # noqa: E731
    return export_package(encoder, out_dir=out, rank=rank, texts=texts, **options)


@pytest.fixture(scope="module")
def package(tiny_encoder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        export_graphs_once(patch, shared_folder(tmp_path_factory))
        return exported(tiny_encoder("sentence-similarity"), tmp_path_factory.mktemp("made") / "package")


@pytest.fixture(scope="module")
def folder(tiny_encoder, tmp_path_factory):
    """The model in floats, as CTranslate2 opens it."""
    work = tmp_path_factory.mktemp("work")
    return write_folder(tiny_encoder("sentence-similarity"), work / "ctranslate2", "fp32", work=work).parent


def test_it_lies_beside_the_onnx_file_and_answers_as_torch_does(package, tiny_encoder):
    details = verify(package, PackageManifest).details
    beside = details.ctranslate2
    assert (beside.candidate, beside.precision, beside.latency_p50_ms, beside.onnx_latency_p50_ms) == (
        "int8",
        "int8",
        0.5,
        1.0,
    )
    assert beside.parity.passed
    assert beside.version == ctranslate2.__version__
    assert beside.file_bytes == sum((package / name).stat().st_size for name in RUNTIME_FILES["ctranslate2"])
    assert details.left_out["openvino"] == "it is not there"
    assert "is the same model for CTranslate2" in (package / "README.md").read_text()
    vectors = open_package(package, runtime="ctranslate2").embed(TEXTS)
    assert cosines(vectors, sentence_vectors(tiny_encoder("sentence-similarity"), TEXTS)).min() > 0.99


@pytest.mark.parametrize("name", RUNTIME_FILES["ctranslate2"])
def test_a_package_without_one_of_its_files_is_refused(package, tmp_path, name):
    copy = tmp_path / "package"
    shutil.copytree(package, copy)
    (copy / name).unlink()
    with pytest.raises(PackageError, match=f"{name}: is missing"):
        open_package(copy, runtime="ctranslate2")


def test_where_it_is_slower_the_package_says_so(tiny_encoder, tmp_path):
    made = exported(tiny_encoder("sentence-similarity"), tmp_path / "package", ratio=1.5, embeddings="int8")
    left_out = verify(made, PackageManifest).details.left_out
    assert left_out["openvino"] == "it is not there"
    assert left_out["ctranslate2"].startswith("takes 1.50 times as long as unfused")
    assert not (made / "ctranslate2").exists()
    with pytest.raises(
        PackageError, match=r"no file for CTranslate2 \(left out: takes 1.50 times as long as .*export it with"
    ):
        open_package(made, runtime="ctranslate2")


def test_words_in_fewer_bits_than_weights_are_refused(tiny_encoder, tmp_path):
    with pytest.raises(ParityError, match=r"nothing in CTranslate2 .*tables are stored as its weights are, in int8"):
        exported(tiny_encoder("sentence-similarity"), tmp_path / "package", runtime="ctranslate2", embeddings="int4")


def test_ctranslate2_itself_gives_the_states_of_torch(folder, tiny_encoder):
    encoder = tiny_encoder("sentence-similarity")
    tokens = encoder.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = encoder.model(**tokens).last_hidden_state.numpy()
    counted = tokens["attention_mask"].bool().numpy()
    rows = [ids[mask].tolist() for ids, mask in zip(tokens["input_ids"].numpy(), counted, strict=True)]
    states = np.asarray(ctranslate2.Encoder(str(folder)).forward_batch(rows).last_hidden_state)
    np.testing.assert_allclose(states[counted], expected[counted], atol=1e-4)


def test_what_it_would_compute_something_else_for_is_refused(folder):
    session = CTranslate2Session(folder / "model.bin", threads=1)
    ids = np.array([[2, 5, 6, 3], [2, 7, 3, 0]])
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0]])
    feeds = {"input_ids": ids, "attention_mask": mask}
    (vectors,) = session.run(["sentence_embedding"], feeds)
    (again,) = session.run(["sentence_embedding"], feeds | {"token_type_ids": np.zeros_like(ids)})
    np.testing.assert_array_equal(vectors, again)
    left, holes, nothing = mask[:, ::-1], np.array([[1, 0, 1, 1], [1, 1, 1, 0]]), np.zeros_like(mask)
    for wrong, said in [
        *(({"attention_mask": other}, "is 1 from the first position") for other in (left, holes, nothing)),
        ({"input_ids": ids + 99}, "a token's id is outside of the 100"),
        ({"input_ids": ids - 3}, "a token's id is outside"),
        ({"token_type_ids": ids}, "a token type's id is outside"),
    ]:
        with pytest.raises(ValueError, match=said):
            session.run(["sentence_embedding"], feeds | wrong)
    with pytest.raises(ValueError, match="there is no output 'logits'"):
        session.run(["logits"], feeds)


def test_ctranslate2_is_waited_for_no_longer_than_the_limit(folder, monkeypatch):
    session = CTranslate2Session(folder / "model.bin", threads=1)
    monkeypatch.setattr(session, "_model", SimpleNamespace(run=lambda *_: time.sleep(5)))
    monkeypatch.setenv("HOMOEXPORT_LIMITS", "answer_seconds=1")
    with pytest.raises(TimeoutError, match="no answer within 1 seconds"):
        session.run(["sentence_embedding"], {"input_ids": np.ones((1, 4), np.int64)})


@pytest.mark.parametrize("mode", ["mean", "cls", "lasttoken"])
@pytest.mark.parametrize("normalize", [True, False])
def test_every_pooling_and_the_layers_behind_it(tiny_encoder, tmp_path, mode, normalize):
    torch.manual_seed(1)
    layers = tuple(
        Dense(torch.randn(32, 32), bias, activation=f"torch.nn.modules.{name}")
        for name, bias in (
            ("activation.GELU", None),
            ("activation.Sigmoid", torch.randn(32)),
            ("linear.Identity", None),
        )
    )
    pooling = Pooling(mode=mode, normalize=normalize)
    encoder = replace(tiny_encoder("sentence-similarity"), pooling=pooling, dense=layers)
    file = write_folder(encoder, tmp_path / "ctranslate2", "fp32", work=tmp_path)
    tokens = encoder.tokenizer(TEXTS, padding=True, return_tensors="pt")
    expected = torch_answers(encoder, tokens)["sentence_embedding"].numpy()
    feeds = {name: value.numpy() for name, value in tokens.items()}
    (vectors,) = CTranslate2Session(file, threads=1).run(["sentence_embedding"], feeds)
    np.testing.assert_allclose(vectors, expected, rtol=1e-3, atol=1e-4)


def test_what_it_cannot_hold_is_told_before_anything_is_made(tiny_encoder, tmp_path):
    encoder = tiny_encoder("fill-mask")
    with pytest.raises(UserError, match=r"export.runtime: CTranslate2 gives states alone, .* fill-mask") as raised:
        exported(encoder, tmp_path / "package", runtime="ctranslate2")
    assert raised.value.exit_code == 2
    for config, said in [
        ({"model_type": "modernbert"}, "no encoder of the family modernbert"),
        ({"model_type": "bert", "position_embedding_type": "relative_key"}, "no relative_key position embeddings"),
    ]:
        model = SimpleNamespace(config=SimpleNamespace(**config))
        assert said in CTRANSLATE2.why_not(replace(encoder, model=model))


def test_schemes_in_ctranslate2():
    expected = {"auto": ("int8", "fp32"), "int8": ("int8",), "none": ("fp32",), "int4": ()}
    assert {asked: schemes_in("ctranslate2", asked, calibrated=True) for asked in expected} == expected
