"""Opening a distillation's job: what can be found wrong at once, then the teacher, its words, and the text.

The rooms that need torch are imported where they are used, after what was asked for is checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from homoexport.documents.recipe import DistillSettings, TextSettings, VocabularySettings
from homoexport.errors import RecipeError
from homoexport.host import available_cores
from homoexport.shape import PartialShape
from homoexport.text.peek import check_sources
from homoexport.workflow.progress import QUIET, Progress
from homoexport.workflow.text import read_text
from homoexport.workflow.trim import check_sizes, lines_to_keep, trimmed_to
from homoexport.workflow.vectors import check_vectors, given_vectors

if TYPE_CHECKING:
    from homoexport.encoder import Encoder
    from homoexport.stages.distill import Job


def check_before_loading(
    text: TextSettings, settings: DistillSettings, vocabulary: VocabularySettings | None = None
) -> None:
    """Find what is wrong with the text's sources, their vectors and the threads while nothing is loaded yet.

    Raises:
        TextError, RecipeError: a file, a column, vectors or a number of threads that cannot be had.
    """
    lines_to_keep(vocabulary)
    check_threads(settings.threads, where="distill.threads")
    check_vectors(text, settings)
    check_sources(text, settings.objective)


def check_threads(threads: int | None, *, where: str) -> None:
    """Refuse (RecipeError) more threads than there are cores, where no GPU computes."""
    cores = available_cores()
    if threads and threads > cores and not _has_gpu():
        raise RecipeError(
            f"{threads} threads where {cores} core{'s' * (cores > 1)} may be used",
            where=where,
            hint=f"at most {cores}, or leave it out",
        )


def _has_gpu() -> bool:
    """Whether torch finds a GPU; it is not asked, for it takes seconds to import, where there is no driver of one."""
    if not any(Path("/dev", driver).exists() for driver in ("nvidiactl", "kfd", "dxg")):
        return False
    import torch

    return torch.cuda.is_available()


def open_job(
    teacher: str | Encoder,
    *,
    text: TextSettings,
    settings: DistillSettings,
    seed: int,
    shapes: Sequence[PartialShape] = (),
    vocabulary: VocabularySettings | None = None,
    tracker_dir: Path | None = None,
    progress: Progress = QUIET,
) -> Job:
    """Load the teacher and the text, and join the other processes; the text comes last, for it takes longest.

    Where the student is to have fewer words, the teacher is trimmed to them first, and teaches so. Every process raises
    what the first one to fail did. The widest shape comes first.
    """
    from homoexport.encoder import load_encoder
    from homoexport.stages.distill import (
        TASKS,
        Job,
        failing_together,
        join_processes,
        refuse_silent_teacher,
        targets_of,
    )
    from homoexport.text.corpus import require_batch

    accelerator = join_processes(settings, seed=seed, tracker_dir=tracker_dir)
    with failing_together(accelerator):
        encoder = load_encoder(teacher, task=TASKS[settings.objective]) if isinstance(teacher, str) else teacher
        targets = targets_of(encoder, shapes, settings, max_length=text.max_length)
        vectors = given_vectors(settings, accelerator, progress)
        size = checked_size(encoder, vocabulary, shapes)

    words = None
    for first in (True, False):  # the first process of each machine fills the cache that the others then find
        with failing_together(accelerator):
            if accelerator.is_local_main_process == first:
                if size is not None or vocabulary is not None:
                    whole = read_text(encoder, text, settings.objective, seed=seed)  # all count the same words
                    trimmed = trimmed_to(encoder, whole, vocabulary, size, progress)
                    encoder, words = trimmed.encoder, trimmed.vocabulary
                corpus = read_text(
                    encoder,
                    text,
                    settings.objective,
                    seed=seed,
                    vectors=vectors,
                    process=accelerator.process_index,
                    processes=accelerator.num_processes,
                )
                require_batch(corpus, settings.batch_size)
    output = shapes[0].output if shapes else "student"
    job = Job(encoder, corpus, settings, accelerator, text.max_length, seed, targets, output, words)
    refuse_silent_teacher(job)
    return job


def checked_size(encoder: Encoder, vocabulary: VocabularySettings | None, shapes: Sequence[PartialShape]) -> int | None:
    """Pieces that the students have, which is one size for all of a run and one that their teacher's vocabulary can
    have; else RecipeError."""
    sizes = {shape.vocab_size for shape in shapes}
    if len(sizes) > 1:
        raise RecipeError("students of one run have the same words", where="students", hint="give all one vocab_size")
    size = next(iter(sizes), None)
    if size is not None:
        key = "student.vocab_size" if len(shapes) == 1 else "students"
        check_sizes(encoder, vocabulary, [size], key=key)
    return size
