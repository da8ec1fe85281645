"""Counts what keeps the house easy to read, each figure beside its limit.

    python tools/house.py [--check] [--list] [--root FOLDER]

- product lines: lines of homoexport/**/*.py, as `wc -l` counts them;
- functions over 60 lines: from `def` (or the first decorator) to the last line, in homoexport/;
- untyped mappings: how often `dict[str, Any]` or `Mapping[str, Any]` stands in the text of homoexport/;
- files over 400 lines, in homoexport/;
- duplicate pairs: pairs of places in the Python files of the tree, tests included, that share six lines or more. Lines
  are compared by their shape: names, strings and numbers count as equal. Blank lines, comments, docstrings, imports
  and lines of strings or punctuation alone are passed over, and so are six lines that stand in more than eight places
  or have fewer than 26 words in all (fields of a table). Runs between the same two files are one pair.

`--check` ends with exit code 1 when a figure is over its limit; `--list` names the places.
"""

from __future__ import annotations

import argparse
import ast
import io
import keyword
import re
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

LONG_FUNCTION, LONG_FILE = 60, 400
WINDOW = 6  # lines that make a pair
TOO_COMMON, TOO_THIN = 8, 26  # places and words of one window: beyond, and below, it says nothing
UNTYPED = re.compile(r"(?:dict|Mapping)\[str, Any\]")
SKIPPED_FOLDERS = {".venv", ".venv-interop", ".loaders", "build", "dist", "runs", "node_modules", "__pycache__"}
Line = tuple[int, str]  # its number, its shape


@dataclass(frozen=True)
class Figure:
    """One count, its limit, and where what it counts stands."""

    name: str
    value: int
    limit: int
    places: tuple[str, ...] = ()


def product_lines(files: dict[Path, str]) -> Figure:
    """Lines of the product."""
    return Figure("product lines", sum(text.count("\n") for text in files.values()), 23_500)


def long_functions(files: dict[Path, str]) -> Figure:
    """Functions over `LONG_FUNCTION` lines."""
    places = []
    for path, text in files.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                lines = (node.end_lineno or node.lineno) - first + 1
                if lines > LONG_FUNCTION:
                    places.append(f"{path}:{node.lineno} {node.name} ({lines} lines)")
    return Figure(f"functions over {LONG_FUNCTION} lines", len(places), 5, tuple(places))


def untyped_mappings(files: dict[Path, str]) -> Figure:
    """Mappings of strings to anything."""
    places = [
        f"{path}:{number} {line.strip()}"
        for path, text in files.items()
        for number, line in enumerate(text.splitlines(), 1)
        for _ in UNTYPED.findall(line)
    ]
    return Figure("untyped mappings", len(places), 40, tuple(places))


def long_files(files: dict[Path, str]) -> Figure:
    """Files over `LONG_FILE` lines."""
    counted = {path: text.count("\n") for path, text in files.items()}
    places = [f"{path} ({lines} lines)" for path, lines in counted.items() if lines > LONG_FILE]
    return Figure(f"files over {LONG_FILE} lines", len(places), 0, tuple(places))


def shape_of(token: tokenize.TokenInfo) -> str:
    """A token with its own name or value taken away."""
    if token.type == tokenize.NAME:
        return token.string if keyword.iskeyword(token.string) else "name"
    if token.type == tokenize.NUMBER:
        return "0"
    return "''" if token.type == tokenize.STRING else token.string


def passed_over(tree: ast.Module) -> set[int]:
    """The numbers of lines of imports and docstrings."""
    numbers: set[int] = set()
    for node in ast.walk(tree):
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        if text or isinstance(node, ast.Import | ast.ImportFrom):
            numbers.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return numbers


def shapes_of(text: str) -> list[Line]:
    """The lines of a file that count, each by its shape."""
    shapes: dict[int, list[str]] = defaultdict(list)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.NAME, tokenize.NUMBER, tokenize.STRING, tokenize.OP):
            shapes[token.start[0]].append(shape_of(token))
    skipped = passed_over(ast.parse(text))
    return [
        (number, " ".join(shape))
        for number, shape in sorted(shapes.items())
        if number not in skipped and any(part.isalnum() for part in shape)
    ]


def shared_windows(files: dict[Path, list[Line]]) -> Iterator[tuple[tuple[Path, int], tuple[Path, int]]]:
    """Pairs of places (a file, the index of a line) from which `WINDOW` lines are alike and do not overlap."""
    places: dict[tuple[str, ...], list[tuple[Path, int]]] = defaultdict(list)
    for path, lines in files.items():
        for index in range(len(lines) - WINDOW + 1):
            window = tuple(shape for _, shape in lines[index : index + WINDOW])
            if sum(len(shape.split()) for shape in window) >= TOO_THIN:
                places[window].append((path, index))
    for alike in places.values():
        if len(alike) <= TOO_COMMON:
            for first, second in combinations(alike, 2):
                if first[0] != second[0] or second[1] - first[1] >= WINDOW:
                    yield first, second


def duplicate_pairs(files: dict[Path, str]) -> Figure:
    """Pairs of files, or a file and itself, that share `WINDOW` lines or more."""
    lines = {path: shapes_of(text) for path, text in files.items()}
    pairs: dict[tuple[Path, Path], str] = {}
    for (first, here), (second, there) in shared_windows(lines):
        place = f"{first}:{lines[first][here][0]} ~ {second}:{lines[second][there][0]}"
        pairs.setdefault((first, second), place)
    return Figure(f"duplicate pairs of {WINDOW} lines", len(pairs), 12, tuple(pairs.values()))


def read_sources(root: Path, folder: str = ".") -> dict[Path, str]:
    """The Python files below a folder of the repository, by their paths in it."""
    paths = (path.relative_to(root) for path in sorted((root / folder).rglob("*.py")))
    return {path: (root / path).read_text("utf-8") for path in paths if not SKIPPED_FOLDERS.intersection(path.parts)}


def figures_of_house(root: Path) -> list[Figure]:
    """Every figure of a checkout."""
    product = read_sources(root, "homoexport")
    counts = [count(product) for count in (product_lines, long_functions, untyped_mappings, long_files)]
    return [*counts, duplicate_pairs(read_sources(root))]


def main() -> int:
    """Prints the figures; 1 when `--check` is given and one is over its limit."""
    parser = argparse.ArgumentParser(description="Counts what keeps the house easy to read.")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="the checkout (default: this one)")
    parser.add_argument("--check", action="store_true", help="exit code 1 when a figure is over its limit")
    parser.add_argument("--list", action="store_true", help="name the places, too")
    arguments = parser.parse_args()
    figures = figures_of_house(arguments.root)
    for figure in figures:
        over = "  over" if figure.value > figure.limit else ""
        print(f"{figure.name:<28} {figure.value:>7,}  at most {figure.limit:>6,}{over}")
        for place in figure.places if arguments.list else ():
            print(f"    {place}")
    return int(arguments.check and any(figure.value > figure.limit for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
