"""`homoexport distill`: from a recipe, or from flags alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from homoexport.cli import screen
from homoexport.cli.options import (
    COLUMNS,
    DATA,
    VOCAB_SIZE,
    AsJson,
    Flag,
    Force,
    OutDir,
    Overrides,
    RecipeFile,
    Resume,
    as_flags,
    flags,
    parsed,
    resumable,
    run_folder,
)
from homoexport.documents.recipe import Recipe, Tree, looked_for
from homoexport.errors import UserError

if TYPE_CHECKING:
    from homoexport.documents.student import DistilledDetails
    from homoexport.workflow.progress import Progress

_FIELDS = (
    "teacher",
    DATA,
    *COLUMNS,
    "distill.objective",
    "distill.method",
    "student.hidden_size",
    "student.intermediate_size",
    Flag("student.num_attention_heads", "--heads"),
    Flag("student.num_hidden_layers", "--layers"),
    Flag("student.output", "--student-output"),
    VOCAB_SIZE,
    "distill.vectors_from",
    "text.max_length",
    "distill.steps",
    "distill.batch_size",
    "distill.learning_rate",
    "seed",
)
_WITHOUT_RECIPE = {"distill": {"steps": 1000, "batch_size": 32}}
_ONE_PROCESS = (
    "note: without MPI, `accelerate launch --cpu` starts one process; for several on CPUs give --multi_gpu (gloo "
    "serves where there is no GPU), or use torchrun"
)


def _launched_alone() -> bool:
    """Whether the launcher was asked for several CPU processes and started only this one."""
    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" and "MASTER_ADDR" in os.environ
    return asked and "WORLD_SIZE" not in os.environ


@flags(Recipe, *_FIELDS)
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
    if settings.finetune is not None:
        hint = "`homoexport run` does all of it; or give --teacher one that knows the labels, and --set finetune=null"
        raise UserError("the teacher is to be fine-tuned first, by a run", where="finetune", hint=hint)
    output = run_folder(settings.name, output, resume=resume)
    with looked_for(settings, recipe=recipe), as_flags(given), resumable(output), screen.Bars() as bars:
        screen.stage_line(f"Distilling {settings.teacher}")
        from homoexport.documents.artifact import DistilledManifest, verify
        from homoexport.workflow.progress import Progress

        if _launched_alone():
            screen.say(_ONE_PROCESS)
        progress = Progress(on_share=bars.on_measure, on_note=bars.on_note, on_distill=bars.on_distill)
        folders = _distilled(settings, output, progress, force=force, resume=resume)
    if screen.speaks():
        manifests = [verify(folder, DistilledManifest, strict=False) for folder in folders]
        told = [_told(folder, manifest.details) for folder, manifest in zip(folders, manifests, strict=True)]
        screen.show(manifests[0] if settings.student is not None else manifests, *told, as_json=as_json)


def _distilled(settings: Recipe, output: Path, progress: Progress, *, force: bool, resume: bool) -> list[Path]:
    """Folders of the one student, or of several."""
    from homoexport.workflow.distill import distill, distill_students

    arguments: dict[str, Any] = {
        "text": settings.text,
        "settings": settings.distill,
        "vocabulary": settings.vocabulary,
        "output": output,
        "seed": settings.seed,
        "force": force,
        "resume": resume,
        "recipe_digest": settings.digest(),
        "progress": progress,
    }
    if settings.student is None:
        return distill_students(settings.teacher, shapes=settings.students, **arguments)
    distill(settings.teacher, shape=settings.student, **arguments)
    return [output]


def _told(folder: Path, details: DistilledDetails) -> str:
    return (
        f"Student: {folder}  {_millions(details.parameters)} parameters "
        f"(word embedding {_millions(details.embedding_parameters)}, layers {_millions(details.backbone_parameters)}; "
        f"teacher {_millions(details.teacher_parameters)}), held-out loss {details.held_out_loss:.4f}"
    )


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e3:.1f} k"
