"""The published form of results: a JSON schema, and the reading of files that claim to follow it.

The version is MAJOR.MINOR. A minor version adds fields; a major one changes or removes some, and is
refused by readers that do not know it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from homoexport.errors import UserError
from homoexport.measure.results import SCHEMA_VERSION, Grid, Measurement

SCHEMA_FILE = Path(__file__).with_name("schema.json")

_DOCUMENT: TypeAdapter[Measurement | Grid] = TypeAdapter(Annotated[Measurement | Grid, Field(discriminator="kind")])


def json_schema() -> dict[str, Any]:
    """The schema of what `homoexport bench --json` prints, in JSON Schema 2020-12."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"homoexport measurement, version {SCHEMA_VERSION}",
        **_DOCUMENT.json_schema(mode="serialization"),
    }


def read_results(path: Path) -> Measurement | Grid:
    """What `homoexport bench --json` wrote to a file.

    Raises:
        UserError: no such file, no JSON, another major version, or fields that are not the schema's.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot be read ({(error.strerror or '').lower()})", where=str(path)) from None
    except ValueError as error:
        raise UserError(f"is not JSON ({error})", where=str(path), hint=_HINT) from None
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version is None:
        raise UserError("has no schema_version", where=str(path), hint=_HINT)
    if str(version).split(".")[0] != SCHEMA_VERSION.split(".")[0]:
        raise UserError(
            f"is of schema version {version}, and this homoexport reads {SCHEMA_VERSION}",
            where=str(path),
            hint="measure again, or use the homoexport that wrote it",
        )
    try:
        read = _DOCUMENT.validate_python(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        raise UserError(f"does not follow the schema: {place}: {first['msg']}", where=str(path), hint=_HINT) from None
    for cell in read.cells if isinstance(read, Grid) else (read,):
        for figures in cell.results:
            if len(figures.samples_ms) % figures.runs_per_round:
                what = f"{len(figures.samples_ms)} samples of {figures.name} in rounds of {figures.runs_per_round}"
                raise UserError(f"does not follow the schema: {what}", where=str(path), hint=_HINT)
    return read


_HINT = "give a file that `homoexport bench --json` wrote"
