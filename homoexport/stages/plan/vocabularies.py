"""Words against width: which vocabulary a budget is best spent with.

What a student keeps of its teacher is weighed by its weights, and what a vocabulary keeps of the text by its tokens: of
all vocabularies the one is taken whose best shape keeps most of both, as their product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil

from homoexport.documents.budget import Budget
from homoexport.documents.plan import Cost, Plan, PlannedVocabulary
from homoexport.errors import BudgetError
from homoexport.stages.plan.choice import NoneKeepsError

_DIGITS = 6  # that count, of a score and of a length that is not whole


def length_with(more_tokens: float, length: int, *, longest: int) -> int:
    """Tokens of a sequence that had so many before, once its text has more of them, up to the longest there is.

    >>> length_with(0.042, 128, longest=512), length_with(0.042, 512, longest=512)
    (134, 512)
    """
    return min(longest, ceil(round(length * (1 + more_tokens), _DIGITS)))


def best_vocabulary(
    asked: Sequence[PlannedVocabulary], budget: Budget, plan_for: Callable[[PlannedVocabulary, Budget], Plan]
) -> Plan:
    """The plan of the vocabulary that is worth most, with a note of each.

    Args:
        asked: the whole one first; of two that are worth the same the earlier one is taken.
        budget: lines that are relative to the teacher are so to the teacher with all its words.
        plan_for: a plan for one of them; BudgetError where no student keeps the budget.

    Raises:
        BudgetError: no student keeps it with any; with what the fewest words need.
    """
    limits = budget
    reference: Cost | None = None
    plans: list[Plan] = []
    noted: list[PlannedVocabulary] = []
    refusals: list[tuple[int, NoneKeepsError]] = []
    for vocabulary in asked:
        try:
            plan = plan_for(vocabulary, limits)
        except NoneKeepsError as error:
            limits = Budget.model_validate(error.limits.values)
            reference = reference or error.limits.reference
            refusals.append((vocabulary.pieces, error))
            noted.append(vocabulary.model_copy(update={"refused": error.what}))
            continue
        limits, reference = Budget.model_validate(plan.limits), reference or plan.reference
        plans.append(plan.model_copy(update={"vocab_size": vocabulary.vocab_size}))
        noted.append(vocabulary.planned(plan.choice))
    if not plans:
        pieces, nearest = min(refusals, key=lambda refusal: refusal[0])
        raise BudgetError(f"{nearest.what}, with {pieces:,} words", where=nearest.where, hint=nearest.hint)
    best = max((each for each in noted if each.score is not None), key=lambda each: round(each.score or 0.0, _DIGITS))
    taken = next(plan for plan in plans if plan.vocab_size == best.vocab_size)
    return taken.model_copy(update={"budget": budget, "reference": reference, "vocabularies": tuple(noted)})
