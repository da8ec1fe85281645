"""A figure as SVG inside a page of HTML: text is text, colours are the page's, ids are the figure's own.

The page gives each colour of the plots a value for light and one for dark (`report.css`), so that a figure is drawn
once and follows the reader's choice.
"""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

from matplotlib import rc_context
from matplotlib.figure import Figure

from homoexport.plain import visible
from homoexport.report.plots import BLUE, GREEN, GREY, GRID, INK, ORANGE, PURPLE, RED, SHADE, SKY, any_labels

_SVG, _LINK = "http://www.w3.org/2000/svg", "{http://www.w3.org/1999/xlink}href"
_BLACK = "#000000"  # of what no style says
_NAMED = {
    BLUE: "blue",
    ORANGE: "orange",
    RED: "red",
    PURPLE: "purple",
    GREEN: "green",
    SKY: "sky",
    INK: "ink",
    _BLACK: "ink",
    GRID: "grid",
    SHADE: "shade",
    GREY: "grey",
}
_VARIABLES = {colour.lower(): f"var(--{name})" for colour, name in _NAMED.items()}
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_FINE = re.compile(r"(?<=\.\d\d)\d+")  # hundredths of a point are enough
_POINTED_AT = re.compile(r"url\(#")


def svg_of(figure: Figure, *, name: str, says: str) -> str:
    """The figure as one `<svg>` element; `name` begins all ids in it, `says` is told to who cannot see it."""
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _LINK.strip("{").partition("}")[0])
    root = ElementTree.fromstring(visible(_drawn(figure, name), keep="\n"))  # labels are strangers' words
    for element in root.iter():
        _make_own(element, name)
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    for size in ("width", "height"):
        del root.attrib[size]  # it is as wide as its place
    root.set("role", "img")
    root.set("aria-label", says)
    return ElementTree.tostring(root, encoding="unicode")


def _drawn(figure: Figure, name: str) -> str:
    """What matplotlib writes, the same for the same figure."""
    buffer = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), any_labels():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue().decode("utf-8")


def _make_own(element: ElementTree.Element, name: str) -> None:
    """Ids, and what refers to them, begin with the figure's name; colours are variables of the page."""
    for key, value in element.attrib.items():
        if key == "id":
            element.set(key, f"{name}-{value}")
        elif key == _LINK and value.startswith("#"):
            element.set(key, f"#{name}-{value[1:]}")
        elif key in ("style", "fill", "stroke"):
            element.set(key, _COLOUR.sub(lambda found: _VARIABLES.get(found[0], found[0]), value))
        elif key == "d":
            element.set(key, _FINE.sub("", value))
        elif key == "clip-path":
            element.set(key, _POINTED_AT.sub(f"url(#{name}-", value))
