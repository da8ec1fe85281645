"""A graph that runs too long is ended, by a signal or at the limit; what it cannot do reaches no terminal by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from homoexport.documents.artifact import PackageManifest, read_manifest, write_manifest
from homoexport.runtime.openvino_session import OpenVinoSession
from homoexport.runtime.session import OnnxSession
from homoexport.runtime.waiting import heard
from tests.hostile import HOSTILE
from tests.stages.measure.tiny_onnx import write_package

MASK = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["B", "S"])
ANSWER = helper.make_tensor_value_info("sentence_embedding", TensorProto.INT64, None)


def model_of(*nodes: onnx.NodeProto, **constants: onnx.TensorProto) -> onnx.ModelProto:
    graph = helper.make_graph(list(nodes), "graph", [MASK], [ANSWER], initializer=list(constants.values()))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def endless() -> onnx.ModelProto:
    """A loop of more turns than anybody can wait for."""
    value = helper.make_tensor_value_info("value", TensorProto.INT64, None)
    doubled = helper.make_tensor_value_info("doubled", TensorProto.INT64, None)
    turn = helper.make_tensor_value_info("turn", TensorProto.INT64, [])
    go_on, goes_on = (helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("go_on", "goes_on"))
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_on"], ["goes_on"]), helper.make_node("Add", ["value"] * 2, ["doubled"])],
        "body",
        [turn, go_on, value],
        [goes_on, doubled],
    )
    loop = helper.make_node("Loop", ["turns", "yes", "attention_mask"], ["sentence_embedding"], body=body)
    turns = helper.make_tensor("turns", TensorProto.INT64, [], [2**62])
    return model_of(loop, turns=turns, yes=helper.make_tensor("yes", TensorProto.BOOL, [], [True]))


class Ended(Exception):
    """What a handler of a signal raises."""


@contextmanager
def ended_by(number: int) -> Iterator[None]:
    """A signal comes while the block works, and ends it."""

    def end(*_: object) -> None:
        raise Ended

    before = signal.signal(number, end)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), number))
    try:
        timer.start()
        began = time.monotonic()
        with pytest.raises(Ended):
            yield
        assert time.monotonic() - began < 5
    finally:
        timer.join()
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_heard_while_a_graph_runs(number):
    session = OnnxSession(endless().SerializeToString(), threads=1)
    with ended_by(number):
        session.run(None, {"attention_mask": np.ones((1, 4), np.int64)})


def test_a_signal_is_heard_while_a_graph_is_opened(monkeypatch):
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_, **__: time.sleep(20))
    with ended_by(signal.SIGTERM):
        OnnxSession(b"")


def test_answers_are_waited_for_in_one_kept_thread_that_keeps_nothing_of_them():
    class Answer:
        """Something that a runtime gives."""

    def fail() -> None:
        raise ValueError("of the work")

    heard(Answer)
    before = set(threading.enumerate())
    answers = [weakref.ref(heard(Answer)) for _ in range(20)]
    with pytest.raises(ValueError, match="of the work"):
        heard(fail)
    heard(lambda: None)  # behind it, nothing of what came before is at hand any more
    assert set(threading.enumerate()) == before
    assert not any(answer() for answer in answers)


@pytest.mark.processes
def test_a_process_that_was_forked_has_threads_of_its_own():
    words = """
import os, sys
from homoexport.runtime.waiting import heard
heard(int)
child = os.fork()
if not child:
    os._exit(heard(lambda: 7, seconds=20))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", words], timeout=60, check=False).returncode == 7


def long(products: int = 400, width: int = 1500) -> onnx.ModelProto:
    """Products that take ten seconds at least, one after another; their values are ones."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [width, width])
    share = helper.make_tensor("share", TensorProto.FLOAT, [], [1 / width])
    nodes = [
        helper.make_node("Cast", ["attention_mask"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Expand", ["floats", "shape"], ["value0"]),
    ]
    for number in range(products):
        nodes.append(helper.make_node("MatMul", [f"value{number}"] * 2, [f"sum{number}"]))
        nodes.append(helper.make_node("Mul", [f"sum{number}", "share"], [f"value{number + 1}"]))
    nodes.append(helper.make_node("Cast", [f"value{products}"], ["sentence_embedding"], to=TensorProto.INT64))
    return model_of(*nodes, shape=shape, share=share)


def test_openvino_is_ended_by_a_signal_and_at_the_limit(monkeypatch, tmp_path):
    onnx.save(long(), tmp_path / "long.onnx")
    session = OpenVinoSession(tmp_path / "long.onnx", threads=1)

    def run() -> None:
        session.run(["sentence_embedding"], {"attention_mask": np.ones((1, 1), np.int64)})

    before = set(threading.enumerate())
    with ended_by(signal.SIGINT):
        run()
    monkeypatch.setenv("HOMOEXPORT_LIMITS", "answer_seconds=1")
    with pytest.raises(TimeoutError, match="no answer within 1 seconds"):
        run()
    assert set(threading.enumerate()) <= before  # none runs on


@pytest.mark.processes
def test_embed_hears_ctrl_c(tmp_path: Path):
    package = write_package(tmp_path / "package")
    onnx.save(endless(), package / "onnx" / "model.onnx")
    write_manifest(package, "package", details=read_manifest(package, PackageManifest).details)
    process = subprocess.Popen(
        [sys.executable, "-m", "homoexport", "embed", str(package)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"HOME": str(tmp_path)},
    )
    assert process.stdin is not None
    process.stdin.write(b"w1 w2\n")
    process.stdin.close()
    process.stdin = None
    deadline = time.monotonic() + 60
    while not any(seconds > 0.5 for seconds in seconds_of_threads(process.pid)):  # the graph runs
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (130, b"", b"interrupted\n")


def seconds_of_threads(process: int) -> list[float]:
    """Processor time of each thread but the first."""
    others = [path for path in Path(f"/proc/{process}/task").glob("*/stat") if path.parent.name != str(process)]
    fields = [path.read_text().rpartition(")")[2].split() for path in others]
    return [sum(map(int, each[11:13])) / os.sysconf("SC_CLK_TCK") for each in fields]


@pytest.mark.parametrize("name", [HOSTILE["colour"], HOSTILE["title of the window"]])
def test_names_of_nodes_reach_no_terminal_by_themselves(capfd, name):
    product = helper.make_node("MatMul", ["attention_mask"] * 2, ["sentence_embedding"], name=name)
    session = OnnxSession(model_of(product).SerializeToString())
    with pytest.raises(Exception, match="MatMul"):
        session.run(None, {"attention_mask": np.ones((2, 3), np.int64)})
    assert capfd.readouterr() == ("", "")
