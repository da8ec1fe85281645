"""A model trained on a labelled task by transformers' Trainer.

With a teacher's logits the loss is (1 - w) L_labels + w T² KL(teacher, student), both at temperature T (Hinton et al.
2015, arXiv 1503.02531, section 2.1); of scores, the mean squared error to the teacher's stands in KL's place.

N examples, B batch, C labels (1 for scores).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import (
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from homoexport.documents.recipe import FinetuneSettings
from homoexport.encoder import count_parameters, load_classifier, parent_of, save_encoder
from homoexport.encoder.fake_quant import Int8Simulation, simulated_int8
from homoexport.errors import TrainingError
from homoexport.host import available_cores
from homoexport.lock import scratch_folder
from homoexport.runtime.inference import Text

_TEACHER = "teacher_logits"
Fields: TypeAlias = dict[str, Any]  # of an example or a batch, as Trainer and its collators pass them on


@dataclass(frozen=True)
class FinetuneProgress:
    """Where a training stands after `step` of `steps`; `loss` is the mean since the last word."""

    step: int
    steps: int
    loss: float
    int8: bool


@dataclass(frozen=True)
class Trained:
    """A training that is over: what came out of it; `parent` is the digest, or the name, of what it began from."""

    parent: str
    family: str
    parameters: int
    steps: int
    seconds: float


def train_classifier(
    source: str,
    texts: Sequence[Text],
    labels: NDArray[Any],
    *,
    names: Sequence[str],
    settings: FinetuneSettings,
    seed: int,
    folder: Path,
    teacher_logits: NDArray[Any] | None = None,
    on_progress: Callable[[FinetuneProgress], None] = lambda _progress: None,
) -> Trained:
    """Fine-tune a model and write it to an existing folder as a stock text classifier.

    Args:
        source: as `load_encoder` takes it; a head of other labels is replaced.
        labels: indices among `names`, int [N]; scores, float [N], where there are no names.
        seed: of the new head, dropout and the order of examples.
        teacher_logits: what a teacher answers to the texts, [N, C].

    Raises:
        TeacherError: a source that cannot be loaded.
        TrainingError: a loss, or weights, that are no numbers.
    """
    torch.set_num_threads(settings.threads or available_cores())
    set_seed(seed)
    encoder = load_classifier(source, names)
    rows = _rows(encoder.tokenizer, texts, labels, settings.max_length, teacher_logits)
    steps = settings.steps(len(rows))
    simulation = simulated_int8(encoder.model) if settings.int8_share else nullcontext()
    began = time.perf_counter()
    with scratch_folder() as work, simulation as switch:
        trainer = _DistillingTrainer(
            model=encoder.model,
            args=_arguments(settings, steps=steps, seed=seed, work=str(work)),
            train_dataset=rows,
            data_collator=_Collator(encoder.tokenizer),
            callbacks=[_Watch(steps, settings.int8_share, switch, on_progress)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.teacher_weight = settings.teacher_weight if teacher_logits is not None else 0.0
        trainer.temperature = settings.temperature
        trainer.train()
    if not torch.nn.utils.get_total_norm([weight.detach() for weight in encoder.model.parameters()]).isfinite():
        what = f"the weights are no numbers after step {steps}"
        raise TrainingError(what, where="finetune", hint="lower the learning rate")
    seconds = time.perf_counter() - began
    model = encoder.model.to("cpu").eval()
    assert isinstance(model, PreTrainedModel)
    save_encoder(encoder, model, folder)
    return Trained(
        parent=parent_of(encoder),
        family=model.config.model_type,
        parameters=count_parameters(model),
        steps=steps,
        seconds=round(seconds, 3),
    )


def _rows(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Text],
    labels: NDArray[Any],
    max_length: int,
    teacher_logits: NDArray[Any] | None,
) -> list[Fields]:
    """A dict of token ids, label and, with a teacher, its logits for each example."""
    sides = [list(texts)] if isinstance(texts[0], str) else [list(side) for side in zip(*texts, strict=True)]
    tokens = tokenizer(*sides, truncation=True, max_length=min(max_length, tokenizer.model_max_length))
    rows = [{name: values[row] for name, values in tokens.items()} for row in range(len(texts))]
    for number, row in enumerate(rows):
        row["labels"] = labels[number].item()
        if teacher_logits is not None:
            row[_TEACHER] = np.asarray(teacher_logits[number], np.float32)
    return rows


class _Collator(DataCollatorWithPadding):  # type: ignore[misc]
    """Pads what is tokens, and stacks the teacher's logits [B, C]."""

    def __call__(self, features: list[Fields]) -> Fields:
        taught = [row[_TEACHER] for row in features if _TEACHER in row]
        batch: Fields = super().__call__(
            [{name: value for name, value in row.items() if name != _TEACHER} for row in features]
        )
        return {**batch, _TEACHER: torch.from_numpy(np.stack(taught))} if taught else batch


def _arguments(settings: FinetuneSettings, *, steps: int, seed: int, work: str) -> TrainingArguments:
    return TrainingArguments(
        output_dir=work,
        max_steps=steps,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        warmup_steps=round(settings.warmup * steps),
        weight_decay=settings.weight_decay,
        seed=seed,
        logging_steps=max(1, min(50, steps // 10)),
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


class _DistillingTrainer(Trainer):  # type: ignore[misc]
    """Trainer whose loss listens to a teacher, too."""

    teacher_weight: float
    temperature: float

    def compute_loss(
        self, model: Any, inputs: Fields, return_outputs: bool = False, **_: Any
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """The loss of a batch; Trainer's own would not know the teacher's logits."""
        taught = inputs.pop(_TEACHER, None)
        outputs = model(**inputs)
        loss: torch.Tensor = outputs.loss
        if taught is not None:
            to_teacher = distance_to_teacher(outputs.logits, taught, temperature=self.temperature)
            loss = (1 - self.teacher_weight) * loss + self.teacher_weight * to_teacher
        return (loss, outputs) if return_outputs else loss


def distance_to_teacher(logits: torch.Tensor, taught: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """T² KL(teacher, student) at temperature T of logits [B, C]; of scores, C = 1, the mean squared error."""
    if logits.shape[1] == 1:
        return functional.mse_loss(logits, taught)
    soft = [functional.log_softmax(values / temperature, dim=1) for values in (logits, taught)]
    return functional.kl_div(soft[0], soft[1], log_target=True, reduction="batchmean") * temperature**2


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Turns int8 on for the last share of the steps, tells how it goes, and ends what is going wrong."""

    def __init__(
        self,
        steps: int,
        int8_share: float,
        switch: Int8Simulation | None,
        on_progress: Callable[[FinetuneProgress], None],
    ) -> None:
        self._steps, self._switch, self._on_progress = steps, switch, on_progress
        self._int8_from = steps - round(int8_share * steps)
        self._loss = math.nan

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Called by Trainer before every step."""
        if self._switch is not None and state.global_step >= self._int8_from:
            self._switch.on = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:  # noqa: ARG002
        """Called by Trainer every few steps and at the end."""
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(loss):
            what = f"the loss is {loss} at step {state.global_step}"
            raise TrainingError(what, where="finetune", hint="lower the learning rate")
        self._loss = float(loss)
        self._tell(state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Called by Trainer after the last step."""
        self._tell(self._steps)

    def _tell(self, step: int) -> None:
        int8 = self._switch is not None and self._switch.on
        self._on_progress(FinetuneProgress(step, self._steps, self._loss, int8))
