"""`homoexport distill`: from a recipe, or from flags alone."""

from __future__ import annotations

import os
from typing import Any

from homoexport.cli import screen
from homoexport.cli.options import (
    COLUMNS,
    DATA,
    AsJson,
    Flag,
    Force,
    OutDir,
    Overrides,
    RecipeFile,
    Resume,
    Tree,
    flags,
    parsed,
    resumable,
    run_folder,
)
from homoexport.documents.recipe import Recipe
from homoexport.errors import UserError

_WITHOUT_RECIPE = {"distill": {"steps": 1000, "batch_size": 32}}


def _launched_alone() -> bool:
    """Whether the launcher was asked for several CPU processes and started only this one."""
    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" and "MASTER_ADDR" in os.environ
    return asked and "WORLD_SIZE" not in os.environ


@flags(
    Recipe,
    "teacher",
    DATA,
    *COLUMNS,
    "distill.objective",
    "distill.method",
    "student.hidden_size",
    "student.intermediate_size",
    Flag("student.num_attention_heads", "--heads"),
    Flag("student.num_hidden_layers", "--layers"),
    "text.max_length",
    "distill.steps",
    "distill.batch_size",
    "distill.learning_rate",
    "seed",
)
def distill(
    given: Tree,
    recipe: RecipeFile = None,
    output: OutDir = None,
    overrides: Overrides = None,
    force: Force = False,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Distil a slim student out of a teacher by HomoDistil, or several students in one run.

    Without a recipe: 1000 steps of 32 sequences, and what else is not said has its default.
    Writes a stock Hugging Face folder: config, safetensors, tokenizer, log.jsonl and a manifest.
    Many processes: `accelerate launch -m homoexport distill RECIPE -o DIR`.
    """
    settings = parsed(
        Recipe, given, command="distill", recipe=recipe, overrides=overrides, without_recipe=_WITHOUT_RECIPE
    )
    if settings.is_planned:
        raise UserError(
            "the recipe names no student, only a budget",
            where=str(recipe or "distill"),
            hint="`homoexport run` plans one; or give --hidden-size",
        )
    output = run_folder(settings.name, output, resume=resume)
    screen.stage_line(f"Distilling {settings.teacher}")
    from homoexport.documents.artifact import DistilledManifest, read_manifest
    from homoexport.workflow.distill import distill as distill_one
    from homoexport.workflow.distill import distill_students
    from homoexport.workflow.progress import Progress

    if _launched_alone():
        screen.errors.print(
            "note: without MPI, `accelerate launch --cpu` starts one process; for several on CPUs give "
            "--multi_gpu (gloo serves where there is no GPU), or use torchrun",
            soft_wrap=True,
        )
    arguments: dict[str, Any] = {
        "text": settings.text,
        "settings": settings.distill,
        "output": output,
        "seed": settings.seed,
        "force": force,
        "resume": resume,
        "recipe_digest": settings.digest(),
    }
    with resumable(output), screen.Bars() as bars:
        arguments["progress"] = Progress(on_distill=bars.on_distill)
        if settings.student is not None:
            distill_one(settings.teacher, shape=settings.student, **arguments)
            folders = [output]
        else:
            folders = distill_students(settings.teacher, shapes=settings.students, **arguments)
    if not screen.speaks():
        return
    manifests = [read_manifest(folder, DistilledManifest) for folder in folders]
    if as_json:
        told = [manifest.model_dump(mode="json") for manifest in manifests]
        screen.print_json(told[0] if settings.student is not None else told)
        return
    for folder, manifest in zip(folders, manifests, strict=True):
        details = manifest.details
        screen.output.print(
            f"Student: {folder}  {_millions(details.parameters)} parameters "
            f"(word embedding {_millions(details.embedding_parameters)}, "
            f"layers {_millions(details.backbone_parameters)}; "
            f"teacher {_millions(details.teacher_parameters)}), held-out loss {details.held_out_loss:.4f}",
            soft_wrap=True,
        )


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e3:.1f} k"
