"""Least squares out of running sums: what was regressed is never kept, and processes add their sums up.

    A = (C_xx + λI)⁻¹ C_xy,   λ = ridge · the mean of C_xx's diagonal

with C the covariances, or, without an intercept, the second moments.

Letters: N rows, K inputs, M outputs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Reduce = Callable[[Tensor], Tensor]  # a sum over processes
_LEAST = 1e-12  # where the inputs are all zero


class Regression:
    """Of y [N, M] on x [N, K], its rows weighed."""

    def __init__(self) -> None:
        self._sums: list[Tensor] = []

    def add(self, x: Tensor, y: Tensor, weights: Tensor | None = None) -> None:
        """Rows of one batch; `weights` is [N]."""
        weighed = x if weights is None else x * weights[:, None]  # [N, K]
        total = weighed.new_tensor(len(x)) if weights is None else weights.sum()
        outputs = y.sum(0) if weights is None else weights @ y
        now = [total, weighed.sum(0), outputs, weighed.T @ x, weighed.T @ y]
        doubles = [part.double() for part in now]
        self._sums = [a + b for a, b in zip(self._sums, doubles, strict=True)] if self._sums else doubles

    def solve(self, ridge: float, *, intercept: bool, reduce: Reduce) -> tuple[Tensor, Tensor]:
        """A [K, M] and c [M] of y ≈ xA + c, in fp32; c is 0 without an intercept."""
        total, x, y, xx, xy = (reduce(part) for part in self._sums)
        x, y, xx, xy = x / total, y / total, xx / total, xy / total
        if intercept:
            xx, xy = xx - torch.outer(x, x), xy - torch.outer(x, y)
        damping = ridge * xx.diagonal().mean() + _LEAST
        matrix = torch.linalg.solve(xx + damping * torch.eye(len(xx), dtype=xx.dtype, device=xx.device), xy)
        offset = y - x @ matrix if intercept else torch.zeros_like(y)
        return matrix.float(), offset.float()


class ScaleRegression:
    """Of each y [N, K] on its own x [N, K] alone."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None  # [4, K]
        self._rows = 0

    def add(self, x: Tensor, y: Tensor) -> None:
        now = torch.stack([x.sum(0), y.sum(0), (x * x).sum(0), (x * y).sum(0)]).double()
        self._sums = now if self._sums is None else self._sums + now
        self._rows += len(x)

    def solve(self, ridge: float, *, intercept: bool, reduce: Reduce) -> tuple[Tensor, Tensor]:
        """a [K] and c [K] of y ≈ a·x + c, in fp32."""
        assert self._sums is not None
        rows = self._sums.new_full((1, self._sums.shape[1]), self._rows)
        *sums, total = reduce(torch.cat([self._sums, rows]))
        x, y, xx, xy = (part / total for part in sums)
        if intercept:
            xx, xy = xx - x * x, xy - x * y
        scale = xy / (xx * (1 + ridge) + _LEAST)
        return scale.float(), ((y - scale * x) if intercept else torch.zeros_like(y)).float()
