"""Which of the teacher's heads and neurons a student has, layer by layer.

Letters: L layers, H heads, d head width, F ffn width, B bins.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray

from homoexport.documents.student import KeptLayer, KeptNeurons, WidthFigures, places_in
from homoexport.report.plots import BLUE, GREEN, ORANGE, STYLE
from homoexport.report.table import Table

_BINS = 48  # of a strip: each tells what share of so many neurons side by side is left


def kept_table(kept: KeptNeurons, whole: WidthFigures) -> Table:
    """A row for each of the teacher's layers: the heads that are left, counted from 1, and how many neurons."""
    rows = []
    for number, layer in _by_layer(kept, whole):
        if layer is None:
            rows.append((str(number), "the layer is gone", "", ""))
            continue
        heads = _heads(layer, whole)
        left = [str(place) for place, share in enumerate(heads, start=1) if share > 0]
        dims = sum(places_in(layer.query_key, whole.head_dim * len(heads)))
        neurons = sum(places_in(layer.ffn, whole.intermediate_size))
        which = f"{len(left)} of {len(heads)}: {'no.' if len(left) == 1 else 'nos.'} {', '.join(left)}"
        told = f"all {len(left)}" if len(left) == len(heads) else which
        each = f"{dims / max(1, len(left)):g} of {whole.head_dim}"
        rows.append((str(number), told, each, f"{neurons} of {whole.intermediate_size}"))
    return Table(("Layer", "Heads that stayed", "Dimensions of each", "Feed-forward neurons"), rows, left=(0, 1))


def kept_figure(kept: KeptNeurons, whole: WidthFigures) -> Figure:
    """The residual stream, and each layer's heads and feed-forward neurons: full where all stayed, empty where none."""
    layers = _by_layer(kept, whole)
    with rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(8, 1.6 + 0.26 * len(layers)), layout="constrained")
        grid = figure.add_gridspec(2, 2, height_ratios=(1, len(layers)), width_ratios=(1, 2))
        above = figure.add_subplot(grid[0, :])
        _draw_row(above, 0, _binned(places_in(kept.hidden, whole.hidden_size)), GREEN)
        above.set_title(f"Residual stream: {_told(kept.hidden, whole.hidden_size)} dimensions")
        left, right = figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[1, 1])
        left.set_title("Heads")
        right.set_title("Feed-forward neurons")
        for row, (_, layer) in enumerate(layers):
            if layer is not None:
                _draw_row(left, row, _heads(layer, whole), BLUE)
                _draw_row(right, row, _binned(places_in(layer.ffn, whole.intermediate_size)), ORANGE)
        numbers = [str(number) for number, _ in layers]
        for axes, rows in ((above, [""]), (left, numbers), (right, [""] * len(numbers))):
            axes.set_yticks(range(len(rows)), rows)
            axes.set_ylim(len(rows) - 0.5, -0.5)
            axes.set_xlim(0, 1)
            axes.set_xticks([])
            axes.tick_params(length=0)
        left.set_ylabel("the teacher's layer")
    return figure


def _by_layer(kept: KeptNeurons, whole: WidthFigures) -> list[tuple[int, KeptLayer | None]]:
    """The teacher's layers, numbered from 1, each with what is left of it."""
    found = {layer.layer: layer for layer in kept.layers}
    return [(index + 1, found.get(index)) for index in range(whole.num_hidden_layers)]


def _heads(layer: KeptLayer, whole: WidthFigures) -> NDArray[np.float64]:
    """The share [H] of each head's dimensions that is left, of its queries and keys and of its values."""
    heads = round(whole.num_attention_heads)
    bits = [places_in(one, heads * whole.head_dim) for one in (layer.query_key, layer.value_out)]
    return np.array([np.mean(each) for each in np.array(bits, dtype=float).reshape(2, heads, -1).swapaxes(0, 1)])


def _binned(stays: Sequence[bool]) -> NDArray[np.float64]:
    """The share [B] that stays of neurons side by side."""
    parts = np.array_split(np.array(stays, dtype=float), min(_BINS, len(stays)))
    return np.array([part.mean() for part in parts])


def _draw_row(axes: Axes, row: int, shares: NDArray[np.float64], colour: str) -> None:
    """A cell for each share, as opaque as it is large, in an even row from 0 to 1."""
    width = 1 / len(shares)
    places = np.flatnonzero(shares)
    colours = [to_rgba(colour, float(shares[place])) for place in places]
    axes.barh([row] * len(places), 0.9 * width, 0.8, left=places * width, color=colours)


def _told(bits: str, count: int) -> str:
    return f"{sum(places_in(bits, count))} of {count}"
