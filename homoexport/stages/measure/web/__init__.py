"""The worker of the `web` target: onnxruntime-web in headless Chromium, behind the worker's own protocol.

`bridge` reads the parent's commands on stdin and answers on stdout (`homoexport.runtime.worker.protocol`). It serves
`page.html`, `worker.js`, the runtime and the model to a browser on this machine; the page asks it for
commands over HTTP (long polling), so no driver is needed. Between the two stands `keeper`, a process that
starts the browser and outlives the bridge, to end the browser and remove its profile however the bridge ends.

The bridge runs from a zip file without the rest of `stages.measure`, which would take a second to import;
it needs the standard library, numpy, `homoexport.host` and `homoexport.runtime.worker`.
"""

from __future__ import annotations

from dataclasses import dataclass

DEVICE_STATUS = 3
"""The bridge's exit status where the browser cannot be used; its last line on stderr says why."""

MEMORY_SIGNS = (
    "Array buffer allocation failed",
    "could not allocate memory",
    "Out of memory",
    "out of memory",
    "OOM",
    "bad_alloc",
    "bad allocation",
    "std::length_error",
    "Failed to allocate memory",
    "failed to allocate a buffer",
    "SafeIntOnOverflow",  # a tensor's size beyond the 4 GB that WebAssembly can address
    "Invalid array length",
    "Invalid typed array length",
)
"""What JavaScript, WebAssembly's runtime and C++ say where memory is short."""


@dataclass(frozen=True)
class BridgeSettings:
    """What a bridge is started with: the folder of this room's files, that of onnxruntime-web's, the browser's file.

    `lifeline` is a descriptor that stays open until the browser is gone and its profile removed.
    """

    folder: str
    runtime: str
    browser: str
    backend: str
    isolated: bool
    lifeline: int
