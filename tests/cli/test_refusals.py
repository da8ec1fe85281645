"""What is wrong with files, columns and flags is told before anything heavy is imported, after a line of progress."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import write_sentences

HEAVY = ("torch", "transformers", "datasets", "accelerate")
SCRIPT = f"""
import sys
from homoexport.cli import main
sys.argv = ["homoexport", *sys.argv[1:]]
try:
    main()
finally:
    print("loaded:", [name for name in {HEAVY} if name in sys.modules])
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
EVALUATE = {"--data none.tsv": "no file matches", "--data data.tsv --text-column body": "has no column 'body'"}


@pytest.mark.parametrize(
    ("command", "flags", "words"),
    [
        *(
            ("distill --teacher nowhere --hidden-size 16 --objective sentence-embedding", *case)
            for case in DISTIL.items()
        ),
        *(("finetune nowhere --task classification", *case) for case in FINETUNE.items()),
        *(("run recipe.yaml", *case) for case in RUN.items()),
        *(("eval nowhere --task sts", *case) for case in EVALUATE.items()),
        ("export nowhere", "--device toaster", "toaster"),
        ("plan --teacher nowhere --size 12MB", "--device toaster", "toaster"),
    ],
)
def test_refusals_come_before_what_is_heavy(tmp_path, command, flags, words):
    write_sentences(tmp_path / "text.txt")
    (tmp_path / "data.tsv").write_text("sentence1\tsentence2\tscore\na\tb\t1\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *command.split(), *flags.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    progress, *_, refusal = done.stderr.splitlines()
    assert not progress.startswith("error:")
    assert words in refusal
    assert (f"; looked in {tmp_path}" in refusal) == (words == "no file matches")
    assert done.stdout.splitlines()[-1] == "loaded: []"
