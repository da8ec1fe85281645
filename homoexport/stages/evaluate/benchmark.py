"""MTEB's tasks (Muennighoff et al. 2023, arXiv 2210.07316), judged by the `mteb` library, where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homoexport.choices import RuntimeChoice
from homoexport.documents.evaluation import JudgedModel, QualityFigure
from homoexport.errors import TextError, UserError
from homoexport.runtime.inference import Package
from homoexport.stages.evaluate.judge import described
from homoexport.stages.evaluate.models import open_model
from homoexport.stages.evaluate.search import embed_documents, embed_queries


def evaluate_on_mteb(
    models: Sequence[str],
    names: Sequence[str],
    *,
    threads: int = 1,
    runtime: RuntimeChoice = "auto",
    on_stage: Callable[[str], None] = lambda _title: None,
) -> tuple[JudgedModel, ...]:
    """Judge sentence encoders on tasks of MTEB, named as it names them: STS12 or Banking77Classification.

    Each metric is a task's own main score (`score` says which), the mean over its languages and splits, and has no
    interval.

    Raises:
        UserError: `mteb` is not installed, or has no such task.
        PackageError, TeacherError: not a model, or one that gives no vectors.
        TextError: the data of a task cannot be had.
    """
    try:
        import mteb
    except ImportError:
        raise UserError("mteb is not installed", where="--task mteb", hint="pip install 'homoexport[mteb]'") from None
    try:
        tasks = [mteb.get_task(name) for name in names]
    except KeyError as error:
        raise UserError(str(error.args[0]).removeprefix("KeyError: "), where="--name") from None
    results = []
    for source in models:
        model = open_model(source, threads=threads, runtime=runtime)
        model.embed([])  # a model without vectors says so at once
        metrics = []
        for task in tasks:
            on_stage(f"judging {source} on {task.metadata.name}")
            score = _score(mteb, task, model)
            metrics.append(QualityFigure(metric=task.metadata.name, value=score, score=task.metadata.main_score))
        results.append(described(source, model, metrics))
    return tuple(results)


def _score(mteb: Any, task: Any, model: Package) -> float:
    encoder = type("PackageEncoder", (_Encoder, mteb.models.abs_encoder.AbsEncoder), {})(mteb, model)
    try:
        found = mteb.evaluate(
            encoder, [task], cache=None, show_progress_bar=False, encode_kwargs={"batch_size": 32}, co2_tracker=False
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        hint = "check the connection (HF_HUB_OFFLINE), and that the task's data are still on the hub"
        raise TextError(f"cannot be judged ({reason})", where=f"MTEB task {task.metadata.name}", hint=hint) from None
    return float(found[0].get_score())


class _Encoder:
    """A package as MTEB wants encoders."""

    def __init__(self, mteb: Any, model: Package) -> None:
        self.model = model
        self.mteb_model_meta = mteb.models.ModelMeta.create_empty(overwrites={"name": "homoexport/package"})

    def encode(self, inputs: Any, *, prompt_type: str | None = None, **_: Any) -> NDArray[np.float32]:
        """Vectors [N, D] of MTEB's batches of texts, which a search has of two types."""
        texts = [text for batch in inputs for text in batch["text"]]
        if prompt_type == "query":
            return embed_queries(self.model, texts)
        return embed_documents(self.model, texts) if prompt_type == "document" else self.model.embed(texts)
