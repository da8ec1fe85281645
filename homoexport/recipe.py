"""Recipes: one YAML file that says everything about a run, parsed strictly.

Every field has a unit in its name or its help. An unknown key is refused with the nearest known
one. Algorithms never see a recipe: each stage gets its own section, and leaves get plain values.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from homoexport.artifact import digest_of
from homoexport.budget import Budget
from homoexport.errors import RecipeError

Objective = Literal["masked-lm", "sentence-embedding", "classification", "token-classification"]
Method = Literal["homodistil", "one-shot", "from-scratch", "layers", "minilm"]
Importance = Literal["sensitivity", "magnitude", "platon"]
Schedule = Literal["cubic", "linear"]
PruneGroup = Literal["hidden", "ffn", "heads", "head-width"]
AttentionKind = Literal["scores", "probabilities"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Quantize = Literal["auto", "none", "int8", "int8-static", "int4", "fp16"]
Embeddings = Literal["auto", "fp32", "int8", "int4"]

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"  # a folder of its own: no dot in front, no way up


_Decay = Annotated[float, Field(ge=0, lt=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TextSource(_Section):
    """One source of text: a dataset on the hub, or files."""

    dataset: str | None = Field(None, description="Name of a dataset on the Hugging Face hub.")
    config: str | None = Field(None, description="Configuration of that dataset.")
    split: str = Field("train", description="Split of that dataset.")
    streaming: bool = Field(False, description="Read that dataset as a stream instead of downloading it.")
    files: str | None = Field(
        None,
        description="Glob of txt, jsonl, csv, tsv or parquet files, plain or compressed, or package:DISTRIBUTION/GLOB.",
    )
    column: str = Field("text", description="Column that holds the text (txt files have only 'text').")
    pair_column: str | None = Field(
        None,
        description="Column of the second text: a query's document (sentence-embedding) or a pair's other half "
        "(classification).",
    )
    label_column: str | None = Field(
        None, description="Column of labels; without one, the teacher's logits alone teach (classification)."
    )
    weight: float = Field(1.0, gt=0, description="Share of the batches, relative to the other sources' weights.")

    @model_validator(mode="after")
    def _one_origin(self) -> TextSource:
        if (self.dataset is None) == (self.files is None):
            raise ValueError("give either 'dataset' or 'files'")
        if self.streaming and self.dataset is None:
            raise ValueError("'streaming' is for hub datasets")
        return self


class TextSettings(_Section):
    """The text to distil on."""

    sources: tuple[TextSource, ...] = Field(min_length=1, description="Where the text comes from.")
    max_length: int = Field(128, ge=8, description="Tokens of one training sequence, special tokens included.")
    min_words: int = Field(3, ge=1, description="Sentences of fewer words are left out (sentence-embedding).")
    held_out: int = Field(1000, ge=3, description="Sequences kept for evaluation; training never sees them.")

    @property
    def paths(self) -> list[str]:
        """Globs of files, and folders or hub names of datasets."""
        return [str(source.files or source.dataset) for source in self.sources]


class StudentShape(_Section):
    """The student's widths and depth. Hidden size and layers are the teacher's where they are left out; the
    feed-forward width then keeps its proportion to the hidden size."""

    name: str | None = Field(None, pattern=_NAME, description="Name of the student's folder among several.")
    hidden_size: int | None = Field(None, ge=1, description="Width of the residual stream; the teacher's by default.")
    intermediate_size: int | None = Field(None, ge=1, description="Width of the feed-forward layers.")
    num_attention_heads: int | None = Field(None, ge=1, description="Heads; hidden_size must be divisible by it.")
    num_hidden_layers: int | None = Field(None, ge=1, description="Layers; fewer than the teacher's fade out.")
    finish: float = Field(
        0.25, gt=0, le=1, description="Among several: steps after its width is reached, as a share of distill.steps."
    )

    @property
    def dimensions(self) -> dict[str, int | None]:
        """The fields that are a shape."""
        return self.model_dump(exclude={"name", "finish"})


SEED_STUDENTS = {
    name: StudentShape(
        name=name, hidden_size=hidden, intermediate_size=4 * hidden, num_attention_heads=heads, num_hidden_layers=None
    )
    for name, hidden, heads in (("base", 576, 12), ("small", 256, 8), ("xsmall", 240, 12), ("tiny", 224, 7))
}  # HomoBERT's four students of BERT-base (arXiv 2302.09632, table 1)


class LossWeights(_Section):
    """Weights of the loss terms; 0 switches a term off."""

    task: float = Field(
        1.0, ge=0, description="Loss on labels; for sentence-embedding, match of the batch's similarity matrix."
    )
    kl: float = Field(1.0, ge=0, description="KL divergence of the student's logits from the teacher's.")
    hidden: float = Field(1.0, ge=0, description="Mean squared error of every layer's hidden states.")
    attention: float = Field(1.0, ge=0, description="Mean squared error of every layer's attention.")
    embedding: float = Field(1.0, ge=0, description="Mean squared error of the embedding layer's output.")
    relation: float = Field(
        1.0, ge=0, description="Relations of queries, keys and values in the last layer (method minilm alone)."
    )

    @model_validator(mode="after")
    def _some(self) -> LossWeights:
        if not any(self.model_dump().values()):
            raise ValueError("every term has weight 0")
        return self


class DistillSettings(_Section):
    """How to distil."""

    method: Method = Field(
        "homodistil",
        description="homodistil; one-shot: prune at step 0; from-scratch: same shape, random start; layers: every "
        "other layer kept; minilm: from scratch by the last layer's relations.",
    )
    objective: Objective = Field(
        description="What stands for the task: masked-lm, sentence-embedding, classification, token-classification."
    )
    steps: int = Field(ge=1, description="Optimizer steps.")
    batch_size: int = Field(ge=1, description="Sequences of one step, over all processes and micro-batches.")
    micro_batch_size: int | None = Field(
        None,
        ge=1,
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
    attention_kind: AttentionKind = Field(
        "scores", description="What the attention term matches: scores before the softmax, or probabilities."
    )
    temperature: float = Field(1.0, gt=0, description="Temperature of the KL and of the similarity matrix's softmax.")
    mlm_probability: float = Field(0.15, gt=0, lt=1, description="Share of the tokens that are masked (masked-lm).")
    prune: tuple[PruneGroup, ...] = Field(
        get_args(PruneGroup), description="Groups that may lose neurons: hidden, ffn, heads, head-width."
    )
    prune_schedule: Schedule = Field("cubic", description="How widths fall from t_i to t_f: cubic or linear.")
    prune_from: float = Field(0.0, ge=0, le=1, description="Share of the steps after which pruning starts (t_i).")
    prune_until: float = Field(0.6, ge=0, le=1, description="Share of the steps at which the target is met (t_f).")
    prune_every: int = Field(5, ge=1, description="Steps from one prune event to the next.")
    importance: Importance = Field(
        "sensitivity", description="What a neuron is worth: sensitivity, magnitude, or platon."
    )
    importance_smoothing: float = Field(0.85, ge=0, lt=1, description="Smoothing of the sensitivity (beta 1).")
    uncertainty_smoothing: float = Field(0.95, ge=0, lt=1, description="Smoothing of platon's uncertainty (beta 2).")
    precision: Precision = Field(
        "auto", description="fp32, bf16 or fp16 autocast (fp16 on GPUs), or auto: bf16 where it is faster here."
    )
    activation_checkpointing: bool = Field(
        False, description="Compute layers again in the backward pass: less memory, about a third more time."
    )
    compile: bool = Field(False, description="torch.compile for the teacher, and for the student after t_f.")
    trackers: tuple[str, ...] = Field((), description="Accelerate's trackers: tensorboard, wandb, or all.")
    checkpoint_every: int = Field(100, ge=1, description="Steps from one checkpoint to the next.")
    threads: int | None = Field(
        None, ge=1, description="CPU threads of one process; by default what the cgroup allows."
    )

    @model_validator(mode="after")
    def _order(self) -> DistillSettings:
        if self.prune_until < self.prune_from:
            raise ValueError("prune_until comes before prune_from")
        if self.layers is not None and (not self.layers or min(self.layers) < 1):
            raise ValueError("'layers' are counted from 1")
        if self.objective == "sentence-embedding" and self.batch_size == 1 and self.weights.task > 0:
            raise ValueError("sentence-embedding matches the sentences of a batch; 'batch_size' must be 2 or more")
        return self


class ExportSettings(_Section):
    """How to export."""

    quantize: Quantize = Field(
        "auto",
        description="auto: the fastest that passes the gate; none: fp32; int8: scales as values come; int8-static: "
        "calibrated scales; int4: 4-bit weights; fp16.",
    )
    embeddings: Embeddings = Field(
        "auto", description="Embedding tables in fp32, int8 or int4; auto: int8 where weights are quantized."
    )
    opset: int | None = Field(
        None, ge=18, description="ONNX opset, and nothing newer; by default 18, and newer operators where they pay."
    )
    with_tokenizer: bool = Field(
        False, description="Write strings/text_model.onnx, too, which takes texts (needs onnxruntime-extensions)."
    )
    with_ort_format: bool = Field(
        False, description="Write ort/model.ort, too, for small builds of onnxruntime, and the operators it needs."
    )


class MeasureSettings(_Section):
    """How to measure."""

    device: str = Field("cpu", description="Target to measure on.")
    threads: int | None = Field(None, ge=1, description="Threads of one inference; by default all cores there.")
    batch_size: int = Field(1, ge=1, description="Sequences of one call.")
    length: int = Field(128, ge=2, description="Tokens of one sequence; of real texts, the most.")
    text: str | None = Field(None, description="File of real texts, one a line, whose own lengths are measured with.")
    min_seconds: float = Field(2.0, gt=0, description="Seconds measured of each package at the least.")


class Recipe(_Section):
    """A whole run."""

    name: str = Field("run", pattern=_NAME, description="Names the run's folder.")
    teacher: str = Field(description="Hub name, folder, or package:DISTRIBUTION/PATH.")
    text: TextSettings
    student: StudentShape | None = Field(None, description="The student's shape.")
    students: tuple[StudentShape, ...] = Field(
        (),
        description="Several students out of one run, the widest first: shapes, or HomoBERT's names "
        "(base, small, xsmall, tiny).",
    )
    distill: DistillSettings
    export: ExportSettings = ExportSettings()
    measure: MeasureSettings = MeasureSettings()
    budget: Budget = Budget()
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of everything that is random.")

    @field_validator("students", mode="before")
    @classmethod
    def _named(cls, students: Any) -> Any:
        if not isinstance(students, list | tuple):
            return students
        for student in students:
            if isinstance(student, str) and student not in SEED_STUDENTS:
                raise ValueError(f"no student is named '{student}'; named are: {', '.join(SEED_STUDENTS)}")
        return [SEED_STUDENTS[student] if isinstance(student, str) else student for student in students]

    @model_validator(mode="after")
    def _student_or_students(self) -> Recipe:
        if (self.student is None) == (not self.students):
            raise ValueError("give either 'student' or 'students' (flags like --hidden-size shape the student)")
        if self.student is not None and (ignored := self.student.model_fields_set & {"name", "finish"}):
            raise ValueError(f"student.{ignored.pop()} is for one of several 'students'")
        names = [student.name for student in self.students]
        if None in names or len({str(name).lower() for name in names}) < len(names):
            raise ValueError("each of 'students' needs a name of its own")
        if taken := {str(name).lower() for name in names} & {"trackers", "run.json"}:
            raise ValueError(f"'{taken.pop()}' is a name of the run's own; call the student something else")
        return self

    def digest(self) -> str:
        """Hex sha256 of the recipe's content."""
        return digest_of(self.model_dump(mode="json"))


