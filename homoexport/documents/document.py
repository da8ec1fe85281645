"""The base of every document, and the one place where JSON is read and written.

A document is a frozen, strict model with a `schema_version` of the form MAJOR.MINOR. A minor version adds fields that
have defaults; a major one changes or removes some. A reader refuses another major version, and unknown fields unless
the file is of a later minor version than its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from homoexport.errors import PackageError

PART = ".homoexport"  # ends the names of files and folders that are there for a while
_HALF = re.compile(r"\..+\.[0-9a-f]{16}" + re.escape(PART), re.DOTALL)
MAX_BYTES = 4 * 2**20  # of a document: far more than one has, and in memory it may be 50 times as large
_SHOWN = 40  # characters of a version


class Figures(BaseModel):
    """Base of what documents are made of: frozen; no unknown fields, no coercion, no numbers that are not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Document(Figures):
    """Base of what is written to a file of its own. `VERSION` is what this homoexport writes, `MAX_BYTES` limits it."""

    VERSION: ClassVar[str]
    MAX_BYTES: ClassVar[int] = MAX_BYTES

    schema_version: str = ""

    def model_post_init(self, _context: Any) -> None:
        if not self.schema_version:
            object.__setattr__(self, "schema_version", self.VERSION)


D = TypeVar("D", bound=Document)


def half_of(path: Path) -> Path:
    """A new name for what is going to take a file's place."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{PART}")


def has_name_of_half(path: Path) -> bool:
    """Whether a name is one of `half_of`, whatever stands there."""
    return bool(_HALF.fullmatch(path.name))


def is_half(path: Path) -> bool:
    """Whether a file is what a killed process left under a name of `half_of`."""
    return has_name_of_half(path) and path.is_file() and not path.is_symlink()


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that takes `path`'s place when the block ends well, so that a reader never sees half of it.

    It is on the disk by then. A link at `path` is replaced, not followed; the file's mode is the umask's.
    """
    temporary = half_of(path)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def copy_file(source: Path, destination: Path) -> None:
    """Copy a file whole, or not at all; see `new_file`."""
    with source.open("rb") as old, new_file(destination) as new:
        shutil.copyfileobj(old, new)


def write_text(path: Path, text: str) -> None:
    """Write a file whole, or not at all; see `new_file`."""
    with new_file(path) as file:
        file.write(text.encode("utf-8"))


def to_json(value: object) -> str:
    """Indented JSON of a document, or of plain values."""
    plain = value.model_dump(mode="json") if isinstance(value, Document) else value
    return json.dumps(plain, indent=2, allow_nan=False) + "\n"


def write_document(path: Path, document: Document) -> None:
    """Write a document as JSON, at once."""
    write_text(path, to_json(document))


def digest_of(value: Any) -> str:
    """Hex sha256 of a JSON-ready value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def read_json(path: Path, *, max_bytes: int = MAX_BYTES, hint: str = "") -> Any:
    """The JSON value in a file; the hint says what to do where there is none.

    Raises:
        PackageError: the file is missing, too large, or no JSON (also where it is nested too deeply, or repeats a key).
    """
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise PackageError(f"is larger than {max_bytes >> 20} MiB, too large for a document", where=str(path))
        value = from_json(content, allow_inf_nan=False)
        json.loads(content, object_pairs_hook=_refuse_repeated)
        return value
    except OSError as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else "cannot be read"
        raise PackageError(reason, where=str(path), hint=hint) from None
    except ValueError as error:
        raise PackageError(f"is not JSON ({error})", where=str(path), hint=hint) from None


def _refuse_repeated(pairs: Sequence[tuple[str, Any]]) -> None:
    """Readers differ in which of two values they take for a key, so that a check may see another than its user."""
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"'{repeated}' stands there twice")


def read_document(path: Path, kind: type[D], *, hint: str = "") -> D:
    """A document of one kind out of a file; the hint says what to do where it is none.

    Raises:
        PackageError: the file is missing, too large, no JSON, of another major version, or not of this form.
    """
    return parse_document(read_json(path, max_bytes=kind.MAX_BYTES, hint=hint), kind, where=str(path), hint=hint)


def parse_document(value: Any, kind: type[D], *, where: str, hint: str = "") -> D:
    """A document of one kind out of a JSON value; see `read_document`."""
    version = value.get("schema_version") if isinstance(value, dict) else None
    if not isinstance(version, str):
        raise PackageError("has no schema_version, so it is no document of homoexport's", where=where, hint=hint)
    major, _, minor = version.partition(".")
    own_major, _, own_minor = kind.VERSION.partition(".")
    if major != own_major or not re.fullmatch("[0-9]{1,9}", minor):
        what = f"is of schema version {version[:_SHOWN]}, and this homoexport reads {kind.VERSION}"
        raise PackageError(what, where=where, hint="make it again, or use the homoexport that wrote it")
    try:
        later = int(minor) > int(own_minor)
        return kind.model_validate_json(json.dumps(value), extra="ignore" if later else None)
    except ValidationError as error:
        raise PackageError(f"does not follow the schema: {first_fault(error)}", where=where, hint=hint) from None


def first_fault(error: ValidationError) -> str:
    """The first fault that a model found, in one line: the place and what is wrong there."""
    fault = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in fault["loc"])
    message = fault["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list, in square brackets")
    return f"'{place}': {message}" if place else message
