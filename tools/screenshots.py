"""Takes the pictures of the docs: a run's report in a real browser, and the terminal that a command was run in.

    python -m tools.screenshots RUN_DIR

Writes docs/report-desktop.png, report-dark.png, report-phone.png and terminal.svg. The report is written anew, and
what the terminal shows is the very output of `homoexport report RUN_DIR`.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from homoexport.cli import screen
from homoexport.cli.app import app
from homoexport.documents.layout import HTML_REPORT
from tests.devtools import Page

DOCS = Path(__file__).parents[1] / "docs"
COLUMNS = 100
# Name, width and height in CSS pixels, dark, pixels of the picture for one of CSS.
PICTURES = (
    ("report-desktop", 1100, 1500, False, 1.0),
    ("report-dark", 1100, 1500, True, 1.0),
    ("report-phone", 390, 1400, False, 1.5),
)


def shoot_terminal(run_dir: Path) -> None:
    """Run `homoexport report` and keep what it printed, as a terminal shows it."""
    command = ["report", str(run_dir)]
    screen.output = screen.VisibleConsole(
        markup=False, highlight=False, record=True, force_terminal=True, color_system="truecolor", width=COLUMNS
    )
    screen.output.print(f"$ homoexport {' '.join(command)}", style="bold")
    app(command, standalone_mode=False)
    (DOCS / "terminal.svg").write_text(as_picture(screen.output), encoding="utf-8")


def as_picture(console: Console) -> str:
    """What a console has printed, as SVG; with the reader's own monospaced font in place of one that is downloaded."""
    drawn = console.export_svg(title="homoexport", unique_id="terminal")
    drawn = re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)
    return drawn.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace")


def shoot_report(run_dir: Path) -> None:
    """Take the pictures of a run's report."""
    for name, width, height, dark, scale in PICTURES:
        with (
            TemporaryDirectory() as profile,
            Page(Path(profile), width=width, height=height, dark=dark, scale=scale) as page,
        ):
            page.open(run_dir / HTML_REPORT)
            page.picture(DOCS / f"{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run_dir", type=Path, help="the folder of a finished run")
    run_dir = parser.parse_args().run_dir
    shoot_terminal(run_dir)
    shoot_report(run_dir)


if __name__ == "__main__":
    main()
