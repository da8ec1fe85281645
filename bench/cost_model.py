"""What the paper's run would cost on many GPUs, worked out from what one GPU was measured to do. Nothing is run.

    python bench/cost_model.py [--output bench/results/cost_model.json]

The run: HomoBERT-base or small out of BERT-base, 28,000 steps of 4,096 sequences of 128 tokens, pruned for 70 % of the
steps along the cubic schedule. A step of n GPUs, each with an n-th of the batch, takes

    max(compute, reading) + all-reduce

- compute: the measured seconds a token of `bench/results/throughput.json` (an H200) at the step's width, between two
  measured widths in proportion. Another GPU reaches the same share of its peak: an assumption.
- all-reduce: 2 (n - 1) / n times the bytes of the gradients over the bandwidth, as in a ring. The loop sums them after
  the backward pass as one message, in fp32, so nothing overlaps. The bandwidth is that of NVLink in one machine, and of
  all its network cards over several, times `REACHED`: an assumption.
- reading: `bench/results/tokenizing.json`. Each process has a thread that makes the next step's batch meanwhile, out of
  streamed text or of files tokenized before; the core is taken to be as fast as the one measured.

Left out: what a step costs whatever its batch is (the optimizer, importance; measured once in 256 sequences), processes
that wait for the slowest, checkpoints.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from homoexport.documents.recipe import SEED_STUDENTS, DistillSettings
from homoexport.shape import Shape, Widths
from homoexport.stages.distill.schedule import PruneSchedule, widths_due

RESULTS = Path(__file__).parent / "results"
STEPS, BATCH, LENGTH, VOCABULARY = 28_000, 4096, 128, 30_522
TEACHER = Shape(12, 768, 3072, 12)
GRADIENT_BYTES = 4
REACHED = 0.7  # of a link's bandwidth; an assumption
PER_MACHINE = 8
CHOSEN_GPUS = (1, 8, 64)


@dataclass(frozen=True)
class Device:
    """A GPU in machines of eight, by its vendor's data sheets.

    Operations are bf16's without sparsity; bandwidths are bytes a second one way: of a GPU's NVLink, and of all the
    network cards of a machine.
    """

    operations_per_second: float
    nvlink: float
    network: float


# NVIDIA's data sheets: A100 80 GB SXM (312 TFLOPS, NVLink 600 GB/s both ways), DGX A100 (eight cards of 200 Gb/s), H100
# SXM (1,979 TFLOPS with sparsity, half without; NVLink 900 GB/s both ways), DGX H100 (eight cards of 400 Gb/s).
DEVICES = {
    "A100": Device(312e12, 300e9, 8 * 25e9),
    "H100": Device(989.5e12, 450e9, 8 * 50e9),
    "H100, 100 Gb/s a machine": Device(989.5e12, 450e9, 12.5e9),
}
MEASURED = DEVICES["H100"]  # an H200's, whose data sheet has the same operations a second


def gradient_bytes(widths: Widths) -> float:
    """Of a BERT with a masked-LM head at these widths, and of the matrices between it and its teacher."""
    hidden, ffn = widths.hidden_size, widths.intermediate_size
    attention = widths.total_heads * widths.head_dim
    layers = 4 * hidden * attention + 3 * attention
    layers += widths.num_hidden_layers * (2 * hidden * ffn + ffn + 6 * hidden)
    embeddings = hidden * (VOCABULARY + 512 + 2 + 2)
    head = hidden * hidden + 3 * hidden + VOCABULARY
    projections = (widths.num_hidden_layers + 1) * hidden * TEACHER.hidden_size
    return float(GRADIENT_BYTES * (layers + embeddings + head + projections))


def all_reduce_seconds(size: float, gpus: int, device: Device) -> float:
    """A ring's, of so many bytes."""
    bandwidth = device.nvlink if gpus <= PER_MACHINE else min(device.nvlink, device.network)
    return 2 * (gpus - 1) / gpus * size / (REACHED * bandwidth)


def path(student: Shape) -> list[Widths]:
    """The student's widths at every step."""
    settings = DistillSettings(objective="masked-lm", steps=STEPS, batch_size=BATCH, prune_until=0.7, prune_every=10)
    schedule, start = PruneSchedule.of(settings), Widths.of(TEACHER)
    found, now = [], start
    for step in range(STEPS):
        if schedule.is_event(step):
            now = widths_due(start, student, schedule.remaining(step), layers=TEACHER.num_hidden_layers)
        found.append(now)
    return found


