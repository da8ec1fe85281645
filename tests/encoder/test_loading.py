"""Loading teachers: what is found, what is refused, and that a saved student is a stock model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertConfig, BertModel, ElectraForPreTraining, GPT2Config
from transformers.utils import logging

from homoexport.documents import artifact
from homoexport.encoder import (
    Pooling,
    family_of,
    load_encoder,
    read_sentence_settings,
    save_encoder,
    save_tokenizer,
    slice_model,
)
from homoexport.errors import PackageError, TeacherError
from tests.conftest import BERT_TINY, FAMILY_CONFIGS, MINILM, tiny_model, tiny_tokenizer
from tests.encoder.oracle import outputs, random_keep
from tests.pooling import write_modules


@pytest.mark.weights
def test_packaged_teachers_say_what_they_are_for():
    minilm, tiny = load_encoder(MINILM), load_encoder(BERT_TINY)
    assert (minilm.task, minilm.pooling) == ("sentence-similarity", Pooling(mode="mean", normalize=True))
    assert (tiny.task, tiny.pooling) == ("fill-mask", None)
    assert family_of(tiny.model.config).widths(tiny.model).as_json() == {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_attention_heads": 2,
        "head_dim": 64,
        "num_hidden_layers": 2,
    }


def test_saved_student_is_stock_where_homoexport_cannot_be_imported(tiny_folder, tmp_path, token_batch):
    encoder = load_encoder(str(tiny_folder()), task="sentence-similarity")
    model, family = encoder.model, family_of(encoder.model.config)
    slice_model(model, family, random_keep(model, 16, 24, 4, 4))
    family.write_config(model.config, family.widths(model).shape)
    student = tmp_path / "student"
    student.mkdir()
    save_encoder(encoder, model, student, max_length=32)
    with torch.no_grad():
        expected = model(**token_batch).last_hidden_state
    torch.save({"batch": token_batch, "expected": expected}, tmp_path / "expected.pt")
    script = (
        "import sys, torch\n"
        "sys.modules['homoexport'] = None\n"
        "from transformers import AutoModel, AutoTokenizer\n"
        f"saved = torch.load({str(tmp_path / 'expected.pt')!r})\n"
        f"model = AutoModel.from_pretrained({str(student)!r})\n"
        f"tokens = AutoTokenizer.from_pretrained({str(student)!r})('w1 w2')['input_ids']\n"
        "assert tokens == [2, 6, 7, 3], tokens\n"
        "difference = (model.eval()(**saved['batch']).last_hidden_state - saved['expected']).abs().max().item()\n"
        "print(difference, model.config.hidden_size, model.config.intermediate_size)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    difference, hidden, ffn = done.stdout.split()
    assert (float(difference) < 1e-6, hidden, ffn) == (True, "16", "24")
    assert load_encoder(str(student)).pooling == Pooling(mode="mean", normalize=True)


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _config_of_gpt2(folder: Path) -> None:
    GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=100).save_pretrained(folder)


def _config_garbled(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _only_onnx(folder: Path) -> None:
    (folder / "onnx").mkdir()
    (folder / "model.safetensors").rename(folder / "onnx/model.onnx")


def _truncate_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def _lose_a_weight(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors.pop("encoder.layer.0.output.dense.weight")
    save_file(tensors, path, metadata={"format": "pt"})


def _decoder(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "is_decoder": True}))


def _relative_positions(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "position_embedding_type": "relative_key"}))


def _question_answering(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertForQuestionAnswering"]}))


def _no_pad_token(folder: Path) -> None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            settings = json.loads((folder / name).read_text())
            settings.pop("pad_token", None)
            (folder / name).write_text(json.dumps(settings))


def _small_table(folder: Path) -> None:
    torch.manual_seed(0)
    config = BertConfig.from_pretrained(folder)
    config.vocab_size = 20
    BertModel(config).save_pretrained(folder)


def _other_width(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))


def _other_heads(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_attention_heads": 7}))


def _half_a_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text()[:200])


def _only_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("{}")


def _no_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_no_config, "is not a model: it has no config.json"),
        (_config_garbled, "config"),
        (_config_of_gpt2, "weights are missing"),
        (_truncate_weights, r"model\.safetensors: its weights do not load, .*; copy or download it again"),
        (_only_onnx, "has a graph for onnxruntime, no weights for torch, and no manifest.json that makes it a package"),
        (_lose_a_weight, "weights are missing .encoder.layer.0.output.dense.weight."),
        (_other_width, r"layer.0.intermediate.dense.bias is not 48 in its weights, as its config.json says"),
        (_other_heads, "no model can be made of its config.json"),
        (_half_a_tokenizer, "its tokenizer.json does not load"),
        (_only_a_file, "is a file, not a model's folder"),
        (_no_tokenizer, "add tokenizer.json to the folder"),
        (_no_pad_token, "its tokenizer has no padding token"),
        (_small_table, "its tokenizer's ids go up to 99 and the model knows 20 tokens"),
        (_decoder, "is a decoder"),
        (_relative_positions, "its positions are 'relative_key'"),
        (_question_answering, "the head of a BertForQuestionAnswering is not supported"),
        (shutil.rmtree, "no such model folder"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_bad_teachers_are_refused_in_one_line(tiny_folder, damage, words):
    folder = tiny_folder()
    damage(folder)
    with pytest.raises(TeacherError, match=words) as caught:
        load_encoder(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["./nowhere", "../nowhere", "nowhere/at/all", "no where"])
def test_folder_that_is_not_there_is_told_as_such(name):
    with pytest.raises(TeacherError, match="no such model folder"):
        load_encoder(name)


def test_teacher_without_masked_lm_head_is_refused(tiny_folder):
    with pytest.raises(TeacherError, match="no masked-LM head"):
        load_encoder(str(tiny_folder()), task="fill-mask")


TASKS = {
    "model": "feature-extraction",
    "masked-lm": "fill-mask",
    "sequence": "text-classification",
    "token": "token-classification",
}
HEADS = {
    "masked-lm": "masked-LM head",
    "sequence": "sequence-classification head",
    "token": "token-classification head",
}


def _write(folder: Path, kind: str, head: str) -> str:
    torch.manual_seed(0)
    tiny_model(kind, head).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("head", TASKS)
@pytest.mark.parametrize("kind", FAMILY_CONFIGS)
def test_every_family_loads_with_the_head_that_it_was_saved_with(kind, head, tmp_path, token_batch):
    encoder = load_encoder(_write(tmp_path, kind, head))
    assert encoder.task == TASKS[head]
    torch.manual_seed(0)
    expected = outputs(tiny_model(kind, head), token_batch)
    torch.testing.assert_close(outputs(encoder.model, token_batch), expected, rtol=0, atol=1e-6)
    longest = family_of(encoder.model.config).longest_sequence(encoder.model)
    assert encoder.tokenizer.model_max_length == min(64, longest)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kind", FAMILY_CONFIGS)
def test_a_head_that_is_not_in_the_folder_is_refused(kind, head, tmp_path):
    with pytest.raises(TeacherError, match=f"it has no {HEADS[head]}"):
        load_encoder(_write(tmp_path, kind, "model"), task=TASKS[head])


@pytest.mark.parametrize("kind", FAMILY_CONFIGS)
def test_a_tokenizers_class_has_a_name_that_transformers_4_knows_too(kind, tmp_path):
    encoder = load_encoder(_write(tmp_path / "teacher", kind, "model"))
    (tmp_path / "student").mkdir()
    save_encoder(encoder, encoder.model, tmp_path / "student")
    name = json.loads((tmp_path / "student/tokenizer_config.json").read_text())["tokenizer_class"]
    assert name != "TokenizersBackend"
    again = AutoTokenizer.from_pretrained(tmp_path / "student")
    assert again("w3 w5 w8")["input_ids"] == encoder.tokenizer("w3 w5 w8")["input_ids"]


@pytest.mark.parametrize(("saved", "wanted"), [("sequence", "token"), ("token", "sequence")])
@pytest.mark.parametrize("kind", FAMILY_CONFIGS)
def test_a_classifier_of_the_other_kind_is_refused_though_its_weights_would_fit(kind, saved, wanted, tmp_path):
    with pytest.raises(TeacherError, match=f"which is for {TASKS[saved]}, not {TASKS[wanted]}"):
        load_encoder(_write(tmp_path, kind, saved), task=TASKS[wanted])


@pytest.mark.parametrize("kind", FAMILY_CONFIGS)
def test_a_pooler_and_old_buffers_do_no_harm(kind, tmp_path, token_batch):
    """What a folder lacks of the pooler, and what it has too much of, changes no hidden state."""
    folder = Path(_write(tmp_path, kind, "model"))
    expected = outputs(load_encoder(str(folder)).model, token_batch)
    tensors = {name: value for name, value in load_file(folder / "model.safetensors").items() if "pooler" not in name}
    tensors["embeddings.position_ids"] = torch.arange(64)[None]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    torch.testing.assert_close(outputs(load_encoder(str(folder)).model, token_batch), expected, rtol=0, atol=1e-6)


def test_a_classifier_needs_its_pooler(tmp_path):
    folder = Path(_write(tmp_path, "bert", "sequence"))
    tensors = {name: value for name, value in load_file(folder / "model.safetensors").items() if "pooler" not in name}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TeacherError, match="weights are missing"):
        load_encoder(str(folder))


def test_a_discriminator_has_no_masked_lm_head(tmp_path):
    torch.manual_seed(0)
    ElectraForPreTraining(tiny_model("electra").config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert load_encoder(str(tmp_path)).task == "feature-extraction"


def test_package_that_is_not_installed_is_named():
    with pytest.raises(TeacherError, match="'no-such-dist' is not installed"):
        load_encoder("package:no-such-dist/model")


def test_modules_of_a_sentence_encoder_that_would_be_lost_are_refused(tiny_folder):
    folder = tiny_folder()
    kinds = ["Transformer", "Pooling", "LSTM", "Normalize"]
    modules = [{"path": "", "type": f"sentence_transformers.models.{kind}"} for kind in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(TeacherError, match="Transformer, Pooling, LSTM, Normalize is not supported"):
        load_encoder(str(folder))
    (folder / "modules.json").write_text(json.dumps(modules[:2]))
    assert load_encoder(str(folder)).pooling == Pooling(mode="mean", normalize=False)


def test_settings_of_a_sentence_encoder_that_are_no_json_are_named(tiny_folder):
    folder = tiny_folder()
    (folder / "sentence_bert_config.json").write_text("{")
    with pytest.raises(TeacherError, match=r"sentence_bert_config\.json: is no JSON"):
        read_sentence_settings(folder)


def test_pooling_that_is_not_supported_is_named(tiny_folder):
    folder = tiny_folder()
    (folder / "modules.json").write_text("[]")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_median": True}))
    with pytest.raises(TeacherError, match="pooling median is not supported"):
        load_encoder(str(folder))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(value, tmp_path):
    folder = Path(_write(tmp_path, "bert", "model"))
    tensors = load_file(folder / "model.safetensors")
    name = "encoder.layer.0.output.dense.weight"
    tensors[name][0, 0] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TeacherError, match=f"{name} holds what is no number") as raised:
        load_encoder(str(folder))
    assert raised.value.exit_code == 2


def test_loading_shows_no_bar_and_leaves_the_bars_as_they_were(tiny_folder, capfd):
    folder = str(tiny_folder())
    logging.enable_progress_bar()
    try:
        load_encoder(folder)
        assert logging.is_progress_bar_enabled()
    finally:
        logging.disable_progress_bar()
    assert capfd.readouterr() == ("", "")


def test_what_a_tokenizer_gives_a_model_is_named(tmp_path):
    """What transformers has by default depends on its release, and ModernBERT refuses token types."""
    tokenizer = tiny_tokenizer()
    save_tokenizer(tokenizer, tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["model_input_names"] == list(tokenizer("w1"))


@pytest.mark.parametrize("has_modules", [True, False])
def test_a_folder_is_searched_for_links_once(tiny_folder, monkeypatch, has_modules):
    folder, searched = tiny_folder(), []
    if has_modules:
        write_modules(folder, {})
    contents = artifact.contents
    monkeypatch.setattr(artifact, "contents", lambda *a, **k: searched.append(a) or contents(*a, **k))
    load_encoder(str(folder))
    assert len(searched) == 1
    (folder / "vocab.txt").symlink_to("/etc/passwd")
    with pytest.raises(PackageError, match=r"vocab\.txt: is a link"):
        load_encoder(str(folder))
