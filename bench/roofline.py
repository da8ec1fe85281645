"""Where a package's time goes, operator by operator, against what the machine's own products reach.

    python bench/roofline.py PACKAGE [PACKAGE ...] [--batch-size 1] [--length 128]

A package's ONNX file in onnxruntime, and its file for OpenVINO there, where it has one. The roof: the best rate of
products among several shapes, measured through the same runtime on the same core, in multiply-adds a second: of fp32
and of int8, in OpenVINO of the precision that it chooses for floats and of int8. An operator's share of the roof is the
time that its multiply-adds would take at that rate over the time that it took. What has no multiply-adds is what the
rest is spent on. One thread; the profile is the runtime's own, of the graph as it runs after its optimizers.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import openvino
from numpy.typing import NDArray
from onnx import TensorProto, helper
from openvino import opset13

from homoexport.choices import Runtime
from homoexport.documents.artifact import PackageManifest, verify
from homoexport.documents.document import to_json, write_text
from homoexport.host import describe_host, library_versions
from homoexport.runtime.inference import PackageInfo, read_package

OUTPUT = Path(__file__).parent / "results" / "roofline.json"
SHAPES = ((128, 384, 1536), (128, 1536, 384), (256, 768, 768), (512, 512, 512), (256, 1024, 1024))  # M, K, N
RUNTIMES: dict[Runtime, str] = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
SECONDS = 0.5
RUNS = 60
WARM_RUNS = 10
IN_OPENVINO = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
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
    return rows * inner * columns / least_seconds(lambda: session.run(None, {"x": left}))


def rate_in_openvino(rows: int, inner: int, columns: int, *, int8: bool) -> float:
    """Multiply-adds a second of one product with constant weights in OpenVINO; the best of many runs.

    Its own time of the product alone: of int8, the input is quantized by an operator before it.
    """
    rng = np.random.default_rng(0)
    left = opset13.parameter([rows, inner], np.float32)
    weight = opset13.constant(rng.standard_normal((inner, columns)).astype(np.float32))
    taken = left
    if int8:
        bounds = [opset13.constant(np.float32(bound)) for bound in (-4, 4, -4, 4)]
        taken = opset13.fake_quantize(left, *bounds, 256)
        bounds = [opset13.constant(np.float32(bound)) for bound in (-4, 4, -4, 4)]
        weight = opset13.fake_quantize(weight, *bounds, 255)
    product = opset13.matmul(taken, weight, False, False)
    compiled = openvino.Core().compile_model(
        openvino.Model([product], [left]), "CPU", IN_OPENVINO | {"PERF_COUNT": True}
    )
    request = compiled.create_infer_request()
    values = rng.standard_normal((rows, inner)).astype(np.float32)
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        request.infer({0: values})
        products = [one.real_time.total_seconds() for one in request.get_profiling_info() if is_product(one.node_type)]
        best = min(best, sum(products))
    return rows * inner * columns / best


def is_product(kind: str) -> bool:
    """Whether OpenVINO calls a product of a constant so."""
    return kind.startswith("FullyConnected") or kind == "MatMul"


def least_seconds(run: Callable[[], Any]) -> float:
    """Of many runs."""
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def token_inputs(vocab_size: int, shape: tuple[int, int]) -> dict[str, NDArray[np.int64]]:
    """Random tokens by input name, each [B, S]."""
    return {
        "input_ids": np.random.default_rng(0).integers(0, vocab_size, shape),
        "attention_mask": np.ones(shape, np.int64),
        "token_type_ids": np.zeros(shape, np.int64),
    }


def profile(package: PackageInfo, batch_size: int, length: int) -> dict[str, dict[str, float]]:
    """Seconds of a run by operator, and its fp32 and int8 multiply-adds."""
    with tempfile.TemporaryDirectory() as folder:
        settings = options(enable_profiling=True, profile_file_prefix=str(Path(folder) / "profile"))
        session = ort.InferenceSession(str(package.model), settings, providers=["CPUExecutionProvider"])
        values = token_inputs(package.vocab_size, (batch_size, length))
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


def profile_in_openvino(package: PackageInfo, batch_size: int, length: int) -> dict[str, dict[str, float]]:
    """Seconds of a run by operator, and its multiply-adds, of floats (attention's) and int8; compiled for the shape."""
    core = openvino.Core()
    model = core.read_model(package.file)
    for result in model.get_results():
        if package.output not in result.output(0).get_names():
            model.remove_result(result)
    values = token_inputs(package.vocab_size, (batch_size, length))
    model.reshape({port.any_name: [batch_size, length] for port in model.inputs})
    compiled = core.compile_model(model, "CPU", IN_OPENVINO | {"PERF_COUNT": True})
    request = compiled.create_infer_request()
    counts = {}
    for node in compiled.get_runtime_model().get_ops():
        told = {name: str(value.value) for name, value in node.get_rt_info().items()}
        shapes = [
            list(port.get_partial_shape().to_shape()) for port in node.inputs() if port.get_partial_shape().is_static
        ]
        name, kind = told["layerType"], {}
        if is_product(name) and len(shapes[0]) < 4:
            columns = node.output(0).get_partial_shape().to_shape()[-1]
            kind = {"int8" if "I8" in told["primitiveType"].upper() else "fp32": float(np.prod(shapes[0]) * columns)}
        elif "softmax" in told["originalLayersNames"].lower():
            name, states = "attention", np.prod(node.output(0).get_partial_shape().to_shape())
            kind = {"fp32": 2.0 * float(states) * length}
        counts[node.get_friendly_name()] = name, kind
    operators: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for number in range(WARM_RUNS + RUNS):
        request.infer({port.any_name: values[port.any_name] for port in compiled.inputs})
        for told in request.get_profiling_info() if number >= WARM_RUNS else ():
            if seconds := told.real_time.total_seconds():
                name, kind = counts.get(told.node_name, (told.node_type, {}))
                entry = operators[name]
                entry["seconds"] += seconds / RUNS
                entry["calls"] += 1 / RUNS
                for what, count in kind.items():
                    entry[what] += count / RUNS
    return {name: dict(entry) for name, entry in operators.items()}


def report(package: PackageInfo, roof: Mapping[str, float], batch_size: int, length: int) -> dict[str, Any]:
    """The profile with each operator's share of the time and of the roof."""
    in_openvino = package.runtime == "openvino"
    operators = (profile_in_openvino if in_openvino else profile)(package, batch_size, length)
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
        "runtime": package.runtime,
        "batch_size": batch_size,
        "length": length,
        "us": total * 1e6,
        "share_of_roof": ideal / total,
        "operators": rows,
    }


