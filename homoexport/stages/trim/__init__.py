"""Fewer words: which pieces of a tokenizer stay, its file with these alone, and what it then makes of texts."""

from homoexport.stages.trim.trim import Trimmed, check_sizes, trim

__all__ = ["Trimmed", "check_sizes", "trim"]
