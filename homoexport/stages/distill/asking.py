"""Asking the teacher once for each text, where texts come again: its part of a step is then read from disk."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from homoexport.stages.distill.batches import BatchMaker
from homoexport.stages.distill.job import Job
from homoexport.stages.distill.step import StepLoss
from homoexport.stages.distill.taught import TaughtTexts
from homoexport.text.corpus import MapCorpus

_LEAST_EPOCHS = 2.0  # one is the asking; what is read after the first must be worth its writing
_GIGABYTES_ON_CPU = 10.0
_AT_ONCE = 16  # texts of about one length
_METHODS = ("homodistil", "one-shot", "from-scratch", "layers")


def is_worth_keeping(job: Job) -> bool:
    """Whether the run's texts come again as they were, and what the terms need of the teacher can be kept.

    It follows from the recipe and the text alone, so that a run that goes on decides alike.
    """
    settings, corpus = job.settings, job.corpus
    if settings.objective == "masked-lm" or settings.crop > 0 or settings.method not in _METHODS:
        return False
    if settings.attention_kind != "scores" and settings.weights.attention > 0:
        return False
    if not isinstance(corpus, MapCorpus) or any(example.pair_ids is not None for example in corpus.held_out):
        return False
    if _limit_in_bytes(job) == 0:
        return False
    drawn, total = settings.steps * settings.batch_size, sum(corpus.weights)
    seen = all(drawn * weight / total >= len(part) for weight, part in zip(corpus.weights, corpus.parts, strict=True))
    return seen and drawn >= _LEAST_EPOCHS * sum(map(len, corpus.parts))


def _limit_in_bytes(job: Job) -> float:
    """How large the file may be; on a GPU, which asks faster than a disk reads, there is none by default."""
    default = _GIGABYTES_ON_CPU if job.accelerator.device.type == "cpu" else 0.0
    given = job.settings.teacher_cache_gb
    return 1e9 * (default if given is None else given)


def taught_texts(job: Job, loss: StepLoss) -> TaughtTexts | None:
    """Where what the teacher shows is to be kept; None where it would not be worth it, or be too large."""
    is_asked = job.corpus.description.vectors is None or loss.inner_terms.wanted
    if not is_asked or not is_worth_keeping(job):
        return None
    assert isinstance(job.corpus, MapCorpus)
    micro_batches = job.batches.cut(job.corpus.held_out[:1], first_position=0)
    texts = TaughtTexts(job.corpus, loss.ask(micro_batches[0]))
    return texts if texts.bytes <= _limit_in_bytes(job) else None


def ask_all(texts: TaughtTexts, loss: StepLoss, batches: BatchMaker, *, on_share: Callable[[float], None]) -> None:
    """Ask the teacher for every text, those of like length together; each process asks for its share of them.

    Which texts are asked together depends on the texts alone, and so does every bit that is kept.
    """
    accelerator = batches.accelerator
    order = texts.rows[np.argsort(texts.lengths[texts.rows], kind="stable")]
    parts = [order[start : start + _AT_ONCE].tolist() for start in range(0, len(order), _AT_ONCE)]
    for number in range(accelerator.process_index, len(parts), accelerator.num_processes):
        on_share(number / len(parts))
        micro = batches.micro(texts.corpus.examples(parts[number]), [0] * len(parts[number]))
        texts.write(parts[number], loss.ask(micro))
