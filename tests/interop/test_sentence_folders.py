"""Folders that sentence-transformers itself saves: its vectors and scores are the test of ours."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from homoexport.encoder import load_encoder, save_encoder
from homoexport.runtime.inference import open_package
from homoexport.stages.evaluate import torch_package
from homoexport.stages.measure import host_of
from homoexport.workflow.embed import embed
from tests.conftest import BERT_TINY
from tests.interop.test_loaders import in_order, with_random_head
from tests.pooling import move_inside
from tests.stages.export.conftest import export_package

pytestmark = [pytest.mark.interop, pytest.mark.weights]
TEXTS = ["A cat sat on the mat.", "The Committee met on Tuesday, and voted AGAINST the plan.", "Why?", "É"]
PAIRS = [("A cat sat.", "Where did the cat sit?"), ("Why?", "The committee met on Tuesday and voted against it.")]
POOLINGS = [
    "cls",
    "max",
    "mean",
    "mean_sqrt_len_tokens",
    "weightedmean",
    "lasttoken",
    ("cls", "mean"),
    ("lasttoken", "max"),
]


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """The packaged tiny BERT, without a head and without modules."""
    folder = tmp_path_factory.mktemp("bare")
    encoder = load_encoder(BERT_TINY, task="feature-extraction")
    encoder.model.save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)
    return folder


def saved(bare: Path, folder: Path, pooling: object, *, dense: bool = False, **more: object) -> Path:
    """A folder as sentence-transformers saves it; the judge's own modules, nothing of ours."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

    torch.manual_seed(0)
    include = {"include_prompt": more.pop("include_prompt", True)}
    modules = [Transformer(str(bare)), Pooling(128, pooling_mode=pooling, **include)]
    if dense:
        modules.append(Dense(modules[-1].get_embedding_dimension(), 64))
    SentenceTransformer(modules=[*modules, Normalize()], device="cpu", **more).save(str(folder))
    return folder


def package_of(source: Path, out: Path) -> Path:
    here = host_of("cpu")
    encoder = load_encoder(str(source))
    return export_package(encoder, out_dir=out, rank=in_order, quantize="none", graph="standard", target=here)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
def test_every_pooling_gives_its_vectors(bare, tmp_path, pooling, dense):
    from sentence_transformers import SentenceTransformer

    folder = saved(bare, tmp_path / "source", pooling, dense=dense)
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    encoder = load_encoder(str(folder))
    np.testing.assert_allclose(torch_package(encoder).embed(TEXTS), expected, atol=1e-5)
    (tmp_path / "student").mkdir()
    save_encoder(encoder, encoder.model, tmp_path / "student")
    again = SentenceTransformer(str(tmp_path / "student"), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(again, expected, atol=1e-5)


@pytest.mark.parametrize("include_prompt", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_package_has_its_prompts_and_pools_them_or_not(bare, tmp_path, include_prompt):
    from sentence_transformers import SentenceTransformer

    prompts = {"query": "Represent the question: ", "passage": "passage: "}
    more = {"prompts": prompts, "default_prompt_name": "passage", "include_prompt": include_prompt}
    folder = saved(bare, tmp_path / "source", ("weightedmean", "cls"), dense=True, **more)
    judge = SentenceTransformer(str(folder), device="cpu")
    package = package_of(folder, tmp_path / "package")
    of_onnx = SentenceTransformer(str(package), backend="onnx")
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    for name in (None, *prompts):
        expected = judge.encode(TEXTS, prompt_name=name)
        np.testing.assert_allclose(open_package(package).embed(TEXTS, prompt=name), expected, atol=1e-4)
        np.testing.assert_allclose(of_onnx.encode(TEXTS, prompt_name=name), expected, atol=1e-4)
        out = tmp_path / "vectors.npy"
        embed(package, data=str(tmp_path / "texts.jsonl"), output=out, batch_size=2, streams=2, prompt=name)
        np.testing.assert_allclose(np.load(out), expected, atol=1e-4)
    assert np.abs(judge.encode(TEXTS) - judge.encode(TEXTS, prompt="")).max() > 0.01


@pytest.mark.parametrize("name", ["sentence_bert_config.json", "sentence_distilbert_config.json"])
def test_a_cased_tokenizer_is_lower_cased_as_it_does(bare, tmp_path, name):
    from sentence_transformers import SentenceTransformer

    cased = tmp_path / "cased"
    shutil.copytree(bare, cased)
    AutoTokenizer.from_pretrained(cased, do_lower_case=False).save_pretrained(cased)
    folder = saved(cased, tmp_path / "source", "mean")
    assert not json.loads((folder / "tokenizer.json").read_text())["normalizer"]["lowercase"]
    (folder / "sentence_bert_config.json").unlink()
    plain = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    (folder / name).write_text(json.dumps({"max_seq_length": 8, "do_lower_case": True}))
    judge = SentenceTransformer(str(folder), device="cpu")
    expected = judge.encode(TEXTS)
    assert np.abs(plain - expected).max() > 0.01
    package = package_of(folder, tmp_path / "package")
    np.testing.assert_allclose(open_package(package).embed(TEXTS), expected, atol=1e-4)
    np.testing.assert_allclose(SentenceTransformer(str(package), backend="onnx").encode(TEXTS), expected, atol=1e-4)
    tokens = AutoTokenizer.from_pretrained(package)(TEXTS, truncation=True)["input_ids"]
    assert tokens == [judge.tokenizer(text, truncation=True)["input_ids"] for text in TEXTS]


@pytest.mark.parametrize("side", ["left", "right"])
def test_long_texts_are_cut_on_the_same_side(bare, tmp_path, side):
    from sentence_transformers import SentenceTransformer

    folder = saved(bare, tmp_path / "source", "mean")
    AutoTokenizer.from_pretrained(folder, truncation_side=side).save_pretrained(folder)
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 6}))
    judge = SentenceTransformer(str(folder), device="cpu")
    assert judge.tokenizer.truncation_side == side
    package = package_of(folder, tmp_path / "package")
    np.testing.assert_allclose(open_package(package).embed(TEXTS), judge.encode(TEXTS), atol=1e-4)
    of_onnx = SentenceTransformer(str(package), backend="onnx")
    np.testing.assert_allclose(of_onnx.encode(TEXTS), judge.encode(TEXTS), atol=1e-4)


def test_a_cross_encoder_that_it_saves_gives_its_scores(tmp_path):
    from sentence_transformers import CrossEncoder

    with_random_head("text-classification", tmp_path / "head")
    CrossEncoder(str(tmp_path / "head"), device="cpu").save(str(tmp_path / "source"))
    modules = json.loads((tmp_path / "source/modules.json").read_text())
    assert [module["type"].rsplit(".", 1)[-1] for module in modules] == ["Transformer"]
    judge = CrossEncoder(str(tmp_path / "source"), device="cpu")
    expected = judge.predict(PAIRS, activation_fn=torch.nn.Identity())
    package = package_of(tmp_path / "source", tmp_path / "package")
    assert open_package(package).details.labels == ("bad", "middling", "good")
    np.testing.assert_allclose(np.stack(open_package(package).logits(PAIRS)), expected, atol=1e-3)


def test_an_older_folder_whose_model_lies_in_one_of_its_own(bare, tmp_path):
    from sentence_transformers import SentenceTransformer

    folder = saved(bare, tmp_path / "source", "mean")
    move_inside(folder, "0_Transformer")
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(torch_package(load_encoder(str(folder))).embed(TEXTS), expected, atol=1e-5)
