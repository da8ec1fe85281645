"""Nothing calls home: importing this tells the libraries, before they are imported, to report nothing of their use.

onnxruntime 1.32 keeps a device id and a database in the user's cache, and uploads what it is used for; the Hugging
Face libraries add figures of the user's machine to their requests. OpenVINO 2026 writes an id into the user's home and
sends an event when it is imported, by a package that it does without where that is not there.
"""

import os
import sys

os.environ.update(ORT_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1")
if "openvino_telemetry" not in sys.modules:
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # so an import of it fails
