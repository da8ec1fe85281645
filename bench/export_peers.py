"""Our package against what other tools make of the same weights, in turns in one run.

    python bench/peers/make.py MODEL OUT         # with the peers' Python (bench/peers/requirements.txt); once a model
    python bench/export_peers.py NAME=MODEL,OUT [NAME=MODEL,OUT ...] --peers-python PYTHON

For every model: `homoexport export --quantize auto --runtime auto` for three workloads, 1 x 16 tokens, 1 x 128 and 8 x
384, at each number of threads, and in every cell of threads, batch and length what was exported for the like of it, in
the runtime that the package says is its fastest, against every peer's file in ONNX Runtime, OpenVINO and CTranslate2;
beside it the package's ONNX file, and our fp32 file, for peers whose cosine is 1. All files for OpenVINO are compiled
for a cell's shape, ours, too; peers' in f32 and in bf16, ours in what OpenVINO takes by itself. Peers whose files are
the same program once ONNX Runtime has optimized them run as one, and those that are nowhere near the fastest of their
runtime in three cells are left out of the others. Models that the output has are left as they are, so that a run can
be taken up again, on the same machine. A cell's figures are medians of 20 turns on the same core, --seconds together;
a ratio is of the fastest peer's median to ours. Cosines are of mean-pooled sentence vectors to torch's, over 64 real
texts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from homoexport.documents.document import to_json, write_text
from homoexport.documents.measurement import Need
from homoexport.encoder import Encoder, load_encoder
from homoexport.host import describe_host, library_versions
from homoexport.runtime.inference import read_package
from homoexport.runtime.worker.protocol import InputsRequest
from homoexport.stages.measure.process import Worker
from homoexport.stages.measure.targets import LocalCpu, Target
from homoexport.stages.measure.timing import Subject, Workload, load_model, running, take_rounds

OPENVINO_WORKER = Path(__file__).parent / "peers" / "openvino_worker.py"
OUTPUT = Path(__file__).parent / "results" / "export_peers.json"
LENGTHS, BATCHES, THREADS = (16, 64, 128, 384), (1, 8), (1, 2)
SCREENS = ((1, 1, 16), (1, 1, 128), (2, 8, 64))  # threads, batch, length
NEAR = 1.1  # times the fastest peer's time in every screen: slower ones are left out
OURS = "homoexport"  # the beginning of our packages' names
OURS_FP32 = f"{OURS}-fp32"
IN_ONNXRUNTIME = " (ONNX file)"  # of a package whose fastest runtime is another
RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "ctranslate2": "CTranslate2"}
ANY, ONNX_FILE = "any runtime", "our ONNX file"
OWN_CHOICE = "default"  # of the precision that OpenVINO computes floats in
SHORT, USUAL, LONG = (1, 16), (1, 128), (8, 384)  # batch and length that our packages are exported for
# In a batch, half the way in logarithms between them.
SHORT_TOKENS, LONG_TOKENS = (16 * 128) ** 0.5, (128 * 8 * 384) ** 0.5
WARM_SECONDS = 2.0  # at most: two threads on two cores are rarely steady
COSINE_TEXTS = 64  # ours are calibrated on the others


class OpenVinoTarget(LocalCpu):
    """OpenVINO's own runtime in the peers' Python, with a hint of the precision to compute in."""

    def __init__(self, python: Path, hint: str) -> None:
        super().__init__(f"openvino-{hint}")
        self._python, self._hint = python, hint

    def needs(self) -> list[Need]:
        """Nothing of onnxruntime's."""
        return []

    def _command(self) -> list[str]:
        return [str(self._python), str(OPENVINO_WORKER), self._hint]


@dataclass
class Contestant:
    """One file under one runtime, and its cosine to torch's answers; `threads` is what it was exported for, if said."""

    name: str
    file: Path
    output: str
    runtime: str
    threads: int | None = None
    cosine_mean: float | None = None
    cosine_min: float | None = None
    latencies_ms: dict[str, float] = field(default_factory=dict)

    @property
    def file_bytes(self) -> int:
        """With the weights that lie beside it."""
        return sum(path.stat().st_size for path in self.file.parent.iterdir() if path.stem == self.file.stem)

    def as_json(self) -> dict[str, Any]:
        """A JSON-ready dict; no paths of this machine."""
        return {**{key: value for key, value in asdict(self).items() if key != "file"}, "file_bytes": self.file_bytes}


