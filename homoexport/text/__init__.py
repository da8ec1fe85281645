"""Text: from files and hub datasets to the token sequences of each training step.

`prepare_text` reads, tokenizes and caches; the `Corpus` that it returns gives the batch of a step.
"""

from homoexport.text.collate import collate, mask_tokens
from homoexport.text.corpus import Corpus
from homoexport.text.prepare import prepare_text
from homoexport.text.sentences import split_sentences

__all__ = ["Corpus", "collate", "mask_tokens", "prepare_text", "split_sentences"]
