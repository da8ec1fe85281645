"""Packages in use: texts in, vectors or logits out, with onnxruntime and tokenizers alone.

Neither torch nor transformers is needed or imported.

N texts, B batch, S sequence, D width of a vector, V vocabulary, C labels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from homoexport.choices import OTHER_RUNTIMES, OUTPUT_NAMES, ModelTask, Runtime, RuntimeChoice, TruncationSide
from homoexport.documents.artifact import PackageManifest, verify
from homoexport.documents.package import PAGE_FILES, PROMPT_FOLDER, Prompts
from homoexport.errors import PackageError, UserError, refusing
from homoexport.growth import refuse_growth
from homoexport.limits import MB, limit, raise_hint
from homoexport.panics import unprinted_panics
from homoexport.plain import visible
from homoexport.runtime.installed import install_hint
from homoexport.runtime.session import OnnxSession
from homoexport.runtime.worker.head import STATES, Head, read_head
from homoexport.runtime.worker.inputs import IntArray, padded_tokens
from homoexport.units import check_count

FloatArray = NDArray[np.float32]
Text: TypeAlias = "str | tuple[str, str]"  # one, or two that are judged together


@dataclass(frozen=True)
class PackageInfo:
    """What a package's manifest says of its model, as a runtime runs it.

    `file` is what the runtime opens, `file_bytes` with the weights beside it, and `precision` its weights'; `model` is
    the package's ONNX file, whatever the runtime. `download_bytes` are of what a browser takes to run it: the ONNX
    file with its weights, and `PAGE_FILES`. `labels` are the names of a classifier's logits, in their order;
    others have none.
    """

    folder: Path
    model_file: str
    task: ModelTask
    precision: str
    parameters: int
    max_length: int
    vocab_size: int
    pad_token_id: int
    file_bytes: int
    labels: tuple[str, ...] = ()
    runtime: Runtime = "onnxruntime"
    runtime_file: str | None = None  # where that is another than the ONNX file
    download_bytes: int = 0
    prompts: Prompts | None = None
    include_prompt: bool = True
    truncation_side: TruncationSide = "right"

    @property
    def model(self) -> Path:
        return self.folder / self.model_file

    @property
    def file(self) -> Path:
        return self.folder / (self.runtime_file or self.model_file)

    @property
    def output(self) -> str:
        """The output that the package is there for."""
        return OUTPUT_NAMES[self.task][0]


def read_package(
    folder: Path, runtime: RuntimeChoice = "onnxruntime", *, runtimes: Collection[Runtime] | None = None
) -> PackageInfo:
    """Verify a package and read what its manifest says.

    Args:
        runtime: what it is to be run in; auto is what it was fastest in where it was exported, of `runtimes`.
        runtimes: what there is besides ONNX Runtime; by default what is installed here.

    Raises:
        PackageError: not a package; a file missing, truncated or altered; a manifest that lacks something; or the
            package has no file for that runtime.
    """
    manifest = verify(folder, PackageManifest, strict=False)
    details = manifest.details
    if runtime == "auto":
        there = [other for other in OTHER_RUNTIMES if not install_hint(other)] if runtimes is None else runtimes
        runtime = details.fastest(there)
    beside = None
    if runtime != "onnxruntime" and (beside := details.beside.get(runtime)) is None:
        if runtime not in OTHER_RUNTIMES:
            known = ", ".join(("auto", "onnxruntime", *OTHER_RUNTIMES))
            raise UserError(f"no runtime is called '{runtime}'", where="runtime", hint=f"name one of: {known}")
        why = f" (left out: {reason})" if (reason := details.left_out.get(runtime)) else ""
        what, hint = f"it has no file for {OTHER_RUNTIMES[runtime]}{why}", f"export it with --runtime {runtime}"
        raise PackageError(what, where=str(folder), hint=hint)
    onnx_bytes = sum(manifest.files[name].bytes for name in manifest.graph_files(folder, details.model_file))
    return PackageInfo(
        folder=folder,
        model_file=details.model_file,
        task=details.task,
        precision=beside.precision if beside else details.precision,
        parameters=details.parameters,
        max_length=details.max_length,
        vocab_size=details.vocab_size,
        pad_token_id=details.pad_token_id,
        file_bytes=beside.file_bytes if beside else onnx_bytes,
        labels=(details.labels or ()) if details.task.endswith("-classification") else (),
        runtime=runtime,
        runtime_file=beside.file if beside else None,
        download_bytes=onnx_bytes + sum(manifest.files[name].bytes for name in PAGE_FILES if name in manifest.files),
        prompts=details.prompts,
        include_prompt=details.pooling is None or details.pooling.include_prompt,
        truncation_side=details.truncation_side,
    )


class Session(Protocol):
    """What a package is run by: onnxruntime's session, or what answers as one does."""

    def get_inputs(self) -> Sequence[Any]: ...
    def run(self, outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[FloatArray]: ...
    def end(self) -> None: ...


class Package:
    """An open package. Make one with `open_package`.

    `head` makes the vectors, out of the graph's states, of texts behind a prompt whose tokens are not pooled.
    """

    def __init__(self, details: PackageInfo, session: Session, tokenizer: Tokenizer, head: Head | None = None) -> None:
        self.details = details
        self.tokenizer = tokenizer
        self._session = session
        self._head = head
        self._input_names = {node.name for node in session.get_inputs()}

    def tokenize(self, texts: Sequence[Text]) -> dict[str, IntArray]:
        """Token ids of texts or pairs, truncated to the package's `max_length`; see `padded_tokens`."""
        return self.padded(self.encode(texts))

    def encode(self, texts: Sequence[Text]) -> list[Encoding]:
        """Texts or pairs as the tokenizer has them, truncated to the package's `max_length`, without offsets."""
        with refusing(PackageError, "its tokenizer cannot read a text", where=str(self.details.folder)):
            encodings: list[Encoding] = self.tokenizer.encode_batch_fast(list(texts))
        return encodings

    def padded(self, encodings: Sequence[Encoding]) -> dict[str, IntArray]:
        """A batch of what `encode` gives; see `padded_tokens`."""
        rows, types = [one.ids for one in encodings], [one.type_ids for one in encodings]
        return padded_tokens(rows, self.details.pad_token_id, types=types)

    def run(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[FloatArray]:
        """Run the graph on those of `inputs` that it takes, for the named outputs.

        Raises:
            PackageError: the graph cannot be run on these inputs, or has no such output.
        """
        feeds = {name: value for name, value in inputs.items() if name in self._input_names}
        try:
            answer: list[FloatArray] = self._session.run(list(outputs), feeds)
        except Exception as error:  # onnxruntime's exceptions share no base but this
            raise PackageError(f"its runtime cannot run it ({error})", where=str(self.details.file)) from error
        asked = next(iter(inputs.values())).shape  # [B, S]
        for name, array in zip(outputs, answer, strict=True):
            found = array.shape if isinstance(array, np.ndarray) and array.dtype.kind == "f" else ()
            if not 2 <= len(found) <= 3 or found[: len(found) - 1] != asked[: len(found) - 1]:
                raise self._error(f"answers inputs of {asked} with a '{name}' of {found}", "export the package again")
        return answer

    def embed(self, texts: Sequence[Text], batch_size: int = 32, prompt: str | None = None) -> FloatArray:
        """One vector for each text, in the order of the texts; an empty text has one too.

        What `details.prompts` have under the name `prompt`, or as their default, is put before each text.

        A sentence-similarity package's graph pools and normalises by itself. Of a feature-extraction
        package's hidden states the mean over the text's tokens is taken. A dynamic int8 graph scales each batch by
        its largest activation, so its vectors depend slightly on what else is in the batch.

        Texts of like length go together.

        Returns:
            [N, D], of no text at all [0, D].

        Raises:
            PackageError: the package's task gives no vectors, or its graph no finite ones.
            UserError: a batch size below 1, or no prompt of that name.
        """
        if self.details.output == "logits":
            hint = "name a sentence-similarity or feature-extraction model"
            raise self._error(f"is a {self.details.task} model, which gives no vectors", hint)
        before, skipped = self.prompt(prompt)
        if not texts:
            return self.embed([""])[:0]
        prompted = [behind(before, text) for text in texts]
        return np.stack(self._in_batches(partial(self._vectors, skipped=skipped), prompted, batch_size, kind="vectors"))

    def prompt(self, name: str | None = None) -> tuple[str, int]:
        """What is put before texts under a name, or by default, and how many tokens of a text are not pooled for it.

        Raises:
            UserError: no prompt of that name.
        """
        known = self.details.prompts
        name = known.default if name is None and known is not None else name
        if name is None:
            return "", 0
        if known is None or name not in known.texts:
            hint = f"name one of: {', '.join(map(visible, known.texts))}" if known else "leave it out"
            has = "no prompts" if known is None else "no such prompt"
            raise UserError(f"{self.details.folder} has {has}", where=f"prompt '{visible(name)}'", hint=hint)
        before = known.texts[name]
        if not before or self.details.include_prompt:
            return before, 0
        encoding = self.tokenizer.encode(before)  # with the special tokens in front of it, not those behind
        return before, len(encoding.ids) - int(encoding.special_tokens_mask[-1:] == [1])

    def score(self, texts: Sequence[Text], batch_size: int = 32) -> FloatArray:
        """The one output of a reranker or regressor for each pair (or text), in their order: higher is better.

        It is the model's own output, with no sigmoid behind it.

        Returns:
            [N].

        Raises:
            PackageError: the model has not one output, or it is not finite.
            UserError: a batch size below 1.
        """
        if self.details.task != "text-classification" or len(self.details.labels) != 1:
            labels = f" of {len(self.details.labels)} labels" if self.details.labels else ""
            what = f"is a {self.details.task} model{labels}, which gives no score"
            raise self._error(what, "name a reranker: a model with one output")
        return np.array(self.logits(texts, batch_size), np.float32).reshape(-1)

    def logits(self, texts: Sequence[Text], batch_size: int = 32) -> list[FloatArray]:
        """The logits of each text, in the order of the texts; `details.labels` names a classifier's.

        Returns:
            For each text [C] from a text-classification package, [S, C] from a token-classification package and
            [S, V] from a fill-mask package, S being its own number of tokens, special ones included.

        Raises:
            PackageError: the package's task gives no logits, or its graph no finite ones.
            UserError: a batch size below 1.
        """
        if self.details.output != "logits":
            hint = "name a text-classification, token-classification or fill-mask model"
            raise self._error(f"is a {self.details.task} model, which gives no logits", hint)
        return self._in_batches(self._logits, texts, batch_size, kind="logits")

    def _in_batches(
        self,
        answer: Callable[[Sequence[Text]], Iterable[FloatArray]],
        texts: Sequence[Text],
        batch_size: int,
        *,
        kind: str,
    ) -> list[FloatArray]:
        """One finite array for each text, in the order of the texts."""
        check_count(batch_size, f"a batch of {batch_size!r} texts", where="batch_size")
        order = sorted(range(len(texts)), key=lambda row: len("".join(texts[row])))
        found: dict[int, FloatArray] = {}
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            found.update(zip(rows, answer([texts[row] for row in rows]), strict=True))
        if not all(np.isfinite(array).all() for array in found.values()):
            raise self._error(f"gives {kind} that are not finite", "export the package again")
        return [found[row] for row in range(len(texts))]

    def beside(self, session: Session) -> Package:
        """The same package in another session of its runtime."""
        return Package(self.details, session, self.tokenizer, self._head)

    def end(self) -> None:
        """End the inferences of other threads, and let none begin."""
        self._session.end()

    def _error(self, what: str, hint: str) -> PackageError:
        return PackageError(what, where=str(self.details.folder), hint=hint)

    def _vectors(self, texts: Sequence[Text], skipped: int) -> FloatArray:
        """[B, D]"""
        return self.vectors_of(self.tokenize(texts), skipped)

    def _logits(self, texts: Sequence[Text]) -> list[FloatArray]:
        """[C], or [S, C] without padding."""
        tokens = self.tokenize(texts)
        answer = self.logits_of(tokens)
        if answer.ndim == 2:
            return list(answer)
        return [row[:length] for row, length in zip(answer, tokens["attention_mask"].sum(axis=1), strict=True)]

    def logits_of(self, tokens: Mapping[str, IntArray]) -> FloatArray:
        """Logits of a batch that `tokenize` gives: [B, C], or of every token [B, S, C or V]; see `logits`."""
        (answer,) = self.run(tokens, ["logits"])
        return answer

    def vectors_of(self, tokens: Mapping[str, IntArray], skipped: int = 0) -> FloatArray:
        """Vectors [B, D] of a batch that `tokenize` gives; the first `skipped` tokens of each text are not pooled."""
        if skipped:
            assert self._head is not None
            (states,) = self.run(tokens, [STATES])
            counted = tokens["attention_mask"].copy()
            counted[:, :skipped] = 0
            with refusing(PackageError, "cannot be applied", where=str(self.details.folder / PROMPT_FOLDER)):
                return self._head.apply(states, counted)
        (answer,) = self.run(tokens, [self.details.output])
        if self.details.task == "sentence-similarity":
            return answer
        mask = tokens["attention_mask"][:, :, None].astype(np.float32)  # [B, S, 1]
        mean: FloatArray = (answer * mask).sum(axis=1) / mask.sum(axis=1)
        return mean


def open_package(folder: Path | str, *, threads: int = 1, runtime: RuntimeChoice = "auto") -> Package:
    """Open a package, a folder that `homoexport export` wrote, for inference on the CPU.

    `runtime` openvino or ctranslate2 runs the file that `export --runtime` wrote for it; auto is what was the fastest
    where it was exported, of what the package has files for and is installed here.

    Raises:
        PackageError: not a package, an altered file, or one that the runtime or tokenizers cannot load; or it has no
            file for that runtime.
        UserError: threads that are no whole number of one or more, or the runtime is not installed.
    """
    check_count(threads, f"{threads!r} threads", where="threads")
    details = read_package(Path(folder), runtime)
    head = None
    if not details.include_prompt:
        with refusing(PackageError, "cannot be read", where=str(details.folder / PROMPT_FOLDER)):
            head = read_head(details.folder / PROMPT_FOLDER)
    return Package(details, open_file(details.file, details.runtime, threads=threads), load_tokenizer(details), head)


def behind(prompt: str, text: Text) -> Text:
    """A text, or a pair's first, with what is put before it."""
    return prompt + text if isinstance(text, str) else (prompt + text[0], text[1])


def open_file(file: Path, runtime: Runtime, *, threads: int) -> Session:
    """A session of a package's file in its runtime, on the CPU.

    Raises:
        PackageError: the runtime cannot load it.
        UserError: the runtime is not installed.
    """
    if runtime == "onnxruntime":
        try:
            return OnnxSession(file, threads=threads)
        except Exception as error:  # onnxruntime's exceptions share no base but this
            raise PackageError(f"onnxruntime cannot load it ({error})", where=str(file)) from error
    name = OTHER_RUNTIMES[runtime]
    if hint := install_hint(runtime):
        raise UserError(f"{name} is not installed", where=str(file), hint=hint)
    with refusing(PackageError, f"{name} cannot load it", where=str(file)):
        if runtime == "openvino":
            from homoexport.runtime.openvino_session import OpenVinoSession

            return OpenVinoSession(file, threads=threads)
        from homoexport.runtime.ctranslate2_session import CTranslate2Session

        return CTranslate2Session(file, threads=threads)


def load_tokenizer(details: PackageInfo, *, max_length: int | None = None) -> Tokenizer:
    """A package's tokenizer, which truncates to `max_length` (by default the package's) and does not pad.

    Raises:
        PackageError: it is missing, tokenizers cannot load it, or it is another model's.
    """
    path = details.folder / "tokenizer.json"
    if not path.is_file():
        raise PackageError("is missing", where=str(path), hint="export the package again")
    if path.stat().st_size > limit("tokenizer_mb") * MB:
        raise PackageError(
            f"is larger than {limit('tokenizer_mb')} MB", where=str(path), hint=raise_hint("tokenizer_mb")
        )
    refuse_growth(path, PackageError)
    damaged = refusing(PackageError, "tokenizers cannot load it", where=str(path), hint="export the package again")
    with damaged, unprinted_panics():
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length or details.max_length, direction=details.truncation_side)
        tokenizer.encode_batch(["a", ("a", "b")])
    highest = max(tokenizer.get_vocab().values(), default=0)
    if highest >= details.vocab_size:
        what = f"its ids go up to {highest} and the model knows {details.vocab_size} tokens"
        raise PackageError(what, where=str(path), hint="put the tokenizer there that the model was exported with")
    return tokenizer
