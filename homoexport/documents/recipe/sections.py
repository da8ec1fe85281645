"""The sections of recipes: what each stage is told. Every field has a unit in its name or its help."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from homoexport.choices import (
    AttentionKind,
    EmbeddingChoice,
    GraphChoice,
    Importance,
    Method,
    Objective,
    PruneGroup,
    Quantization,
    RuntimeChoice,
    ScheduleShape,
    Side,
    TrainingPrecision,
)
from homoexport.schemes import QUANTIZE_HELP
from homoexport.shape import Count, PartialShape

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"  # a folder of its own: no dot in front, no way up
_Decay = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Frozen, and strict: an unknown key is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StudentShape(PartialShape):
    """A student: its shape and, among several, its folder and its share of the steps."""

    name: str | None = Field(None, pattern=NAME, description="Name of the student's folder among several.")
    finish: float = Field(
        0.25,
        gt=0,
        le=1,
        description="Among several: steps after its width is reached, as a share of distill.steps.",
    )

    @property
    def alone(self) -> StudentShape:
        """The same shape as a recipe's one student."""
        return StudentShape(**self.model_dump(exclude_unset=True, exclude={"name", "finish"}))


SEED_STUDENTS = {
    name: StudentShape(name=name, hidden_size=hidden, intermediate_size=4 * hidden, num_attention_heads=heads)
    for name, hidden, heads in (("base", 576, 12), ("small", 256, 8), ("xsmall", 240, 12), ("tiny", 224, 7))
}  # HomoBERT's four students of BERT-base (arXiv 2302.09632, table 1)


class LossWeights(Section):
    """Weights of the loss terms; 0 switches a term off. Titles name them in plots."""

    task: float = Field(
        1.0,
        ge=0,
        title="task",
        description="Loss on labels; for sentence-embedding, match of the batch's similarity matrix.",
    )
    kl: float = Field(
        1.0, ge=0, title="KL divergence", description="KL divergence of the student's logits from the teacher's."
    )
    hidden: float = Field(
        1.0, ge=0, title="hidden states", description="Mean squared error of every layer's hidden states."
    )
    attention: float = Field(
        1.0,
        ge=0,
        title="attention",
        description="Mean squared error of every layer's attention; by default 0 for sentence-embedding (but 1 for "
        "tinybert).",
    )
    embedding: float = Field(
        1.0, ge=0, title="embeddings", description="Mean squared error of the embedding layer's output."
    )
    vectors: float | None = Field(
        None,
        ge=0,
        title="vectors",
        description="1 - cosine of the student's vector and the teacher's, or that of distill.vectors_from, of the "
        "same text, where student.output is teacher; by default 1 there.",
    )
    relation: float = Field(
        1.0,
        ge=0,
        title="relations of Q, K, V",
        description="Relations of queries, keys and values in the last layer (method minilm alone).",
    )

    @model_validator(mode="after")
    def _some(self) -> LossWeights:
        if not any(self.model_dump().values()):
            raise ValueError("every term has weight 0")
        return self


