"""What is wrong with files, columns and flags is told before anything heavy is imported, after a line of progress."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conftest import write_sentences

HEAVY = ("torch", "transformers", "datasets", "accelerate")
SCRIPT = f"""
import json, sys
from homoexport.cli import main
for words in json.loads(sys.argv.pop()):
    sys.argv = ["homoexport", *words]
    try:
        main()
    except SystemExit as ended:
        loaded = [name for name in {HEAVY} if name in sys.modules]
        print("ended:", ended.code, loaded, file=sys.stderr)
"""
DISTIL = {
    "--data none*.txt": "no file matches",
    "--data data.tsv --column body": "has no column 'body'",
    "--data text.txt --set distill.threads=4096": "4096 threads where",
    "--data data.tsv --column sentence1 --pair-column body": "has no column 'body'",
}
FINETUNE = {
    "--train none.tsv --dev none.tsv": "no file matches",
    "--train data.tsv --dev data.tsv --text-column body": "has no column 'body'",
    "--train data.tsv --dev data.tsv --threads 4096": "4096 threads where",
}
RECIPE = """
teacher: nowhere
text: {sources: [{files: data.tsv, column: sentence1}]}
student: {hidden_size: 16}
distill: {objective: sentence-embedding, steps: 4, batch_size: 8}
"""
RUN = {
    "--set text.sources.0.files=none.txt": "no file matches",
    "--set text.sources.0.column=body": "has no column 'body'",
    "--set distill.threads=4096": "4096 threads where",
    "--set measure.device=toaster": "error: device: unknown device 'toaster'",
    "--set quality.task=sts --set quality.data=none.tsv --set quality.floor=90%": "no file matches",
}
TOASTER = {"--device toaster": "toaster"}
EVALUATE = {"--data none.tsv": "no file matches", "--data data.tsv --text-column body": "has no column 'body'"}


CASES = {
    "distill --teacher nowhere --hidden-size 16 --objective sentence-embedding": DISTIL,
    "finetune nowhere --task classification": FINETUNE,
    "run recipe.yaml": RUN,
    "eval nowhere --task sts": EVALUATE,
    "export nowhere": TOASTER,
    "plan --teacher nowhere --size 12MB": TOASTER,
}


@pytest.mark.parametrize("command", CASES)
def test_refusals_come_before_what_is_heavy(tmp_path, command):
    """All of a command in one process, which has imported nothing heavy by its end."""
    write_sentences(tmp_path / "text.txt")
    (tmp_path / "data.tsv").write_text("sentence1\tsentence2\tscore\na\tb\t1\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    cases = CASES[command]
    asked = json.dumps([[*command.split(), *flags.split()] for flags in cases])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, asked], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    *told, rest = done.stderr.split("ended: 2 []\n")
    assert rest == ""
    for lines, words in zip(told, cases.values(), strict=True):
        progress, *_, refusal = lines.splitlines()
        assert not progress.startswith("error:")
        assert words in refusal
        assert (f"; looked in {tmp_path}" in refusal) == (words == "no file matches")