def seconds_per_token(hidden_size: int, measured: Sequence[tuple[int, float]]) -> float:
    """On the GPU that was measured, between two measured widths in proportion; `measured` is sorted by width."""
    assert measured[0][0] <= hidden_size <= measured[-1][0]
    for (narrow, low), (wide, high) in pairwise(measured):
        if hidden_size <= wide:
            return low + (high - low) * (hidden_size - narrow) / (wide - narrow)
    raise AssertionError("unreachable")


def measured_points(throughput: Mapping[str, Any], name: str) -> list[tuple[int, float]]:
    """Hidden sizes and seconds a token of the student and of what is wider; xsmall's heads are slow, so it is no point
    of another's path.
    """
    found = {
        int(cell["widths"]["hidden_size"]): 1 / cell["tokens_per_second"]
        for other, cell in throughput["widths"].items()
        if other == name or other != "xsmall"
    }
    narrowest = int(throughput["widths"][name]["widths"]["hidden_size"])
    return sorted(point for point in found.items() if point[0] >= narrowest)


def cost(
    name: str, gpus: int, device: Device, throughput: Mapping[str, Any], core_tokens_per_second: float
) -> dict[str, float | str]:
    """Hours of the run, what of a step's seconds goes where, and what limits most of the steps."""
    asked = SEED_STUDENTS[name]
    student = Shape(12, *(getattr(asked, key) for key in ("hidden_size", "intermediate_size", "num_attention_heads")))
    points, slower = measured_points(throughput, name), MEASURED.operations_per_second / device.operations_per_second
    tokens = BATCH * LENGTH / gpus
    reading = tokens / core_tokens_per_second
    compute = {w: tokens * slower * seconds_per_token(w, points) for w in range(student.hidden_size, 769)}
    way = path(student)
    computing = np.array([compute[widths.hidden_size] for widths in way])
    size = {widths: gradient_bytes(widths) for widths in set(way)}
    summing = np.array([all_reduce_seconds(size[widths], gpus, device) for widths in way])
    total = float((np.maximum(computing, reading) + summing).sum())
    parts = {"reading": reading, "compute": float(computing.mean()), "all-reduce": float(summing.mean())}
    return {
        "hours": total / 3600,
        "step_seconds": total / STEPS,
        "compute_seconds": parts["compute"],
        "all_reduce_seconds": parts["all-reduce"],
        "reading_seconds": reading,
        "limit": max(parts, key=lambda part: parts[part]),
    }


def work_out(throughput: Mapping[str, Any], tokenizing: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every device, number of GPUs and way of reading."""
    rates = tokenizing["processes"]["1"][0]["tokens_per_second"]
    reading = {
        "streamed": 1 / (1 / rates["stream"] + 1 / rates["masks"]),
        "tokenized before": 1 / (1 / rates["drawn"] + 1 / rates["masks"]),
    }
    return [
        {"student": name, "device": device, "gpus": gpus, "text": text}
        | cost(name, gpus, DEVICES[device], throughput, rate)
        for name in ("base", "small")
        for device in DEVICES
        for gpus in CHOSEN_GPUS
        if gpus > PER_MACHINE or "machine" not in device
        for text, rate in reading.items()
    ]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Hours and milliseconds of a step."""
    lines = [
        "| HomoBERT | GPUs | Text | Hours | Step | Compute | All-reduce | Reading | Limit |",
        "|---|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        seconds = (row[f"{part}_seconds"] for part in ("step", "compute", "all_reduce", "reading"))
        cells = [row["student"], f"{row['gpus']} x {row['device']}", row["text"], f"{row['hours']:.2f}"]
        lines.append(f"| {' | '.join([*cells, *(f'{1000 * each:,.0f} ms' for each in seconds), row['limit']])} |")
    return "\n".join(lines)


def main() -> None:
    """Work out, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "cost_model.json")
    arguments = parser.parse_args()
    throughput, tokenizing = (
        json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")) for name in ("throughput", "tokenizing")
    )
    rows = work_out(throughput, tokenizing)
    assumed = {
        "bandwidth_reached": REACHED,
        "devices": {name: vars(device) for name, device in DEVICES.items()},
        "measured_on": {"compute": throughput["device"], "reading": tokenizing["host"]},
    }
    arguments.output.write_text(json.dumps({"rows": rows, "assumed": assumed}, indent=2) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
