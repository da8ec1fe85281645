"""The public face: its names are there, and nothing heavy is loaded before one is used."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import homoexport
from homoexport import errors

VERBS = ("plan", "trim", "distill", "export", "measure", "evaluate", "finetune", "run", "embed", "score")
VERBS += ("init", "check", "run_several", "open_package", "verify")


def test_nothing_heavy_is_imported_before_a_name_is_used():
    heavy = ("torch", "transformers", "onnxruntime", "onnx", "numpy", "pydantic", "datasets")
    script = f"import sys, homoexport; dir(homoexport); print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_takes_its_subject_and_keywords(verb):
    function = getattr(homoexport, verb)
    subject, *others = inspect.signature(function).parameters.values()
    assert subject.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    by_keyword = others[1:] if verb == "verify" else others  # what is verified, and as what
    assert all(each.kind is inspect.Parameter.KEYWORD_ONLY for each in by_keyword)
    assert inspect.signature(function).return_annotation not in (inspect.Signature.empty, "None")
    assert "Raises:" in inspect.getdoc(function)


def test_every_public_name_is_there_and_no_other():
    assert all(getattr(homoexport, name) is not None for name in homoexport.__all__)
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        homoexport.distil  # noqa: B018


def test_the_error_tree_hangs_together():
    public = {getattr(homoexport, name) for name in homoexport.__all__ if name.endswith(("Error", "DoesNotFit"))}
    tree = {error for error in vars(errors).values() if inspect.isclass(error) and issubclass(error, Exception)}
    assert public == tree
    assert all(issubclass(error, homoexport.HomoexportError) for error in tree)
