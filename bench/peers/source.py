"""What a peer is given: a model folder, texts, and whatever of it most peers ask for.

Nothing but the standard library is imported with this module, so that a tool that is not installed fails
its own peers alone. B texts, S tokens, D hidden.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

MAX_LENGTH = 128


@dataclass(frozen=True)
class Source:
    """A BERT encoder in a sentence-transformers folder, and the texts that static quantization is calibrated on."""

    folder: Path
    out: Path
    texts: list[str]

    @cached_property
    def config(self) -> dict[str, Any]:
        """The model's own config.json."""
        config: dict[str, Any] = json.loads((self.folder / "config.json").read_text())
        return config

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer, as transformers loads it."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder)

    def tokens(self, texts: list[str]) -> dict[str, Any]:
        """One batch [B, S] of texts, right-padded to the longest: three int64 inputs by name."""
        encoded = self.tokenizer(texts, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="np")
        return {name: encoded[name].astype("int64") for name in ("input_ids", "attention_mask", "token_type_ids")}

    def calibration(self) -> list[dict[str, Any]]:
        """The calibration texts one by one [1, S], without padding, which no tool would leave out of its ranges."""
        return [self.tokens([text]) for text in self.texts]


@dataclass(frozen=True)
class Peer:
    """One file that one tool makes in one way.

    `make` is given an empty folder of the peer's own, and returns the file that is to be run.
    """

    name: str
    tool: str
    make: Callable[[Path], Path]
    settings: dict[str, Any] = field(default_factory=dict)


def made_by(source: Source, name: str, file: str = "model.onnx") -> Path:
    """The file that an earlier peer made, which this one starts from.

    Raises:
        FileNotFoundError: that peer failed.
    """
    path = source.out / name / file
    if not path.is_file():
        raise FileNotFoundError(f"starts from {name}/{file}, which was not made")
    return path
