"""A second model whose vectors a student is to give: it is asked for them, text by text.

B batch, S sequence, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray

from homoexport.documents.document import digest_of
from homoexport.encoder import Encoder, input_names, max_length_of, torch_answers, weights_digest
from homoexport.errors import TeacherError
from homoexport.text.vectors import AskedVectors

_BATCH = 32  # texts of about the same length
_CHARACTERS = 2**16  # of a batch with its padding: some models take texts of 32,000 tokens


def ask_for_vectors(encoder: Encoder, *, device: torch.device, on_begin: Callable[[], None]) -> AskedVectors:
    """A sentence encoder as one that is asked for vectors; each text stands behind its own prompt, if it has one, and
    is cut to its own longest sequence.

    `on_begin` is called before the first text, so never where all vectors are cached.

    Raises:
        TeacherError: (when it is asked) it answers with what is no number.
    """
    limit, names, notes = max_length_of(encoder), input_names(encoder), iter([on_begin])
    before, pooling = "" if encoder.prompts is None else encoder.prompts.own, encoder.pooling
    settings = [before, limit, None if pooling is None else pooling.model_dump(mode="json")]

    def ask(texts: Sequence[str]) -> NDArray[np.float32]:
        """[N, D]"""
        for begin in notes:
            begin()
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        parts: list[list[int]] = []
        for row in order:  # the longest of a part comes last
            if not parts or len(parts[-1]) == _BATCH or (len(parts[-1]) + 1) * len(texts[row]) > _CHARACTERS:
                parts.append([])
            parts[-1].append(row)
        encoder.model.to(device)
        answers = [_answer([texts[row] for row in part]) for part in parts]
        vectors = np.empty((len(texts), encoder.width), dtype=np.float32)
        vectors[list(chain.from_iterable(parts))] = np.concatenate(answers)
        lengths = np.linalg.norm(vectors, axis=1)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise TeacherError("its vectors are not finite numbers", where=encoder.source, hint="check its weights")
        return vectors

    def _answer(texts: Sequence[str]) -> NDArray[np.float32]:
        prompted = [before + text for text in texts]
        tokens = encoder.tokenizer(prompted, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        inputs = {name: tokens[name].to(device) for name in names}
        answer: NDArray[np.float32] = torch_answers(encoder, inputs)["sentence_embedding"].float().cpu().numpy()
        return answer

    return AskedVectors(encoder.source, digest_of([weights_digest(encoder), settings]), ask)
