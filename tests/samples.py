"""Documents for tests that need one of a kind and do not mind which."""

from __future__ import annotations

from homoexport.documents.student import CorpusDescription, DistilledDetails
from homoexport.shape import Shape


def student_details() -> DistilledDetails:
    """Of a distilled student."""
    return DistilledDetails(
        task="sentence-similarity",
        teacher="some/teacher",
        teacher_weights_sha256="ab" * 32,
        family="bert",
        parameters=10,
        embedding_parameters=4,
        backbone_parameters=5,
        teacher_parameters=100,
        widths=Shape(1, 4, 8, 2),
        method="homodistil",
        objective="sentence-embedding",
        steps=3,
        processes=1,
        text=CorpusDescription(
            streamed=False, sources=(), max_length=16, sequences=8, tokens=64, held_out=2, digest="cd" * 32
        ),
        held_out_loss=0.5,
        seconds=1.0,
    )
