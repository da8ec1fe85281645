"""`homoexport distill`: from a recipe, or from flags alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from homoexport.cli import screen
from homoexport.cli.options import AsJson, Force, OutDir, Overrides, Resume, put, resumable, run_folder
from homoexport.documents.recipe import parse_recipe, read_recipe_tree
from homoexport.errors import UserError


def _launched_alone() -> bool:
    """Whether the launcher was asked for several CPU processes and started only this one."""
    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" and "MASTER_ADDR" in os.environ
    return asked and "WORLD_SIZE" not in os.environ


def distill(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="[RECIPE]", help="A YAML recipe; the flags below override it.")
    ] = None,
    output: OutDir = None,
    teacher: Annotated[str | None, typer.Option(help="Hub name, folder, or package:DISTRIBUTION/PATH.")] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="Glob of txt, jsonl, csv, tsv or parquet files, or package:DISTRIBUTION/GLOB. Repeatable."),
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column of --data that holds the text.")] = None,
    pair_column: Annotated[
        str | None, typer.Option(help="Column of --data with the second text: a query's document, a pair's other half.")
    ] = None,
    label_column: Annotated[str | None, typer.Option(help="Column of --data with labels, for classifiers.")] = None,
    objective: Annotated[
        str | None, typer.Option(help="masked-lm, sentence-embedding, classification or token-classification.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="homodistil (the default), one-shot, from-scratch, layers or minilm.")
    ] = None,
    hidden_size: Annotated[int | None, typer.Option(help="Width of the student's residual stream.")] = None,
    intermediate_size: Annotated[int | None, typer.Option(help="Width of its feed-forward layers.")] = None,
    num_attention_heads: Annotated[int | None, typer.Option("--heads", help="Its attention heads.")] = None,
    num_hidden_layers: Annotated[
        int | None, typer.Option("--layers", help="Its layers; those that go fade out.")
    ] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens of one training sequence.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps (without a recipe: 1000).")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Sequences of one step (without a recipe: 32).")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of data order, held-out split and masks.")] = None,
    overrides: Overrides = None,
    force: Force = False,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Distil a slim student out of a teacher by HomoDistil, or several students in one run.

    Writes a stock Hugging Face folder: config, safetensors, tokenizer, log.jsonl and a manifest.
    Many processes: `accelerate launch -m homoexport distill RECIPE -o DIR`.
    """
    tree: dict[str, Any] = read_recipe_tree(recipe) if recipe else {"distill": {"steps": 1000, "batch_size": 32}}
    tree.update({name: value for name, value in (("teacher", teacher), ("seed", seed)) if value is not None})
    columns = {"column": column, "pair_column": pair_column, "label_column": label_column}
    named = {key: name for key, name in columns.items() if name}
    if data:
        put(tree, "text", sources=[{"files": glob, **named} for glob in data])
    elif named:
        flag = next(iter(named)).replace("_", "-")
        raise UserError(f"--{flag} is for --data", where="distill", hint="put the column into the recipe")
    put(tree, "text", max_length=max_length)
    put(
        tree,
        "student",
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_attention_heads=num_attention_heads,
        num_hidden_layers=num_hidden_layers,
    )
    put(
        tree,
        "distill",
        method=method,
        objective=objective,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
    )
    settings = parse_recipe(tree, where=str(recipe) if recipe else "distill", overrides=overrides or ())
    if settings.is_planned:
        raise UserError(
            "the recipe names no student, only a budget",
            where=str(recipe or "distill"),
            hint="`homoexport run` plans one; or give --hidden-size",
        )
    output = run_folder(settings.name, output, resume=resume)
    from homoexport.distill import distill, distill_students
    from homoexport.documents.artifact import DistilledManifest, read_manifest

    if _launched_alone():
        screen.errors.print(
            "note: without MPI, `accelerate launch --cpu` starts one process; for several on CPUs give "
            "--multi_gpu (gloo serves where there is no GPU), or use torchrun",
            soft_wrap=True,
        )
    screen.stage_line(f"Distilling {settings.teacher}")
    arguments: dict[str, Any] = {
        "text": settings.text,
        "settings": settings.distill,
        "out_dir": output,
        "seed": settings.seed,
        "force": force,
        "resume": resume,
        "recipe_digest": settings.digest(),
    }
    with resumable(output), screen.distill_bar() as on_progress:
        if settings.student is not None:
            distill(settings.teacher, shape=settings.student, on_progress=on_progress, **arguments)
            folders = [output]
        else:
            folders = distill_students(settings.teacher, shapes=settings.students, on_progress=on_progress, **arguments)
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
