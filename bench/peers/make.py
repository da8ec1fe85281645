"""Make the files of homoexport's peers out of one model: each exporter and quantizer at its own best settings.

    python -m venv PEERS && PEERS/bin/pip install -r bench/peers/requirements.txt
    PEERS/bin/python bench/peers/make.py MODEL_FOLDER OUT_DIR [--calibration texts.txt] [--only NAME ...]

MODEL_FOLDER is a BERT encoder as sentence-transformers keeps it. Every peer gets a subfolder of OUT_DIR, and
OUT_DIR/peers.json says of each: name, tool, versions, runtime, file, file_bytes, settings, seconds, the graph's
inputs and outputs, and the cosines of its answers with torch's; of one that failed, its error in one line.

A peer is made in a process of its own, so that one which crashes or hangs ends nothing but itself. With --only,
the others' entries in peers.json stay.
"""

from __future__ import annotations

import os

# Nothing is downloaded or reported. Olive 0.13 sends a heartbeat before it looks at its own switch, but not from a CI.
os.environ |= {"HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1", "OLIVE_DISABLE_TELEMETRY": "1", "CI": "true"}
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import importlib
import json
import multiprocessing
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import by_ctranslate2
import by_olive
import by_onnxruntime
import by_openvino
import by_optimum
import by_sentence_transformers
from check import RUNTIMES, checked, reference
from source import Peer, Source

PEER_SECONDS = 900
# Earlier ones' files are later ones' start.
TOOLS = (by_optimum, by_onnxruntime, by_sentence_transformers, by_openvino, by_olive, by_ctranslate2)
VERSIONS = {
    "optimum": ("optimum", "optimum-onnx", "transformers", "onnxruntime", "onnx", "torch"),
    "onnxruntime": ("onnxruntime", "onnx"),
    "sentence-transformers": ("sentence-transformers", "optimum-onnx", "optimum-intel", "onnxruntime", "openvino"),
    "openvino": ("openvino", "optimum-intel", "torch"),
    "nncf": ("nncf", "openvino"),
    "ctranslate2": ("ctranslate2", "transformers", "torch"),
    "olive": ("olive-ai", "onnxruntime", "onnx", "transformers", "torch"),
}
SLOW_IMPORTS = ("onnxruntime", "transformers", "optimum.onnxruntime", "sentence_transformers", "nncf")
DEFAULT_TEXTS = 200


class PeerError(Exception):
    """What a peer's process died of."""


def apart(function: Callable[[], Any], *, seconds: float) -> Any:
    """A function's result, from a process of its own.

    Raises:
        PeerError: it raised, crashed, or took longer than `seconds`.
    """
    context = multiprocessing.get_context("fork")  # the slow imports are shared, and a lambda needs no pickling
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(function, theirs))
    process.start()
    theirs.close()
    try:
        answer = ours.recv() if ours.poll(seconds) else {"error": f"took longer than {seconds:g} s"}
    except EOFError:
        process.join()
        answer = {"error": _death(process.exitcode)}
    process.kill()
    process.join()
    if "error" in answer:
        raise PeerError(answer["error"])
    return answer["result"]


def _answer(function: Callable[[], Any], pipe: Connection) -> None:
    try:
        answer = {"result": function()}
    except BaseException as error:  # a tool may well call sys.exit
        answer = {"error": one_line(error)}
    pipe.send(answer)


def _death(status: int | None) -> str:
    if status is not None and status < 0:
        return f"its process died of {signal.Signals(-status).name}"
    return f"its process ended with status {status}"


def one_line(error: BaseException, limit: int = 300) -> str:
    """An error's kind and its first line that says something."""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said}"[:limit]


def made(peer: Peer, source: Source, states: Any) -> dict[str, Any]:
    """Make one peer's file and check it: its entry in peers.json."""
    entry = {"name": peer.name, "tool": peer.tool, "versions": versions(peer.tool), "settings": peer.settings}
    folder = source.out / peer.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

    def make() -> dict[str, Any]:
        os.chdir(folder)  # some tools leave caches where they are called
        start = time.perf_counter()
        path = peer.make(folder)
        seconds = round(time.perf_counter() - start, 2)
        return {
            "runtime": RUNTIMES[path.suffix],
            "file": str(path.relative_to(source.out)),
            "file_bytes": weights_bytes(path),
            "seconds": seconds,
            **checked(path, source, states),
        }

    try:
        return entry | apart(make, seconds=PEER_SECONDS)
    except PeerError as error:
        return entry | {"error": str(error)}


def weights_bytes(path: Path) -> int:
    """The size of a model: its file, and those beside it that hold its weights."""
    beside = [path.with_suffix(".bin"), path.with_name(f"{path.name}.data"), path.with_name(f"{path.name}_data")]
    return sum(each.stat().st_size for each in (path, *beside) if each.exists())


def versions(tool: str) -> dict[str, str]:
    """Installed versions of what a tool's files depend on."""
    installed = {}
    for name in VERSIONS[tool]:
        with suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed


def main() -> None:
    """Make every peer, print a line of each, and keep peers.json after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--calibration", type=Path, help=f"a text a line; the first {DEFAULT_TEXTS} are used")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="peers by name, or all whose names start with NAME*"
    )
    arguments = parser.parse_args()
    source = Source(arguments.model.resolve(), arguments.out.resolve(), calibration_texts(arguments.calibration))
    source.out.mkdir(parents=True, exist_ok=True)
    for name in SLOW_IMPORTS:
        with suppress(ImportError):
            importlib.import_module(name)
    kept_path = source.out / "peers.json"
    kept = {entry["name"]: entry for entry in json.loads(kept_path.read_text())} if kept_path.exists() else {}
    states = apart(lambda: reference(source), seconds=PEER_SECONDS)
    everyone = [peer for tool in TOOLS for peer in tool.peers(source)]
    for peer in everyone:
        if arguments.only and not any(Path(peer.name).match(pattern) for pattern in arguments.only):
            continue
        entry = kept[peer.name] = made(peer, source, states)
        print(described(entry), flush=True)
        in_order = [kept[each.name] for each in everyone if each.name in kept]
        kept_path.write_text(json.dumps(in_order, indent=2) + "\n")


def calibration_texts(path: Path | None) -> list[str]:
    """The texts of a file, or a few of our own, which no accuracy should be judged by."""
    from check import TEXTS

    if path is None:
        return list(TEXTS)
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()][:DEFAULT_TEXTS]


def described(entry: dict[str, Any]) -> str:
    """One line of an entry."""
    if "error" in entry:
        return f"{entry['name']:<36} FAILED {entry['error']}"
    tokens = entry["cosine"].get("tokens", entry["cosine"]["sentences"])
    return (
        f"{entry['name']:<36} {entry['file_bytes'] / 1e6:7.2f} MB {entry['seconds']:6.1f} s  cosine "
        f"{tokens['cosine_mean']:.5f} (least {tokens['cosine_min']:.5f})"
    )


if __name__ == "__main__":
    main()
