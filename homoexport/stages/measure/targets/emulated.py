"""Another processor than this machine's, imitated by qemu-user: right answers and memory, but no times.

QEMU runs the worker's own machine code instruction by instruction, so onnxruntime picks and runs the kernels
that it would pick on that processor. It imitates no caches and no pipeline: how long it takes says nothing.

Instructions are counted by a plugin of QEMU's, `counting.c`, which a C compiler here makes for the QEMU at hand.

Named cores, for QEMU's `max` is no processor that exists, and QEMU 7.2's answers wrongly on arm64. Without SVE and SME
it answers rightly: that is `armv8.6`, for QEMU 7.2 has no named core with i8mm.
"""

from __future__ import annotations

import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from homoexport.documents.measurement import Need
from homoexport.errors import DeviceError, HomoexportError
from homoexport.stages.measure.targets.debian_tree import PYTHON, make_tree, tree_folder, tree_needs
from homoexport.stages.measure.targets.protocol import TargetHere, build_worker, refuse_needs

_MIN_QEMU = (7, 2)  # the first to imitate AVX2, and every core below
_QEMU_PACKAGE = "apt-get install qemu-user"
_CHECK = ("cc", "-fsyntax-only", "-DVERSION=2")
_COMPILER_PACKAGE = "apt-get install gcc libc6-dev"
_UNKNOWN_CPU = "unable to find CPU model"
_TRY_SECONDS = 300  # for a start under emulation, on a busy machine
_GUEST_END = 1 << 40  # QEMU gives a 64-bit program the addresses below; its own libraries and buffers lie far above
_COUNTER = Path(__file__).with_name("counting.c")
_NEWER_PLUGINS = (9, 0)  # takes no plugin of the interface's first version
_HIDDEN = ("class/powercap", "class/hwmon")  # what this machine draws is not what an imitated one would
_NO_CORE_FILE = 'ulimit -S -c 0; exec "$@"'  # QEMU would write one into the working folder
_MAPPING = re.compile(r"([0-9a-f]+)-[0-9a-f]+ ")


@dataclass(frozen=True)
class Core:
    """A processor that QEMU can imitate: its name for QEMU and for results, and the instruction sets that it gets.

    `id` is what Linux shows of an ARM core's identification register: variant, part, revision.
    """

    qemu: str
    title: str
    flags: str
    id: tuple[str, str, str] | None = None

    @property
    def emulator(self) -> str:
        return "qemu-x86_64" if self.id is None else "qemu-aarch64"

    @property
    def write_call(self) -> int:
        """Linux's number of the system call `write`."""
        return 1 if self.id is None else 64


_V8 = "fp asimd aes pmull sha1 sha2 crc32 cpuid"
_V8_2 = "fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
_V8_6 = f"{_V8_2} i8mm bf16"
_SSE4 = "fpu sse sse2 ssse3 sse4_1 sse4_2 popcnt"
_AVX = f"{_SSE4} avx"
_AVX2 = f"{_AVX} fma avx2 bmi1 bmi2"

ARM_CORES = {
    "cortex-a53": Core("cortex-a53", "ARM Cortex-A53", _V8, ("0x0", "0xd03", "4")),
    "cortex-a57": Core("cortex-a57", "ARM Cortex-A57", _V8, ("0x1", "0xd07", "0")),
    "cortex-a72": Core("cortex-a72", "ARM Cortex-A72", _V8, ("0x0", "0xd08", "3")),
    "cortex-a76": Core("cortex-a76", "ARM Cortex-A76", _V8_2, ("0x4", "0xd0b", "1")),
    "neoverse-n1": Core("neoverse-n1", "ARM Neoverse-N1", _V8_2, ("0x4", "0xd0c", "1")),
    "armv8.6": Core("max,sve=off,sme=off", "ARMv8.6 with i8mm", _V8_6, ("0x1", "0xd40", "1")),  # a Neoverse V1's
}
X86_CORES = {
    "nehalem": Core("Nehalem", "Intel Nehalem", _SSE4),
    "sandybridge": Core("SandyBridge", "Intel Sandy Bridge", _AVX),
    "haswell": Core("Haswell", "Intel Haswell", _AVX2),
    "skylake-server": Core("Skylake-Server", "Intel Skylake-Server without its AVX-512", _AVX2),
    "epyc": Core("EPYC", "AMD EPYC (Zen)", _AVX2),
}
_ARM_DEFAULT, _X86_DEFAULT = "cortex-a76", "haswell"
_ARM_CPUINFO = """\
processor\t: 0
model name\t: {title}
BogoMIPS\t: 50.00
Features\t: {flags}
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: {variant}
CPU part\t: {part}
CPU revision\t: {revision}

"""
_X86_CPUINFO = """\
processor\t: 0
model name\t: {title}
physical id\t: 0
siblings\t: 1
core id\t\t: 0
cpu cores\t: 1
apicid\t\t: 0
flags\t\t: {flags}

"""


