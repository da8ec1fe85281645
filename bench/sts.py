"""Spearman correlation with human scores on STS-B, of shipped packages.

    python bench/sts.py STSB_DEV.tsv PACKAGE [PACKAGE ...] [--output bench/results/sts.json]

The TSV file has a header with `sentence1`, `sentence2` and `score`, no quoting (GLUE's own form).
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

from homoexport.evaluate import sts_spearman
from homoexport.host import describe_host, library_versions
from homoexport.inference import open_package


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
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    pairs, scores = read_pairs(arguments.data)
    results = []
    for folder in arguments.packages:
        quality = sts_spearman(open_package(folder, threads=1), pairs, scores)
        results.append({"package": folder.name, **quality.as_json()})
        print(f"{folder}: {quality.value:.4f} on {len(pairs)} pairs")
    if arguments.output:
        kept = {
            "data": arguments.data.name,
            "results": results,
            "host": describe_host(),
            "versions": library_versions(),
        }
        arguments.output.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
