"""Reading a recipe's text for a model, by its tokenizer and with its labels; and keeping what was held out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from homoexport.choices import Objective
from homoexport.documents.layout import HELD_OUT
from homoexport.documents.recipe import TextSettings

if TYPE_CHECKING:
    from homoexport.encoder import Encoder
    from homoexport.text.corpus import Corpus
    from homoexport.text.vectors import AskedVectors


def read_text(
    encoder: Encoder,
    text: TextSettings,
    objective: Objective,
    *,
    seed: int,
    vectors: AskedVectors | str | None = None,
    process: int = 0,
    processes: int = 1,
) -> Corpus:
    """What `prepare_text` makes of it."""
    from homoexport.text.prepare import prepare_text

    config = encoder.model.config
    return prepare_text(
        text,
        encoder.tokenizer,
        objective=objective,
        seed=seed,
        label2id=config.label2id if "classification" in objective else None,
        of_scores=config.num_labels == 1 and objective == "classification",
        vectors=vectors,
        process=process,
        processes=processes,
    )


def write_held_out(folder: Path, texts: Iterable[str]) -> None:
    """Keep held-out texts in a student's folder, a line each."""
    lines = (" ".join(text.split()) for text in texts)
    (folder / HELD_OUT).write_text("\n".join(lines) + "\n", encoding="utf-8")
