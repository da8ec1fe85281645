"""The beginning of a text says what reading all of it would say."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from homoexport.documents.recipe import TextSettings, TextSource
from homoexport.errors import TextError
from homoexport.text.prepare import prepare_text
from homoexport.text.sample import read_sample, sample_text
from homoexport.text.sequences import Sequencer


@pytest.fixture
def text(tmp_path, sentence):
    """Settings for files of so many lines each; duplicates of the first line end each."""

    def write(*counts: int, held_out: int = 5) -> TextSettings:
        sources = []
        for number, count in enumerate(counts):
            lines = [sentence() for _ in range(count)]
            path = tmp_path / f"{number}.txt"
            path.write_text("\n".join([*lines, lines[0]]))
            sources.append(TextSource(files=str(path)))
        return TextSettings(sources=tuple(sources), max_length=16, held_out=held_out)

    return write


def sequencers(settings, tokenizer, objective="sentence-embedding"):
    return [Sequencer(objective, tokenizer, settings, source) for source in settings.sources]


@pytest.mark.parametrize("objective", ["sentence-embedding", "masked-lm"])
def test_of_short_texts_it_is_the_corpus(tmp_path, tokenizer, text, objective):
    settings = text(40, 7)
    sample = sample_text(sequencers(settings, tokenizer, objective), settings, batch_size=4)
    corpus = prepare_text(settings, tokenizer, objective=objective, seed=0, cache_dir=tmp_path / "cache")
    assert sample.is_whole
    assert sample.sequences() == corpus.size + settings.held_out
    assert sample.tokens() * sample.sequences() == pytest.approx(
        corpus.description.tokens + sum(len(example.input_ids) for example in corpus.held_out)
    )
    assert [source.looked_at for source in sample.sources] == [41, 8]
    assert [row["text"].strip() for row in sample.sources[1].rows] == Path(tmp_path / "1.txt").read_text().splitlines()[
        :3
    ]


def test_of_long_ones_it_is_enough_and_says_how_much_there_is(tokenizer, text):
    settings = text(3000, 500, held_out=50)
    sample = sample_text(sequencers(settings, tokenizer), settings, batch_size=32)
    assert not sample.is_whole
    assert all(0 < source.looked_at <= 100 for source in sample.sources)
    assert len(sample.columns["key"]) == len(set(sample.columns["key"])) >= 82
    assert sample.sequences() == pytest.approx(3500, rel=0.1)
    assert sample.seconds() > sum(source.seconds for source in sample.sources)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_other_columns_are_no_text(tmp_path, tokenizer, sentence, kind):
    """How much there is, of a file whose texts are a small part of it, is told all the same."""
    rows = [{"text": sentence(), "page": f"{number} " + "x" * 300} for number in range(2000)]
    path = tmp_path / f"rows.{kind}"
    if kind == "csv":
        path.write_text("\n".join(["text,page", *(f"{row['text']},{row['page']}" for row in rows)]))
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    settings = TextSettings(sources=(TextSource(files=str(path)),), max_length=16, held_out=50)
    sample = sample_text(sequencers(settings, tokenizer), settings, batch_size=32)
    assert not sample.is_whole
    assert sample.sequences() == pytest.approx(2000, rel=0.1)


@pytest.mark.parametrize(
    ("count", "held_out", "batch_size", "said"),
    [
        (20, 30, 4, "20 different sequences, and text.held_out keeps 30"),
        (20, 10, 16, "10 training sequences are fewer than one batch of 16"),
    ],
)
def test_too_little_is_told_as_it_is_told_later(tmp_path, tokenizer, text, count, held_out, batch_size, said):
    settings = text(count, held_out=held_out)
    with pytest.raises(TextError, match=said) as told:
        sample_text(sequencers(settings, tokenizer), settings, batch_size=batch_size)
    if batch_size == 4:
        with pytest.raises(TextError) as later:
            prepare_text(settings, tokenizer, objective="sentence-embedding", seed=0, cache_dir=tmp_path / "cache")
        assert str(later.value) == str(told.value)


def test_a_source_without_text_is_told(tmp_path, tokenizer, text):
    settings = text(30)
    (tmp_path / "short.txt").write_text("w1 w2\nw3\n")  # fewer words than a sentence has
    both = settings.model_copy(update={"sources": (*settings.sources, TextSource(files=str(tmp_path / "short.txt")))})
    with pytest.raises(TextError, match=r"short\.txt: holds no text for training"):
        sample_text(sequencers(both, tokenizer), both, batch_size=4)


def test_labels_are_read_as_training_reads_them(tmp_path, tokenizer):
    rows = [{"text": f"w{number} w2 w3", "label": number % 2} for number in range(30)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    source = TextSource(files=str(path), label_column="label")
    settings = TextSettings(sources=(source,), held_out=3)
    found = read_sample([Sequencer("classification", tokenizer, settings, source, {"no": 0, "yes": 1})], wanted=9)
    assert found.columns["labels"] == [number % 2 for number in range(30)]
    with pytest.raises(TextError, match="label '1' is not known"):
        read_sample([Sequencer("classification", tokenizer, settings, source, {"no": 0})], wanted=9)


def test_a_small_corpus_has_texts_of_all_lengths(tokenizer, text):
    settings = text(200, held_out=20)
    sample = sample_text(sequencers(settings, tokenizer), settings, batch_size=4)
    corpus = sample.corpus(settings, sequences=12, held_out=3)
    assert (corpus.size, len(corpus.held_out)) == (12, 3)
    lengths = sorted(len(example.input_ids) for example in [*corpus.batch(0, 12), *corpus.held_out])
    everything = sorted(map(len, sample.columns["input_ids"]))
    assert (lengths[0], lengths[-1]) == (everything[0], everything[-1])
    assert sum(lengths) / 15 == pytest.approx(sample.tokens(), rel=0.1)