class VocabularySettings(Section):
    """Which pieces of the tokenizer stay; `student.vocab_size` says how many, or a plan chooses among `sizes`."""

    sizes: tuple[Annotated[Count, Field(ge=1)], ...] = Field(
        (),
        examples=["12k"],
        description="Pieces of the tokenizer that may be kept at most: a plan weighs each against all of them, by what "
        "they keep of the text and what the room that they leave keeps of the teacher. Of a student that is planned.",
    )

    min_count: int = Field(
        0,
        ge=0,
        description="Times that the text has a piece at least, for it to stay; 0 leaves the choice to its size.",
    )
    keep: str | None = Field(
        None,
        description="Glob of txt files of what is to be split as it is now: names, terms, a line each.",
    )

    @field_validator("sizes")
    @classmethod
    def _different(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if twice := [size for index, size in enumerate(sizes) if size in sizes[:index]]:
            raise ValueError(f"{twice[0]} is named twice, and would make the same plan again: leave one out")
        return sizes


_OF_A_PATH = {"prune_schedule", "prune_from", "prune_until", "prune_every"}


class DistillSettings(Section):
    """How to distil."""

    method: Method = Field(
        default_factory=lambda: "one-shot",
        description="How the student is made. homodistil: pruned step by step; one-shot: pruned at step 0; "
        "from-scratch: random weights; layers: every other layer of the teacher; minilm: from scratch, by the last "
        "layer's relations; tinybert: from scratch with half the layers, by layers first, then by the output; "
        "repair: pruned at once and mended by least squares, without a step. By default homodistil for masked-lm, for "
        "several students, and where a key says how widths fall (prune_schedule, prune_from, prune_until, "
        "prune_every); else one-shot.",
    )
    objective: Objective = Field(description="The task that is distilled; token-classification is tagging.")
    steps: int = Field(ge=1, le=10**9, description="Optimizer steps; method repair makes none, whatever is given here.")
    batch_size: int = Field(ge=1, le=2**20, description="Sequences of one step, over all processes and micro-batches.")
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        le=2**20,
        description="Sequences of one forward pass, which bounds memory; sentence-embedding then makes two.",
    )
    learning_rate: float = Field(6e-4, gt=0, description="Peak learning rate of AdamW.")
    warmup: float = Field(0.1, ge=0, le=1, description="Share of the steps in which the rate rises; then it falls.")
    betas: tuple[_Decay, _Decay] = Field((0.9, 0.999), description="AdamW's two decay rates.")
    eps: float = Field(1e-6, gt=0, description="AdamW's epsilon.")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's weight decay (not on biases and LayerNorms).")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    weights: LossWeights = Field(LossWeights(), description="Weights of the loss terms.")
    layers: tuple[int, ...] | None = Field(
        None, description="Teacher's layers, counted from 1, that the hidden and attention terms match; by default all."
    )
    compare_in: Side = Field(
        "teacher",
        description="The width in which hidden states and embeddings are compared: teacher (the student's are "
        "projected up, so that it answers for all of them) or student (the teacher's are projected down, as in the "
        "paper's equation).",
    )
    attention_kind: AttentionKind = Field(
        "scores", description="What the attention term matches: scores before the softmax, or probabilities."
    )
    temperature: float = Field(1.0, gt=0, description="Temperature of the KL and of the similarity matrix's softmax.")
    crop: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the texts that are cut to a random part whenever they are drawn, so that short texts, as "
        "queries are, are seen, too (sentence-embedding).",
    )
    vectors_from: str | None = Field(
        None,
        description="What gives the vectors that the student is to match, in place of its teacher: another model (hub "
        "name, folder, or package:DISTRIBUTION/PATH), which is asked once for each text, or FILE.npy, which holds a "
        "vector for each row of the text (sentence-embedding).",
    )
    mlm_probability: float = Field(0.15, gt=0, lt=1, description="Share of the tokens that are masked (masked-lm).")
    prune: tuple[PruneGroup, ...] = Field(
        get_args(PruneGroup), description="Groups that may lose neurons: hidden, ffn, heads, head-width."
    )
    prune_schedule: ScheduleShape = Field("cubic", description="How widths fall from t_i to t_f: cubic or linear.")
    prune_from: float = Field(0.0, ge=0, le=1, description="Share of the steps after which pruning starts (t_i).")
    prune_until: float = Field(0.6, ge=0, le=1, description="Share of the steps at which the target is met (t_f).")
    prune_every: int = Field(5, ge=1, description="Steps from one prune event to the next.")
    repair: bool = Field(
        default_factory=lambda: False,
        description="Mend by least squares what the student loses, at every prune event. By default true, but false "
        "where the recipe names another method than one-shot, or a key of homodistil's path (prune_from, prune_every "
        "and the like); method repair always mends. ALBERT, whose layers are one, is not mended.",
    )
    importance: Importance = Field(
        "sensitivity",
        description="How a neuron's importance is scored: sensitivity (|weight x gradient|), magnitude, or platon "
        "(sensitivity x its uncertainty).",
    )
    importance_smoothing: float = Field(0.85, ge=0, lt=1, description="Smoothing of the sensitivity (beta 1).")
    uncertainty_smoothing: float = Field(0.95, ge=0, lt=1, description="Smoothing of platon's uncertainty (beta 2).")
    int8_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Last share of the steps in which the student is rounded as int8 will round it, so that the int8 "
        "file may lose less.",
    )
    precision: TrainingPrecision = Field(
        "auto", description="fp32, bf16 or fp16 autocast (fp16 on GPUs), or auto: bf16 where it is faster here."
    )
    activation_checkpointing: bool = Field(
        False, description="Compute layers again in the backward pass: less memory, about a third more time."
    )
    compile: bool = Field(False, description="torch.compile for the teacher, and for the student after t_f.")
    trackers: tuple[str, ...] = Field((), description="Accelerate's trackers: tensorboard, wandb, or all.")
    checkpoint_every: int | None = Field(
        None,
        ge=1,
        description="Steps from one checkpoint to the next; by default a fifth of the steps, and in between as often "
        "as takes 2 % of the time.",
    )
    teacher_cache_gb: float | None = Field(
        None,
        ge=0,
        description="Disk space (GB) that the teacher's outputs may take where texts come twice or more, so that it is "
        "asked once for each; by default 10 on CPUs, 0 (asked at every step) on GPUs. Not for masked-lm, crop, "
        "streams, queries with documents, attention_kind probabilities, minilm and tinybert.",
    )
    threads: int | None = Field(
        None, ge=1, le=4096, description="CPU threads of one process; by default what the cgroup allows."
    )

    @model_validator(mode="before")
    @classmethod
    def _by_method(cls, given: Any) -> Any:
        """A repair takes one step, which measures and changes nothing. What is mended is better, and step by step only
        for masked-lm (bench/homotopy.py); a student that learned its teacher's attention keeps less of the teacher's
        search (bench/ablation.py)."""
        if not isinstance(given, dict):
            return given
        weights = given.get("weights", {})
        is_of_sentences = given.get("objective") == "sentence-embedding"
        if is_of_sentences and given.get("method") != "tinybert" and isinstance(weights, dict):
            given = {**given, "weights": {"attention": 0.0, **weights}}
        if given.get("method") == "repair":
            return {**given, "steps": 1}
        asked = given.get("method") or ("homodistil" if given.keys() & _OF_A_PATH else None)
        method = asked or ("homodistil" if given.get("objective") == "masked-lm" else "one-shot")
        return {"repair": asked in (None, "one-shot"), **given, "method": method}

    @model_validator(mode="after")
    def _order(self) -> DistillSettings:
        if self.prune_until < self.prune_from:
            raise ValueError("prune_until comes before prune_from")
        if self.layers is not None and (not self.layers or min(self.layers) < 1):
            raise ValueError("'layers' are counted from 1")
        if self.crop > 0 and self.objective != "sentence-embedding":
            raise ValueError("'crop' is for sentence-embedding: a part of a text has not its label")
        if self.repair and self.method in ("from-scratch", "minilm", "tinybert"):
            raise ValueError(f"'repair' mends what pruning takes away, and {self.method} prunes nothing: leave it out")
        if self.method == "repair" and self.int8_share > 0:
            raise ValueError("method repair takes no steps, so 'int8_share' is a share of nothing: leave it out")
        if self.objective == "sentence-embedding" and self.batch_size == 1 and self.weights.task > 0:
            raise ValueError("sentence-embedding matches the sentences of a batch; 'batch_size' must be 2 or more")
        if self.method == "tinybert":
            weights, has_kl = self.weights, self.objective != "sentence-embedding"
            by_output = weights.task or (has_kl and weights.kl)
            if not by_output or not (weights.hidden or weights.attention or weights.embedding):
                output = "'task' or 'kl'" if has_kl else "'task'"
                raise ValueError(
                    "tinybert learns the layers first, then the output: give one of 'hidden', 'attention' and "
                    f"'embedding' a weight, and {output}"
                )
        return self

    @property
    def vectors_file(self) -> str | None:
        """The npy file that `vectors_from` names."""
        given = self.vectors_from
        return given if given is not None and given.lower().endswith(".npy") else None

    @property
    def vectors_model(self) -> str | None:
        """The model that `vectors_from` names."""
        return self.vectors_from if self.vectors_file is None else None


