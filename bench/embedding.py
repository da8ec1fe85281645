"""A million short lines through `homoexport embed`, beside the throughput that `homoexport bench` says for them.

    python bench/embedding.py PACKAGE [PACKAGE ...] [--lines 1000000] [--length 16] [--batch-size 32] [--turns 8]

Each package, in turns: `bench` says sequences a second of batches of so many sequences of so many tokens, without
tokenizing, with one inference at a time on all cores and with one on each core (`--streams`), of which the better
counts; then `embed` reads a part of the text, tokenizes, embeds and writes an npy file; then `bench` again, and so on.
A part's share is held against the mean of the benches before and behind it, and the median of the shares counts. The
lines are words of the package's own vocabulary, drawn at random, each one token, so that every line has exactly that
many. At last all lines go through `embed` at once.

`embed` is timed as a whole process, start-up and opening included, and its peak memory is the kernel's high-water mark,
of all lines and of a part. The ways to use the cores take turns on a part: an inference on each core, one on all cores,
and a process of its own for each core with its share of the lines. Vectors of 200 lines are held against those of each
line alone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from homoexport.documents.artifact import PackageManifest, verify
from homoexport.host import available_cores, describe_host, library_versions
from homoexport.runtime.inference import open_package

RESULT = Path(__file__).parent / "results/embedding.json"
SAMPLE, SPECIAL = 200, 2
COMMAND = [sys.executable, "-m", "homoexport"]


def write_lines(package: Path, path: Path, *, lines: int, length: int) -> None:
    """Lines of words that are a token each."""
    tokenizer = Tokenizer.from_file(str(package / "tokenizer.json"))
    words = sorted(word for word in tokenizer.get_vocab() if word.isascii() and word.isalpha() and word.islower())
    drawn = random.Random(0)
    with path.open("w") as file:
        file.writelines(" ".join(drawn.choices(words, k=length - SPECIAL)) + "\n" for _ in range(lines))
    found = {len(ids) for ids in map(len_of(tokenizer), path.open())}
    assert found == {length}, found


def len_of(tokenizer: Tokenizer) -> Any:
    """Gives the ids of a line."""
    tokenizer.no_padding()
    return lambda line: tokenizer.encode(line).ids


def bench(package: Path, *, batch_size: int, length: int) -> dict[str, float]:
    """Sequences a second: one inference on all cores, and one on each core at once."""
    cores = available_cores()
    found = {}
    for name, threads, more in (
        ("all cores", cores, []),
        ("one each", 1, ["--streams", str(cores)]),
    ):
        flags = ["--batch-size", str(batch_size), "--length", str(length), "--threads", str(threads), *more, "--json"]
        done = subprocess.run([*COMMAND, "bench", str(package), *flags], capture_output=True, text=True, check=True)
        (figures,) = json.loads(done.stdout)["results"]
        found[name] = figures["streams"][0]["throughput_per_s"] if more else figures["throughput_per_s"]
    return found


def embed(package: Path, texts: list[Path], out: Path, *flags: str) -> tuple[float, float]:
    """Seconds until the last of as many processes as there are files has ended, and the largest peak memory in MB."""
    began, processes = time.monotonic(), []
    for number, text in enumerate(texts):
        output = out.with_name(f"{number}-{out.name}")
        command = [*COMMAND, "embed", str(package), "--data", str(text), "-o", str(output), *flags]
        processes.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
    peaks = []
    for process in processes:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        peaks.append(usage.ru_maxrss * 1024 / 1e6)
    return time.monotonic() - began, max(peaks)


def parts_of(text: Path, folder: Path, parts: int, *, called: str) -> list[Path]:
    """A file's lines in so many files."""
    lines = text.read_text().splitlines(keepends=True)
    size = -(-len(lines) // parts)
    paths = [folder / f"{called}-{number}.txt" for number in range(parts)]
    for number, path in enumerate(paths):
        path.write_text("".join(lines[number * size : (number + 1) * size]))
    return paths


def ways(package: Path, some: Path, folder: Path, *, lines: int, rounds: int, batch: list[str]) -> dict[str, float]:
    """Texts a second of each way to use the cores, the median of some turns; start-up included."""
    cores = str(available_cores())
    parts = parts_of(some, folder, available_cores(), called="share")
    seconds: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, files, flags in (
            ("one inference on each core", [some], []),
            ("one inference on all cores", [some], ["--streams", "1", "--threads", cores]),
            ("one process on each core", parts, ["--streams", "1"]),
        ):
            spent, _ = embed(package, files, folder / "some.npy", *flags, *batch)
            seconds.setdefault(name, []).append(spent)
    return {name: lines / statistics.median(each) for name, each in seconds.items()}


def difference(package: Path, text: Path, vectors: Path) -> float:
    """The largest difference between a line's vector and that of the line alone, of a sample of lines."""
    found, alone = np.load(vectors, mmap_mode="r"), open_package(package)
    step = len(found) // SAMPLE
    with text.open() as lines:
        rows = [(row, line.rstrip("\n")) for row, line in enumerate(lines) if row % step == 0]
    return max(float(np.abs(alone.embed([line])[0] - found[row]).max()) for row, line in rows)


def measure(package: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures of a package."""
    batch = ["--batch-size", str(arguments.batch_size)]
    details = verify(package, PackageManifest).details
    if arguments.work is not None:
        arguments.work.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=arguments.work) as work:
        folder = Path(work)
        text = folder / "lines.txt"
        write_lines(package, text, lines=arguments.lines, length=arguments.length)
        parts = parts_of(text, folder, arguments.turns, called="part")
        lines = arguments.lines // arguments.turns
        said, rates, peaks = [bench(package, batch_size=arguments.batch_size, length=arguments.length)], [], []
        for part in parts:
            seconds, peak = embed(package, [part], folder / "part.npy", *batch)
            rates.append(lines / seconds)
            peaks.append(peak)
            said.append(bench(package, batch_size=arguments.batch_size, length=arguments.length))
        best = [max(each.values()) for each in said]
        shares = [2 * rate / (before + after) for rate, before, after in zip(rates, best[:-1], best[1:], strict=True)]
        seconds, peak = embed(package, [text], folder / "vectors.npy", *batch)
        figures = {
            "package": package.name,
            "scheme": details.scheme,
            "parameters": details.parameters,
            "runtime": open_package(package).details.runtime,
            "bench_per_s": said,
            "embed_per_s": [round(rate, 1) for rate in rates],
            "shares_of_bench": [round(share, 4) for share in shares],
            "share_of_bench": round(statistics.median(shares), 4),
            "all_at_once_seconds": round(seconds, 2),
            "all_at_once_per_s": round(arguments.lines / seconds, 1),
            "peak_rss_mb": round(peak, 1),
            "peak_rss_mb_of_a_part": round(max(peaks), 1),
            "difference_to_alone": difference(package, text, folder / "0-vectors.npy"),
            "ways_per_s": ways(package, parts[0], folder, lines=lines, rounds=arguments.rounds, batch=batch),
        }
    print(json.dumps(figures, indent=2), flush=True)
    return figures


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="+", type=Path)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--length", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--turns", type=int, default=8, help="parts of the text, with benches between them")
    parser.add_argument("--rounds", type=int, default=3, help="of the ways to use the cores")
    parser.add_argument("--work", type=Path, help="where files of the vectors' size go for a while")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    if arguments.lines % arguments.turns:
        parser.error("--lines must be a multiple of --turns")
    result = {
        "lines": arguments.lines,
        "turns": arguments.turns,
        "length": arguments.length,
        "batch_size": arguments.batch_size,
        "packages": [measure(package, arguments) for package in arguments.packages],
        "host": vars(describe_host()),
        "versions": library_versions(),
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
