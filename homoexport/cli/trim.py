"""`homoexport trim`: a model with fewer words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from homoexport.cli import screen
from homoexport.cli.options import COLUMNS, DATA, VOCAB_SIZE, AsJson, Flag, Force, as_flags, flags, name_of, parsed
from homoexport.documents.recipe import Tree, TrimRecipe, looked_for
from homoexport.errors import UserError

_FIELDS = (
    DATA,
    *COLUMNS,
    VOCAB_SIZE,
    Flag("vocabulary.min_count"),
    Flag("vocabulary.keep"),
    "text.max_length",
    "text.min_words",
    "text.held_out",
    "seed",
)
_CALLED = {"text.min_words": "--min-words", "text.held_out": "--held-out"}
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Hub name, folder, or package:DISTRIBUTION/PATH.")]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="DIR", help="Output folder; by default the model's name with -trimmed."),
]


@flags(TrimRecipe, *_FIELDS)
def trim(model: Model, *, given: Tree, output: Output = None, force: Force = False, as_json: AsJson = False) -> None:
    """Leave out the words that a text does not need: a smaller model of the same widths, without training.

    homoexport trim MODEL --data 'texts/*.txt' --vocab-size 12k -o OUT

    Kept are special tokens, single characters, and the pieces that the text has most; what goes is split into these.
    Told is what that does to held-out text: how many tokens stay, how many texts are split as before, and how much
    longer they become.
    """
    if "text" not in given:
        raise UserError("there is no text to choose by", where="trim", hint="give --data GLOB")
    asked = parsed(TrimRecipe, given, command="trim")
    output = output or Path(f"{name_of(model)}-trimmed")
    screen.stage_line(f"Trimming {model}")
    from homoexport.workflow.progress import Progress
    from homoexport.workflow.trim import told
    from homoexport.workflow.trim import trim as trim_model

    with looked_for(model, asked), as_flags(given, _CALLED):
        manifest = trim_model(
            model,
            text=asked.text,
            output=output,
            vocab_size=asked.student.vocab_size,
            vocabulary=asked.vocabulary,
            seed=asked.seed,
            force=force,
            progress=Progress(on_stage=screen.stage_line),
        )
    words, parameters = manifest.details.vocabulary, manifest.details.parameters
    lines = (
        f"Model: {output}  {words.after:,} of {words.before:,} pieces, {parameters / 1e6:.1f} M parameters",
        f"Held-out text: {told(words.held_out, words.coverage)}",
        f"Awkward strings: {told(words.awkward)}",
    )
    screen.show(manifest, *lines, as_json=as_json)