def parse_emulated(device: str, options: str) -> EmulatedCpu:
    """`arm64`, `arm64:cortex-a53`, `x86`, or `x86:haswell`."""
    cores, default = (ARM_CORES, _ARM_DEFAULT) if device.startswith("arm64") else (X86_CORES, _X86_DEFAULT)
    name = options or default
    if name not in cores:
        raise DeviceError(f"unknown core '{name}'", where=f"device {device}", hint=f"known are {', '.join(cores)}")
    return EmulatedCpu(device, cores[name])


def set_up_arm64(report: Callable[[str], None]) -> Path:
    """Make the tree that `arm64` runs in, unless it is there: Debian's Python with onnxruntime for aarch64.

    Raises:
        DeviceError: something is missing, a download fails, the disk is full, or the tree does not run.
    """
    core = ARM_CORES[_ARM_DEFAULT]
    refuse_needs(_qemu_needs(core), where="arm64")
    return make_tree(report, lambda tree: _try(EmulatedCpu("arm64", core, tree=tree)))


def _try(target: EmulatedCpu) -> None:
    """Start a worker that ends at once; the modules that it imports are compiled on the way."""
    target._prepare()
    try:
        with tempfile.TemporaryFile() as stderr, target.start(stderr) as process:
            try:
                process.communicate(b'{"command": "quit"}\n', timeout=_TRY_SECONDS)
            except BaseException:
                process.kill()
                raise
            stderr.seek(0)
            said = stderr.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
        if process.returncode != 0:
            raise target.error(f"the new tree does not run ({said[-1]})")
    except subprocess.TimeoutExpired:
        raise target.error(f"the new tree's Python did not start in {_TRY_SECONDS} s") from None
    finally:
        target.close()


