"""Rotary positions (Su et al., arXiv 2104.09864), in the halves that transformers' encoders turn.

Letters: B batch, S sequence, H heads, d head width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def turned(projected: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Queries or keys [B, S, H·d] with their positions, by angles' cosines and sines [1, S, d]."""
    heads = projected.view(*projected.shape[:2], -1, cos.shape[-1])  # [B, S, H, d]
    first, second = heads.chunk(2, dim=-1)
    rotated: Tensor = heads * cos[:, :, None] + torch.cat((-second, first), dim=-1) * sin[:, :, None]
    return rotated.flatten(-2)
