"""examples/embed.c, built and run as docs/loading.md has it, against Python."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import onnxruntime as ort
import onnxruntime_extensions
import pytest

from tests.loaders.conftest import SET_UP, TEXTS
from tests.snippets import snippets

pytestmark = [pytest.mark.loaders, pytest.mark.weights]


def test_strings_from_c(packages, tmp_path):
    (tmp_path / "ort/lib").mkdir(parents=True)
    (tmp_path / "ort/include").symlink_to(SET_UP / "header/usr/include/onnxruntime")
    (library,) = (Path(ort.__file__).parent / "capi").glob("libonnxruntime.so.*")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (tmp_path / "ort/lib" / name).symlink_to(library)
    (tmp_path / "examples").symlink_to(Path(__file__).parents[2] / "examples")
    (tmp_path / "package").symlink_to(packages("int8") / "package")
    python, extensions = sysconfig.get_config_vars("LIBDIR", "LDVERSION"), onnxruntime_extensions.get_library_path()
    libpython = f"-Wl,--no-as-needed -L{python[0]} -Wl,-rpath,{python[0]} -lpython{python[1]}"
    (commands,) = snippets("loading.md", "C", "bash")
    strict = commands.replace("gcc ", "gcc -Wall -Wextra -Werror ")
    done = subprocess.run(
        ["bash", "-euc", strict],
        cwd=tmp_path,
        env={**os.environ, "ORT": "ort", "EXTENSIONS": extensions, "LIBPYTHON": libpython},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    options = ort.SessionOptions()
    options.register_custom_ops_library(extensions)
    session = ort.InferenceSession(tmp_path / "package/strings/text_model.onnx", options)
    (expected,) = session.run(["sentence_embedding"], {"text": np.array(TEXTS, dtype=object)})
    np.testing.assert_allclose(np.loadtxt(done.stdout.splitlines()), expected, atol=1e-6)
