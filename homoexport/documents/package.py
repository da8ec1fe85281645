"""What a package's manifest says: the model, the graph that was chosen, and all that it was chosen from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from homoexport.choices import (
    BrowserProvider,
    Calibration,
    CostUnit,
    EmbeddingPrecision,
    ModelTask,
    PoolingMode,
    Runtime,
    Scheme,
    TruncationSide,
    WeightPrecision,
)
from homoexport.documents.budget import BudgetVerdict
from homoexport.documents.document import Figures
from homoexport.documents.vocabulary import VocabularyDescription

Count = Annotated[int, Field(gt=0, lt=2**31)]
# Of a package: what another runtime than ONNX Runtime is told to open, and what it looks for beside that.
RUNTIME_FILES: dict[Runtime, tuple[str, ...]] = {
    "openvino": ("openvino/openvino_model.xml", "openvino/openvino_model.bin"),  # as optimum-intel names them
    "ctranslate2": tuple(
        f"ctranslate2/{name}" for name in ("model.bin", "config.json", "vocabulary.json", "head.json")
    ),
}

# Of a package: what transformers.js fetches beside the graph.
PAGE_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")

PROMPT_FOLDER = "prompt"  # of a package: what makes vectors of states where a prompt's tokens are not pooled


def runtime_of(file: Path) -> Runtime:
    """What opens a file, by its suffix."""
    suffixes = {Path(names[0]).suffix: runtime for runtime, names in RUNTIME_FILES.items()}
    return suffixes.get(file.suffix, "onnxruntime")


def parts_of(file: Path) -> list[Path]:
    """What is opened, first, and the files beside it that hold the rest of the model."""
    runtime = runtime_of(file)
    start = {"openvino": f"{file.stem}.", "ctranslate2": ""}.get(runtime, file.name)
    return [file, *sorted(part for part in file.parent.iterdir() if part.name.startswith(start) and part != file)]


class Parity(Figures):
    """How far a graph's answers are from torch's, over all batches.

    `max_difference` is absolute; `max_relative_difference` is over the largest absolute value of that output; both are
    None where an answer is not finite.
    Cosines are of the task's vectors: sentences, or the tokens' hidden states, or a masked-LM's logits. A classifier
    gives no vectors but scores, of which those near to zero have no direction that counts: there both cosines are that
    of all scores together, about each label's mean.
    `top1_agreement` is of logits: the share of tokens or texts whose likeliest token or label stays the same; of a
    classifier whose labels are decisions of their own, the share whose decision does, of the label where it is least.
    """

    output: str
    max_difference: float | None
    max_relative_difference: float | None
    min_cosine: float
    mean_cosine: float
    top1_agreement: float | None
    passed: bool

    @property
    def largest_value(self) -> float | None:
        """The largest absolute value of torch's answers; None where no difference shows it."""
        difference, relative = self.max_difference, self.max_relative_difference
        return difference / relative if difference and relative else None


class Invariance(Figures):
    """How far the same text's answers are from each other, alone and inside a padded batch.

    `max_difference` is None where an answer is not finite, `min_cosine` where it is a classifier's scores.
    """

    texts: int
    max_difference: float | None
    min_cosine: float | None


class CandidateFigures(Figures):
    """A graph that could have been shipped.

    `kept_in_fp32` are products that broke the accuracy gate in fewer bits. Only candidates of one `round` compare: they
    were timed in turns, or instructions of one inference were counted, as `TimedAt.unit` says. `provider` and
    `threads` are said in a browser, where a provider's rounds are its own. Both figures are None
    where one was wrong, or nothing was to be compared, and `parity` where it was too slow to be worth the question.
    """

    name: str
    full_name: str
    precision: WeightPrecision
    embeddings: EmbeddingPrecision
    calibration: Calibration | None
    kept_in_fp32: tuple[str, ...]
    file_bytes: int
    latency_p50_ms: float | None = None
    instructions: float | None = None
    round: int | None
    parity: Parity | None
    parity_on_target: Parity | None
    provider: BrowserProvider | None = None
    threads: int | None = None


