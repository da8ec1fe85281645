"""Distil a slim Transformer encoder to a deployment budget, and prove it on the target.

The verbs, each with its subject first and the rest by keyword. They print nothing, and return a document:

    init        a recipe to begin with, from a teacher, text and a budget
    check       what would stop a recipe's run, and how long it will take
    plan        which student shapes keep a budget on a target, before any training
    trim        a model to the words that a text needs
    distill     a student out of a teacher
    export      a model to an ONNX package, its graph chosen by measuring
    measure     packages side by side, in clean processes, against a budget
    evaluate    packages and models on a task, side by side, with intervals
    finetune    a model on labels, and from a teacher
    run         a recipe's whole journey, from plan to report
    run_several the same for each of a recipe's students or budgets, side by side
    embed       many texts by a package, into a file of vectors
    score       many pairs or texts by a reranker or classifier, into a file of its scores
    open_package, verify

Nothing heavy is imported before a name is used. A user's mistake is a `UserError`; `homoexport.errors` has the tree.
None ends the process by itself. A signal that would end it while a distillation makes its steps is heard after the step
in hand, with a checkpoint: then `distill` and `run` raise KeyboardInterrupt (SIGINT) or SystemExit (SIGTERM, SIGHUP).
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from homoexport import telemetry as _telemetry  # noqa: F401 - before any library that reports is imported
from homoexport.errors import (
    BudgetError,
    DeviceError,
    DoesNotFit,
    HomoexportError,
    OutputError,
    PackageError,
    ParityError,
    RecipeError,
    ShapeError,
    TeacherError,
    TextError,
    TrainingError,
    UserError,
)

if TYPE_CHECKING:
    from homoexport.documents.artifact import verify
    from homoexport.runtime.inference import open_package
    from homoexport.workflow.check import check
    from homoexport.workflow.distill import distill
    from homoexport.workflow.embed import embed, score
    from homoexport.workflow.evaluate import evaluate
    from homoexport.workflow.export import export
    from homoexport.workflow.finetune import finetune
    from homoexport.workflow.init import init
    from homoexport.workflow.measure import measure
    from homoexport.workflow.plan import plan
    from homoexport.workflow.run import run
    from homoexport.workflow.several import run_several
    from homoexport.workflow.trim import trim

    __version__: str

_VERBS = ("init", "check", "plan", "trim", "distill", "export", "measure", "evaluate", "finetune", "run", "embed")
_HOMES = {
    **{verb: f"workflow.{verb}" for verb in _VERBS},
    "run_several": "workflow.several",
    "score": "workflow.embed",
    "open_package": "runtime.inference",
    "verify": "documents.artifact",
}

__all__ = [
    "BudgetError",
    "DeviceError",
    "DoesNotFit",
    "HomoexportError",
    "OutputError",
    "PackageError",
    "ParityError",
    "RecipeError",
    "ShapeError",
    "TeacherError",
    "TextError",
    "TrainingError",
    "UserError",
    "__version__",
    "check",
    "distill",
    "embed",
    "evaluate",
    "export",
    "finetune",
    "init",
    "measure",
    "open_package",
    "plan",
    "run",
    "run_several",
    "score",
    "trim",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name == "__version__":
        return metadata.version("homoexport")
    if name not in _HOMES:
        raise AttributeError(f"module 'homoexport' has no attribute '{name}'")
    return getattr(import_module(f"homoexport.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
