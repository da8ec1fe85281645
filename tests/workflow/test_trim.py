"""Fewer words: a folder of the model with them, a student that is distilled with them, and what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from homoexport.documents.artifact import DistilledManifest, TrimmedManifest, verify, vocabulary_of
from homoexport.documents.package import Prompts
from homoexport.documents.recipe import DistillSettings, TextSettings, TextSource, VocabularySettings
from homoexport.encoder import load_encoder
from homoexport.errors import RecipeError
from homoexport.shape import PartialShape
from homoexport.text.counts import count_tokens
from homoexport.text.prepare import prepare_text
from homoexport.workflow.distill import distill
from homoexport.workflow.export import export
from homoexport.workflow.job import open_job
from homoexport.workflow.trim import trim
from tests.conftest import sentence_vectors
from tests.pooling import write_modules
from tests.trimmed import write_windows, write_wordy_teacher


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return write_wordy_teacher(tmp_path / "teacher")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    return write_windows(tmp_path / "texts.txt")


def _text(path: Path) -> TextSettings:
    return TextSettings(sources=(TextSource(files=str(path)),), max_length=32, held_out=10)


def test_a_trimmed_model_answers_as_before_on_its_text(teacher, texts, tmp_path):
    manifest = trim(str(teacher), text=_text(texts), output=tmp_path / "out")
    found = verify(tmp_path / "out", TrimmedManifest)
    assert found == manifest
    words = found.details.vocabulary
    assert words.after < words.before == load_encoder(str(teacher)).model.config.vocab_size
    assert words.held_out.same == 1
    assert words.held_out.tokens_after == words.held_out.tokens_before
    before, after = (load_encoder(str(folder)) for folder in (teacher, tmp_path / "out"))
    assert after.model.config.vocab_size == words.after
    lines = texts.read_text().splitlines()[:20]
    torch.testing.assert_close(
        torch.tensor(sentence_vectors(after, lines)), torch.tensor(sentence_vectors(before, lines)), rtol=0, atol=1e-6
    )
    stock = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert max(stock(lines[0]).input_ids) < AutoModel.from_pretrained(tmp_path / "out").config.vocab_size
    assert stock("zebras").input_ids != []
    assert stock.unk_token_id not in stock("zebras").input_ids


def test_what_is_named_is_split_as_before(teacher, texts, tmp_path):
    (tmp_path / "names.txt").write_text("zebras\n")
    split = []
    for keep in (None, str(tmp_path / "names.txt")):
        out = tmp_path / f"out-{keep is None}"
        trim(str(teacher), text=_text(texts), output=out, vocabulary=VocabularySettings(keep=keep))
        split.append(AutoTokenizer.from_pretrained(out).tokenize("zebras"))
    assert split[1] == AutoTokenizer.from_pretrained(teacher).tokenize("zebras") != split[0]


def test_prompts_are_split_as_before(teacher, texts, tmp_path):
    write_modules(teacher, {})
    (teacher / "config_sentence_transformers.json").write_text('{"prompts": {"query": "zebras, "}}')
    trim(str(teacher), text=_text(texts), output=tmp_path / "out")
    trimmed = load_encoder(str(tmp_path / "out"))
    assert trimmed.prompts == Prompts(texts={"query": "zebras, "})
    assert trimmed.tokenizer.tokenize("zebras, ") == AutoTokenizer.from_pretrained(teacher).tokenize("zebras, ")


def test_a_student_with_fewer_words(teacher, texts, tmp_path):
    settings = DistillSettings(objective="sentence-embedding", method="one-shot", steps=3, batch_size=8)
    before = load_encoder(str(teacher)).model.config.vocab_size
    shape = PartialShape(hidden_size=16, intermediate_size=32, vocab_size=before - 30)
    manifest = distill(str(teacher), text=_text(texts), shape=shape, settings=settings, output=tmp_path / "student")
    found = verify(tmp_path / "student", DistilledManifest)
    assert found == manifest
    assert found.details.vocabulary is not None
    assert found.details.vocabulary.after <= before - 30
    student = load_encoder(str(tmp_path / "student"))
    assert student.model.config.vocab_size == found.details.vocabulary.after == len(student.tokenizer)
    assert found.details.embedding_parameters == student.model.config.vocab_size * 16


def test_packages_tell_how_many_words_were_left_out(teacher, texts, tmp_path):
    trimmed, student = tmp_path / "trimmed", tmp_path / "student"
    before = load_encoder(str(teacher)).model.config.vocab_size
    found = trim(str(teacher), text=_text(texts), output=trimmed, vocab_size=before - 30).details.vocabulary
    settings = DistillSettings(objective="sentence-embedding", method="repair", steps=1, batch_size=8)
    shape = PartialShape(hidden_size=16, intermediate_size=32)
    made = distill(str(trimmed), text=_text(texts), shape=shape, settings=settings, output=student)
    assert made.details.vocabulary == found
    package = tmp_path / "package"
    assert export(student, output=package, quantize="none", graph="standard", seconds=0.05).details.vocabulary == found
    assert f"{found.after} of {before} pieces stay" in (package / "README.md").read_text()
    assert vocabulary_of(student) == found
    assert vocabulary_of(package) is vocabulary_of(teacher) is vocabulary_of(tmp_path) is None


def test_students_of_one_run_have_the_same_words(teacher, texts):
    settings = DistillSettings(objective="sentence-embedding", method="homodistil", steps=8, batch_size=8)
    shapes = [PartialShape(hidden_size=width, vocab_size=size) for width, size in ((24, 200), (16, None))]
    with pytest.raises(RecipeError, match="students of one run have the same words"):
        open_job(str(teacher), text=_text(texts), settings=settings, seed=0, shapes=shapes)


def test_the_text_of_a_stream_is_counted_and_left_where_it_was(teacher, texts):
    tokenizer = load_encoder(str(teacher)).tokenizer
    counts = []
    for streaming in (False, True):
        corpus = prepare_text(_text(texts), tokenizer, objective="sentence-embedding", seed=0)
        if streaming:
            corpus = _Streamed(corpus)
        counts.append(count_tokens(corpus, len(tokenizer)))
        assert corpus.batch(0, 4) == corpus.batch(0, 4)
    assert counts[0].tolist() == counts[1].tolist()
    assert counts[0].sum() > 100


class _Streamed:
    """A corpus that is none of files."""

    def __init__(self, corpus):
        self.size, self.batch = corpus.size, corpus.batch
        self.state_dict, self.load_state_dict = corpus.state_dict, corpus.load_state_dict


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--vocab-size", "20"], "--vocab-size: 20 pieces are fewer than the"),
        (["--vocab-size", "99k"], "--vocab-size: 99000 pieces are no fewer than the 300"),
        (["--vocab-size", "300"], "--vocab-size: 300 pieces are no fewer than the 300 that its tokenizer has; give"),
        (["--vocab-size", "many"], "'many' is no count"),
        (["--keep", "no-such-file.txt"], "no-such-file.txt: no such file"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(homoexport, teacher, texts, tmp_path, flags, told):
    out = tmp_path / "out"
    outcome = homoexport("trim", teacher, "--data", texts, "--held-out", 10, "-o", out, *flags)
    assert outcome.code == 2
    assert told in outcome.err
    assert "\n" not in outcome.err.strip().splitlines()[-1]
    assert not out.exists()


def test_the_command(homoexport, teacher, texts, tmp_path):
    out = tmp_path / "out"
    size = load_encoder(str(teacher)).model.config.vocab_size - 20
    outcome = homoexport("trim", teacher, "--data", texts, "--held-out", 10, "--vocab-size", size, "-o", out, "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out)["details"]["vocabulary"]["after"] <= size
    assert homoexport("trim", teacher, "-o", out).code == 2
    assert homoexport("trim", teacher, "--data", texts, "-o", out).code == 2  # it exists
