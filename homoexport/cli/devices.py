"""`homoexport devices` and `doctor`: where packages can be measured, and what that needs."""

from __future__ import annotations

from typing import Annotated

import typer

from homoexport.cli import screen
from homoexport.cli.options import AsJson


def devices(as_json: AsJson = False) -> None:
    """List where packages can be measured, and what is there: cores, instruction sets, memory, providers."""
    from homoexport.report import device_table
    from homoexport.stages.measure import list_devices

    found = list_devices(lambda name: screen.stage_line(f"Asking {name}"))
    screen.show(found, device_table(found), as_json=as_json)


def doctor(
    set_up: Annotated[
        str | None, typer.Option(metavar="KIND", help="Get what a kind of target needs: arm64, web.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is missing for which kind of target, and the command that gets it."""
    from homoexport.report import need_lines
    from homoexport.stages.measure import diagnose
    from homoexport.stages.measure import set_up as get

    if set_up is not None:
        where = get(set_up, screen.stage_line)
        if as_json:
            screen.print_json({"name": set_up, "folder": str(where)})
        else:
            screen.output.print(f"{set_up}: {where}", soft_wrap=True)
        return
    found = diagnose()
    screen.show(found, *need_lines(found), as_json=as_json)
