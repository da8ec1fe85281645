"""Nothing calls home: importing this tells the libraries, before they are imported, to report nothing of their use.

onnxruntime 1.32 keeps a device id and a database in the user's cache, and uploads what it is used for; the Hugging
Face libraries add figures of the user's machine to their requests.
"""

import os

os.environ.update(ORT_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1")
