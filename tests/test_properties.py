"""What holds for any input: quantities, shapes, schedules, shards, slices, budgets, documents."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from homoexport.choices import PruneGroup
from homoexport.documents.budget import Budget, judge
from homoexport.documents.document import Document, read_document, write_document
from homoexport.documents.recipe import DistillSettings
from homoexport.encoder import family_of, slice_model
from homoexport.errors import PackageError, ShapeError, UserError
from homoexport.shape import PartialShape, Shape, Widths, complete_shape, spread_heads
from homoexport.stages.distill.schedule import PruneSchedule, widths_due
from homoexport.text.shards import VIRTUAL_SHARDS, shards_of_batch, shards_of_process
from homoexport.units import parse_bytes, parse_count, parse_milliseconds, parse_percent, parse_rate, parse_share
from tests.conftest import tiny_bert
from tests.encoder.oracle import fill_by_hand, outputs, random_keep

GROUPS: tuple[PruneGroup, ...] = ("hidden", "ffn", "heads", "head-width")
FIGURES = st.decimals(min_value="0.001", max_value="999999", places=3).map(float)
SIZES = st.integers(1, 64)
SHAPES = st.builds(
    lambda layers, heads, head_dim, ffn: Shape(layers, heads * head_dim, ffn, heads),
    st.integers(1, 12),
    st.integers(1, 12),
    SIZES,
    SIZES,
)
WIDTHS = [name for name in PartialShape.model_fields if name not in ("output", "vocab_size")]
ASKED = st.builds(PartialShape, **dict.fromkeys(WIDTHS, st.none() | SIZES))


def refusal_of(call: Callable[[], object], kind: type[Exception]) -> str | None:
    """What a call is refused with; None where it is not."""
    try:
        call()
    except kind as error:
        return str(error)
    return None


@given(FIGURES)
def test_quantities_are_the_number_times_the_unit(figure):
    assert parse_milliseconds(f"{figure}ms", where="") == figure
    assert parse_milliseconds(f"{figure} s", where="") == pytest.approx(1000 * figure)
    assert parse_bytes(f"{figure}kB", where="") == round(1000 * figure)
    assert parse_count(f"{figure}M", where="") == round(1e6 * figure)
    assert parse_rate(f"{figure}/s", where="") == figure
    assert parse_percent(f"{figure}%", where="") == parse_share(f"{figure}%") == figure / 100
    assert parse_share(f"{figure}x") == figure


@given(st.text(max_size=12))
def test_any_other_text_is_refused_in_one_line(text):
    for parse in (parse_bytes, parse_milliseconds, parse_count, parse_rate, parse_percent):
        told = refusal_of(lambda parse=parse: parse(text, where="x"), UserError)
        assert told is None or "\n" not in told


@given(st.integers(0, 200), st.integers(1, 24))
def test_heads_are_spread_evenly(total, layers):
    heads = spread_heads(total, layers)
    assert (len(heads), sum(heads)) == (layers, total)
    assert max(heads) - min(heads) <= 1


@given(
    SHAPES,
    st.builds(PartialShape, **dict.fromkeys(WIDTHS, st.none() | SIZES)),
    st.sets(st.sampled_from(GROUPS)),
)
def test_a_completed_shape_is_one_that_the_teacher_can_become(teacher, asked, prune):
    try:
        shape = complete_shape(asked, teacher, prune=tuple(prune))
    except ShapeError:
        return
    assert shape.within(teacher)
    assert shape.num_attention_heads * shape.head_dim == shape.hidden_size
    for name in WIDTHS:
        assert getattr(asked, name) in (None, getattr(shape, name))


@given(SHAPES)
def test_the_teachers_own_shape_can_always_be_asked_for(teacher):
    assert complete_shape(PartialShape(), teacher, prune=()) == teacher
    assert complete_shape(PartialShape.of(teacher), teacher, prune=()) == teacher
    assert Widths.of(teacher).shape == teacher


@given(
    st.lists(st.tuples(SIZES, SIZES).map(sorted), min_size=4, max_size=4),
    st.integers(1, 200),
    st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
    st.integers(1, 50),
    st.sampled_from(["cubic", "linear"]),
)
def test_a_schedule_ends_at_its_target_and_never_goes_back(widths, steps, share, every, kind):
    (_, layers), (few, heads), (narrow, wide), (small, large) = widths
    teacher, target = (
        Shape(layers, heads * wide, large, heads),
        Shape(layers, few * narrow, small, few),
    )
    asked = {"prune_from": share[0], "prune_until": share[1], "prune_every": every, "prune_schedule": kind}
    schedule = PruneSchedule.of(DistillSettings(objective="masked-lm", steps=steps, batch_size=2, **asked))
    events = [step for step in range(steps) if schedule.is_event(step)]
    assert events[-1] == schedule.stop
    left = [schedule.remaining(step) for step in range(steps + 1)]
    assert all(0 <= later <= earlier <= 1 for earlier, later in pairwise(left))
    start = Widths.of(teacher)
    path = [widths_due(start, target, schedule.remaining(step), layers=layers) for step in events]
    assert path[-1] == Widths.of(target)
    assert not any(later.exceeds(earlier) for earlier, later in pairwise([start, *path]))


@given(st.integers(1, 96), st.integers(0, 500), st.sampled_from([1, 2, 3, 4, 6, 8, 12, 24]))
def test_shards_are_dealt_evenly_and_each_process_reads_its_own(batch_size, step, processes):
    assume(batch_size >= processes)
    shards = shards_of_batch(step, batch_size)
    own = [set(shards_of_process(batch_size, process, processes)) for process in range(processes)]
    for process in range(processes):
        part = slice(process * batch_size // processes, (process + 1) * batch_size // processes)
        assert set(shards[part]) <= own[process]
    drawn = [shard for earlier in range(step, step + VIRTUAL_SHARDS) for shard in shards_of_batch(earlier, batch_size)]
    counts = [drawn.count(shard) for shard in range(VIRTUAL_SHARDS)]
    assert max(counts) - min(counts) <= 1


@settings(max_examples=12)
@given(st.integers(1, 64), st.integers(1, 4), st.integers(1, 8), st.integers(0, 2**31), st.booleans())
def test_any_slice_is_the_small_model_filled_by_hand(ffn, heads, head_dim, seed, masked_lm):
    hidden = heads * head_dim
    torch.manual_seed(seed)
    model = tiny_bert(masked_lm=masked_lm)
    keep = random_keep(model, hidden, ffn, heads, head_dim, seed=seed)
    expected = fill_by_hand(model, keep, kind="bert", old_head_dim=8)
    slice_model(model, family_of(model.config), keep)
    tokens = {"input_ids": torch.arange(5, 17).view(2, 6), "attention_mask": torch.ones(2, 6, dtype=torch.long)}
    torch.testing.assert_close(outputs(model, tokens), outputs(expected, tokens), rtol=0, atol=1e-4)


@given(FIGURES, FIGURES, st.tuples(FIGURES, FIGURES).map(sorted))
def test_a_line_is_kept_missed_or_too_noisy_to_call(limit, measured, interval):
    for line in ("latency_p95_ms", "throughput_per_s"):
        budget = Budget(**{line: limit})
        (alone,) = judge(budget, {line: measured})
        assert alone.kept is (measured >= limit if alone.at_least else measured <= limit)
        (held,) = judge(budget, {line: measured}, {line: tuple(interval)})
        assert (held.kept is None) == (interval[0] <= limit < interval[1])


@given(FIGURES, st.floats(0.01, 100).map(lambda number: round(number, 2)))
def test_shares_of_the_teacher_are_figures_of_their_own(figure, share):
    teacher = {"latency_p50_ms": figure, "throughput_per_s": figure}
    faster = Budget(latency_p50_ms=f"{share}x", throughput_per_s=f"{share}x").limits(teacher)
    assert faster["latency_p50_ms"] == pytest.approx(figure / share)
    assert faster["throughput_per_s"] == pytest.approx(figure * share)
    assert Budget(latency_p50_ms=f"{share}%").limits(teacher)["latency_p50_ms"] == pytest.approx(figure * share / 100)


class Sample(Document):
    """A document with a field of every kind."""

    VERSION: ClassVar[str] = "1.0"

    name: str
    figures: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    note: str | None = None


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SAMPLES = st.builds(
    Sample,
    name=TEXT,
    figures=st.lists(NUMBERS, max_size=4).map(tuple),
    counts=st.lists(st.integers(-(2**60), 2**60), max_size=3).map(tuple),
    note=st.none() | TEXT,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(SAMPLES)
def test_any_document_is_read_as_it_was_written(sample):
    with tempfile.TemporaryDirectory() as folder:
        write_document(Path(folder) / "sample.json", sample)
        assert read_document(Path(folder) / "sample.json", Sample) == sample


@given(
    st.binary(max_size=40)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(
        st.sampled_from(["schema_version", "name", "figures", "counts", "note", "other"]), JSON | st.just("1.0")
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_other_file_is_one_clear_line(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sample.json"
        path.write_bytes(content)
        told = refusal_of(lambda: read_document(path, Sample), PackageError)
        assert told is None or (told.startswith(str(path)) and "\n" not in told)