class EmulatedCpu(TargetHere):
    """A worker under qemu-user, as one named core.

    On arm64 it is the aarch64 onnxruntime of a Debian tree, on x86 this interpreter's own. The core's
    description comes from a folder that QEMU looks into before the host's (`-L`): onnxruntime on ARM reads
    /proc/cpuinfo to choose its kernels, which would be the host's.
    """

    emulated = True

    def __init__(self, name: str, core: Core, *, tree: Path | None = None) -> None:
        super().__init__(name)
        self._core, self._tree = core, tree
        self._counts: Path | None = None  # the folder that the plugin counts in

    def needs(self) -> list[Need]:
        """QEMU; for arm64 the Debian tree, for x86 a host that is one."""
        needs = _qemu_needs(self._core)
        if self._core.id is not None:
            return needs + tree_needs()
        if platform.machine() not in ("x86_64", "AMD64"):
            needs.append(Need(what="an x86-64 host", command="measure it on one (ssh://user@host)"))
        return needs

    def needs_to_count(self) -> list[Need]:
        """What is missing to count instructions: plugins in QEMU, a C compiler."""
        needs = self.needs()
        if not needs and not _takes_plugins(_qemu(self._core)):
            needs.append(Need(what="a QEMU that takes plugins", command="install one whose -help names -plugin"))
        if shutil.which("cc") is None or subprocess.run([*_CHECK, str(_COUNTER)], capture_output=True).returncode:
            needs.append(Need(what="a C compiler with the C library's headers", command=_COMPILER_PACKAGE))
        return needs

    def open(self) -> None:
        """Pack the worker, describe the core, and make what counts instructions."""
        refuse_needs(self.needs(), where=self.name)
        self._prepare()

    def _prepare(self) -> None:
        version = _qemu_version(_qemu(self._core))
        if version < _MIN_QEMU:
            raise self.error(f"QEMU {'.'.join(map(str, version))} is too old", "install 7.2 or newer")
        folder = self._new_folder()
        self._root = folder / "root"
        self._describe(f"{self._core.title}, emulated by QEMU {'.'.join(map(str, version))}")
        self._worker = build_worker(folder)
        if not self.needs_to_count() and _build_counter(folder / "counting.so", 1 + (version >= _NEWER_PLUGINS)):
            self._counts = folder / "counts"
            self._counts.mkdir()

    def cores(self) -> int:
        """One: threads that take turns in an emulator show nothing."""
        return 1

    def explain(self, status: int, said: str) -> HomoexportError | None:
        """Instructions that the core lacks, a core that QEMU lacks, and want of memory."""
        if status == -signal.SIGILL:
            return self.error(f"onnxruntime used an instruction that {self._core.title} has not")
        if _UNKNOWN_CPU in said:
            return self.error(f"this QEMU has no {self._core.qemu}", "install a newer one")
        return super().explain(status, said)

    def overhead_bytes(self, process_id: int) -> int:
        """Memory that a worker has resident now and that is the emulator's, not the imitated process's.

        Most of it is translated code. The worker's own figures contain it.
        """
        resident, ours = 0, False
        for line in Path(f"/proc/{process_id}/smaps").read_text().splitlines():
            if mapping := _MAPPING.match(line):
                ours = int(mapping[1], 16) >= _GUEST_END
            elif ours and line.startswith("Rss:"):
                resident += int(line.split()[1]) * 1024
        return resident

    def instructions(self, process_id: int) -> int | None:
        """As the plugin counted them up to the worker's last answer."""
        if self._counts is None:
            return None
        return int.from_bytes((self._counts / str(process_id)).read_bytes(), sys.byteorder)

    def _command(self) -> list[str]:
        python = sys.executable if self._core.id is None else str(self._root / PYTHON)
        emulator = [_qemu(self._core) or "qemu", "-L", str(self._root), "-cpu", self._core.qemu]
        if self._counts is not None:
            folder = str(self._counts.parent).replace(",", ",,")  # as QEMU wants a comma in a value
            settings = f"file={folder}/counting.so,out={folder}/counts,write={self._core.write_call}"
            emulator += ["-plugin", settings]
        return ["/bin/sh", "-c", _NO_CORE_FILE, "sh", *emulator, python, "-I", str(self._worker)]

    def _describe(self, title: str) -> None:
        """Fill the folder that is looked into first; the tree is linked into it, so many cores can share it."""
        system = self._root / "sys"
        for path in (self._root / "proc", system / "devices/system/cpu", *(system / name for name in _HIDDEN)):
            path.mkdir(parents=True)
        for name in ("possible", "present", "online"):
            (system / "devices/system/cpu" / name).write_text("0\n")
        text = _X86_CPUINFO.format(title=title, flags=self._core.flags)
        if self._core.id is not None:
            variant, part, revision = self._core.id
            text = _ARM_CPUINFO.format(
                title=title, flags=self._core.flags, variant=variant, part=part, revision=revision
            )
            for folder in (self._tree or tree_folder()).iterdir():
                (self._root / folder.name).symlink_to(folder)
        (self._root / "proc" / "cpuinfo").write_text(text)


def _qemu(core: Core) -> str | None:
    """The emulator on PATH."""
    return shutil.which(core.emulator) or shutil.which(f"{core.emulator}-static")


def _qemu_needs(core: Core) -> list[Need]:
    return [] if _qemu(core) else [Need(what=core.emulator, command=_QEMU_PACKAGE)]


def _takes_plugins(qemu: str | None) -> bool:
    assert qemu is not None
    return "-plugin" in subprocess.run([qemu, "-help"], capture_output=True, text=True, check=False).stdout


def _build_counter(library: Path, version: int) -> bool:
    """Make the plugin, for a version of QEMU's interface; whether the compiler could."""
    command = ["cc", "-O2", "-fPIC", "-shared", f"-DVERSION={version}", "-o", str(library), str(_COUNTER)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _qemu_version(qemu: str | None) -> tuple[int, int]:
    assert qemu is not None
    said = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"version (\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)