def cell_name(threads: int, batch: int, length: int) -> str:
    """Of a cell in the result."""
    return f"{threads} thread{'s' * (threads > 1)}, {batch} x {length}"


def peers_of(folder: Path) -> tuple[list[Contestant], dict[str, str]]:
    """What `bench/peers/make.py` made, and why it failed to make others."""
    found, failed = [], {}
    for entry in json.loads((folder / "peers.json").read_text()):
        if "error" in entry:
            failed[entry["name"]] = entry["error"]
            continue
        hints = ["f32", "bf16"] if entry["runtime"] == "openvino" else [""]
        for hint in hints:
            name = f"{entry['name']}{f' ({hint})' * bool(hint)}"
            runtime = f"openvino-{hint}" if hint else entry["runtime"]
            found.append(Contestant(name, folder / entry["file"], entry["token_output"], runtime))
    return found, failed


def package_name(workload: tuple[int, int], threads: int) -> str:
    """Of our package for a batch and length."""
    batch, length = workload
    return f"{OURS}, {batch} x {length}" + f", {threads} threads" * (threads > 1)


def exported(model: str, folder: Path, texts: Sequence[str], threads: Sequence[int]) -> list[Contestant]:
    """Packages of our own of a model, as a user would make them."""
    file = folder / "texts.txt"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(texts))
    contestants = []
    asked: list[tuple[str, int | None, tuple[str, ...]]] = []
    for count, workload in product(threads, (SHORT, USUAL, LONG)):
        batch, length = map(str, workload)
        words = ("--runtime", "auto", "--threads", str(count), "--batch-size", batch, "--length", length)
        asked.append((package_name(workload, count), count, words))
    asked.append((OURS_FP32, None, ("--quantize", "none", "--threads", "1")))
    for name, for_threads, options in asked:
        out = folder / name.replace(", ", "-").replace(" ", "")
        if not out.exists():
            command = [sys.executable, "-m", "homoexport", "export", "--onnx", model, "-o", str(out)]
            subprocess.run([*command, "--text", str(file), *options], check=True)
        details = read_package(out, "auto")
        runtime = f"openvino-{OWN_CHOICE}" if details.runtime == "openvino" else details.runtime
        contestants.append(Contestant(name, details.file, details.output, runtime, threads=for_threads))
        if details.runtime != "onnxruntime":
            beside = Contestant(
                name + IN_ONNXRUNTIME, details.model, details.output, "onnxruntime", threads=for_threads
            )
            contestants.append(beside)
    return contestants


def ours_of(cell: str, names: Collection[str]) -> str:
    """Which of our packages of these names was exported for the like of a cell, in its fastest runtime.

    Where none was for its number of threads, it is the one for one thread.
    """
    threads, workload = cell.split(", ")
    batch, length = map(int, workload.split(" x "))
    tokens = batch * length
    nearest = SHORT if tokens < SHORT_TOKENS else LONG if tokens > LONG_TOKENS else USUAL
    own = package_name(nearest, int(threads.split()[0]))
    return own if own in names else package_name(nearest, 1)


def is_ours(one: Contestant) -> bool:
    """Whether it is no peer."""
    return one.name.startswith(OURS)


