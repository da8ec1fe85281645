"""Writes the tables of the README and the docs out of the kept results.

    python tools/tables.py [--check]

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->`. `--check` writes nothing, and ends with exit
code 1 when a table is not what the results say.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from homoexport.documents.document import read_document
from homoexport.documents.summary import Summary
from homoexport.report.run import summary_rows

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_MARKED = re.compile(r"(<!-- table: (.+?) -->\n\n).*?(\n\n<!-- end of table -->)", re.DOTALL)
sys.path.insert(0, str(ROOT / "bench"))


def _of(module: str, function: str, part: str | None = None, *, result: str | None = None) -> Callable[[], str]:
    """The table that a benchmark makes of its kept result of that name, by default its own, or of a part of it."""

    def table() -> str:
        kept: Any = json.loads((ROOT / f"bench/results/{result or module}.json").read_text(encoding="utf-8"))
        made: str = getattr(import_module(module), function)(kept if part is None else kept[part])
        return made

    return table


def quickstart() -> str:
    """The summary of the quickstart's run."""
    rows = summary_rows(read_document(ROOT / "docs/quickstart-summary.json", Summary))
    lines = ["| | Teacher | Student | Student is |", "|---|---:|---:|---:|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


TABLES: dict[str, Callable[[], str]] = {
    "quickstart": quickstart,
    "methods": _of("methods", "table", "runs"),
    "ablation": _of("ablation", "table", "runs"),
    "homotopy": _of("homotopy", "table", "runs"),
    "finetuning": _of("finetuning", "table", "runs"),
    "prediction": _of("plan_prediction", "show"),
    "exported": _of("plan_prediction", "show_exports", "exported"),
    "ranking": _of("ranking", "correlations"),
    "planned shapes": _of("planned_shapes", "table"),
    "budgets": _of("budgets", "table"),
    "two languages": _of("two_languages", "table"),
    "export peers": _of("export_peers", "table", "models"),
    "export peers in words": _of("export_peers", "words", "models"),
    "export peers with VNNI": _of("export_peers", "table", "models", result="export_peers_vnni"),
    "export peers with VNNI in words": _of("export_peers", "words", "models", result="export_peers_vnni"),
    "export peers with VNNI, all runtimes": _of("export_peers", "table", "models", result="export_peers_vnni_runtimes"),
    "export peers with VNNI, all runtimes, in words": _of(
        "export_peers", "words", "models", result="export_peers_vnni_runtimes"
    ),
    "OpenVINO attention": _of("openvino_attention", "table", "models"),
    "own files": _of("export_peers", "own_files", "models"),
    "making": _of("making", "table", "made"),
    "onnxruntime variants": _of("onnxruntime_variants", "table"),
    "roofline": _of("roofline", "table", "profiles"),
    "roofline with VNNI": _of("roofline", "table", "profiles", result="roofline_vnni"),
    "study": _of("study", "table", "rows"),
    "vocabulary": _of("vocabulary", "table", "runs"),
    "word tables": _of("word_tables", "as_table", "runs"),
    "word tables' times": _of("word_tables", "as_times", "runs"),
    "ARM counts": _of("arm_counts", "table"),
    "ARM forms": _of("arm_counts", "forms"),
    "front": _of("front", "table", "rows"),
    "teacher cache": _of("teacher_cache", "table", "cells"),
    "tokenizing": _of("tokenizing", "table"),
    "cost model": _of("cost_model", "table", "rows"),
}


def written(page: str) -> str:
    """A page with its tables as the kept results have them."""
    return _MARKED.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[3]}", page)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="Write nothing; exit with 1 when a table is not current.")
    check = parser.parse_args().check
    old = []
    for path in PAGES:
        page = path.read_text(encoding="utf-8")
        if (new := written(page)) != page:
            old.append(path.name)
            if not check:
                path.write_text(new, encoding="utf-8")
    print(f"{'not current' if check else 'written'}: {', '.join(old) or 'none'}")
    return int(check and bool(old))


if __name__ == "__main__":
    sys.exit(main())
