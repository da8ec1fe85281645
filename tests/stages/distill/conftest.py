"""Text for small distillations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


@pytest.fixture
def corpus_file(tmp_path: Path) -> Path:
    """400 sentences of 3 to 20 words of the tiny vocabulary."""
    generator = torch.Generator().manual_seed(5)
    lines = []
    for _ in range(400):
        length = int(torch.randint(3, 21, (1,), generator=generator))
        words = torch.randint(0, 95, (length,), generator=generator).tolist()
        lines.append(" ".join(f"w{word}" for word in words))
    path = tmp_path / "text.txt"
    path.write_text("\n".join(lines))
    return path
