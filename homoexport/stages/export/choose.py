"""The measured choice: forms first, then schemes, then the fastest that is right.

1. Forms of the graph are held against torch in fp32, and those that are right are timed in turns, in the scheme that
   is likely to ship: those of attention first, then variants of the fastest one.
2. The best form is made in every scheme that makes sense on the target. Each is held against torch. What breaks the
   gate is smoothed, or the layers that break it are found by bisection and left in fp32; what is right is timed in
   turns with the fp32 graph.
3. The fastest ships; of those as fast, the smallest file.

Where the target has no clock that could be trusted, instructions are counted in place of timing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from homoexport.choices import Calibration, CostUnit, EmbeddingPrecision, GraphChoice, Quantization, Scheme
from homoexport.documents.budget import QUALITY_LINE, BudgetVerdict
from homoexport.errors import ParityError
from homoexport.schemes import SCHEMES, embeddings_of
from homoexport.stages.export.candidates import Candidate, Maker
from homoexport.stages.export.forms import Form, forms_of
from homoexport.stages.export.parity import in_words
from homoexport.stages.export.smooth import STRENGTHS

Rank = Callable[[Sequence[Path]], Sequence[float]]
Judge = Callable[[Path], BudgetVerdict]

_ATTENTION, _VARIANTS, _SCHEMES = 1, 2, 3  # rounds of measuring
TIE = 1.02  # costs closer than this are a tie, and the smaller file is shipped


@dataclass(frozen=True)
class Choice:
    """What ships, everything that it was chosen from, and why faster or smaller schemes were not taken.

    `quality` is what the gate said of those that it was asked about, by name.
    """

    chosen: Candidate
    candidates: tuple[Candidate, ...]
    refused: dict[str, str]
    quality: dict[str, BudgetVerdict]


def choose(
    maker: Maker,
    *,
    quantize: Quantization,
    schemes: Mapping[Scheme, EmbeddingPrecision],
    rank: Rank,
    unit: CostUnit = "ms",
    graph: GraphChoice = "auto",
    judge: Judge | None = None,
) -> Choice:
    """Make candidates, measure them, and choose.

    Args:
        schemes: from `schemes_for`, the likeliest first, and how each stores the embedding tables.
        rank: what files cost, in their order; lower is better.
        unit: of their costs: median milliseconds, or instructions of one inference.
        judge: holds a file against a floor of quality; the fastest that keeps it ships, and if none does the best.

    Raises:
        ParityError: nothing that was asked for answers as the model does; with the figures of all.
    """
    # How the tables are stored makes no difference between forms, and 4-bit ones take seconds to make.
    likeliest = next(iter(schemes))
    forms, form = _best_form(maker, graph, likeliest, embeddings_of("auto", likeliest), rank)
    finalists = [
        candidate
        for scheme, embeddings in schemes.items()
        for candidate in _sound_or_mended(maker, form, scheme, embeddings)
    ]
    sound = [candidate for candidate in finalists if candidate.sound]
    timed = {item.file: item for item in _last_round(maker, sound, forms, rank)}
    finalists = [timed.get(item.file, item) for item in finalists]
    lost = [item for item in maker.held if item.file not in {finalist.file for finalist in finalists}]
    once = {(item.file, item.round) for item in finalists}
    everything = [*(item for item in forms if (item.file, item.round) not in once), *lost, *finalists]
    shippable = [item for item in timed.values() if item.scheme != "fp32" or quantize in ("auto", "none")]
    if not shippable:
        kind = {"auto": "", "none": "fp32 "}.get(quantize, f"{quantize} ")
        raise _nothing_right(f"no {kind}graph{_with_words(schemes)}", everything, maker)
    chosen, quality = _fastest_that_is_good(maker, shippable, judge)
    refused = _refusals(finalists, chosen, unit)
    refused |= {
        name: below_the_floor(verdict) for name, verdict in quality.items() if name != chosen.name and not verdict.kept
    }
    return Choice(chosen, tuple(everything), refused, quality)


def _with_words(schemes: Mapping[Scheme, EmbeddingPrecision]) -> str:
    """How words were asked to be stored, where that alone may be what is wrong."""
    asked = {embeddings for embeddings in schemes.values() if embeddings in ("int4", "pq")}
    return "".join(f" with words in {each} (--embeddings int8 keeps them nearer)" for each in sorted(asked))


def _nothing_right(what: str, candidates: Sequence[Candidate], maker: Maker) -> ParityError:
    figures = [line for item in candidates if (line := _failure(item))]
    figures += [f"{name} {reason}" for name, reason in maker.left_out.items()]
    return ParityError(f"{what} answers as the model does: {'; '.join(figures)}")


def _fastest_that_is_good(
    maker: Maker, candidates: Sequence[Candidate], judge: Judge | None
) -> tuple[Candidate, dict[str, BudgetVerdict]]:
    """The fastest that keeps the floor, asked one by one; if none does, the one with the highest figure."""
    if judge is None:
        return fastest(candidates), {}
    left, quality = list(candidates), {}
    while left:
        candidate = fastest(left)
        maker.progress(f"judging the {candidate.name} graph")
        quality[candidate.name] = verdict = judge(candidate.file)
        if verdict.kept:
            return candidate, quality
        left.remove(candidate)
    return max(candidates, key=lambda candidate: quality[candidate.name].measured), quality


def below_the_floor(verdict: BudgetVerdict) -> str:
    """Why what does not keep the floor does not ship, with its figures."""
    told = {False: "is below the floor", None: "is too close to the floor to call"}
    figures = f"{verdict.measured:.4f} of at least {verdict.limit:.4f}"
    return f"{told[verdict.kept]}: {verdict.line.removeprefix(QUALITY_LINE)} {figures}"


def fastest(candidates: Sequence[Candidate]) -> Candidate:
    """The fastest; of those within the noise of it, and where none could be timed, the one with the smallest file."""
    limit = TIE * min(_cost(candidate) for candidate in candidates)
    return min(
        (candidate for candidate in candidates if _cost(candidate) <= limit),
        key=lambda candidate: candidate.file_bytes,
    )


def _cost(candidate: Candidate) -> float:
    return float("inf") if candidate.cost is None else candidate.cost


def _best_form(
    maker: Maker, graph: GraphChoice, scheme: Scheme, embeddings: EmbeddingPrecision, rank: Rank
) -> tuple[list[Candidate], Form]:
    """Every form with its figures, and the fastest that is right; the first, where the target has room for none."""
    forms = forms_of(graph)
    wrong, timed = _timed_forms(maker, list(forms), scheme, embeddings, rank, _ATTENTION)
    if not timed:
        raise _nothing_right("no graph", wrong, maker)
    tried, best = wrong + timed, min(timed, key=_cost)
    if len(forms) == 1:
        return wrong, best.form
    if variants := forms[best.form]:
        wrong, again = _timed_forms(maker, (best.form, *variants), scheme, embeddings, rank, _VARIANTS)
        best = min(again, key=_cost)
        tried += wrong + again
    maker.forget([item.form for item in tried if item.form != best.form])
    return tried, best.form


def _timed_forms(
    maker: Maker, forms: Sequence[Form], scheme: Scheme, embeddings: EmbeddingPrecision, rank: Rank, round_number: int
) -> tuple[list[Candidate], list[Candidate]]:
    """Forms that are wrong in fp32 already, with the figures of that, and the others in a scheme, timed in turns.

    All are held against one text before, and the fastest against more kinds of input after: to look as closely at
    those that lose would take longer than to time them.
    """
    written = [item for form in forms if (item := maker.write(form)) is not None]
    wrong = [item for item in written if not item.sound]
    timed = [
        item
        for one in written
        if one.sound and (item := maker.quantize(one.form, scheme, embeddings)) is not None and maker.runs_there(item)
    ]
    if len(forms) > 1:  # else there is no choice
        maker.progress("measuring the forms")
        timed = _timed(maker, timed, rank, round_number)
    while timed:
        best = min(timed, key=_cost)
        held = maker.hold(best.form)
        if held is not None and held.sound:
            break
        wrong += [] if held is None else [held]
        timed.remove(best)
    return wrong, timed


def _timed(maker: Maker, candidates: Sequence[Candidate], rank: Rank, round_number: int) -> list[Candidate]:
    """The candidates with what they cost, measured in turns, but for those that the target cannot hold."""
    costs = rank([item.file for item in candidates]) if candidates else []
    timed = []
    for item, cost in zip(candidates, costs, strict=True):
        if math.isfinite(cost):
            timed.append(replace(item, cost=cost, round=round_number))
        else:
            maker.left_out[item.name] = "could not be timed, for it does not fit into the target's memory"
            timed.append(item)
    return timed


def _last_round(maker: Maker, sound: Sequence[Candidate], forms: Sequence[Candidate], rank: Rank) -> list[Candidate]:
    """The schemes that are right, timed in turns; one alone with the figures that it has as a form already."""
    if len(sound) == 1:
        (alone,) = sound
        for item in reversed(forms):
            if (item.file, item.embeddings) == (alone.file, alone.embeddings) and item.cost is not None:
                return [replace(alone, cost=item.cost, round=item.round)]
    maker.progress("measuring the schemes")
    return _timed(maker, sound, rank, _SCHEMES)


def _sound_or_mended(maker: Maker, form: Form, scheme: Scheme, embeddings: EmbeddingPrecision) -> list[Candidate]:
    """A form in a scheme, held against torch.

    If it breaks the gate, with smoothed inputs; if that does not help, with the products left in fp32 that break it.
    """
    best = _most_alike(maker, [form], scheme, embeddings)
    if best is None:
        return []
    if best.sound or scheme == "fp32":
        return [best]
    if SCHEMES[scheme].precision == "int8":
        maker.progress(f"smoothing, for the gate is broken ({scheme})")
        forms = [other for strength in STRENGTHS if (other := maker.smooth(form, strength)) is not None]
        smoothed = _most_alike(maker, forms, scheme, embeddings)
        if smoothed is not None and _soundness(smoothed) > _soundness(best):
            maker.discard(best)
            best = smoothed
    return [best] if best.sound else [_mended(maker, best)]


def _most_alike(
    maker: Maker, forms: Sequence[Form], scheme: Scheme, embeddings: EmbeddingPrecision
) -> Candidate | None:
    """Of forms in a scheme, by every method of calibration, the one that answers most as torch does."""
    methods: tuple[Calibration, ...] = ("min-max", "percentile") if SCHEMES[scheme].calibrated else ("min-max",)
    made = [maker.quantize(form, scheme, embeddings, calibration=method) for form in forms for method in methods]
    checked = [parity for item in made if item is not None and (parity := maker.check(item)) is not None]
    best = max(checked, key=_soundness, default=None)
    for item in checked:
        if item is not best:
            maker.discard(item)
    return best


def _mended(maker: Maker, broken: Candidate) -> Candidate:
    """The candidate with the products left in fp32 that break the gate; itself, if that does not fix it."""
    form, scheme = broken.form, broken.scheme
    calibration = broken.calibration or "min-max"
    maker.progress(f"looking for the layers that break the gate ({scheme})")
    names = maker.products(form)
    on_few = maker.check(broken, few=True)
    few = on_few is not None and not on_few.sound  # else only all of the ladder, or the target, shows it

    def breaks(in_fewer_bits: Sequence[str]) -> bool:
        keep = [name for name in names if name not in set(in_fewer_bits)]
        trial = maker.quantize(form, scheme, broken.embeddings, keep=keep, calibration=calibration)
        checked = None if trial is None else maker.check(trial, few=few)
        if checked is not None and len(keep) < len(names):
            maker.discard(checked)
        return checked is None or not checked.sound

    if breaks([]):  # it is not the products
        return broken
    mended = maker.quantize(form, scheme, broken.embeddings, keep=breakers(names, breaks), calibration=calibration)
    mended = None if mended is None else maker.check(mended)
    return broken if mended is None or not mended.sound else mended


def breakers(names: Sequence[str], breaks: Callable[[Sequence[str]], bool]) -> list[str]:
    """Which of the names must be left out so that the others together do not break.

    Halves are taken in as a whole where that breaks nothing, and divided where it does, so that k breakers among n
    take about k log2(n) questions.
    """

    def divide(part: Sequence[str], taken_in: list[str]) -> list[str]:
        if not breaks([*taken_in, *part]):
            taken_in.extend(part)
            return []
        if len(part) == 1:
            return list(part)
        half = len(part) // 2
        return divide(part[:half], taken_in) + divide(part[half:], taken_in)

    return divide(names, []) if names else []


def _soundness(candidate: Candidate) -> tuple[bool, float]:
    return candidate.sound, candidate.parity.mean_cosine if candidate.parity else -1.0


def _refusals(finalists: Sequence[Candidate], chosen: Candidate, unit: CostUnit) -> dict[str, str]:
    """Why each other scheme does not ship, with its figures."""
    reasons = {}
    for item in finalists:
        if item is chosen or item.name == chosen.name:
            continue
        if not item.sound:
            reasons[item.name] = f"breaks the gate: {_failure(item)}"
        elif item.cost is not None and chosen.cost is not None:  # else it is among what was left out
            ratio = item.cost / chosen.cost
            size = f"{item.file_bytes / 1e6:.2f} MB against {chosen.file_bytes / 1e6:.2f} MB"
            why = "was not asked for; it " if ratio * TIE < 1 else ""
            reasons[item.name] = (
                f"{why}takes {ratio:.2f} times as {'long' if unit == 'ms' else 'many instructions'} as {chosen.name} "
                f"({_told(item.cost, unit)} against {_told(chosen.cost, unit)}; {size})"
            )
    return reasons


def _told(cost: float, unit: CostUnit) -> str:
    return f"{cost:.3f} ms" if unit == "ms" else f"{cost / 1e6:.2f} M"


def _failure(candidate: Candidate) -> str:
    """The figures that broke a bound; empty where none did."""
    for parity, where in ((candidate.parity, ""), (candidate.parity_on_target, " on the target")):
        if parity is not None and not parity.passed:
            return f"{candidate.name}{where} {in_words(parity)}"
    return ""
