"""What is judged: packages in their runtimes, and torch models behind the same face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from homoexport.choices import CLASSIFYING, OUTPUT_NAMES, RuntimeChoice
from homoexport.documents.artifact import digest_in, kind_of, sha256_file
from homoexport.documents.document import digest_of
from homoexport.documents.package import runtime_of
from homoexport.errors import UserError
from homoexport.runtime.inference import Package, PackageInfo, Session, Text, open_file, open_package
from homoexport.runtime.worker.head import Head, Layer

if TYPE_CHECKING:
    from homoexport.encoder import Encoder


def open_model(source: str, *, threads: int, task: str | None = None, runtime: RuntimeChoice = "auto") -> Package:
    """A package in a runtime, see `open_package`, without torch; or any model that `load_encoder` takes, through torch.

    Raises:
        PackageError, TeacherError: it is neither, or damaged.
    """
    if is_package(source):
        return open_package(Path(source), threads=threads, runtime=runtime)
    # Imported here: packages are judged without torch.
    import torch

    from homoexport.encoder import load_encoder

    torch.set_num_threads(threads)
    return torch_package(load_encoder(source, task=task))  # type: ignore[arg-type]


def digest_of_source(source: str) -> str:
    """Of what `open_model` takes: of an artifact, which is verified, as its manifest has it; of another model's folder,
    of all files that are read of it.

    Raises:
        TeacherError: no such model.
        PackageError: an artifact with a file that is missing or altered.
    """
    if is_package(source) and (digest := digest_in(Path(source))):
        return digest
    from homoexport.encoder import files_of, resolve_folder  # here, for packages are judged without torch

    folder = resolve_folder(source)
    if digest := digest_in(folder):
        return digest
    return digest_of({str(path.relative_to(folder)): sha256_file(path) for path in files_of(folder)})


def is_package(source: str) -> bool:
    """Whether a folder is an exported package."""
    return kind_of(Path(source)) == "package"


def torch_package(encoder: Encoder) -> Package:
    """A torch model that is used as a package is."""
    return _package(encoder, _TorchSession(encoder))


def package_of_file(encoder: Encoder, file: Path, *, threads: int) -> Package:
    """A file of the model in its runtime, not a package yet, that is used as one is; on this machine's CPU."""
    return _package(encoder, open_file(file, runtime_of(file), threads=threads))


def _package(encoder: Encoder, session: Session) -> Package:
    from tokenizers import Tokenizer

    from homoexport.encoder import max_length_of

    config, max_length = encoder.model.config, max_length_of(encoder)
    labelled = encoder.task in CLASSIFYING
    details = PackageInfo(
        folder=encoder.folder,
        model_file="",
        task=encoder.task,
        precision="fp32",
        parameters=encoder.parameters,
        max_length=max_length,
        vocab_size=config.vocab_size,
        pad_token_id=encoder.tokenizer.pad_token_id or 0,
        file_bytes=sum(path.stat().st_size for path in encoder.folder.glob("*.safetensors")),
        labels=tuple(config.id2label[i] for i in range(config.num_labels)) if labelled else (),
        prompts=encoder.prompts,
        include_prompt=encoder.pooling is None or encoder.pooling.include_prompt,
        truncation_side=encoder.tokenizer.truncation_side,
    )
    # A copy, for truncation is a part of a fast tokenizer's state.
    tokenizer = Tokenizer.from_str(encoder.tokenizer.backend_tokenizer.to_str())
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length, direction=details.truncation_side)
    return Package(details, session, tokenizer, _head_of(encoder))


def _head_of(encoder: Encoder) -> Head | None:
    """What makes a sentence's vector of its states where a prompt's tokens are not pooled."""
    pooling = encoder.pooling
    if pooling is None or pooling.include_prompt:
        return None
    layers = tuple(Layer(*dense.arrays()) for dense in encoder.dense)
    return Head(
        OUTPUT_NAMES[encoder.task][0], encoder.model.config.vocab_size, 0, pooling.modes, pooling.normalize, layers
    )


class EmbeddedOnce(Package):
    """A model that is asked once for the vectors of the same texts."""

    def __init__(self, model: Package) -> None:
        vars(self).update(vars(model))
        self._known: dict[tuple[str | None, tuple[Text, ...]], NDArray[np.float32]] = {}

    def embed(self, texts: Sequence[Text], batch_size: int = 32, prompt: str | None = None) -> NDArray[np.float32]:
        """[N, D]"""
        asked = (prompt, tuple(texts))
        if asked not in self._known:
            self._known[asked] = super().embed(texts, batch_size, prompt)
        return self._known[asked]


class CutVectors(Package):
    """A model whose vectors are cut to their first numbers (Matryoshka, arXiv 2205.13147); cosines renormalise them.

    Raises:
        UserError: the model gives none, or they have fewer numbers.
    """

    def __init__(self, model: Package, dimensions: int) -> None:
        if model.details.output == "logits":
            what, hint = "gives no vectors to cut", "leave --dimensions out"
            raise UserError(what, where=str(model.details.folder), hint=hint)
        width = model.embed([""]).shape[1]
        if dimensions > width:
            what = f"has vectors of {width}, which cannot be cut to {dimensions}"
            raise UserError(what, where=str(model.details.folder), hint=f"give --dimensions of {width} or less")
        vars(self).update(vars(model))
        self._whole, self._dimensions = model, dimensions

    def embed(self, texts: Sequence[Text], batch_size: int = 32, prompt: str | None = None) -> NDArray[np.float32]:
        """[N, D']"""
        return self._whole.embed(texts, batch_size, prompt)[:, : self._dimensions]


class _TorchSession:
    """What a package asks of an onnxruntime session, answered by torch."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def get_inputs(self) -> list[SimpleNamespace]:
        """The inputs' names."""
        from homoexport.encoder import input_names

        return [SimpleNamespace(name=name) for name in input_names(self._encoder)]

    def run(self, outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
        """The named outputs."""
        import torch

        from homoexport.encoder import torch_answers

        answers = torch_answers(self._encoder, {name: torch.from_numpy(value) for name, value in feeds.items()})
        return [answers[name].float().numpy() for name in outputs]

    def end(self) -> None:
        """Inferences go to their end."""
