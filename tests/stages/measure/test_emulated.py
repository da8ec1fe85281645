"""The `arm64` and `x86` targets: other processors under qemu-user, and the Debian tree that arm64 runs in."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

import pytest
from onnxruntime.quantization import QuantType, quantize_dynamic

from homoexport.documents.artifact import PackageManifest, read_manifest, write_manifest
from homoexport.errors import DeviceError
from homoexport.lock import MARK
from homoexport.runtime.inference import read_package
from homoexport.runtime.worker.protocol import LoadRequest
from homoexport.stages.measure import Extras, count_files, measure_packages, refuse_uncounted, targets
from homoexport.stages.measure.process import Worker
from homoexport.stages.measure.targets import LocalCpu, OutOfMemory, debian_tree, emulated
from homoexport.stages.measure.targets.emulated import ARM_CORES, X86_CORES, EmulatedCpu, parse_emulated, set_up_arm64
from tests.stages.measure.tiny_onnx import weights, write_package

ARM = [
    pytest.mark.emulated,
    pytest.mark.skipif(not (shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")), reason="no qemu"),
    pytest.mark.skipif(not debian_tree.tree_folder().is_dir(), reason=f"no tree: {debian_tree.SET_UP}"),
]
X86 = [
    pytest.mark.emulated,
    pytest.mark.skipif(not (shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")), reason="no qemu"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="not an x86-64 host"),
]
DEVICES = [
    *(pytest.param(f"arm64:{core}", marks=ARM) for core in ("cortex-a53", "cortex-a76", "neoverse-n1", "armv8.6")),
    *(pytest.param(f"x86:{core}", marks=X86) for core in ("nehalem", "haswell")),
]


@pytest.fixture(autouse=True)
def _kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("arm64", "x86"):
        monkeypatch.setitem(targets.KINDS, kind, (parse_emulated, kind))


def write_int8_package(folder: Path, *, reduce_range: bool = True) -> Path:
    """A tiny package with dynamically quantized products, 64 wide; by 7 bits as AVX2 without VNNI needs them."""
    package = write_package(folder, arrays=weights(hidden=64, layers=2), precision="int8")
    details = read_manifest(package, PackageManifest).details
    model = package / "onnx" / "model.onnx"
    quantize_dynamic(model, model, weight_type=QuantType.QInt8, per_channel=True, reduce_range=reduce_range)
    write_manifest(package, "package", details=details)
    return package


@pytest.mark.parametrize("device", DEVICES)
def test_int8_package_agrees_with_native_and_is_labelled_emulated(device: str, tmp_path: Path) -> None:
    package = write_int8_package(tmp_path / "int8")
    extras = Extras(arena_batches=(1,))
    measured = measure_packages([package], device=device, length=8, min_seconds=0.05, extras=extras)
    (result,) = measured.results
    assert result.agreement is not None
    assert result.agreement.within, result.agreement
    core = {**ARM_CORES, **X86_CORES}[device.partition(":")[2]]
    assert (measured.emulated, measured.threads, measured.device) == (True, 1, device)
    assert core.title in measured.host.cpu
    assert "emulated by QEMU" in measured.host.cpu
    assert measured.host.architecture == ("aarch64" if device.startswith("arm64") else "x86_64")
    assert measured.host.cores == 1
    assert measured.energy_source is None, "this machine's energy is not the imitated processor's"
    rss_mb = result.arena[0].rss_mb
    assert rss_mb is not None
    assert rss_mb < 1.1 * result.peak_rss_mb, "both are without the emulator's share"


@pytest.mark.parametrize(
    ("device", "within"),
    [
        pytest.param("arm64:cortex-a53", True, marks=ARM),
        pytest.param("x86:nehalem", True, marks=X86),
        pytest.param("x86:haswell", False, marks=X86),
    ],
)
def test_products_that_saturate_on_avx2_are_found_there(device: str, within: bool, tmp_path: Path) -> None:
    """AVX2 adds two 8-bit products in 16 bits, so weights of 8 bits saturate where no VNNI adds them in 32."""
    package = write_int8_package(tmp_path / "int8", reduce_range=False)
    (result,) = measure_packages([package], device=device, length=8, min_seconds=0.05).results
    assert result.agreement is not None
    assert result.agreement.within == within, result.agreement


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        pytest.param("arm64:cortex-a53", [], marks=ARM),
        pytest.param("arm64", ["asimddp"], marks=ARM),
        pytest.param("arm64:neoverse-n1", ["asimddp"], marks=ARM),
        pytest.param("arm64:armv8.6", ["asimddp", "i8mm"], marks=ARM),
        pytest.param("x86:nehalem", [], marks=X86),
        pytest.param("x86", ["avx2"], marks=X86),
        pytest.param("x86:skylake-server", ["avx2"], marks=X86),
    ],
)
def test_worker_sees_the_instruction_sets_of_the_core(device: str, expected: list[str]) -> None:
    target = targets.find_target(device)
    target.open()
    try:
        with Worker(target, subject="a worker") as worker:
            assert list(worker.greeting.host.instruction_sets) == expected
    finally:
        target.close()


@pytest.mark.parametrize("device", [pytest.param("arm64:cortex-a53", marks=ARM), pytest.param("x86", marks=X86)])
def test_without_the_emulators_share_a_worker_takes_what_a_native_one_does(device: str, tmp_path: Path) -> None:
    package = read_package(write_package(tmp_path / "package", arrays=weights(hidden=512, layers=8)))

    def resident(target: targets.Target) -> int:
        target.open()
        try:
            with Worker(target, subject="a worker") as worker:
                worker.load(LoadRequest(target.place([package.model])[0], 1))
                overhead = target.overhead_bytes(worker.process_id) if isinstance(target, EmulatedCpu) else 0
                return int(worker.memory().rss_bytes) - overhead
        finally:
            target.close()

    native, there = resident(LocalCpu()), resident(targets.find_target(device))
    assert there == pytest.approx(native, rel=0.15)


@pytest.mark.parametrize(
    "device", [pytest.param("arm64:cortex-a53", marks=ARM), pytest.param("x86:haswell", marks=X86)]
)
def test_instructions_are_repeatable_and_grow_with_the_work(device: str, tmp_path: Path) -> None:
    for need in targets.find_target(device).needs_to_count():  # type: ignore[attr-defined]
        pytest.skip(f"{need.what} is missing ({need.command})")
    arrays = weights(hidden=128, layers=4)
    small, big = (
        write_package(tmp_path / str(repeat), arrays=arrays, repeat=repeat) / "onnx" / "model.onnx" for repeat in (1, 4)
    )
    conditions = {"device": device, "threads": 1, "batch_size": 1, "length": 16, "vocab_size": 64}
    once, again, more = count_files([small, small, big], outputs=("sentence_embedding",), **conditions)
    assert again == pytest.approx(once, rel=0.05), "of half a million; what is asked of it besides may vary"
    assert more > 1.5 * once


@pytest.mark.parametrize("device", [pytest.param("arm64", marks=ARM), pytest.param("x86", marks=X86)])
def test_close_leaves_nothing_and_the_tree_stays(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulated.tempfile, "tempdir", str(tmp_path))
    target = targets.find_target(device)
    target.open()
    with Worker(target, subject="a worker"):
        assert list(tmp_path.iterdir())
    target.close()
    assert list(tmp_path.iterdir()) == []
    if device == "arm64":
        assert (debian_tree.tree_folder() / debian_tree.PYTHON).is_file()


@pytest.mark.parametrize("device", ["arm64:max", "arm64:cortex-x9", "x86:max", "x86:z80", "x86:cortex-a53"])
def test_unknown_core_is_refused_with_the_known_ones(device: str) -> None:
    with pytest.raises(DeviceError, match=f"unknown core '{device.partition(':')[2]}'") as caught:
        targets.find_target(device)
    known = ARM_CORES if device.startswith("arm64") else X86_CORES
    assert all(core in caught.value.hint for core in known)


def test_what_counting_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = fake_tools(tmp_path, monkeypatch, **{"qemu-x86_64": "echo 'version 7.2.0'"}).parents[1] / "tools"
    monkeypatch.setattr(emulated.platform, "machine", lambda: "x86_64")
    with pytest.raises(DeviceError, match="a QEMU that takes plugins is missing"):
        refuse_uncounted("x86:haswell")
    (tools / "qemu-x86_64").write_text("#!/bin/sh\necho '-plugin QEMU_PLUGIN'\n")
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(DeviceError, match=r"C library's headers is missing; apt-get install gcc libc6-dev"):
        refuse_uncounted("x86:haswell")
    refuse_uncounted("cpu")


def test_missing_tree_is_one_line_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_tools(tmp_path, monkeypatch)
    with pytest.raises(DeviceError, match=r"the arm64 tree .* is missing") as caught:
        targets.find_target("arm64").open()
    assert "\n" not in str(caught.value)
    assert caught.value.hint == "homoexport doctor --set-up arm64"


@pytest.mark.parametrize("device", ["arm64", "x86"])
def test_missing_emulator_is_one_line_with_the_command(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    target = targets.find_target(device)
    assert target.needs()[0].command == "apt-get install qemu-user"
    with pytest.raises(DeviceError, match=r"qemu-.* is missing; apt-get install qemu-user"):
        target.open()


def test_another_host_than_x86_is_told_to_measure_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulated.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(emulated.shutil, "which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(DeviceError, match="an x86-64 host is missing"):
        targets.find_target("x86:haswell").open()


def test_old_emulator_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_tools(tmp_path, monkeypatch, **{"qemu-x86_64": "echo 'qemu-x86_64 version 5.2.0 (Debian)'"})
    monkeypatch.setattr(emulated.platform, "machine", lambda: "x86_64")
    with pytest.raises(DeviceError, match=r"QEMU 5\.2 is too old"):
        targets.find_target("x86:haswell").open()


def test_ends_of_a_worker_are_explained() -> None:
    target = targets.find_target("arm64:cortex-a53")
    assert isinstance(target.explain(-9, ""), OutOfMemory)
    assert "instruction that ARM Cortex-A53 has not" in str(target.explain(-4, "qemu: uncaught target signal 4"))
    assert "no cortex-a53" in str(target.explain(1, "qemu-aarch64: unable to find CPU model 'cortex-a53'"))
    assert target.explain(1, "anything else") is None
    target.close()


MIRROR = "http://mirror.example/debian"
TOOLS = {
    "qemu-aarch64": "echo 'qemu-aarch64 version 7.2.0'",
    "apt-config": "echo 'Acquire::http::Proxy \"http://proxy.example:3128\";'; echo 'Dir::Cache \"/var/cache/apt\";'",
    "apt-get": f'[ "$1" = indextargets ] && echo "{MIRROR}/ Debian"; cp "$APT_CONFIG" "$SEEN" 2>/dev/null; true',
    "dpkg-deb": "true",
}


def fake_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> Path:
    """Tools that do nothing on a PATH of their own, and an empty cache, whose `targets` is returned."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, script in (TOOLS | scripts).items():
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    keyring = tmp_path / "keyring.gpg"
    keyring.touch()
    (tmp_path / "seen").mkdir()
    monkeypatch.setattr(debian_tree, "_KEYRING", keyring)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    monkeypatch.setenv("HOMOEXPORT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "targets"


def skip_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian_tree, "_download", lambda apt, tell: [])
    monkeypatch.setattr(debian_tree, "_install_wheels", lambda site, tell: site.mkdir(parents=True))


