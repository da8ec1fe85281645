"""Candidates: one graph in its forms and schemes, each a file with what is known of it.

B batch, S sequence.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx_ir as ir
from onnxruntime.quantization.calibrate import TensorsData

from homoexport.choices import BrowserProvider, Calibration, EmbeddingPrecision, Scheme, WeightPrecision
from homoexport.data import sample_text
from homoexport.documents.package import Parity
from homoexport.encoder import Encoder, input_names
from homoexport.errors import DeviceError
from homoexport.schemes import SCHEMES
from homoexport.stages.export.calibrate import Tokens, calibrate
from homoexport.stages.export.forms import Form, NotThisForm, fused_base, write_as
from homoexport.stages.export.graph import DEFAULT_OPSET, torch_to_onnx
from homoexport.stages.export.ladder import (
    MAX_TEXTS,
    Batch,
    Batches,
    known_texts,
    make_batches,
    spread,
    takes_pairs,
)
from homoexport.stages.export.parity import Answer, check_parity
from homoexport.stages.export.quantize import products_of, quantize
from homoexport.stages.export.smooth import Maxima, channel_maxima, smooth

MAX_CALIBRATION_TEXTS = 128

T = TypeVar("T")


@dataclass(frozen=True)
class Candidate:
    """A graph that could be shipped; see `CandidateFigures`. `cost` is what it was ranked by, lower is better."""

    form: Form
    scheme: Scheme
    embeddings: EmbeddingPrecision
    file: Path
    file_bytes: int
    calibration: Calibration | None = None
    kept_in_fp32: tuple[str, ...] = ()
    parity: Parity | None = None
    parity_on_target: Parity | None = None
    cost: float | None = None
    round: int | None = None
    provider: BrowserProvider | None = None
    threads: int | None = None

    @property
    def name(self) -> str:
        return f"{self.form.name}-{self.scheme}"

    @property
    def full_name(self) -> str:
        return self.name if self.calibration is None else f"{self.name}-{self.calibration}"

    @property
    def precision(self) -> WeightPrecision:
        return SCHEMES[self.scheme].precision

    @property
    def bounds(self) -> WeightPrecision:
        """Which bounds of the ladder apply."""
        return "int8" if self.precision == "fp32" and self.embeddings != "fp32" else self.precision

    @property
    def sound(self) -> bool:
        """Whether it answers as the model does, here and on the target."""
        checked = [parity for parity in (self.parity, self.parity_on_target) if parity is not None]
        return bool(checked) and all(parity.passed for parity in checked)


@dataclass
class Maker:
    """Makes candidates of one encoder as files in a folder, and says why others are missing.

    Texts are for the ladder and for calibration, by default sentences of the project's own. `opset` is a limit for
    every form.
    """

    encoder: Encoder  # the oracle, too
    folder: Path
    max_length: int  # tokens that a text is cut to
    texts: Sequence[str] = ()
    opset: int | None = None
    answer: Answer | None = None  # runs a file on the target, where that is not this machine's CPU
    progress: Callable[[str], None] = lambda _step: None
    provider: BrowserProvider | None = None  # of the browser that is the target, and with how many threads it times
    threads: int | None = None
    left_out: dict[str, str] = field(default_factory=dict)  # why what is missing is, by name
    held: list[Candidate] = field(default_factory=list)  # against all of the ladder
    batches: Batches = field(init=False)

    def __post_init__(self) -> None:
        self.progress("exporting the graph")
        self._raw = torch_to_onnx(self.encoder, opset=self.opset or DEFAULT_OPSET)
        self.texts = self.texts or known_texts(self.encoder.tokenizer, sample_text())
        self.batches = make_batches(self.encoder, self.texts, max_length=self.max_length)
        self._fused: dict[bool, ir.Model] = {}  # by whether residual additions are, too
        self._written: dict[Form, Candidate] = {}
        self._quantized: dict[Path, Candidate] = {}  # by the file, whose name says all that it was made by
        self._ranges: dict[tuple[Form, Calibration], TensorsData] = {}
        self._maxima: dict[Form, Maxima] = {}

    def in_provider(self, provider: BrowserProvider, answer: Answer) -> Maker:
        """The same model's candidates in a browser's provider, as files in a folder of their own.

        What they are made from is shared: the traced graph, the texts and their ranges.
        """
        other = copy.copy(self)
        other.provider, other.answer, other.folder = provider, answer, self.folder / provider
        other.left_out, other.held, other._written, other._quantized = {}, [], {}, {}
        other.folder.mkdir()
        return other

    def _candidate(self, form: Form, scheme: Scheme, embeddings: EmbeddingPrecision, file: Path) -> Candidate:
        """What a file is that is written."""
        size = file.stat().st_size
        return Candidate(form, scheme, embeddings, file, size, provider=self.provider, threads=self.threads)

    def write(self, form: Form) -> Candidate | None:
        """The graph in a form, in fp32, held against torch on one text; None, with the reason, if it cannot be run."""
        if form in self._written:
            return self._written[form]
        self.progress(f"checking the {form.name} graph against torch")
        file = self._file_of(form)

        def write() -> Candidate:
            ir.save(write_as(self._base(form), form, max_opset=self.opset), file)
            return self._candidate(form, "fp32", "fp32", file)

        written = self.attempt(form.name, write)
        return None if written is None else self._hold(written, self.batches.singles[:1])

    def hold(self, form: Form) -> Candidate | None:
        """The same of a form that is written, held against torch on a few batches of every kind."""
        return self._hold(self._written[form], self.batches.few)

    def _hold(self, written: Candidate, batches: Sequence[Batch]) -> Candidate | None:
        parity = self.attempt(written.name, lambda: self._parity(written, batches))
        if parity is None:
            return None
        self._written[written.form] = replace(written, parity=parity)
        return self._written[written.form]

    def attempt(self, name: str, work: Callable[[], T]) -> T | None:
        """What some work gives; None, and the reason is kept, where a library fails at it."""
        try:
            return work()
        except (OSError, DeviceError):
            raise  # a full disk, or a target that is gone, says nothing about the graph
        except NotThisForm as error:
            self.left_out[name] = str(error)
        except Exception as error:  # errors of onnxscript, of onnxruntime and of its quantizers have no base but this
            self.left_out[name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return None

    def _file_of(self, form: Form) -> Path:
        return self.folder / f"{form.name}.onnx"

    def _base(self, form: Form) -> ir.Model:
        """A copy of what a form is made from, of the same weights; fusing is slow, so its result is kept."""
        if form.attention == "unfused":
            return self._raw.clone()
        if form.skip_layer_norm not in self._fused:
            fused = fused_base(self._raw.clone(), skip_layer_norm=form.skip_layer_norm)
            self._fused[form.skip_layer_norm] = fused
        return self._fused[form.skip_layer_norm].clone()

    def check(self, candidate: Candidate, *, few: bool = False) -> Candidate | None:
        """The candidate with its parity; None, with the reason, if the runtime cannot run it."""
        batches = self.batches.few if few else self.batches.all
        parity = self.attempt(candidate.full_name, lambda: self._parity(candidate, batches))
        if parity is None:
            return None
        checked = replace(candidate, parity=parity)
        if few:
            return checked
        if self.answer is not None:
            there = self.attempt(candidate.full_name, lambda: self._parity(candidate, self.batches.short, self.answer))
            if there is None:
                return None
            checked = replace(checked, parity_on_target=there)
        self.held.append(checked)
        return checked

    def _parity(self, candidate: Candidate, batches: Sequence[Batch], answer: Answer | None = None) -> Parity:
        task, precision = self.encoder.task, candidate.bounds
        return check_parity(candidate.file, batches, task=task, precision=precision, answer=answer)

    def runs_there(self, candidate: Candidate) -> bool:
        """Whether the target's runtime can run the file; if not, the reason is kept."""
        first = self.batches.short[:1]
        if self.answer is None:
            return True
        return self.attempt(candidate.name, lambda: self._parity(candidate, first, self.answer)) is not None

    def quantize(
        self,
        form: Form,
        scheme: Scheme,
        embeddings: EmbeddingPrecision,
        *,
        keep: Sequence[str] = (),
        calibration: Calibration = "min-max",
    ) -> Candidate | None:
        """A form in a scheme, not held against torch yet; None, with the reason, if it cannot be made.

        What was made before, and not discarded, is not made again.
        """
        source = self._file_of(form)
        if scheme == "fp32" and embeddings == "fp32":
            return self._candidate(form, scheme, embeddings, source)
        calibrated = calibration if SCHEMES[scheme].calibrated else None
        name = f"{form.name}-{scheme}{f'-{calibrated}' if calibrated else ''}"
        kept = hashlib.sha256("\n".join(keep).encode()).hexdigest()[:8] if keep else 0
        file = self.folder / f"{name}-{embeddings}-{kept}.onnx"
        if file in self._quantized:
            return self._quantized[file]
        self.progress(f"quantizing the {form.name} graph ({scheme})")

        def write() -> Candidate:
            ranges = self.ranges(form, calibration) if calibrated else None
            quantize(source, file, scheme, embeddings=embeddings, keep=keep, ranges=ranges)
            made = self._candidate(form, scheme, embeddings, file)
            self._quantized[file] = replace(made, calibration=calibrated, kept_in_fp32=tuple(keep))
            return self._quantized[file]

        return self.attempt(name, write)

    def smooth(self, form: Form, strength: float) -> Form | None:
        """The form with smoothed inputs of its products, see `stages.export.smooth`; None, with the reason."""
        smoothed, source = replace(form, smoothing=strength), self._file_of(form)

        def write() -> Form:
            if form not in self._maxima:
                self.progress(f"measuring the channels of the {form.name} graph")
                self._maxima[form] = channel_maxima(source, self._calibration_tokens(), work=self.folder)
            smooth(source, self._file_of(smoothed), self._maxima[form], strength=strength)
            return smoothed

        return self.attempt(smoothed.name, write)

    def products(self, form: Form) -> list[str]:
        return products_of(self._file_of(form))

    def discard(self, candidate: Candidate) -> None:
        """Delete a file that nobody will ask for again; an fp32 form's stays."""
        if candidate.file != self._file_of(candidate.form):
            candidate.file.unlink(missing_ok=True)
            self._quantized.pop(candidate.file, None)

    def forget(self, forms: Iterable[Form]) -> None:
        """Delete all that was made of forms."""
        for form in set(forms):
            self._written.pop(form, None)
            self._file_of(form).unlink(missing_ok=True)
            for one in list(self._quantized.values()):
                if one.form == form:
                    self.discard(one)

    def ranges(self, form: Form, method: Calibration) -> TensorsData:
        """What values the inputs of a form's products take on the texts, see `stages.export.calibrate`."""
        if (form, method) not in self._ranges:
            source = self._file_of(form)
            self._ranges[form, method] = calibrate(source, self._calibration_tokens(), method=method, work=self.folder)
        return self._ranges[form, method]

    def _calibration_tokens(self) -> list[Tokens]:
        """Texts one by one, or every other one as a pair; other ones than the ladder's, where there are enough."""
        ladder = set(spread(self.texts, MAX_TEXTS))
        others = [text for text in self.texts if text not in ladder]
        texts = spread(others if len(others) >= len(ladder) else self.texts, MAX_CALIBRATION_TEXTS)
        names = input_names(self.encoder)
        inputs: list[tuple[str, ...]] = [(text,) for text in texts]
        if takes_pairs(self.encoder):
            inputs[1::2] = [(text, texts[-1 - number]) for number, text in enumerate(texts) if number % 2]
        encoded = [
            self.encoder.tokenizer(
                *([text] for text in item), truncation=True, max_length=self.max_length, return_tensors="np"
            )
            for item in inputs
        ]
        return [{name: tokens[name].astype(np.int64) for name in names} for tokens in encoded]
