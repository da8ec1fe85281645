"""Spearman correlation with human scores on STS-B, of shipped packages.

    python bench/sts.py STSB_DEV.tsv PACKAGE [PACKAGE ...] [--output bench/results/sts.json]
    python bench/sts.py STSB_DEV.tsv PACKAGE --device x86:haswell --pairs 300

The TSV file has a header with `sentence1`, `sentence2` and `score`, no quoting (GLUE's own form). Emulators are slow,
so fewer pairs can be asked for: as many, evenly from all over.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from homoexport.host import describe_host, library_versions
from homoexport.runtime.inference import Package, load_tokenizer, open_package, read_package
from homoexport.stages.evaluate import sts_qualities
from homoexport.stages.measure.there import answers_of_file

BATCH_SIZE = 32


class Elsewhere(Package):
    """A package whose vectors come from another device."""

    def __init__(self, folder: Path, device: str) -> None:
        self.details = read_package(folder)
        self._tokenizer = load_tokenizer(self.details, max_length=self.details.max_length)
        self._device = device

    def embed(self, texts: Sequence[str], batch_size: int = BATCH_SIZE) -> NDArray[np.float32]:
        """One vector for each text [N, D]."""
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        groups = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        batches = []
        for rows in groups:
            encoded = self._tokenizer.encode_batch([texts[row] for row in rows])
            width = max(len(one.ids) for one in encoded)
            ids = [[*one.ids, *[self.details.pad_token_id] * (width - len(one.ids))] for one in encoded]
            mask = [[1] * len(one.ids) + [0] * (width - len(one.ids)) for one in encoded]
            batches.append({"input_ids": np.array(ids), "attention_mask": np.array(mask)})
        answers = answers_of_file(
            self.details.model,
            batches,
            device=self._device,
            pad_token_id=self.details.pad_token_id,
            output=self.details.output,
        )
        vectors: NDArray[np.float32] = np.concatenate(answers)[np.argsort(np.concatenate(groups))]
        return vectors


def read_pairs(path: Path) -> tuple[list[tuple[str, str]], list[float]]:
    """Sentence pairs and their scores, of the rows that have all three."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    rows = [row for row in rows if row.get("score")]
    return [(row["sentence1"], row["sentence2"]) for row in rows], [float(row["score"]) for row in rows]


def main() -> None:
    """Judge, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("packages", type=Path, nargs="+")
    parser.add_argument("--device", help="ask the packages there, sentence-similarity ones alone")
    parser.add_argument("--pairs", type=int, help="so many pairs (default: all)")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    pairs, scores = read_pairs(arguments.data)
    if arguments.pairs:
        chosen = [number * len(pairs) // arguments.pairs for number in range(arguments.pairs)]
        pairs, scores = [pairs[row] for row in chosen], [scores[row] for row in chosen]
    results = []
    for folder in arguments.packages:
        package = Elsewhere(folder, arguments.device) if arguments.device else open_package(folder, threads=1)
        quality = sts_qualities(package, pairs, scores)[0]
        figures = {"precision": package.details.precision, "file_bytes": package.details.file_bytes}
        results.append({"package": folder.name, **figures, **quality.figure.model_dump(mode="json")})
        print(f"{folder}: {quality.value:.4f} on {len(pairs)} pairs")
    if arguments.output:
        kept = {
            "data": arguments.data.name,
            "device": arguments.device or "cpu",
            "results": results,
            "host": vars(describe_host()),
            "versions": library_versions(),
        }
        arguments.output.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
