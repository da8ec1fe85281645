"""CTranslate2's own conversion, in int8 and in floats. It gives token states, which homoexport's worker times."""

from __future__ import annotations

import sys
from pathlib import Path

from source import Peer, Source

sys.path.insert(0, str(Path(__file__).parents[2]))

from homoexport.runtime.worker.head import STATES, Head, write_head

TOOL = "ctranslate2"


def peers(source: Source) -> list[Peer]:
    """Products in int8, and in floats."""
    return [
        Peer(
            f"ctranslate2-{kind}",
            TOOL,
            lambda folder, kind=kind: converted(source, folder, kind),
            {"quantization": kind},
        )
        for kind in ("int8", "float32")
    ]


def converted(source: Source, folder: Path, quantization: str) -> Path:
    """The folder's model.bin, with a head.json that says that nothing comes behind the states."""
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(source.folder)).convert(str(folder), quantization=quantization, force=True)
    config = source.config
    write_head(folder, Head(output=STATES, vocab_size=config["vocab_size"], token_types=config["type_vocab_size"]))
    return folder / "model.bin"
