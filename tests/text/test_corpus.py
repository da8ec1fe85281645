from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest
import yaml
from transformers import PreTrainedTokenizerFast

from homoexport.documents.recipe import TextSettings, TextSource
from homoexport.errors import TextError
from homoexport.text.corpus import Corpus, locate_position, require_batch
from homoexport.text.example import Example
from homoexport.text.prepare import prepare_text
from tests.snippets import snippets

Sentence = Callable[[], str]


def _write(path: Path, sentence: Sentence, count: int) -> list[str]:
    sentences = [sentence() for _ in range(count)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps({"text": text}) for text in sentences))
    return sentences


def _settings(*sources: TextSource, held_out: int = 10) -> TextSettings:
    return TextSettings(sources=sources, max_length=16, held_out=held_out)


def _prepare(settings: TextSettings, tokenizer: PreTrainedTokenizerFast, cache: Path, seed: int = 0) -> Corpus:
    return prepare_text(settings, tokenizer, objective="sentence-embedding", seed=seed, cache_dir=cache)


def _counts(examples: list[Example]) -> Counter[tuple[int, ...]]:
    return Counter(tuple(example.input_ids) for example in examples)


@pytest.mark.parametrize("weights", [[1.0], [1.0, 1.0], [3.0, 1.0], [0.2, 5.0, 1.0], [1e-3, 1.0, 1.0, 2.5]])
def test_positions_are_dealt_out_by_weight(weights: list[float]) -> None:
    places = [locate_position(position, weights) for position in range(4000)]
    for source, weight in enumerate(weights):
        ordinals = [ordinal for chosen, ordinal in places if chosen == source]
        assert ordinals == list(range(len(ordinals)))
        share = weight / sum(weights)
        for end in range(0, 4000, 123):
            assert abs(sum(chosen == source for chosen, _ in places[:end]) - share * end) <= len(weights)


def test_an_epoch_is_each_sequence_once(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, sentence: Sentence) -> None:
    _write(tmp_path / "a.jsonl", sentence, 110)
    corpus = _prepare(_settings(TextSource(files=str(tmp_path / "a.jsonl"))), tokenizer, tmp_path)
    assert corpus.size == 100
    epochs = [list(chain.from_iterable(corpus.batch(step, 20) for step in range(5 * e, 5 * e + 5))) for e in range(2)]
    assert epochs[0] != epochs[1]
    assert _counts(epochs[0]) == _counts(epochs[1])
    assert set(_counts(epochs[0]).values()) == {1}
    assert not _counts(epochs[0]) & _counts(corpus.held_out)


def test_a_batch_depends_on_seed_and_step_alone(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, sentence: Sentence
) -> None:
    _write(tmp_path / "a.jsonl", sentence, 60)
    _write(tmp_path / "b.jsonl", sentence, 25)
    sources = [TextSource(files=str(tmp_path / "a.jsonl")), TextSource(files=str(tmp_path / "b.jsonl"), weight=0.5)]
    first, second = (_prepare(_settings(*sources), tokenizer, tmp_path / name) for name in "xy")
    wanted = [first.batch(step, 12) for step in range(20)]
    assert second.batch(17, 12) == wanted[17]
    assert second.batch(3, 12, 0, 5) + second.batch(3, 12, 5) == wanted[3]
    assert first.description.digest == second.description.digest
    other = _prepare(_settings(*sources), tokenizer, tmp_path / "x", seed=1)
    assert other.held_out != first.held_out
    assert other.batch(0, 12) != wanted[0]


def test_weights_mix_the_sources(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, sentence: Sentence) -> None:
    small = _write(tmp_path / "small.jsonl", sentence, 30)
    _write(tmp_path / "big.jsonl", sentence, 300)
    sources = [
        TextSource(files=str(tmp_path / "small.jsonl"), weight=3),
        TextSource(files=str(tmp_path / "big.jsonl"), weight=1),
    ]
    corpus = _prepare(_settings(*sources), tokenizer, tmp_path / "cache")
    of_small = {tuple(ids) for ids in tokenizer(small, truncation=True, max_length=16)["input_ids"]}
    for step in range(10):
        assert sum(tuple(example.input_ids) in of_small for example in corpus.batch(step, 16)) == 12


def test_passages_sentences_titles_and_queries_are_drawn_as_the_docs_say(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"title": f"w{i}", "body": f"W{i} w1 w2.\n\nW{i} w3 w4 w5."} for i in range(80)]
    Path("documents.jsonl").write_text("\n".join(map(json.dumps, rows)))
    Path("queries.txt").write_text("\n".join(f"w6 w{i}" for i in range(80)))
    (text,) = snippets("distilling.md", "Text out of your own documents", "yaml")
    settings = TextSettings(**yaml.safe_load(text)["text"], max_length=16, held_out=3)
    corpus = _prepare(settings, tokenizer, tmp_path / "cache")
    drawn = [tokenizer.decode(each.input_ids, skip_special_tokens=True) for each in corpus.batch(0, 190)]
    kinds = Counter((text.count("."), len(text.split()) - text.count(".")) for text in drawn)
    passages, short, long, titles, queries = (kinds[kind] for kind in ((2, 7), (1, 3), (1, 4), (0, 1), (0, 2)))
    assert [passages, short + long, titles, queries] == pytest.approx([100, 30, 30, 30], abs=1)
    assert min(short, long) > 0


def test_less_than_a_batch_is_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, sentence: Sentence) -> None:
    _write(tmp_path / "data" / "train.jsonl", sentence, 30)
    for source in (
        TextSource(files=str(tmp_path / "data" / "*.jsonl")),
        TextSource(dataset=str(tmp_path / "data"), streaming=True),
    ):
        corpus = _prepare(_settings(source), tokenizer, tmp_path / "cache")
        require_batch(corpus, 20)
        with pytest.raises(TextError, match="20 training sequences are fewer than one batch of 21"):
            require_batch(corpus, 21)
