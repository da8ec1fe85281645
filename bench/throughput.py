"""Tokens per second of a distillation step, as a share of what the device's matrix products allow.

    python bench/throughput.py [--batch 256] [--length 128] [--precision bf16] [--steps 20]

BERT-base's shape with random weights, masked-lm with all of the paper's terms, at the teacher's width
and at HomoBERT's four. The matrix rate is measured, not looked up: the best of a few large square
products in the same precision. A step's work is counted as 2 operations a weight and token for each
forward pass and 4 for the backward pass, attention's own products included, the vocabulary's at masked
tokens only. From the seconds a step at each width follows what the four-student run of 28,000 steps
costs at batch 4,096.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from distill_step import base_job

from homoexport.documents.recipe import SEED_STUDENTS, DistillSettings, StudentShape
from homoexport.host import describe_host, library_versions
from homoexport.shape import Widths
from homoexport.stages.distill import Run, target_of
from homoexport.stages.distill.batches import MicroBatch

FAMILY_STEPS, FAMILY_BATCH, PRUNING, FINISH = 28_000, 4096, 0.7, 0.25
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_rate(device: torch.device, precision: str) -> float:
    """Operations a second of square products, the best of some sizes."""
    best = 0.0
    for size in (4096, 8192) if device.type == "cuda" else (1024, 2048):
        left, right = (torch.randn(size, size, device=device, dtype=DTYPES[precision]) for _ in range(2))
        for _ in range(6):
            synchronize(device)
            began = time.perf_counter()
            torch.mm(left, right)
            synchronize(device)
            best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best


def operations(widths: Widths, tokens: int, length: int, masked: int, vocabulary: int) -> float:
    """Of one forward pass."""
    hidden, attention = widths.hidden_size, widths.total_heads * widths.head_dim
    layers = 4 * hidden * attention + 2 * hidden * widths.intermediate_size * widths.num_hidden_layers
    return 2.0 * (tokens * (layers + 2 * attention * length) + masked * hidden * (vocabulary + hidden))


def random_batch(run: Run, batch: int, length: int, seed: int) -> list[MicroBatch]:
    """Full sequences of random tokens, 15 % of them masked."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary = run.teacher.config.vocab_size
    ids = torch.randint(1000, vocabulary, (batch, length), generator=generator)
    labels = torch.where(torch.rand(batch, length, generator=generator) < 0.15, ids, -100)
    device = run.accelerator.device
    return [MicroBatch(ids.to(device), torch.ones_like(ids).to(device), labels=labels.to(device))]


def step_seconds(run: Run, batches: Sequence[list[MicroBatch]]) -> float:
    """Median seconds of a step; the first three warm up."""
    seconds = []
    for micro_batches in batches:
        synchronize(run.accelerator.device)
        began = time.perf_counter()
        run.advance(micro_batches)
        synchronize(run.accelerator.device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[3:])


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every width's step, and the four-student run's cost."""
    batch, length = arguments.batch, arguments.length
    widths_json: dict[str, Any] = {}
    with TemporaryDirectory() as folder:
        for name, shape in {"teacher's width": None, **SEED_STUDENTS}.items():
            settings = DistillSettings(
                objective="masked-lm",
                steps=10_000_000,
                method="one-shot",
                batch_size=4,
                precision=arguments.precision,
                compile=arguments.compile,
            )
            job, _ = base_job(Path(folder), settings)
            target = target_of(job.encoder, shape or StudentShape(), settings)
            run = Run(job, target)
            batches = [random_batch(run, batch, length, seed) for seed in range(arguments.steps + 3)]
            seconds = step_seconds(run, batches)
            tokens, masked = batch * length, int(0.15 * batch * length)
            teacher = run.family.widths(run.teacher)
            vocabulary = run.teacher.config.vocab_size
            work = operations(teacher, tokens, length, masked, vocabulary)
            work += 3 * operations(run.widths, tokens, length, masked, vocabulary)
            widths_json[name] = {
                "widths": run.widths.as_json(),
                "step_seconds": seconds,
                "tokens_per_second": tokens / seconds,
                "operations_per_second": work / seconds,
            }
            device = run.accelerator.device
            run.close()
            print(f"{name}: {tokens / seconds:,.0f} tokens/s", flush=True)
    rate = matrix_rate(device, arguments.precision)
    for figures in widths_json.values():
        figures["share_of_matrix_rate"] = figures["operations_per_second"] / rate
    return {
        "batch": batch,
        "length": length,
        "precision": arguments.precision,
        "compile": arguments.compile,
        "matrix_operations_per_second": rate,
        "widths": widths_json,
        "family_hours": family_hours(widths_json, batch),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "host": vars(describe_host()),
        "versions": library_versions(),
    }


def family_hours(widths: dict[str, Any], batch: int) -> float:
    """Hours of the four-student run on this device, from the step's seconds at each width.

    While pruning, a step is taken to cost what one at small's width does: the cubic schedule has
    passed base's after an eighth of it. That is a little too cheap before, and too dear after.
    """
    parts = FAMILY_BATCH / batch
    seconds = PRUNING * widths["small"]["step_seconds"]
    seconds += sum(FINISH * widths[name]["step_seconds"] for name in SEED_STUDENTS)
    return float(FAMILY_STEPS * parts * seconds / 3600)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--precision", choices=sorted(DTYPES), default="bf16")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results/throughput.json")
    arguments = parser.parse_args()
    result = measure(arguments)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    for name, figures in result["widths"].items():
        print(f"{name}: {figures['share_of_matrix_rate']:.0%} of the matrix rate")
    print(f"four students, 28,000 steps at batch 4,096: {result['family_hours']:.1f} hours on one device")


if __name__ == "__main__":
    main()