def program_of(file: Path) -> str:
    """Digest of what ONNX Runtime makes of a file: its operators, their attributes, and the shapes of the weights."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
        ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        graph = onnx.load(options.optimized_model_filepath, load_external_data=False).graph
    weights = {weight.name: (weight.data_type, *weight.dims) for weight in graph.initializer}
    nodes = []
    for node in graph.node:
        attributes = [(each.name, each.SerializeToString()) for each in node.attribute if not each.HasField("t")]
        taken = [weights[name] for name in node.input if name in weights]
        nodes.append((node.domain, node.op_type, sorted(attributes), taken))
    return hashlib.sha256(repr(sorted(nodes)).encode()).hexdigest()


def without_twins(peers: Sequence[Contestant]) -> tuple[list[Contestant], dict[str, str]]:
    """The peers without those that are the same program as an earlier one, and whose twins they are."""
    first: dict[str, str] = {}
    twins: dict[str, str] = {}
    for one in peers:
        if one.runtime == "onnxruntime":
            other = first.setdefault(program_of(one.file), one.name)
            if other != one.name:
                twins[one.name] = other
    return [one for one in peers if one.name not in twins], twins


def target_of(one: Contestant, peers_python: Path | None) -> Target:
    """Where a contestant runs."""
    if not one.runtime.startswith("openvino"):
        return LocalCpu()
    assert peers_python is not None
    return OpenVinoTarget(peers_python, one.runtime.removeprefix("openvino-"))


def take_cell(
    contestants: Sequence[Contestant], peers_python: Path | None, workload: Workload, *, seconds: float
) -> dict[str, float]:
    """Median milliseconds of each contestant, all in turns."""
    groups: dict[str, list[Contestant]] = {}
    for one in contestants:
        groups.setdefault(one.runtime, []).append(one)
    with ExitStack() as stack:
        sessions = []
        for group in groups.values():
            target = target_of(group[0], peers_python)
            stack.callback(target.close)
            target.open()
            subjects = [Subject(one.file, one.name, 1000, (one.output,)) for one in group]
            warmed = running(subjects, target, workload, report=lambda *_: None, warm_seconds=WARM_SECONDS)
            sessions.append(stack.enter_context(warmed))
        first, *others = sessions
        for other in others:
            first.running += other.running
        take_rounds(first, min_seconds=seconds, report=lambda *_: None, patient=False)
        return {one.subject.name: float(np.median(one.rounds_ms)) for one in first.running}


def add_cosines(contestants: Sequence[Contestant], encoder: Encoder, texts: Sequence[str], python: Path | None) -> None:
    """Of mean-pooled vectors to torch's, in batches of eight real texts."""
    import torch

    tokenizer = encoder.tokenizer
    groups = [list(texts[start : start + 8]) for start in range(0, len(texts), 8)]
    expected, batches = [], []
    for group in groups:
        tokens = tokenizer(group, padding=True, truncation=True, max_length=128, return_tensors="pt")
        with torch.no_grad():
            hidden = encoder.model(**tokens).last_hidden_state.numpy()
        mask = tokens["attention_mask"].numpy()
        expected.append(pooled(hidden, mask))
        batches.append((tokens["input_ids"].numpy(), mask))
    for one in contestants:
        target = target_of(one, python)
        target.open()
        try:
            subject = Subject(one.file, one.name, 1000, (one.output,))
            cosines = []
            with Worker(target, subject=one.name, runtime=subject.runtime) as worker:
                load_model(worker, subject, threads=1)
                for (ids, mask), vectors in zip(batches, expected, strict=True):
                    lengths = mask.sum(axis=1)
                    rows = tuple(tuple(row[:length].tolist()) for row, length in zip(ids, lengths, strict=True))
                    worker.inputs(InputsRequest(len(rows), rows=rows, pad_token_id=tokenizer.pad_token_id))
                    answer = worker.answer(output=one.output)
                    ours = pooled(answer, mask) if answer.ndim == 3 else answer
                    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(vectors, axis=1)
                    cosines += ((ours * vectors).sum(axis=1) / norms).tolist()
            one.cosine_mean, one.cosine_min = float(np.mean(cosines)), float(np.min(cosines))
        finally:
            target.close()


def pooled(hidden: NDArray[np.float32], mask: NDArray[np.int64]) -> NDArray[np.float32]:
    """[B, S, D] to means over real tokens [B, D]."""
    weights = mask[:, :, None].astype(np.float32)
    mean: NDArray[np.float32] = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
    return mean


def verdict(contestants: Sequence[Contestant], cells: Sequence[str]) -> dict[str, Any]:
    """Ratios to the fastest peer in each cell; above 1 ours is faster.

    Of what ships in its fastest runtime to the peers of each runtime, and of all; of our ONNX file to those of ONNX
    Runtime.
    """
    ours = {one.name: one for one in contestants if is_ours(one)}
    peers = [one for one in contestants if not is_ours(one)]
    groups = {
        runtime: [one for one in peers if one.runtime.startswith(runtime)]
        for runtime in ("onnxruntime", "openvino", "ctranslate2")
    }
    groups |= {ANY: peers, ONNX_FILE: groups["onnxruntime"]}
    told: dict[str, Any] = {}
    for group, rivals in groups.items():
        ratios: dict[str, Any] = {}
        for cell in cells:
            times = {one.name: one.latencies_ms[cell] for one in rivals if cell in one.latencies_ms}
            if times:
                best = min(times, key=lambda name: times[name])
                own = ours[ours_of(cell, ours)]
                if group == ONNX_FILE:
                    own = ours.get(own.name + IN_ONNXRUNTIME, own)
                ratios[cell] = {"best": best, "ratio": times[best] / own.latencies_ms[cell]}
        if ratios:
            told[group] = {
                "geometric_mean": statistics.geometric_mean(entry["ratio"] for entry in ratios.values()),
                "least": min(entry["ratio"] for entry in ratios.values()),
                "cells": ratios,
            }
    return told


