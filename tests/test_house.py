"""The counts of tools/house.py, on files that are small enough to count by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "tools/house.py"
SUM = "    total = first + second * {}\n    kept = [total, *others]\n    other = kept[0] - first\n"
BODY = SUM.format(2) + SUM.format(3)


def counted(root: Path, *flags: str) -> tuple[int, dict[str, int]]:
    """The exit code, and the figures by their names."""
    command = [sys.executable, str(SCRIPT), "--root", str(root), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line.split("at most")[0].split() for line in done.stdout.splitlines() if "at most" in line]
    return done.returncode, {" ".join(words[:-1]): int(words[-1].replace(",", "")) for words in lines}


def test_counts_by_hand(tmp_path):
    package = tmp_path / "homoexport"
    package.mkdir()
    long = "def long(names: dict[str, Any]) -> Mapping[str, Any]:\n" + "    pass\n" * 60
    (package / "a.py").write_text("import os\n\n\n" + long)
    (package / "b.py").write_text(f"def b(first, second, others):\n{BODY}")
    (package / "c.py").write_text(f"def c(first, second, others):\n{BODY.replace('total', 'all')}")
    (package / "d.py").write_text("# a comment\n" * 401)
    assert counted(tmp_path) == (
        0,
        {
            "product lines": 64 + 7 + 7 + 401,
            "functions over 60 lines": 1,
            "untyped mappings": 2,
            "files over 400 lines": 1,
            "duplicate pairs of 6 lines": 1,
        },
    )
    assert counted(tmp_path, "--check")[0] == 1
    (package / "d.py").unlink()
    assert counted(tmp_path, "--check")[0] == 0
