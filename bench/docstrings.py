"""A search team's own documents, made of what is installed: docstrings, and the names that look for them.

    python bench/docstrings.py FOLDER

writes `passages.txt` (one docstring's paragraphs a line, 60 to 1,000 characters), to distil on, and `pairs.jsonl`
(`query`: the words of a function's or class's name, `document`: its docstring's first paragraph) to judge by. The text
is that of the libraries that `constraints.txt` locks, so it is the same for the same versions.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

LIBRARIES = (
    "numpy",
    "torch",
    "transformers",
    "datasets",
    "onnx",
    "pydantic",
    "matplotlib",
    "huggingface-hub",
    "pandas",
)
SHORTEST, LONGEST = 60, 1000  # characters of a passage
PAIRS = 1000
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def docstrings(library: str) -> Iterator[tuple[str, list[str]]]:
    """Names of functions and classes with their docstrings' paragraphs; tests are left out."""
    files = sorted(str(file) for file in distribution(library).files or () if file.suffix == ".py")
    for file in files:
        path = Path(str(distribution(library).locate_file(file)))
        if "test" in file or not path.is_file():
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                paragraphs = [" ".join(part.split()) for part in (ast.get_docstring(node) or "").split("\n\n")]
                yield node.name, [part for part in paragraphs if part]


def words_of(name: str) -> str:
    """A name as one would type it into a search box.

    >>> words_of("_load_stateDict2"), words_of("HTTPError")
    ('load state dict 2', 'http error')
    """
    return " ".join(part.lower() for part in _PARTS.findall(name))


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    passages: dict[str, None] = {}
    pairs: list[tuple[str, str]] = []
    for library in LIBRARIES:
        for name, paragraphs in docstrings(library):
            whole = [part[:LONGEST] for part in paragraphs if len(part) >= SHORTEST and ">>>" not in part]
            passages.update(dict.fromkeys(whole))
            query = words_of(name)
            if paragraphs and SHORTEST <= len(paragraphs[0]) <= LONGEST and len(query.split()) > 1:
                pairs.append((query, paragraphs[0]))
    once = [Counter(side) for side in zip(*pairs, strict=True)]
    unique = [(q, d) for q, d in pairs if once[0][q] == once[1][d] == 1]
    step = max(1, len(unique) // PAIRS)
    (folder / "passages.txt").write_text("\n".join(passages) + "\n", encoding="utf-8")
    rows = (json.dumps({"query": q, "document": d}) + "\n" for q, d in unique[::step][:PAIRS])
    (folder / "pairs.jsonl").write_text("".join(rows), encoding="utf-8")
    print(f"{len(passages):,} passages, {len(unique):,} pairs of which {min(PAIRS, len(unique)):,} are kept")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
