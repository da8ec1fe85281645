"""Recipes: one YAML file that says everything about a run, parsed strictly.

Every field has a unit in its name or its help. An unknown key is refused with the nearest known
one. Algorithms never see a recipe: each stage gets its own section, and leaves get plain values.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from homoexport.artifact import digest_of
from homoexport.budget import Budget
from homoexport.errors import RecipeError

Objective = Literal["masked-lm", "sentence-embedding"]
Precision = Literal["auto", "fp32", "bf16"]
Quantize = Literal["none", "int8"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


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


class StudentShape(_Section):
    """The student's widths. What is left out keeps the teacher's proportion."""

    hidden_size: int = Field(ge=1, description="Width of the residual stream.")
    intermediate_size: int | None = Field(None, ge=1, description="Width of the feed-forward layers.")
    num_attention_heads: int | None = Field(None, ge=1, description="Heads; hidden_size must be divisible by it.")


class LossWeights(_Section):
    """Weights of the loss terms; 0 switches a term off."""

    task: float = Field(1.0, ge=0, description="Masked-LM loss, or match of the batch's similarity matrix.")
    kl: float = Field(1.0, ge=0, description="KL divergence of the student from the teacher (masked-lm only).")
    hidden: float = Field(1.0, ge=0, description="Mean squared error of every layer's hidden states.")
    attention: float = Field(1.0, ge=0, description="Mean squared error of every layer's attention scores.")
    embedding: float = Field(1.0, ge=0, description="Mean squared error of the embedding layer's output.")


class DistillSettings(_Section):
    """How to distil."""

    objective: Objective = Field(description="What stands for the task: masked-lm or sentence-embedding.")
    steps: int = Field(ge=1, description="Optimizer steps.")
    batch_size: int = Field(ge=1, description="Sequences of one step, over all processes and micro-batches.")
    micro_batch_size: int | None = Field(
        None, ge=1, description="Sequences of one forward pass; bounds memory for masked-lm."
    )
    learning_rate: float = Field(6e-4, gt=0, description="Peak learning rate of AdamW.")
    warmup: float = Field(0.1, ge=0, le=1, description="Share of the steps in which the rate rises; then it falls.")
    betas: tuple[float, float] = Field((0.9, 0.999), description="AdamW's two decay rates.")
    eps: float = Field(1e-6, gt=0, description="AdamW's epsilon.")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's weight decay (not on biases and LayerNorms).")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    weights: LossWeights = Field(LossWeights(), description="Weights of the loss terms.")
    temperature: float = Field(1.0, gt=0, description="Temperature of the KL and of the similarity matrix's softmax.")
    mlm_probability: float = Field(0.15, gt=0, lt=1, description="Share of the tokens that are masked (masked-lm).")
    prune_from: float = Field(0.0, ge=0, le=1, description="Share of the steps after which pruning starts (t_i).")
    prune_until: float = Field(0.6, ge=0, le=1, description="Share of the steps at which the target is met (t_f).")
    prune_every: int = Field(5, ge=1, description="Steps from one prune event to the next.")
    importance_smoothing: float = Field(0.85, ge=0, lt=1, description="Smoothing of the sensitivity over steps (beta).")
    precision: Precision = Field("auto", description="fp32, bf16 autocast, or auto: bf16 where it is faster here.")
    checkpoint_every: int = Field(100, ge=1, description="Steps from one checkpoint to the next.")
    threads: int | None = Field(
        None, ge=1, description="CPU threads of one process; by default what the cgroup allows."
    )

    @model_validator(mode="after")
    def _order(self) -> DistillSettings:
        if self.prune_until < self.prune_from:
            raise ValueError("prune_until comes before prune_from")
        return self


class ExportSettings(_Section):
    """How to export."""

    quantize: Quantize = Field("int8", description="none, or int8: dynamic, of the portable or the fused graph.")
    opset: int = Field(18, ge=18, description="ONNX opset of the portable graph.")


class MeasureSettings(_Section):
    """How to measure."""

    device: str = Field("cpu", description="Target to measure on.")
    threads: int = Field(1, ge=1, description="Threads of one inference.")
    batch_size: int = Field(1, ge=1, description="Sequences of one call.")
    length: int = Field(128, ge=2, description="Tokens of one sequence.")
    min_seconds: float = Field(2.0, gt=0, description="Seconds measured of each package at the least.")


class Recipe(_Section):
    """A whole run."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9._-]+$", description="Names the run's folder.")
    teacher: str = Field(description="Hub name, folder, or package:DISTRIBUTION/PATH.")
    text: TextSettings
    student: StudentShape
    distill: DistillSettings
    export: ExportSettings = ExportSettings()
    measure: MeasureSettings = MeasureSettings()
    budget: Budget = Budget()
    seed: int = Field(0, ge=0, description="Seed of everything that is random.")

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
    return RecipeError(f"'{key}': {message}{given}", where=where)


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
