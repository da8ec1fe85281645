"""Where a package's time goes, operator by operator, against what the machine's own products reach.

    python bench/roofline.py PACKAGE [PACKAGE ...] [--batch-size 1] [--length 128]

The roof: the best rate of fp32 and of int8 products among several shapes, measured through onnxruntime on the same
core, in multiply-adds a second. An operator's share of the roof is the time that its multiply-adds would take at that
rate over the time that it took. What has no multiply-adds is what the rest is spent on. One thread; the profile is
onnxruntime's own, of the graph as it runs after its optimizers.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

from homoexport.documents.document import to_json, write_text
from homoexport.host import describe_host, library_versions
from homoexport.runtime.inference import PackageInfo, read_package

OUTPUT = Path(__file__).parent / "results" / "roofline.json"
SHAPES = ((128, 384, 1536), (128, 1536, 384), (256, 768, 768), (512, 512, 512), (256, 1024, 1024))  # M, K, N
SECONDS = 0.5
RUNS = 60
INT8_PRODUCTS = {
    "MatMulNBits",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "QLinearMatMul",
    "QGemm",
}
FP32_PRODUCTS = {"MatMul", "FusedMatMul", "Gemm", "FusedGemm"}
ATTENTIONS = {"Attention", "MultiHeadAttention"}


def options(**settings: Any) -> ort.SessionOptions:
    """One thread, and nothing said but errors."""
    made = ort.SessionOptions()
    made.intra_op_num_threads = 1
    made.log_severity_level = 3
    for name, value in settings.items():
        setattr(made, name, value)
    return made


def rate(rows: int, inner: int, columns: int, *, int8: bool) -> float:
    """Multiply-adds a second of one product with constant weights; the best of many runs."""
    rng = np.random.default_rng(0)
    if int8:
        weight = rng.integers(-127, 127, (inner, columns)).astype(np.int8)
        kind, left = TensorProto.UINT8, rng.integers(0, 255, (rows, inner)).astype(np.uint8)
        node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
        result, stored = TensorProto.INT32, TensorProto.INT8
    else:
        weight = rng.standard_normal((inner, columns)).astype(np.float32)
        kind, left = TensorProto.FLOAT, rng.standard_normal((rows, inner)).astype(np.float32)
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
        result = stored = TensorProto.FLOAT
    constant = helper.make_tensor("w", stored, weight.shape, weight.tobytes(), raw=True)
    inputs = [helper.make_tensor_value_info("x", kind, ["rows", inner])]
    outputs = [helper.make_tensor_value_info("y", result, ["rows", columns])]
    graph = helper.make_graph([node], "product", inputs, outputs, [constant])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = ort.InferenceSession(model.SerializeToString(), options(), providers=["CPUExecutionProvider"])
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        session.run(None, {"x": left})
        best = min(best, time.perf_counter() - start)
    return rows * inner * columns / best


def profile(package: PackageInfo, batch_size: int, length: int) -> dict[str, dict[str, float]]:
    """Seconds of a run by operator, and its fp32 and int8 multiply-adds."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        settings = options(enable_profiling=True, profile_file_prefix=str(Path(folder) / "profile"))
        session = ort.InferenceSession(str(package.model), settings, providers=["CPUExecutionProvider"])
        shape = (batch_size, length)
        values = {
            "input_ids": rng.integers(0, package.vocab_size, shape),
            "attention_mask": np.ones(shape, np.int64),
            "token_type_ids": np.zeros(shape, np.int64),
        }
        feeds = {node.name: values[node.name] for node in session.get_inputs()}
        for _ in range(RUNS):
            session.run([package.output], feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    operators: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            told = event["args"]
            entry = operators[told["op_name"]]
            entry["seconds"] += event["dur"] / 1e6 / RUNS
            entry["calls"] += 1 / RUNS
            for kind, count in multiply_adds(told).items():
                entry[kind] += count / RUNS
    return {name: dict(entry) for name, entry in operators.items()}


def multiply_adds(told: Mapping[str, Any]) -> dict[str, float]:
    """Of one call, from the shapes of its inputs and of its answer; constant weights are in no profile."""
    name = told["op_name"]
    shapes = [next(iter(entry.values())) for entry in told["input_type_shape"]]
    columns = next(iter(told["output_type_shape"][0].values()))[-1:]
    if name in ATTENTIONS:
        (batch, queries, width), keys, values = shapes[0], shapes[1][1], shapes[2][2]
        return {"fp32": float(batch * queries * keys * (width + values))}
    if name in INT8_PRODUCTS or name in FP32_PRODUCTS:
        return {"int8" if name in INT8_PRODUCTS else "fp32": float(np.prod(shapes[0]) * np.prod(columns))}
    return {}


def report(package: PackageInfo, roof: Mapping[str, float], batch_size: int, length: int) -> dict[str, Any]:
    """The profile with each operator's share of the time and of the roof."""
    operators = profile(package, batch_size, length)
    total = sum(entry["seconds"] for entry in operators.values())
    rows = []
    for name, entry in sorted(operators.items(), key=lambda item: -item[1]["seconds"]):
        ideal = sum(entry.get(kind, 0.0) / roof[kind] for kind in roof)
        rows.append(
            {
                "operator": name,
                "calls": round(entry["calls"], 1),
                "us": entry["seconds"] * 1e6,
                "share_of_time": entry["seconds"] / total,
                "multiply_adds": {kind: entry[kind] for kind in roof if kind in entry},
                "share_of_roof": ideal / entry["seconds"] if ideal else None,
            }
        )
    ideal = sum(entry.get(kind, 0.0) / roof[kind] for entry in operators.values() for kind in roof)
    return {
        "package": package.folder.name,
        "batch_size": batch_size,
        "length": length,
        "us": total * 1e6,
        "share_of_roof": ideal / total,
        "operators": rows,
    }


def show(found: Mapping[str, Any]) -> None:
    """A table."""
    print(f"{found['package']}, {found['batch_size']} x {found['length']}: {found['us']:.0f} us, ", end="")
    print(f"{found['share_of_roof']:.0%} of it at the roof's rate")
    for row in found["operators"]:
        roofs = "" if row["share_of_roof"] is None else f"{row['share_of_roof']:.0%} of the roof"
        print(f"  {row['operator']:28}{row['calls']:6.0f} x {row['us']:9.1f} us {row['share_of_time']:6.1%}  {roofs}")


def table(profiles: Sequence[Mapping[str, Any]], *, length: int = 128, least: float = 0.01) -> str:
    """Shares of the time of one text and of the roof by operator, in Markdown; operators of small shares together."""
    chosen = [found for found in profiles if (found["batch_size"], found["length"]) == (1, length)]
    rows: dict[str, list[str]] = {}
    for number, found in enumerate(chosen):
        small = 0.0
        for row in found["operators"]:
            if row["share_of_time"] < least:
                small += row["share_of_time"]
                continue
            roof = "" if row["share_of_roof"] is None else f", {row['share_of_roof']:.0%} of the roof"
            rows.setdefault(row["operator"], [""] * len(chosen))[number] = f"{row['share_of_time']:.0%}{roof}"
        rows.setdefault("others", [""] * len(chosen))[number] = f"{small:.0%}"
    rows["others"] = rows.pop("others")
    lines = [f"| | {' | '.join(found['package'] for found in chosen)} |", f"|---|{'---:|' * len(chosen)}"]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    whole = [f"{found['us'] / 1000:.2f} ms, {found['share_of_roof']:.0%} of it at the roof" for found in chosen]
    return "\n".join([*lines, f"| all | {' | '.join(whole)} |"])


def measured_roof() -> dict[str, float]:
    """Multiply-adds a second of the fastest shape, by kind."""
    return {kind: max(rate(*shape, int8=kind == "int8") for shape in SHAPES) for kind in ("fp32", "int8")}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the roof, profile, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path, nargs="+")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1])
    parser.add_argument("--length", type=int, nargs="+", default=[16, 128, 384])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args(arguments)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    roof = measured_roof()
    print("roof: " + ", ".join(f"{kind} {value / 1e9:.0f} G multiply-adds a second" for kind, value in roof.items()))
    found = [
        report(read_package(folder), roof, batch_size, length)
        for folder in given.packages
        for batch_size in given.batch_size
        for length in given.length
    ]
    for one in found:
        show(one)
    print(table(found))
    result = {"host": vars(describe_host()), "versions": library_versions(), "roof_per_second": roof, "profiles": found}
    write_text(given.output, to_json(result))


if __name__ == "__main__":
    main()
