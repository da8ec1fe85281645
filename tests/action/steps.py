"""The steps of action.yml as a runner runs them: inputs put in their places, each step's script in bash.

    steps.py CHECKOUT INPUTS.json FOLDER

CHECKOUT is the Action's; FOLDER gets what a runner has: `temp`, and the files `output` and `summary`. Ends as the first
step that fails does. Needs pyyaml alone.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


def read_action(checkout: Path) -> dict[str, Any]:
    """What action.yml says."""
    return yaml.safe_load((checkout / "action.yml").read_text(encoding="utf-8"))


def inputs_of(action: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    """All inputs: as they are given, or by default; ValueError where one is missing or unknown."""
    known = action["inputs"]
    missing = {name for name, value in known.items() if value.get("required")} - given.keys()
    if missing or given.keys() - known.keys():
        raise ValueError(f"missing: {missing}, unknown: {given.keys() - known.keys()}")
    return {name: str(value.get("default", "")) for name, value in known.items()} | dict(given)


def placed(text: str, inputs: Mapping[str, str]) -> str:
    """A text with the values of `${{ inputs.NAME }}`, the one expression that steps here may have."""
    done = re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda found: inputs[found[1]], text)
    if "${{" in done:
        raise ValueError(f"an expression that is not known here: {done}")
    return done


def run_steps(checkout: Path, given: Mapping[str, str], folder: Path) -> int:
    """Run them in the working folder; the exit code of the first that fails, or 0."""
    action = read_action(checkout)
    inputs = inputs_of(action, given)
    (folder / "temp").mkdir(parents=True, exist_ok=True)
    runner = {
        "GITHUB_ACTION_PATH": str(checkout),
        "RUNNER_TEMP": str(folder / "temp"),
        "GITHUB_OUTPUT": str(folder / "output"),
        "GITHUB_STEP_SUMMARY": str(folder / "summary"),
    }
    for step in action["runs"]["steps"]:
        assert step["shell"] == "bash"
        assert "${{" not in step["run"]  # values come as variables, never as a part of the script
        variables = {name: placed(value, inputs) for name, value in step.get("env", {}).items()}
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]  # as GitHub's runner has it
        code = subprocess.run(command, env={**os.environ, **runner, **variables}, check=False).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    action_of, told, where = map(Path, sys.argv[1:])
    sys.exit(run_steps(action_of, json.loads(told.read_text(encoding="utf-8")), where))
