"""A word-level tokenizer with BERT's special tokens, and text to go with it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.conftest import word_tokenizer

WORDS = [f"w{number}" for number in range(95)]


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets-cache")


@pytest.fixture
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    def make(words: list[str] = WORDS) -> PreTrainedTokenizerFast:
        names = ["input_ids", "token_type_ids", "attention_mask"]
        return word_tokenizer([*words, "."], pre_tokenizers.BertPreTokenizer(), model_input_names=names)

    return make


@pytest.fixture
def tokenizer(make_tokenizer: Callable[..., PreTrainedTokenizerFast]) -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture
def sentence() -> Callable[[], str]:
    """Draws sentences such as "W3 w60 w7." of 4 to 12 words."""
    draw = random.Random(0)
    return lambda: " ".join(draw.choices(WORDS, k=draw.randint(4, 12))).capitalize() + "."