def main() -> None:
    """Export, screen, measure, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL,OUT")
    parser.add_argument("--peers-python", type=Path, help="with OpenVINO; without it its files are left out")
    parser.add_argument("--texts", type=Path, required=True, help="real text, a line each: the last 64 for cosines")
    parser.add_argument("--packages", type=Path, help="where our packages are kept, for a second run to take them")
    parser.add_argument("--screened", type=Path, help="a result whose screening is taken over")
    parser.add_argument("--seconds", type=float, default=2.0, help="timed seconds of each contestant in a cell")
    parser.add_argument("--threads", type=int, nargs="+", default=THREADS)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    lines = arguments.texts.read_text().splitlines()
    texts, others = lines[-COSINE_TEXTS:], lines[:-COSINE_TEXTS]
    result: dict[str, Any] = {
        "host": vars(describe_host()),
        "versions": library_versions(),
        "models": {},
    }
    if arguments.output.exists():
        result["models"] = json.loads(arguments.output.read_text())["models"]
    with tempfile.TemporaryDirectory() as scratch:
        for spec in arguments.models:
            name, _, paths = spec.partition("=")
            if name in result["models"]:
                continue
            model, _, made = paths.rpartition(",")
            peers, failed = peers_of(Path(made))
            failed = {peer: reason.replace(model, name) for peer, reason in failed.items()}
            if arguments.peers_python is None:
                peers = [one for one in peers if one.runtime == "onnxruntime"]
            folder = (arguments.packages or Path(scratch)) / name
            peers, twins = without_twins(peers)
            contestants = [*exported(model, folder, others, arguments.threads), *peers]
            add_cosines(contestants, load_encoder(model), texts, arguments.peers_python)
            if arguments.screened:
                left_out = json.loads(arguments.screened.read_text())["models"][name]["left_out_after_screening"]
            else:
                left_out = screened(contestants, arguments.peers_python, seconds=arguments.seconds / 4)
            kept = [one for one in contestants if one.name not in left_out]
            cells = []
            for threads in arguments.threads:
                for batch in BATCHES:
                    for length in LENGTHS:
                        cell = cell_name(threads, batch, length)
                        cells.append(cell)
                        workload = Workload(threads, batch, length)
                        timed = [one for one in kept if one.threads in (None, threads)]
                        times = take_cell(timed, arguments.peers_python, workload, seconds=arguments.seconds)
                        for one in timed:
                            one.latencies_ms[cell] = times[one.name]
                        tell(name, cell, timed)
            told = verdict(kept, cells)
            result["models"][name] = {
                "verdict": told,
                "seconds": arguments.seconds,
                "contestants": [one.as_json() for one in contestants],
                "left_out_after_screening": left_out,
                "same_program_as": twins,
                "failed": failed,
            }
            for runtime, entry in told.items():
                print(f"{name}, against {runtime}: {entry['geometric_mean']:.3f} mean, {entry['least']:.3f} least")
            write_text(arguments.output, to_json(result))
    print(table(result["models"]))
    print(words(result["models"]))


def screened(contestants: Sequence[Contestant], python: Path | None, *, seconds: float) -> dict[str, float]:
    """Peers that are slower than 1.1 times the fastest of their runtime in every screen, and by how much."""
    slowness: dict[str, float] = {}
    for number, screen in enumerate(SCREENS):
        times = take_cell(contestants, python, Workload(*screen), seconds=seconds)
        for one in contestants:
            kind = one.runtime.partition("-")[0]
            rivals = [other for other in contestants if other.runtime.startswith(kind) and not is_ours(other)]
            ratio = times[one.name] / min(times[other.name] for other in rivals)
            slowness[one.name] = ratio if number == 0 else min(ratio, slowness[one.name])
    return {one.name: slowness[one.name] for one in contestants if slowness[one.name] > NEAR and not is_ours(one)}


def table(models: Mapping[str, Any]) -> str:
    """Ratios to the fastest peer of ONNX Runtime, of OpenVINO and of CTranslate2 in every cell, in Markdown.

    The first model has all cells; others may have been timed in some of them.
    """
    cells = list(next(iter(models.values()))["verdict"]["onnxruntime"]["cells"])
    lines = [f"| | {' | '.join(models)} |", f"|---|{'---:|' * len(models)}"]
    for what in (*cells, "geometric mean", "least"):
        row = []
        for model in models.values():
            ratios = [
                entry["cells"][what]["ratio"] if what in entry["cells"] else entry[what.replace(" ", "_")]
                for entry in (model["verdict"].get(runtime) for runtime in RUNTIMES)
                if entry is not None and (what in entry["cells"] or what not in cells)
            ]
            row.append(", ".join(f"{ratio:.2f}" for ratio in ratios))
        lines.append(f"| {what} | {' | '.join(row)} |")
    return "\n".join(lines)


def words(models: Mapping[str, Any]) -> str:
    """What the table comes to, a line a model, in Markdown."""
    lines = []
    for name, model in models.items():
        cosines = {one["name"]: one["cosine_mean"] for one in model["contestants"]}
        runtimes = {one["name"]: one["runtime"] for one in model["contestants"]}
        packages = [one for one in cosines if one.startswith(f"{OURS},") and not one.endswith(IN_ONNXRUNTIME)]
        told = [f"{cosines[ours]:.3f} {ours} ({runtimes[ours]})" for ours in packages]
        figures = []
        for group, title in {**RUNTIMES, ANY: "the fastest of all"}.items():
            if (entry := model["verdict"].get(group)) is not None:
                figures.append(f"{entry['geometric_mean']:.2f} against {title} (least {entry['least']:.2f})")
                best = statistics.mode(cell["best"] for cell in entry["cells"].values())
                if group in RUNTIMES:
                    told.append(f"{cosines[best]:.3f} {best}")
        file = model["verdict"][ONNX_FILE]["geometric_mean"]
        cells = model["verdict"][ANY]["cells"]
        lost = sum(entry["ratio"] < 1 for entry in cells.values())
        lines.append(
            f"- {name}: {', '.join(figures)}; the ONNX file alone {file:.2f} against ONNX Runtime; slower than the "
            f"fastest peer in {lost} of {len(cells)} cells. Mean cosines to torch: {', '.join(told)}."
        )
    return "\n".join(lines)


def own_files(models: Mapping[str, Any]) -> str:
    """Milliseconds of our ONNX file, and how many times as fast the file of another runtime is, in Markdown."""
    cells = list(next(iter(models.values()))["verdict"]["onnxruntime"]["cells"])
    lines = [f"| ONNX file | {' | '.join(models)} |", f"|---|{'---:|' * len(models)}"]
    for cell in cells:
        row = []
        for model in models.values():
            if cell not in model["verdict"][ANY]["cells"]:
                row.append("")
                continue
            ours = {one["name"]: one for one in model["contestants"]}
            package = ours[ours_of(cell, ours)]
            file = ours.get(package["name"] + IN_ONNXRUNTIME, package)
            told = f"{file['latencies_ms'][cell]:.2f} ms"
            if file is not package:
                runtime = RUNTIMES[package["runtime"].partition("-")[0]]
                told += f", {runtime} {file['latencies_ms'][cell] / package['latencies_ms'][cell]:.2f}"
            row.append(told)
        lines.append(f"| {cell} | {' | '.join(row)} |")
    return "\n".join(lines)


def tell(name: str, cell: str, contestants: Sequence[Contestant]) -> None:
    """A line for each cell."""
    own = ours_of(cell, [one.name for one in contestants])
    ours = next(one for one in contestants if one.name == own)
    peers = sorted((one for one in contestants if not is_ours(one)), key=lambda one: one.latencies_ms[cell])
    best = [next(filter(lambda peer: peer.runtime.startswith(runtime), peers), None) for runtime in RUNTIMES]
    others = "  ".join(f"{one.name} {one.latencies_ms[cell]:.3f} ({one.cosine_mean:.4f})" for one in filter(None, best))
    print(f"{name}, {cell}: ours {ours.latencies_ms[cell]:.3f} ms ({ours.cosine_mean:.4f})  {others}", flush=True)


if __name__ == "__main__":
    main()
