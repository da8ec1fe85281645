from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from homoexport.choices import Objective
from homoexport.documents.recipe import TextSettings, TextSource
from homoexport.errors import TextError
from homoexport.text import sources
from homoexport.text.corpus import Corpus
from homoexport.text.example import Example
from homoexport.text.prepare import prepare_text
from homoexport.text.shards import VIRTUAL_SHARDS, shards_of_batch, shards_of_process
from homoexport.text.stream import StreamCorpus, merge_states

Sentence = Callable[[], str]
BATCH = 12


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers of two, and chunks of a few rows, so that little text does."""
    monkeypatch.setattr(StreamCorpus, "buffer_size", 2 * VIRTUAL_SHARDS)
    monkeypatch.setattr("homoexport.text.shards._ROWS_AT_ONCE", 4)
    monkeypatch.setattr("homoexport.text.shards._MARK_EVERY", 5)


def _write(path: Path, sentence: Sentence, count: int) -> list[str]:
    rows = [{"text": sentence(), "pair": sentence(), "label": number % 3 - 1} for number in range(count)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)))
    return [str(row["text"]) for row in rows]


@pytest.fixture
def mixed(tmp_path: Path, sentence: Sentence) -> TextSettings:
    """A source of 30 files (a part for each shard), one of 3 (eight shards a part), and one of a single file."""
    for number in range(30):
        _write(tmp_path / "many" / f"{number}.jsonl", sentence, 6)
    for number in range(3):
        _write(tmp_path / "few" / f"{number}.jsonl", sentence, 40)
    _write(tmp_path / "one.jsonl", sentence, 60)
    columns = {"pair_column": "pair", "label_column": "label"}
    return TextSettings(
        sources=(
            TextSource(files=str(tmp_path / "many" / "*.jsonl"), weight=2, **columns),
            TextSource(dataset=str(tmp_path / "few"), streaming=True, **columns),
            TextSource(files=str(tmp_path / "one.jsonl"), weight=0.5, **columns),
        ),
        max_length=32,
        held_out=10,
    )


def _prepare(
    settings: TextSettings,
    tokenizer: PreTrainedTokenizerFast,
    process: int = 0,
    processes: int = 1,
    objective: Objective = "classification",
    seed: int = 0,
) -> Corpus:
    return prepare_text(settings, tokenizer, objective=objective, seed=seed, process=process, processes=processes)


def _all(settings: TextSettings, tokenizer: PreTrainedTokenizerFast, processes: int) -> list[Corpus]:
    return [_prepare(settings, tokenizer, process, processes) for process in range(processes)]


def _step(corpora: list[Corpus], step: int, batch_size: int = BATCH) -> list[Example]:
    """A step's batch, put together from the slices of all processes."""
    share = batch_size // len(corpora)
    return [
        example
        for process, corpus in enumerate(corpora)
        for example in corpus.batch(step, batch_size, process * share, (process + 1) * share)
    ]


def _ids(examples: list[Example]) -> Counter[tuple[int, ...]]:
    return Counter(tuple(example.input_ids) for example in examples)


@pytest.mark.parametrize("batch_size", [1, 7, 12, 24, 32, 36, 40, 256, 600])
def test_shards_take_turns_and_keep_to_their_process(batch_size: int) -> None:
    drawn: Counter[int] = Counter()
    for step in range(50):
        shards = shards_of_batch(step, batch_size)
        drawn.update(shards)
        for processes in (n for n in range(1, 41) if not batch_size % n):
            share = batch_size // processes
            for process in range(processes):
                own = shards_of_process(batch_size, process, processes)
                assert set(shards[process * share : (process + 1) * share]) <= set(own)
                if not VIRTUAL_SHARDS % processes:
                    assert len(own) == VIRTUAL_SHARDS // processes
    assert len(drawn) == VIRTUAL_SHARDS
    assert max(drawn.values()) - min(drawn.values()) <= 1


@pytest.mark.parametrize("batch_size", [12, *(pytest.param(size, marks=pytest.mark.slow) for size in (6, 18))])
def test_batches_are_the_same_for_any_number_of_processes(
    tokenizer: PreTrainedTokenizerFast, mixed: TextSettings, batch_size: int
) -> None:
    runs = {processes: _all(mixed, tokenizer, processes) for processes in (1, 2, 3, 6)}
    for step in range(40):
        wanted = _step(runs[1], step, batch_size)
        assert len(wanted) == batch_size
        for processes in (2, 3, 6):
            assert _step(runs[processes], step, batch_size) == wanted
    for corpora in runs.values():
        for corpus in corpora:
            assert corpus.held_out == runs[1][0].held_out
            assert corpus.description == runs[1][0].description


