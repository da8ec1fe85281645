"""From a model and its text to the model with the words that the text needs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from homoexport.documents.recipe import VocabularySettings
from homoexport.documents.vocabulary import VocabularyDescription
from homoexport.encoder import Encoder
from homoexport.encoder.vocabulary import needed_ids, with_vocabulary
from homoexport.errors import RecipeError, TeacherError
from homoexport.stages.trim.choice import choose, indispensable, refuse_without_room
from homoexport.stages.trim.compare import compare, coverage
from homoexport.stages.trim.pieces import Pieces
from homoexport.text.awkward import awkward_texts
from homoexport.text.corpus import Corpus
from homoexport.text.counts import count_tokens


@dataclass(frozen=True)
class Trimmed:
    """A model with fewer words, and what was found."""

    encoder: Encoder
    vocabulary: VocabularyDescription


def trim(
    encoder: Encoder, corpus: Corpus, settings: VocabularySettings, *, size: int | None, whole: Sequence[str] = ()
) -> Trimmed:
    """The model with the pieces that the text needs; `corpus` is tokenized by its tokenizer.

    Args:
        size: pieces at most; by default all that the text has.
        whole: texts that are to be split as now, beside the model's prompts.

    Raises:
        TeacherError: a tokenizer whose vocabulary cannot be trimmed.
        RecipeError: `size` is less than what no text can do without, or no less than what the tokenizer has.
    """
    tokenizer = encoder.tokenizer
    pieces, always = _pieces_of(encoder, whole)
    if size is not None:
        _refuse_all(size, pieces)
    counts = count_tokens(corpus, encoder.model.config.vocab_size)
    kept = choose(pieces, counts, size=size, min_count=settings.min_count, always=always)
    trimmed = with_vocabulary(encoder, kept, pieces.keeping(kept).file)
    awkward = list(chain.from_iterable(awkward_texts(pieces.added).values()))
    return Trimmed(
        encoder=trimmed,
        vocabulary=VocabularyDescription(
            before=len(pieces.all_ids),
            after=len(kept),
            essential=len(pieces.essential),
            in_text=int((counts > 0).sum()),
            held_out=compare(tokenizer, trimmed.tokenizer, kept, corpus.held_out_texts),
            awkward=compare(tokenizer, trimmed.tokenizer, kept, awkward),
            coverage=coverage(tokenizer, kept, corpus.held_out_texts),
        ),
    )


def check_sizes(encoder: Encoder, sizes: Iterable[int], *, whole: Sequence[str] = ()) -> None:
    """Refuse (RecipeError, TeacherError) what `trim` would, before any text is read."""
    pieces, always = _pieces_of(encoder, whole)
    kept = indispensable(pieces, always)
    for size in sizes:
        _refuse_all(size, pieces)
        refuse_without_room(size, kept)


def _refuse_all(size: int, pieces: Pieces) -> None:
    before = len(pieces.all_ids)
    if size >= before:
        what = f"{size} pieces are no fewer than the {before} that its tokenizer has"
        raise RecipeError(what, key="vocab_size", hint=f"give fewer than {before}, or leave it out")


def _pieces_of(encoder: Encoder, whole: Sequence[str]) -> tuple[Pieces, set[int]]:
    """The pieces of its tokenizer, which neither cuts nor pads from now on, and those that stay for the model's sake,
    its prompts' and that of texts that are to be split as now."""
    tokenizer = encoder.tokenizer
    if not tokenizer.is_fast:
        what, hint = "its tokenizer has no tokenizer.json", "save it with a fast tokenizer"
        raise TeacherError(what, where=encoder.source, hint=hint)
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    pieces = Pieces(json.loads(backend.to_str()), encoder.source)
    prompts = [] if encoder.prompts is None else encoder.prompts.texts.values()
    lines = [f"{space}{line}" for line in (*whole, *prompts) for space in ("", " ")]  # at a text's start, and within
    named = chain.from_iterable(encoding.ids for encoding in backend.encode_batch(lines))
    return pieces, needed_ids(encoder.model).union(named)