def test_set_up_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = fake_tools(tmp_path, monkeypatch)
    skip_downloads(monkeypatch)
    tried: list[Path] = []
    monkeypatch.setattr(emulated, "_try", lambda target: tried.append(target))
    told: list[str] = []
    folder = set_up_arm64(told.append)
    assert folder == debian_tree.tree_folder()
    assert (folder / "usr/local/lib/python3.11/dist-packages").is_dir()
    assert set_up_arm64(told.append) == folder
    assert len(tried) == 1
    assert told[-2:] == [f"{folder} is ready", f"{folder} is there"]
    assert list(cache.iterdir()) == [folder]


def test_set_up_reads_the_hosts_mirror_and_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_tools(tmp_path, monkeypatch)
    monkeypatch.setattr(debian_tree, "_install_wheels", lambda site, tell: None)
    monkeypatch.setattr(emulated, "_try", lambda target: None)
    told: list[str] = []
    set_up_arm64(told.append)
    assert any(MIRROR in line for line in told)
    settings = (tmp_path / "seen" / "apt.conf").read_text()
    assert 'Acquire::http::Proxy "http://proxy.example:3128";' in settings
    assert "/var/cache/apt" not in settings, "the host's own folders are left alone"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            '[ "$1" = indextargets ] && exit 0; echo "W: slow" >&2; echo "E: Could not resolve the name" >&2; exit 100',
            r"reading the package list of http://deb\.debian\.org/debian failed \(E: Could not resolve the name\)",
        ),
        (
            'case "$*" in *install*) echo "E: Hash Sum mismatch" >&2; exit 100;; esac',
            r"downloading packages from .* failed \(E: Hash Sum mismatch\); .* --set-up arm64",
        ),
        (
            'case "$*" in *update*) echo "E: Write error - write (28: No space left on device)" >&2; exit 100;; esac',
            r"cannot write .* \(No space left on device\); .* HOMOEXPORT_CACHE",
        ),
    ],
)
def test_failed_download_is_one_line_and_leaves_nothing(
    script: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = fake_tools(tmp_path, monkeypatch, **{"apt-get": script})
    with pytest.raises(DeviceError, match=message) as caught:
        set_up_arm64(lambda line: None)
    assert "\n" not in str(caught.value)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, DeviceError("no such wheel")])
