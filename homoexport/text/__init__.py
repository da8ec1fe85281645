"""Text: from files and hub datasets to the token sequences of each training step.

`prepare.prepare_text` reads, tokenizes and caches; the `Corpus` that it returns gives the batch of a step. What is
wrong with files and columns is found by `peek.check_sources`, without torch, transformers or datasets; so nothing is
imported here.
"""
