"""What can go wrong, as one tree.

    HomoexportError                 exit 1: a failure of ours
    └── UserError                   exit 2: wrong usage or bad input
        ├── RecipeError             unknown key, value out of range
        ├── TeacherError            not found, not a model, family not supported
        ├── TextError               no text, too little text, missing column
        ├── ShapeError              a student that the teacher cannot become
        ├── BudgetError             a budget that no student of the teacher keeps
        ├── OutputError             folder exists, disk full, not writable
        ├── PackageError            truncated or altered file, not a package
        ├── TrainingError           a loss that is no number, a process that is gone
        └── DeviceError             a target that is not there
            └── DoesNotFit          exit 3: a student that the target's memory cannot hold
    ParityError                     exit 3: a graph that does not answer as the model does

A missed budget is a result, not an exception: the command line turns it into exit code 3.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_SHOWN = 200  # characters of a path


class HomoexportError(Exception):
    """Base of everything that homoexport raises on purpose."""

    exit_code = 1


class UserError(HomoexportError):
    """A mistake that the user can fix, told in one line.

    Args:
        what: what is wrong.
        where: the file, key or flag that it was found in.
        hint: what to do about it.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what, self.where, self.hint = what, where, hint
        parts = [f"{where}: {what}" if where else what]
        if hint:
            parts.append(hint)
        super().__init__("; ".join(" ".join(part.split()) for part in parts))

    def renamed(self, names: Mapping[str, str]) -> UserError:
        """The same mistake, where the hint's keys or flags are called otherwise."""
        pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
        return type(self)(self.what, where=self.where, hint=re.sub(pattern, lambda found: names[found[0]], self.hint))


class RecipeError(UserError):
    """A recipe or an override that does not parse; `key` is the place in it of a value that is wrong."""

    def __init__(self, what: str, *, where: str = "", hint: str = "", key: str = "") -> None:
        super().__init__(f"'{key}': {what}" if key else what, where=where, hint=hint)
        self.key, self._fault = key, what

    def renamed(self, names: Mapping[str, str]) -> UserError:
        return RecipeError(self._fault, where=self.where, hint=super().renamed(names).hint, key=self.key)

    def at(self, key: str) -> RecipeError:
        """The same mistake, where another key of a recipe gave the value."""
        return RecipeError(self._fault, where=self.where, hint=self.hint, key=key)

    def of_flag(self, flag: str) -> UserError:
        """The same mistake, where a flag of the command line gave the value."""
        return RecipeError(self._fault, where=flag, hint=self.hint)


class TeacherError(UserError):
    """A teacher that cannot be found, read or distilled."""


class TextError(UserError):
    """Text that cannot be found or is too little."""


class ShapeError(UserError):
    """A student shape that slicing cannot reach from the teacher."""


class BudgetError(UserError):
    """A budget that not even the smallest student keeps."""


class OutputError(UserError):
    """An output folder that cannot be written."""


class PackageError(UserError):
    """An artifact folder that is not what its manifest says."""


class TrainingError(UserError):
    """A distillation whose loss is not finite, or one of whose processes is gone."""


class DeviceError(UserError):
    """A target that does not exist or cannot be used here."""


class DoesNotFit(DeviceError):
    """A student whose package needs more memory than the target gives."""

    exit_code = 3


class ParityError(HomoexportError):
    """An exported graph whose answers differ from the model's by more than the stated bound."""

    exit_code = 3


def first_line(error: BaseException) -> str:
    """What a library's error says in one line; its kind, where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def readable(kind: type[UserError], path: object) -> Iterator[None]:
    """Tell in one line that the operating system does not let a path be looked at, or that none can be like that."""
    try:
        yield
    except OSError as error:
        where = str(error.filename or path)[:_SHOWN]
        what = f"cannot be read ({(error.strerror or first_line(error)).lower()})"
        raise kind(what, where=where, hint="name another, or have its permissions changed") from None


@contextmanager
def refusing(kind: type[UserError], what: str, *, where: str, hint: str = "") -> Iterator[None]:
    """Tell in one line what a library raises over the bytes of a stranger's file, whatever that is.

    For calls of libraries alone: a mistake of ours inside the block would be told as the user's.
    """
    try:
        yield
    except (HomoexportError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of a library in Rust is no Exception
        raise kind(f"{what} ({first_line(error)})", where=where, hint=hint) from error