def test_a_process_tokenizes_its_own_shards_alone(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, sentence: Sentence, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [text for number in range(24) for text in _write(tmp_path / "a" / f"{number}.jsonl", sentence, 40)]
    one = _write(tmp_path / "b.jsonl", sentence, 2000)
    settings = TextSettings(
        sources=(
            TextSource(dataset=str(tmp_path / "stream"), streaming=True),
            TextSource(files=str(tmp_path / "a" / "*.jsonl")),
            TextSource(files=str(tmp_path / "b.jsonl")),
        ),
        max_length=16,
        held_out=10,
    )
    _write(tmp_path / "stream" / "x.jsonl", sentence, 300)
    tokenized: list[str] = []
    opened: set[str] = set()
    plain_call, plain_open = PreTrainedTokenizerFast.__call__, sources._open

    def call(self: PreTrainedTokenizerFast, texts: list[str], **how: object) -> object:
        tokenized.extend(texts)
        return plain_call(self, texts, **how)

    def open_entry(entry: sources.FileEntry, *more: Any) -> Any:
        opened.add(Path(entry[0]).name)
        return plain_open(entry, *more)

    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", call)
    monkeypatch.setattr(sources, "_open", open_entry)

    def seen(process: int, processes: int) -> tuple[Counter[str], set[str]]:
        corpus = _prepare(settings, tokenizer, process, processes, "sentence-embedding")
        tokenized.clear()
        opened.clear()
        share = BATCH // processes
        for step in range(20):
            corpus.batch(step, BATCH, process * share, (process + 1) * share)
        return Counter(tokenized), opened - {"b.jsonl"}

    alone, all_files = seen(0, 1)
    shared = [seen(process, 3) for process in range(3)]
    assert sum((texts for texts, _ in shared), Counter()) == alone
    assert set(alone) & set(many)
    assert set(alone) & set(one)
    for process, (texts, files) in enumerate(shared):
        assert 0.2 < texts.total() / alone.total() < 0.5
        others = set().union(*(shared[other][1] for other in range(3) if other != process))
        assert len(files) == 8
        assert not files & others
    assert len(all_files) == 24


def _resumed(
    settings: TextSettings, tokenizer: PreTrainedTokenizerFast, legs: list[tuple[int, int]]
) -> Iterator[list[Example]]:
    """Batches of a run that goes on with another number of processes: (processes, steps) for each leg."""
    state: dict[str, Any] | None = None
    step = 0
    for processes, steps in legs:
        corpora = _all(settings, tokenizer, processes)
        if state is not None:
            for corpus in corpora:
                corpus.load_state_dict(state)
        for _ in range(steps):
            yield _step(corpora, step)
            step += 1
        state = json.loads(json.dumps(merge_states([corpus.state_dict() for corpus in corpora])))


@pytest.mark.parametrize(
    "legs",
    [
        [(1, 7), (3, 26), (2, 12)],
        pytest.param([(3, 1), (1, 33), (6, 11)], marks=pytest.mark.slow),
        [(2, 0), (1, 0), (2, 20), (2, 0), (3, 25)],
        pytest.param([(12, 9), (1, 20), (4, 16)], marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_with_another_number_of_processes(
    tokenizer: PreTrainedTokenizerFast, mixed: TextSettings, legs: list[tuple[int, int]]
) -> None:
    # 45 steps pass through the 60 rows of the last source about once, and through the others two to three times.
    whole = _all(mixed, tokenizer, 1)
    wanted = [_step(whole, step) for step in range(45)]
    assert list(_resumed(mixed, tokenizer, legs)) == wanted
    labels = {example.labels for batch in wanted for example in batch}
    assert labels == {None, 0, 1}
    assert all(set(example.token_type_ids or []) == {0, 1} for batch in wanted for example in batch)


def test_a_state_is_kept_as_it_was_loaded(tokenizer: PreTrainedTokenizerFast, mixed: TextSettings) -> None:
    corpora = _all(mixed, tokenizer, 2)
    for step in range(30):
        _step(corpora, step)
    states = [corpus.state_dict() for corpus in corpora]
    merged = merge_states(states)
    assert set(merged["shards"]) == set(map(str, range(VIRTUAL_SHARDS)))
    assert merge_states(states[::-1])["readers"] == merged["readers"]
    other = _prepare(mixed, tokenizer, 1, 3)
    other.load_state_dict(merged)
    assert merge_states([other.state_dict(), merged]) == merged
    assert merge_states([{}, {}]) == {}


def test_resuming_reads_on_from_a_place_near(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, sentence: Sentence
) -> None:
    _write(tmp_path / "a" / "a.jsonl", sentence, 3000)
    settings = TextSettings(
        sources=(TextSource(dataset=str(tmp_path / "a"), streaming=True),), max_length=32, held_out=10
    )
    corpora = _all_sentences(settings, tokenizer, 2)
    for step in range(200):
        _step(corpora, step)
    state = merge_states([corpus.state_dict() for corpus in corpora])
    epoch, row, _ = state["readers"]["0/0"]
    assert epoch == 0
    assert 2000 < row < 2410
    wanted = [_step(corpora, step) for step in range(200, 210)]
    (resumed,) = _all_sentences(settings, tokenizer, 1)
    resumed.load_state_dict(json.loads(json.dumps(state)))
    assert [resumed.batch(step, BATCH) for step in range(200, 210)] == wanted


@pytest.mark.parametrize("processes", [1, 2])
def test_a_stream_shows_everything_but_the_held_out_part(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, mixed: TextSettings, processes: int
) -> None:
    plain = [source.model_copy(update={"streaming": False}) for source in mixed.sources]
    on_disk = prepare_text(
        mixed.model_copy(update={"sources": tuple(plain)}),
        tokenizer,
        objective="classification",
        seed=0,
        cache_dir=tmp_path / "cache",
    )
    assert on_disk.size == 350
    everything = _ids(on_disk.held_out) + _ids([e for step in range(350) for e in on_disk.batch(step, 4)])
    streamed = _all(mixed, tokenizer, processes)
    seen = _ids([example for step in range(400) for example in _step(streamed, step)])
    assert len(everything) == 360
    assert seen.keys() == everything.keys() - _ids(streamed[0].held_out).keys()
    texts = [tuple(example.input_ids) for example in streamed[0].held_out]
    assert [tokenizer.decode(ids, skip_special_tokens=True) for ids in texts] == [
        text.lower().replace(".", " .") for text in streamed[0].held_out_texts
    ]


def test_weights_mix_streamed_sources(tmp_path: Path, make_tokenizer: Callable[..., PreTrainedTokenizerFast]) -> None:
    tokenizer = make_tokenizer()
    weights = {"w10": 3.0, "w20": 1.0, "w30": 0.1}
    for first in weights:
        lines = [f"{first} w{a} w{b} w{c}" for a in range(8) for b in range(8) for c in range(4)]
        (tmp_path / f"{first}.txt").write_text("\n".join(lines))
    parts = [TextSource(files=str(tmp_path / f"{first}.txt"), weight=weight) for first, weight in weights.items()]
    # A file source is read as a stream where any other source is one.
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x.txt").write_text("\n".join(f"w40 w50 w{number}" for number in range(60, 90)))
    settings = TextSettings(
        sources=(*parts, TextSource(dataset=str(tmp_path / "d"), streaming=True)), max_length=16, held_out=10
    )
    corpora = _all_sentences(settings, tokenizer, 2)
    taken: Counter[str] = Counter()
    for step in range(300):
        batch = _step(corpora, step)
        taken.update(tokenizer.decode(example.input_ids[1]) for example in batch)
    total = sum(weights.values()) + 1
    for first, weight in {**weights, "w40": 1.0}.items():
        # What stays in the buffers is less than one in 50 of what went through them.
        assert abs(taken[first] / (300 * BATCH) - weight / total) < 0.02
    assert all(taken[first] for first in weights)


def _all_sentences(settings: TextSettings, tokenizer: PreTrainedTokenizerFast, processes: int) -> list[Corpus]:
    return [_prepare(settings, tokenizer, process, processes, "sentence-embedding") for process in range(processes)]


def test_a_source_without_training_text_is_named(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, sentence: Sentence
) -> None:
    _write(tmp_path / "a" / "a.jsonl", sentence, 30)
    (lonely,) = _write(tmp_path / "b.jsonl", sentence, 1)
    settings = TextSettings(
        sources=(TextSource(dataset=str(tmp_path / "a"), streaming=True), TextSource(files=str(tmp_path / "b.jsonl"))),
        max_length=16,
        held_out=10,
    )
    corpora = (_prepare(settings, tokenizer, objective="sentence-embedding", seed=seed) for seed in range(50))
    corpus = next(corpus for corpus in corpora if lonely in corpus.held_out_texts)
    with pytest.raises(TextError, match=r"b\.jsonl: holds no text for training"):
        corpus.batch(0, BATCH)
    (tmp_path / "b.jsonl").write_text('{"text": "w1 w2"}')
    with pytest.raises(TextError, match=r"b\.jsonl: holds no text for training"):
        _prepare(settings, tokenizer, objective="sentence-embedding")


@pytest.mark.parametrize("objective", ["masked-lm", "token-classification"])
def test_other_objectives_are_streamed_too(
    tokenizer: PreTrainedTokenizerFast, mixed: TextSettings, objective: Objective
) -> None:
    plain = [source.model_copy(update={"pair_column": None, "label_column": None}) for source in mixed.sources]
    settings = mixed.model_copy(update={"sources": tuple(plain)})
    alone, *pair = [_prepare(settings, tokenizer, *of, objective) for of in ((0, 1), (0, 2), (1, 2))]
    for step in range(20):
        assert _step(pair, step) == _step([alone], step)
    assert all(alone.held_out_texts)