def test_interrupted_set_up_leaves_nothing(
    interruption: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = fake_tools(tmp_path, monkeypatch)
    skip_downloads(monkeypatch)

    def interrupt(site: Path, tell: object) -> None:
        site.mkdir(parents=True)
        (site / "half.py").touch()
        raise interruption

    monkeypatch.setattr(debian_tree, "_install_wheels", interrupt)
    with pytest.raises((KeyboardInterrupt, DeviceError)):
        set_up_arm64(lambda line: None)
    assert list(cache.iterdir()) == []


def test_tree_that_does_not_run_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = fake_tools(
        tmp_path,
        monkeypatch,
        **{"qemu-aarch64": '[ "$1" = --version ] && echo "version 7.2.0" && exit 0; echo "no numpy" >&2; exit 1'},
    )
    skip_downloads(monkeypatch)
    with pytest.raises(DeviceError, match=r"the new tree does not run \(no numpy\)"):
        set_up_arm64(lambda line: None)
    assert list(cache.iterdir()) == []


def test_what_a_killed_set_up_left_is_swept_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = fake_tools(tmp_path, monkeypatch)
    skip_downloads(monkeypatch)
    monkeypatch.setattr(emulated, "_try", lambda target: None)
    (cache / ".arm64-killed" / "tree").mkdir(parents=True)
    (cache / ".arm64-killed" / MARK).touch()
    (cache / ".arm64-users").mkdir()  # which homoexport did not make
    folder = set_up_arm64(lambda line: None)
    assert sorted(cache.iterdir()) == [cache / ".arm64-users", folder]


def test_missing_tool_is_named_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = fake_tools(tmp_path, monkeypatch)
    (tmp_path / "keyring.gpg").unlink()
    with pytest.raises(DeviceError, match=r"keyring.* is missing; apt-get install debian-archive-keyring"):
        set_up_arm64(lambda line: None)
    assert not cache.exists()


def test_cache_that_is_a_file_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_tools(tmp_path, monkeypatch)
    (tmp_path / "cache").touch()
    with pytest.raises(DeviceError, match=r"cannot write .*; make room, or set HOMOEXPORT_CACHE"):
        set_up_arm64(lambda line: None)