class ExportSettings(Section):
    """How to export."""

    quantize: Quantization = Field(
        "auto",
        description="; ".join(f"{name}: {meaning}" for name, meaning in QUANTIZE_HELP.items()) + ".",
    )
    embeddings: EmbeddingChoice = Field(
        "auto",
        description="Embedding tables in fp32, int8, int4 or pq (words by product quantization, 2 bits a number); auto:"
        " int8 where weights are quantized.",
    )
    opset: int | None = Field(
        None, ge=18, description="ONNX opset of the graph; by default 18, with newer operators where they are faster."
    )
    with_tokenizer: bool = Field(
        False, description="Also write strings/text_model.onnx, which takes texts (needs onnxruntime-extensions)."
    )
    with_ort_format: bool = Field(
        False,
        description="Also write ort/model.ort, for small builds of onnxruntime, and the operators it needs.",
    )
    graph: GraphChoice = Field(
        "auto", description="How the graph computes attention; auto: every form is tried, and the fastest is taken."
    )
    runtime: RuntimeChoice = Field(
        "onnxruntime",
        description="onnxruntime: the ONNX file alone; openvino or ctranslate2: files for that runtime beside it, in a "
        "folder of its name; auto: these, too, where they are faster (needs homoexport[openvino] or "
        "homoexport[ctranslate2]).",
    )
    seconds: float = Field(
        1.0, gt=0, le=86_400, description="Seconds for which each candidate graph is timed, at least."
    )


class MeasureSettings(Section):
    """How to measure."""

    device: str = Field("cpu", description="Target device; `homoexport devices` lists them.")
    threads: int | None = Field(
        None, ge=1, le=4096, description="Threads of one inference; by default all cores there."
    )
    batch_size: int = Field(1, ge=1, le=2**20, description="Sequences of one inference.")
    length: int = Field(128, ge=2, le=10**6, description="Tokens of one sequence; of real texts, the most.")
    text: str | None = Field(None, description="File of real texts, one a line, whose own lengths are measured with.")
    min_seconds: float = Field(2.0, gt=0, le=86_400, description="Seconds for which each package is timed, at least.")