class BrowserRun(Figures):
    """The best candidate of a browser's provider, with so many threads; no latency where nothing was to be compared, or
    it did not fit into memory."""

    provider: BrowserProvider
    threads: Count
    candidate: str
    file_bytes: int
    latency_p50_ms: float | None


class BrowserChoice(Figures):
    """How a page is to run the model: what was fastest in the browser that it was exported for.

    The `runs` were timed in turns. `not_tried` says why a provider was not, by its name.
    """

    provider: BrowserProvider
    threads: Count
    runs: tuple[BrowserRun, ...]
    not_tried: dict[str, str]


class TimedAt(Figures):
    """What candidates were timed at, or their instructions counted. `threads` is None for one on each core."""

    device: str
    cpu: str
    threads: int | None
    batch_size: int
    length: int
    unit: CostUnit = "ms"


class Pooling(Figures):
    """How a sentence's vector is made of its tokens'.

    `width` is said where the vector has another one than the hidden size. The vectors of `more` modes stand behind that
    of `mode`. Unless `include_prompt`, the tokens of a prompt are read and not pooled.
    """

    mode: PoolingMode = "mean"
    normalize: bool = True
    width: Count | None = None
    more: tuple[PoolingMode, ...] = ()
    include_prompt: bool = True

    @property
    def modes(self) -> tuple[PoolingMode, ...]:
        """All of them, in the order of their vectors."""
        return (self.mode, *self.more)


class Prompts(Figures):
    """What may be put before a text, by its name, and the name of what is put there where none is asked for."""

    texts: dict[str, str]
    default: str | None = None

    @property
    def own(self) -> str:
        """What is put there where none is asked for."""
        return "" if self.default is None else self.texts[self.default]

    @model_validator(mode="after")
    def _has_its_default(self) -> Prompts:
        if self.default is not None and self.default not in self.texts:
            raise ValueError(f"there is no prompt '{self.default}', which is the default's name")
        return self


class TokenizerKind(Figures):
    """Strings of a kind, and of how many of them both tokenizers make the same ids."""

    strings: int
    equal: int


class PackedTokenizer(Figures):
    """The file that takes texts, and how its tokenizer compares with the one that it was made from.

    `operators` are those of onnxruntime-extensions without which the file does not load.
    """

    file: str
    input: str
    onnxruntime_extensions: str
    operators: tuple[str, ...]
    strings: int
    equal: int
    differing_kinds: tuple[str, ...]
    kinds: dict[str, TokenizerKind]


class OrtFormat(Figures):
    """The graph in ORT format, and the list of operators that a build needs to run it."""

    file: str
    operators: str


class RuntimeFile(Figures):
    """The model for another runtime, of that version: what it opens, with more files in the same folder.

    `file_bytes` is of all; `candidate` is the form and scheme that it was made of; `kept_in_fp32` are products that
    broke the gate in int8. Both latencies were measured in turns at `timed_at`; None where one did not fit into memory.
    """

    file: str
    file_bytes: int
    candidate: str
    precision: WeightPrecision
    kept_in_fp32: tuple[str, ...]
    version: str
    parity: Parity
    latency_p50_ms: float | None
    onnx_latency_p50_ms: float | None

    @property
    def share_of_onnx(self) -> float:
        """Its latency as a share of the ONNX file's, in the same turns; infinity where it could not be timed."""
        if self.latency_p50_ms is None:
            return float("inf")
        return 0.0 if self.onnx_latency_p50_ms is None else self.latency_p50_ms / self.onnx_latency_p50_ms


