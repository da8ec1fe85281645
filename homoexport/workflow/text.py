"""Reading a recipe's text for a model, by its tokenizer and with its labels; and keeping what was held out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from homoexport.choices import Objective
from homoexport.documents.artifact import HELD_OUT
from homoexport.documents.recipe import TextSettings

if TYPE_CHECKING:
    from homoexport.encoder import Encoder
    from homoexport.text.corpus import Corpus
    from homoexport.text.sample import TextSample
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

    label2id, of_scores = labels_of(encoder, objective)
    return prepare_text(
        text,
        encoder.tokenizer,
        objective=objective,
        seed=seed,
        label2id=label2id,
        of_scores=of_scores,
        vectors=vectors,
        process=process,
        processes=processes,
    )


def sample_of(encoder: Encoder, text: TextSettings, objective: Objective, *, batch_size: int) -> TextSample:
    """What `sample_text` makes of it."""
    from homoexport.text.sample import sample_text
    from homoexport.text.sequences import Sequencer

    label2id, of_scores = labels_of(encoder, objective)
    sequencers = [Sequencer(objective, encoder.tokenizer, text, each, label2id, of_scores) for each in text.sources]
    return sample_text(sequencers, text, batch_size=batch_size)


def labels_of(encoder: Encoder, objective: Objective) -> tuple[dict[str, int] | None, bool]:
    """Class ids of the names that a classifier's labels have, and whether its labels are scores."""
    config = encoder.model.config
    label2id = config.label2id if "classification" in objective else None
    return label2id, config.num_labels == 1 and objective == "classification"


def write_held_out(folder: Path, texts: Iterable[str]) -> None:
    """Keep held-out texts in a model's folder, a line each, for the checks of its export.

    They are people's own: git and the hub's client leave them out where the folder is published, as .gitignore says.
    """
    lines = (" ".join(text.split()) for text in texts)
    (folder / ".gitignore").write_text(f"{HELD_OUT}\n", encoding="utf-8")
    (folder / HELD_OUT).write_text("\n".join(lines) + "\n", encoding="utf-8")
