"""Trimming by name: from a model's name and text to a folder of the model with fewer words.

The rooms that need torch are imported where they are used, after what was asked for is checked.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from homoexport.choices import ModelTask, Objective
from homoexport.documents.artifact import TrimmedManifest, verify, write_manifest
from homoexport.documents.output import refuse_existing, staged
from homoexport.documents.recipe import TextSettings, TextSource, VocabularySettings
from homoexport.documents.student import TrimmedDetails
from homoexport.documents.vocabulary import SplitTexts
from homoexport.errors import RecipeError
from homoexport.globs import at_home, matching
from homoexport.text.sources import check_files
from homoexport.workflow.measure import read_lines
from homoexport.workflow.progress import QUIET, Progress
from homoexport.workflow.text import read_text, write_held_out

if TYPE_CHECKING:
    from homoexport.encoder import Encoder
    from homoexport.stages.trim import Trimmed
    from homoexport.text.corpus import Corpus

_READ_AS: dict[ModelTask, Objective] = {
    "fill-mask": "masked-lm",
    "token-classification": "token-classification",
    "text-classification": "classification",
}  # others as sentences


def trim(
    model: str | Encoder,
    *,
    text: TextSettings | str,
    output: Path,
    vocab_size: int | None = None,
    vocabulary: VocabularySettings | None = None,
    seed: int = 0,
    force: bool = False,
    progress: Progress = QUIET,
) -> TrimmedManifest:
    """Write a model with the words that a text needs, of the same family and widths; nothing is trained.

    Args:
        model: hub name, folder, or `package:DISTRIBUTION/PATH`; or what `load_encoder` made of one of these.
        text: what is read to choose them, or a glob of files of it.
        output: becomes the model's folder: config, weights, tokenizer, manifest.
        vocab_size: pieces at most; by default all that the text has.
        seed: of the held-out choice.

    Raises:
        TeacherError, TextError, RecipeError, OutputError: see `homoexport.errors`.
    """
    if isinstance(text, str):
        text = TextSettings(sources=(TextSource(files=text),))
    vocabulary = vocabulary or VocabularySettings()
    name = model if isinstance(model, str) else model.source
    refuse_existing(output, force=force, kind="student", inputs=[name, *text.paths])
    lines_to_keep(vocabulary)  # told before anything is loaded
    for source in text.sources:
        if source.files:
            check_files(source)
    from homoexport.encoder import load_encoder, parent_of, save_encoder

    began = time.perf_counter()
    progress.on_stage(f"loading {name}")
    encoder = load_encoder(model) if isinstance(model, str) else model
    check_sizes(encoder, vocabulary, [] if vocab_size is None else [vocab_size], key="vocab_size")
    progress.on_stage("reading the text")
    objective = _READ_AS.get(encoder.task, "sentence-embedding")
    corpus = read_text(encoder, text, objective, seed=seed)
    progress.on_stage("choosing the words")
    trimmed = trimmed_to(encoder, corpus, vocabulary, vocab_size, progress)
    with staged(output, force=force) as folder:
        save_encoder(trimmed.encoder, trimmed.encoder.model, folder)
        write_held_out(folder, corpus.held_out_texts)
        details = TrimmedDetails(
            task=encoder.task,
            teacher=encoder.source,
            family=encoder.model.config.model_type,
            parameters=trimmed.encoder.parameters,
            steps=0,
            seconds=round(time.perf_counter() - began, 3),
            text=corpus.description,
            vocabulary=trimmed.vocabulary,
        )
        write_manifest(folder, "student", parent=parent_of(encoder), details=details)
    return verify(output, TrimmedManifest, strict=False)


def trimmed_to(
    encoder: Encoder, corpus: Corpus, vocabulary: VocabularySettings | None, size: int | None, progress: Progress
) -> Trimmed:
    """A teacher with the words that its text needs, and a note of what that does."""
    from homoexport.stages.trim import trim as trim_encoder

    vocabulary = vocabulary or VocabularySettings()
    trimmed = trim_encoder(encoder, corpus, vocabulary, size=size, whole=lines_to_keep(vocabulary))
    found = trimmed.vocabulary
    progress.on_note(f"{found.after:,} of {found.before:,} pieces stay; {told(found.held_out, found.coverage)}")
    return trimmed


def check_sizes(encoder: Encoder, vocabulary: VocabularySettings | None, sizes: Iterable[int], *, key: str) -> None:
    """Refuse (RecipeError, TeacherError) sizes that a teacher's vocabulary cannot have; `key` is where they are given
    in a recipe."""
    from homoexport.stages.trim import check_sizes as check_sizes_of

    whole = lines_to_keep(vocabulary)
    try:
        check_sizes_of(encoder, sizes, whole=whole)
    except RecipeError as error:
        raise error.at(key) from None


def told(texts: SplitTexts, coverage: float | None = None) -> str:
    """In a line, what becomes of texts, and what share of their tokens stays."""
    stay = "" if coverage is None else f"{coverage:.1%} of the tokens stay; "
    unknown = f", {texts.unknown_more} more unknown pieces" if texts.unknown_more else ""
    same = f"{texts.same:.1%} of {texts.texts:,} texts are split as before, {texts.more_tokens:+.1%} tokens"
    return f"{stay}{same}{unknown}"


def lines_to_keep(vocabulary: VocabularySettings | None) -> list[str]:
    """The lines of the files that say what is to be split as now.

    Raises:
        RecipeError: there is no such file.
        TextError: one cannot be read.
    """
    if vocabulary is None or vocabulary.keep is None:
        return []
    paths = matching(str(at_home(vocabulary.keep)))
    if not paths:
        raise RecipeError("no such file", where=vocabulary.keep, hint="name a txt file, what is to be kept a line each")
    return [line for path in paths for line in read_lines(path)]