class PackageDetails(Figures):
    """What an export says of its package.

    `candidate` is the full name of the one that ships; `refused` and `left_out` say why each other one does not, or
    could not be made; `quality` holds verdicts on a floor, by the candidate's name. `held_on` is the device that the
    accuracy gate was held on, beside this machine. `labels` are the names of a classifier's logits, in their order.
    `truncation_side` is where texts beyond `max_length` are cut, and `vocabulary` is told, from version 2.7 of the
    manifest on, of a model that was trimmed.
    """

    model_file: str
    task: ModelTask
    max_length: Count
    pad_token_id: Annotated[int, Field(ge=0, lt=2**31)]
    vocab_size: Count
    hidden_size: Count
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    labels: tuple[str, ...] | None
    pooling: Pooling | None
    precision: WeightPrecision
    scheme: Scheme
    quantization: str | None
    embeddings: str
    candidate: str
    kept_in_fp32: tuple[str, ...]
    parameters: Annotated[int, Field(ge=0)]
    opset: Count
    graph: str
    parity: Parity
    batch_invariance: Invariance
    candidates: tuple[CandidateFigures, ...]
    refused: dict[str, str]
    left_out: dict[str, str]
    quality: dict[str, BudgetVerdict]
    oldest_onnxruntime: str
    timed_at: TimedAt | None
    held_on: str
    with_tokenizer: PackedTokenizer | None = None
    ort_format: OrtFormat | None = None
    openvino: RuntimeFile | None = None
    ctranslate2: RuntimeFile | None = None
    browser: BrowserChoice | None = None
    prompts: Prompts | None = None
    truncation_side: TruncationSide = "right"
    vocabulary: VocabularyDescription | None = None

    @property
    def beside(self) -> dict[Runtime, RuntimeFile]:
        """The files for other runtimes that the package has."""
        files: dict[Runtime, RuntimeFile | None] = {"openvino": self.openvino, "ctranslate2": self.ctranslate2}
        return {runtime: file for runtime, file in files.items() if file is not None}

    @property
    def counted(self) -> bool:
        """Whether candidates were chosen by instructions, in place of times."""
        return self.timed_at is not None and self.timed_at.unit == "instructions"

    @property
    def difference_in_company(self) -> str:
        """How far a text's answer in a batch is from that of the text alone, and how large the answers are."""
        difference, largest = self.batch_invariance.max_difference, self.parity.largest_value
        if difference is None:
            return "not finite"
        what = "logits" if self.parity.output == "logits" else "numbers"
        return f"{difference:.2g}" + (f" in {what} of up to {largest:.2g}" if largest else "")

    @property
    def candidate_names(self) -> tuple[str, ...]:
        """A name for each candidate that no other has: with what tells it from those of the same form and scheme."""
        ones = self.candidates
        names = [f"{one.provider} {one.full_name}" if one.provider else one.full_name for one in ones]
        told: list[Callable[[CandidateFigures], str]] = [
            lambda one: f"{one.embeddings} words",
            lambda one: f"{len(one.kept_in_fp32)} products in fp32",
            lambda one: f"round {one.round}" if one.round else "not timed",
            lambda one: f"{one.file_bytes} bytes",
        ]
        for say in told:
            for name in [name for name, count in Counter(names).items() if count > 1]:
                alike = [place for place, other in enumerate(names) if other == name]
                if len({say(ones[place]) for place in alike}) > 1:
                    for place in alike:
                        names[place] = f"{name}, {say(ones[place])}"
        seen: Counter[str] = Counter()
        for place, name in enumerate(names):
            seen[name] += 1
            names[place] = name if seen[name] == 1 else f"{name} ({seen[name]})"
        return tuple(names)

    @property
    def shipped(self) -> int | None:
        """The place of the candidate that ships, in the last round that it was in; None where none is described."""
        ours = [
            place
            for place, one in enumerate(self.candidates)
            if (one.full_name, one.kept_in_fp32, one.parity) == (self.candidate, self.kept_in_fp32, self.parity)
            and (self.browser is None or one.provider == self.browser.provider)
        ]
        return ours[-1] if ours else None

    def fastest(self, runtimes: Collection[Runtime]) -> Runtime:
        """Of ONNX Runtime and of these: what the package was fastest in where it was exported."""
        shares = {runtime: file.share_of_onnx for runtime, file in self.beside.items() if runtime in runtimes}
        best = min(shares, key=lambda runtime: shares[runtime], default=None)
        return "onnxruntime" if best is None or shares[best] >= 1 else best

    @model_validator(mode="after")
    def _classifiers_have_labels(self) -> PackageDetails:
        if self.task.endswith("-classification") and self.labels is None:
            raise ValueError("a classifier's labels are missing")
        return self
