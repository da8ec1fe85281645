"""Nothing calls home, and nothing is written but what was asked for: whole commands are watched."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import write_sentences
from tests.stages.measure.tiny_onnx import write_package

pytestmark = pytest.mark.processes

WATCH = """
import json, os, sys

log = open(sys.argv[1], "a", buffering=1)

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        log.write(json.dumps([event, repr(arguments[-1] if event != "socket.getaddrinfo" else arguments[0])]) + chr(10))
    if event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        log.write(json.dumps(["open", os.path.abspath(arguments[0])]) + chr(10))

sys.addaudithook(watch)
from homoexport.cli import main

for command in json.loads(sys.argv[2]):
    sys.argv = ["homoexport", *command]
    try:
        main()
    except SystemExit as end:
        assert end.code in (None, 0, 3), (command, end.code)
"""
RECIPE = """
name: watched
teacher: {teacher}
text: {{sources: [{{files: {text}}}], max_length: 16, held_out: 20}}
student: {{hidden_size: 16, num_attention_heads: 2}}
distill: {{objective: sentence-embedding, steps: 4, batch_size: 8, threads: 1, precision: fp32}}
export: {{graph: standard, seconds: 0.02, quantize: int8, runtime: openvino}}
measure: {{threads: 1, length: 16, min_seconds: 0.02}}
budget: {{file_mb: 100}}
"""


def watched(folder: Path, *commands: list[str]) -> None:
    """Run commands in a process with nothing in its home, and refuse connections and files anywhere else."""
    home, log, trace = folder / "home", folder / "events", folder / "trace"
    home.mkdir()
    names = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "HF_HOME")
    own = {name: str(home / name.lower() if "_" in name else home) for name in names} | {"TMPDIR": str(folder)}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "ORT_", "DO_NOT"))}
    script = folder / "watch.py"
    script.write_text(WATCH)
    tracer = shutil.which("strace")
    trace_it = [str(tracer), "-f", "-qq", "--seccomp-bpf", "-e", "trace=connect,sendto,openat", "-o", str(trace)]
    done = subprocess.run(
        [*(trace_it if tracer else []), sys.executable, str(script), str(log), json.dumps(commands)],
        input="w1 w2\n",
        text=True,
        capture_output=True,
        cwd=folder,
        env=kept | own | {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event for event in events if event[0] != "open"] == []
    written = {path for event, path in events if event == "open"}
    if tracer:  # also what is not Python, and the processes that measure
        traced = trace.read_text()
        assert re.findall(r"(?:connect|sendto)\(.*(?:AF_INET6?|AF_NETLINK).*", traced) == []
        made = re.findall(r'openat\(AT_FDCWD, "([^"]+)", [^)]*O_(?:WRONLY|RDWR|CREAT)[^)]*\) = \d', traced)
        written |= {str(folder / path) for path in made}
    elsewhere = {path for path in written if not f"{path}/".startswith((f"{folder}/", "/dev/", "/proc/self/"))}
    assert elsewhere == set()
    kept_there = {"/".join(path.relative_to(home).parts[:2]) for path in home.rglob("*") if path.is_file()}
    assert kept_there <= {"xdg_cache_home/homoexport", "xdg_cache_home/matplotlib", "hf_home/datasets"}


def test_packages_are_used_and_measured_alone(tmp_path: Path) -> None:
    package = str(write_package(tmp_path / "package"))
    bench = ["bench", package, "--threads", "1", "--length", "8", "--min-seconds", "0.02", "-o", "measured"]
    watched(tmp_path, ["verify", package], ["embed", package, "-o", "vectors.npy"], bench)


def test_openvino_writes_nothing_home_where_homoexport_was_imported_first(tmp_path: Path) -> None:
    script = "import homoexport, openvino; openvino.Core()"
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ | {"HOME": str(tmp_path)})
    assert list(tmp_path.rglob("*")) == []  # alone it leaves intel/openvino_ga_cid there, and sends an event


@pytest.mark.slow
def test_a_whole_run_is_alone(tmp_path: Path, tiny_folder) -> None:
    text, teacher = write_sentences(tmp_path / "text.txt"), tiny_folder("teacher")
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(teacher=teacher, text=text))
    (tmp_path / "dev.tsv").write_text(
        "sentence1\tsentence2\tscore\n" + "".join(f"w{i} w2\tw3 w{i}\t{i % 5}\n" for i in range(40))
    )
    (tmp_path / "labels.tsv").write_text("text\tlabel\n" + "".join(f"w{i} w2\t{'ab'[i % 2]}\n" for i in range(40)))
    tune = ["finetune", "run/1-student", "--task", "classification", "--train", "labels.tsv", "--dev", "labels.tsv"]
    watched(
        tmp_path,
        ["run", "recipe.yaml", "-o", "run"],
        ["report", "run"],
        ["export", "run/1-student", "-o", "again", "--quantize", "none", "--threads", "1", "--length", "16"],
        ["eval", "run/1-student", "run/2-onnx", "--task", "sts", "--data", "dev.tsv"],
        [*tune, "--epochs", "1", "--threads", "1", "-o", "tuned"],
        ["doctor"],
    )
