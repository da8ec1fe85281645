"""A package against the one in use, in words and as a table."""

from __future__ import annotations

from rich.text import Text

from homoexport.data import rendered
from homoexport.documents.release import INSTRUCTIONS, Release, ReleaseLine
from homoexport.report.table import Table
from homoexport.report.wording import budget_line, number, quantity

_SAID = {
    "kept": "not slower, bigger or worse than is allowed",
    "worse": "slower, bigger or worse than is allowed",
    "undecided": "too noisy to call, or too few examples",
}
_STYLES = {"kept": "green", "worse": "bold red", "undecided": "yellow"}
_KEPT = {True: "kept", False: "worse", None: "undecided"}


def release_table(release: Release) -> Table:
    """A row for each figure of both packages."""
    rows = []
    for line in release.lines:
        label, unit = ("Instructions", "") if line.line == INSTRUCTIONS else budget_line(line.line)
        rows.append(
            (
                label,
                quantity(line.baseline, unit),
                quantity(line.package, unit),
                _share(line),
                f"at {'least' if line.at_least else 'most'} {number(100 * line.allowed)} %",
                _KEPT[line.kept],
            )
        )
    head = ("", "Baseline", "Package", "Package has", "Allowed", "Verdict")
    return Table(head, rows, _conditions(release), left=(0, 4, 5))


def _share(line: ReleaseLine) -> str:
    """The package's share of the baseline's figure, in per cent.

    A decimal, for limits of a per cent are held by it.
    """
    told = f"{100 * line.ratio:.1f} %"
    if line.interval is None:
        return told
    low, high = (f"{100 * end:.1f}" for end in line.interval)
    return f"{told} ({low} to {high})"


def _conditions(release: Release) -> str:
    threads = f"{release.threads} thread{'' if release.threads == 1 else 's'}"
    return f"{release.device}, {threads}, {release.batch_size} x {release.length} tokens"


def release_lines(release: Release) -> list[Text]:
    """The verdict, what is broken, and what disturbed the measurement."""
    said = Text(f"{release.package}: ").append(_SAID[release.verdict], style=_STYLES[release.verdict])
    return [said, *map(Text, release.broken), *map(Text, release.remarks)]


def release_page(release: Release) -> str:
    """The same as Markdown, for a CI's summary of a job."""
    return rendered(
        "release.md.jinja",
        release=release,
        said=_SAID[release.verdict],
        conditions=_conditions(release),
        table=release_table(release).markdown(),
    )
