"""Whose vectors a student is to give, where they are not its teacher's: `distill.vectors_from` and `vector_column`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from homoexport.documents.recipe import DistillSettings, TextSettings
from homoexport.errors import RecipeError, TeacherError
from homoexport.globs import at_home
from homoexport.text.vectors import AskedVectors, open_vectors
from homoexport.workflow.progress import Progress

if TYPE_CHECKING:
    from accelerate import Accelerator

    from homoexport.encoder import Encoder

_FROM, _SOURCES = "distill.vectors_from", "text.sources"


def check_vectors(text: TextSettings, settings: DistillSettings) -> None:
    """Refuse (RecipeError, TextError) vectors that would not be those of the texts, or have no use."""
    columns, sources = [source.vector_column for source in text.sources], text.sources
    file, where = settings.vectors_file, _FROM if settings.vectors_from else _SOURCES
    if settings.vectors_from is None and not any(columns):
        return
    if None in columns and any(columns):
        what, hint = "some sources have a 'vector_column' and some have none", "give all of them one"
    elif settings.vectors_from is not None and any(columns):
        what, hint = "the sources have a 'vector_column'", "give either"
    elif settings.objective != "sentence-embedding":
        what, hint = f"{settings.objective} matches no vectors", "leave them out"
    elif settings.crop > 0:
        what, hint = "a part of a text has another vector than the text", "leave distill.crop out"
    elif any(source.streaming for source in sources):
        what, hint = "the text is streamed, and vectors are kept on disk", "leave 'streaming' out"
    elif any(source.pair_column for source in sources):
        what = "each text has one vector, and the sources have a 'pair_column'"
        hint = "name the second texts' column as a source of its own"
    elif file is not None and not (len(sources) == 1 and sources[0].files and sources[0].unit == "row"):
        what = "a file of vectors has one for each row of a text's files"
        hint = "give one source, of files, with 'unit: row'; or each source a 'vector_column'"
    elif (model := settings.vectors_model) is not None and _is_file(model):
        what = f"'{model}' is a file, and no model"
        hint = "name a model's folder, or FILE.npy with one matrix, as numpy.save writes it (npz is not read)"
    else:
        if file is not None:
            open_vectors(file)
        return
    raise RecipeError(what, where=where, hint=hint)


def _is_file(model: str) -> bool:
    """Whether what should be a model is a file, or an npz, there or not."""
    return model.lower().endswith(".npz") or at_home(model).is_file()


def second_model(settings: DistillSettings) -> Encoder | None:
    """The model of `vectors_from`, as one that embeds sentences; TeacherError of one that is for something else, or
    whose own prompt is not pooled."""
    from homoexport.documents.package import Pooling
    from homoexport.encoder import load_encoder

    if settings.vectors_model is None:
        return None
    encoder = load_encoder(settings.vectors_model)
    if encoder.task not in ("sentence-similarity", "feature-extraction"):
        what, hint = f"is for {encoder.task}, and gives no vectors of texts", "name a sentence encoder"
        raise TeacherError(what, where=encoder.source, hint=hint)
    if encoder.prompts is not None and encoder.prompts.own and not (encoder.pooling or Pooling()).include_prompt:
        what, hint = "its own prompt is read and not pooled", "write its vectors into a file, and name that"
        raise TeacherError(what, where=encoder.source, hint=hint)
    return replace(encoder, task="sentence-similarity", pooling=encoder.pooling or Pooling())


def given_vectors(settings: DistillSettings, accelerator: Accelerator, progress: Progress) -> AskedVectors | str | None:
    """What gives the texts their vectors: a model that is loaded, or a file."""
    if (encoder := second_model(settings)) is None:
        return settings.vectors_file
    from homoexport.stages.distill import ask_for_vectors

    note = f"asking {encoder.source} for the vectors of all texts, once: they are kept with the tokenized text"
    return ask_for_vectors(encoder, device=accelerator.device, on_begin=lambda: progress.on_note(note))