def show(found: Mapping[str, Any]) -> None:
    """A table."""
    what = f"{found['package']} in {RUNTIMES[found['runtime']]}, {found['batch_size']} x {found['length']}"
    print(f"{what}: {found['us']:.0f} us, ", end="")
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
    names = [f"{found['package']} in {RUNTIMES[found['runtime']]}" for found in chosen]
    lines = [f"| | {' | '.join(names)} |", f"|---|{'---:|' * len(chosen)}"]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    whole = [f"{found['us'] / 1000:.2f} ms, {found['share_of_roof']:.0%} of it at the roof" for found in chosen]
    return "\n".join([*lines, f"| all | {' | '.join(whole)} |"])


def measured_roof(runtime: Runtime) -> dict[str, float]:
    """Multiply-adds a second of the fastest shape, by kind."""
    measure = rate_in_openvino if runtime == "openvino" else rate
    return {kind: max(measure(*shape, int8=kind == "int8") for shape in SHAPES) for kind in ("fp32", "int8")}


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
    packages = [
        read_package(folder, runtime)
        for folder in given.packages
        for runtime in RUNTIMES
        if runtime == "onnxruntime" or runtime in verify(folder, PackageManifest).details.beside
    ]
    roofs = {package.runtime: measured_roof(package.runtime) for package in packages}
    for runtime, roof in roofs.items():
        rates = [f"{kind} {value / 1e9:.0f} G multiply-adds a second" for kind, value in roof.items()]
        print(f"roof in {RUNTIMES[runtime]}: {', '.join(rates)}")
    found = [
        report(package, roofs[package.runtime], batch_size, length)
        for package in packages
        for batch_size in given.batch_size
        for length in given.length
    ]
    for one in found:
        show(one)
    print(table(found))
    result = {
        "host": vars(describe_host()),
        "versions": library_versions(),
        "roof_per_second": roofs,
        "profiles": found,
    }
    write_text(given.output, to_json(result))


if __name__ == "__main__":
    main()
