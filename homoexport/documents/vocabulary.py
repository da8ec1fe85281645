"""What is told of a trimmed vocabulary, by the model that has it and by its packages."""

from __future__ import annotations

from homoexport.documents.document import Figures


class SplitTexts(Figures):
    """What a trimmed tokenizer makes of texts, beside what the whole one made.

    `same` is the share of texts whose pieces are the same ones; tokens are the mean of a text, special ones included;
    `unknown_more` are the unknown pieces that were none before.
    """

    texts: int
    same: float
    tokens_before: float
    tokens_after: float
    unknown_more: int

    @property
    def more_tokens(self) -> float:
        """How many more tokens there are, as a share."""
        return self.tokens_after / self.tokens_before - 1 if self.tokens_before else 0.0


class VocabularyDescription(Figures):
    """A trimmed vocabulary: its pieces before and after, those that no text can do without, those that the text has,
    and what becomes of the held-out text and of awkward strings.

    `coverage` is the share of the held-out text's tokens whose pieces stay (told from version 2.7 of the manifest on).
    """

    before: int
    after: int
    essential: int
    in_text: int
    held_out: SplitTexts
    awkward: SplitTexts
    coverage: float | None = None
