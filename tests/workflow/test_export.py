"""The verb `export`: what cannot be is refused before anything heavy is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
from homoexport.errors import UserError
from homoexport.workflow.export import export

wishes = [
    {"opset": 17},
    {"opset": 99},
    {"quantize": "int8-static"},
    {"quantize": "int7"},
    {"quantize": "fp16", "embeddings": "int4"},
    {"device": "toaster"},
    {"threads": 0},
    {"threads": 4000},
    {"text": "nowhere.txt"},
]
for wish in wishes:
    try:
        export("some/model", output="package", **wish)
    except UserError as error:
        print(str(error).split(":")[0], *wish)
print([name for name in ("torch", "transformers") if name in sys.modules])
"""


def test_what_cannot_be_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "export opset",
        "opset opset",
        "int8-static quantize",
        "export quantize",
        "--embeddings quantize embeddings",
        "device device",
        "export threads",
        "threads threads",
        "nowhere.txt text",
        "[]",
    ]
    assert list(tmp_path.iterdir()) == []
