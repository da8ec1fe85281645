"""Words against width: plans of a teacher with all its words, and with those that a text needs most.

The rooms that need torch are imported where they are used, after what was asked for is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from homoexport.choices import Objective
from homoexport.documents.budget import TIMED_LINES, Budget
from homoexport.documents.plan import Plan, PlannedVocabulary
from homoexport.documents.recipe import MeasureSettings, TextSettings, VocabularySettings
from homoexport.errors import RecipeError
from homoexport.lock import scratch_folder
from homoexport.stages.plan.vocabularies import best_vocabulary, length_with
from homoexport.workflow.progress import Progress
from homoexport.workflow.text import read_text
from homoexport.workflow.trim import check_sizes, lines_to_keep, trimmed_to

if TYPE_CHECKING:
    from homoexport.encoder import Encoder
    from homoexport.stages.trim import Trimmed
    from homoexport.text.corpus import Corpus

SIZES = "vocabulary.sizes"


def check_vocabulary(vocabulary: VocabularySettings, text: TextSettings | None) -> None:
    """Refuse (RecipeError, TextError) sizes without text to choose words by, and lines to keep that are not there."""
    if vocabulary.sizes and text is None:
        what = "there is no text to choose the words by"
        raise RecipeError(what, hint="give --data GLOB, or 'text' in the recipe", key=SIZES)
    lines_to_keep(vocabulary)


def plan_vocabularies(
    encoder: Encoder,
    plan_for: Callable[..., Plan],
    *,
    vocabulary: VocabularySettings,
    text: TextSettings,
    objective: Objective,
    seed: int,
    budget: Budget,
    measure: MeasureSettings,
    progress: Progress,
) -> Plan:
    """The plan of the vocabulary that a budget is best spent with: all of a teacher's words, or one of some sizes.

    The teacher is trimmed as a distillation would trim it, by the same text with the same seed, and each trimmed one
    lies in a folder, so that its plan is remembered as its own. All are trimmed before anything is measured. Where the
    budget has a line of time, sequences are as long as the text becomes.

    Args:
        plan_for: `plan` of an encoder, with the budget, the conditions and the progress by keyword.

    Raises:
        RecipeError: a size that cannot be.
        BudgetError: no student keeps the budget, whatever its words.
        TeacherError, TextError: a vocabulary that cannot be trimmed; text that cannot be read.
    """
    from homoexport.encoder import load_encoder, max_length_of, weights_digest

    check_sizes(encoder, vocabulary, vocabulary.sizes, key=SIZES)
    progress.on_share("reading the text", 0.0)
    corpus = read_text(encoder, text, objective, seed=seed)
    longest = max_length_of(encoder) if TIMED_LINES & {*budget.lines()} else measure.length
    with scratch_folder("homoexport-words-") as place:
        whole = PlannedVocabulary(vocab_size=None, pieces=len(encoder.tokenizer), length=measure.length)
        fewer = []
        for size in vocabulary.sizes:
            trimmed = _trimmed_into(place / str(size), encoder, corpus, vocabulary, size, progress)
            fewer.append(_described(size, trimmed, measure.length, longest=longest))
            del trimmed  # it lies in its folder

        def plan_with(words: PlannedVocabulary, limits: Budget) -> Plan:
            teacher, told = encoder, progress
            if words.vocab_size is not None:
                loaded = load_encoder(str(place / str(words.vocab_size)), task=encoder.task)
                teacher = replace(loaded, source=encoder.source)
                told = replace(progress, on_share=partial(_on_share, progress, words))
            conditions = measure.model_copy(update={"length": words.length})
            return plan_for(teacher, budget=limits, measure=conditions, progress=told)

        best = best_vocabulary([whole, *fewer], budget, plan_with)
    return best.model_copy(update={"teacher_digest": weights_digest(encoder)})


def _trimmed_into(
    folder: Path, encoder: Encoder, corpus: Corpus, vocabulary: VocabularySettings, size: int, progress: Progress
) -> Trimmed:
    """The teacher with fewer words, which lies in a new folder, too."""
    from homoexport.encoder import save_encoder

    progress.on_share(f"choosing {size:,} words", 0.0)
    trimmed = trimmed_to(encoder, corpus, vocabulary, size, progress)
    folder.mkdir()
    save_encoder(trimmed.encoder, trimmed.encoder.model, folder)
    return trimmed


def _described(size: int, trimmed: Trimmed, length: int, *, longest: int) -> PlannedVocabulary:
    """What is known of a vocabulary before it is planned with."""
    found = trimmed.vocabulary
    assert found.coverage is not None
    more = found.held_out.more_tokens
    return PlannedVocabulary(
        vocab_size=size,
        pieces=found.after,
        coverage=found.coverage,
        more_tokens=more,
        length=length_with(more, length, longest=longest),
    )


def _on_share(progress: Progress, words: PlannedVocabulary, step: str, share: float) -> None:
    progress.on_share(f"{words.pieces:,} words: {step}", share)
