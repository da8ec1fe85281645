"""Tiny encoders and their exported graphs, made once: an export takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch

from homoexport.documents.package import TimedAt
from homoexport.documents.recipe import ExportSettings
from homoexport.documents.target import TargetHost
from homoexport.encoder import Encoder, load_encoder
from homoexport.host import describe_host
from homoexport.schemes import CPU_PROVIDER, schemes_for
from homoexport.stages.export import candidates
from homoexport.stages.export.choose import Rank
from homoexport.stages.export.graph import torch_to_onnx
from homoexport.stages.export.package import export_encoder
from tests.conftest import tiny_bert, tiny_tokenizer

Make = Callable[[str], Encoder]
HOST = describe_host()
SUMS_OVERFLOW = "int8-7-bit" in schemes_for(
    "int8", HOST.instruction_sets, x86=HOST.architecture == "x86_64", calibrated=False
)
needs_exact_sums = pytest.mark.skipif(SUMS_OVERFLOW, reason="this CPU adds products of bytes in 16 bits: they overflow")

TARGET = TargetHost(is_here=True, emulated=False, provider=CPU_PROVIDER, cpu="Some CPU", x86=False, instruction_sets=())
TIMED_AT = TimedAt(device="cpu", cpu="Some CPU", threads=1, batch_size=1, length=16)


def export_package(
    encoder: Encoder,
    *,
    out_dir: Path,
    rank: Rank,
    texts: Any = (),
    answer: Any = None,
    beside: Any = None,
    browser: Any = None,
    held_on: str = "cpu",
    judge: Any = None,
    force: bool = False,
    target: TargetHost = TARGET,
    timed_at: TimedAt = TIMED_AT,
    **settings: Any,
) -> Path:
    """A package, by default for a target that adds products of bytes exactly; settings as in a recipe's `export`."""
    return export_encoder(
        encoder,
        out_dir,
        settings=ExportSettings(**settings),
        target=target,
        timed_at=timed_at,
        rank=rank,
        texts=texts,
        answer=answer,
        beside=beside,
        browser=browser,
        held_on=held_on,
        judge=judge,
        force=force,
    )


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A tiny random encoder for a task; nobody may change it."""
    made: dict[str, Encoder] = {}

    def make(task: str) -> Encoder:
        if task not in made:
            torch.manual_seed(0)
            folder = tmp_path_factory.mktemp(task)
            tiny_bert(masked_lm=task == "fill-mask").save_pretrained(folder)
            tiny_tokenizer().save_pretrained(folder)
            made[task] = load_encoder(str(folder), task=task)  # type: ignore[arg-type]
        return made[task]

    return make


@pytest.fixture(scope="session")
def exported(tiny_encoder: Make, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The exported graph of `tiny_encoder(task)`, before any rewrite."""
    made: dict[str, Path] = {}

    def make(task: str) -> Path:
        if task not in made:
            made[task] = tmp_path_factory.mktemp("exported") / f"{task}.onnx"
            ir.save(torch_to_onnx(tiny_encoder(task), opset=18), made[task])
        return made[task]

    return make


@pytest.fixture
def export_once(exported: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages of tiny encoders are made from the graphs that are there already."""
    monkeypatch.setattr(candidates, "torch_to_onnx", lambda encoder, opset: ir.load(exported(encoder.task)))
