"""Words against width for a person: what each vocabulary of a plan is worth, and which was taken."""

from __future__ import annotations

from homoexport.documents.plan import Plan, PlannedVocabulary
from homoexport.report.table import Table
from homoexport.report.wording import number

# Of MiniLM at 8 MB scores were .011 apart, and students were measured to keep as much; at 6 MB .030, and they were not
# (docs/trimming.md).
_NEAR = 0.02
_HEAD = ("Words", "Text kept", "Tokens", "Shape", "File", "p50", "Kept", "Score")


def vocabulary_table(plan: Plan) -> Table | None:
    """A row for each vocabulary, an arrow before the one that was taken; None of a plan with all words alone."""
    if not plan.vocabularies:
        return None
    is_taken = [words.vocab_size == plan.vocab_size for words in plan.vocabularies]
    return Table(
        _HEAD,
        [_cells(words, taken=taken) for words, taken in zip(plan.vocabularies, is_taken, strict=True)],
        f"Words of {plan.teacher} against width; file in MB, p50 in ms, all else in %: tokens that the text has more, "
        "what is kept of the text and of the teacher, and the product of both",
        left=(3,),
        bold=(is_taken.index(True),),
    )


def _cells(words: PlannedVocabulary, *, taken: bool) -> tuple[str, ...]:
    name = f"{'> ' * taken}{words.pieces:,}"
    text = (f"{100 * words.coverage:.1f}", f"{100 * words.more_tokens:+.1f}")
    if words.choice is None or words.score is None:
        return (name, *text, "none", "", "", "", "")
    shape = words.choice
    costs = (shape.shape.name, number(shape.file_mb), number(shape.latency_p50_ms))
    return (name, *text, *costs, f"{100 * shape.retained:.1f}", f"{100 * words.score:.1f}")


def vocabulary_lines(plan: Plan) -> list[str]:
    """Which vocabulary was taken and by what, and why others were not; nothing of a plan with all words alone."""
    if not plan.vocabularies:
        return []
    taken = next(words for words in plan.vocabularies if words.vocab_size == plan.vocab_size)
    all_words = plan.vocabularies[0]
    what = f"all {taken.pieces:,}" if taken is all_words else f"{taken.pieces:,} of {all_words.pieces:,}"
    lines = [
        f"Words: {what}, for which what is kept of the teacher times what is kept of the text is the most. Other text "
        "than the one given may lose more by fewer words (docs/trimming.md): judge on text as the model will meet it."
    ]
    near = [f"{words.pieces:,}" for words in plan.vocabularies if words is not taken and _is_near(words, taken)]
    if near:
        lines.append(f"With {' or '.join(near)} words the score is too near to tell which is better.")
    if taken.length != all_words.length:
        lines.append(
            f"Times of this plan are of {taken.length} tokens, which {all_words.length} become with these words."
        )
    lines += [f"With {words.pieces:,} words {words.refused}." for words in plan.vocabularies if words.refused]
    return lines


def _is_near(words: PlannedVocabulary, taken: PlannedVocabulary) -> bool:
    return words.score is not None and taken.score is not None and taken.score - words.score < _NEAR
