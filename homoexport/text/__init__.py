"""Text: from files and hub datasets to the token sequences of each training step.

`prepare_text` reads, tokenizes and caches; the `Corpus` that it returns gives the batch of a step.
"""

from homoexport.text.collate import collate, mask_tokens
from homoexport.text.corpus import Corpus, require_batch
from homoexport.text.example import IGNORED, Example
from homoexport.text.peek import check_sources, first_texts
from homoexport.text.prepare import corpus_of, prepare_text
from homoexport.text.sentences import split_sentences
from homoexport.text.stream import merge_states

__all__ = [
    "IGNORED",
    "Corpus",
    "Example",
    "check_sources",
    "collate",
    "corpus_of",
    "first_texts",
    "mask_tokens",
    "merge_states",
    "prepare_text",
    "require_batch",
    "split_sentences",
]