def _fields_at(location: Sequence[int | str]) -> list[str]:
    """Names of the fields of the section at `location` (the last part of which is the unknown key)."""
    section: Any = Recipe
    for part in location:
        if isinstance(part, int):
            continue
        annotation = section.model_fields[part].annotation
        section = next(
            (
                kind
                for kind in (annotation, *get_args(annotation))
                if isinstance(kind, type) and issubclass(kind, BaseModel)
            ),
            Recipe,
        )
    return list(section.model_fields)


def _explain(error: ValidationError, where: str) -> RecipeError:
    """The first mistake of a recipe, in one line."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _fields_at(first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.5)
        mend = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}"
        return RecipeError(f"unknown key '{key}'", where=where, mend=mend)
    if first["type"] == "missing":
        return RecipeError(f"'{key}' is missing", where=where, mend="add it, or give it with --set")
    message = first["msg"].removeprefix("Value error, ")
    given = "" if isinstance(first["input"], dict | list | tuple | BaseModel) else f" (given: {first['input']!r})"
    return RecipeError(f"'{key}': {message}{given}" if key else message, where=where)


def _apply(tree: dict[str, Any], assignment: str) -> None:
    """Write one `a.b.c=value` into a nested dict; the value is YAML."""
    path, separator, value = assignment.partition("=")
    if not separator or not path:
        raise RecipeError(f"'{assignment}' is not KEY=VALUE", where="--set", mend="write --set distill.steps=300")
    *parents, last = path.split(".")
    node: Any = tree
    for part in parents:
        node = _child(node, part, path, create=True)
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise RecipeError(f"'{value}' is not a YAML value", where=f"--set {path}") from None
    if isinstance(node, list):
        _child(node, last, path, create=False)
        node[int(last)] = parsed
    else:
        node[last] = parsed


def _child(node: Any, part: str, path: str, *, create: bool) -> Any:
    if isinstance(node, list):
        if not part.isdigit() or int(part) >= len(node):
            raise RecipeError(f"'{part}' is not an index of a list of {len(node)}", where=f"--set {path}")
        return node[int(part)]
    if create and node.get(part) is None:
        node[part] = {}
    child = node.get(part)
    if not isinstance(child, dict | list):
        raise RecipeError(f"'{part}' holds a value, not a section", where=f"--set {path}")
    return child


def parse_recipe(tree: dict[str, Any], *, where: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from a nested dict and `a.b=value` overrides.

    Raises:
        RecipeError: unknown key (with the nearest known one), missing key, or a bad value.
    """
    tree = copy.deepcopy(tree)
    for assignment in overrides:
        _apply(tree, assignment)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise _explain(error, where) from None


def read_recipe_tree(path: Path) -> dict[str, Any]:
    """A recipe's YAML as a nested dict, not yet checked.

    Raises:
        RecipeError: no such file, or not a YAML mapping.
    """
    if not path.is_file():
        raise RecipeError(
            "no such recipe", where=str(path), mend="name a YAML file, for example recipes/quickstart.yaml"
        )
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"is not YAML ({error})", where=str(path)) from None
    if not isinstance(tree, dict):
        raise RecipeError("is not a YAML mapping", where=str(path), mend="see recipes/quickstart.yaml")
    return tree


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from a YAML file and `a.b=value` overrides.

    Raises:
        RecipeError: no such file, not YAML, unknown key (with the nearest known one), bad value.
    """
    return parse_recipe(read_recipe_tree(path), where=str(path), overrides=overrides)
