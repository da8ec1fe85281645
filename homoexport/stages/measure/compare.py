"""Results of two runs against each other, for a user's CI.

Runs at different times have not seen the same noise, so their ratio is worth less than that of two packages in one
interleaved run. It is one of the rounds in which each had its cores to itself, and the idle spins of both runs say
whether the machine was equally fast: by their median, and by their mean, in which is what other processes took.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from homoexport.choices import TOO_NOISY
from homoexport.documents.measurement import Change, Comparison, Grid, Measurement, PackageFigures
from homoexport.errors import UserError
from homoexport.stages.measure.intervals import MARGIN, independent_speedup, verdict_of
from homoexport.stages.measure.noise import quiet_rounds

_SAME_HOST = ("cpu", "architecture", "cores", "available_cores", "instruction_sets")
_MEAN_MARGIN = 0.1  # of a mean, which one long interruption moves
_CONDITIONS = ("device", "threads", "batch_size", "length", "texts")


def compare_results(before: Measurement | Grid, after: Measurement | Grid) -> list[Change]:
    """The packages of two results, pair by pair: by name, or in their order where all names differ.

    Raises:
        UserError: results of other hosts, devices or conditions, or packages that cannot be paired.
    """
    ones, others = before.cells, after.cells
    if len(ones) != len(others):
        raise UserError(f"{len(ones)} conditions against {len(others)}", where="--compare", hint=_HINT)
    changes = []
    for one, other in zip(ones, others, strict=True):
        _refuse_unlike(one, other)
        remarks, pace = _remarks(one, other), _pace(one, other)
        changes += [_change(*pair, one, remarks, alike=pace == 1) for pair in _pairs(one.results, other.results)]
    return changes


def _refuse_unlike(one: Measurement, other: Measurement) -> None:
    for key in _CONDITIONS:
        if getattr(one, key) != getattr(other, key):
            what = f"{key} {getattr(one, key)} against {getattr(other, key)}"
            raise UserError(what, where="--compare", hint=_HINT)
    for key in _SAME_HOST:
        here, there = getattr(one.host, key, None), getattr(other.host, key, None)
        if here != there:
            what = f"measured on other machines ({key}: {here} against {there})"
            raise UserError(what, where="--compare", hint=_HINT)
    if one.emulated:
        raise UserError("an emulator's times say nothing of the device", where="--compare", hint=_HINT)


def _pairs(
    ones: Sequence[PackageFigures], others: Sequence[PackageFigures]
) -> list[tuple[PackageFigures, PackageFigures]]:
    names, theirs = ([figures.name for figures in each] for each in (ones, others))
    if len(names) != len(theirs):
        raise UserError(f"{len(names)} packages against {len(theirs)}", where="--compare", hint=_HINT)
    if names == theirs or not set(names) & set(theirs):
        return list(zip(ones, others, strict=True))
    if sorted(names) != sorted(theirs) or len(set(names)) < len(names):
        what = f"which is which of {', '.join(names)} against {', '.join(theirs)}?"
        raise UserError(what, where="--compare", hint="measure packages of the same names, or in the same order")
    by_name = {figures.name: figures for figures in others}
    return [(figures, by_name[figures.name]) for figures in ones]


def _remarks(one: Measurement, other: Measurement) -> tuple[str, ...]:
    remarks = [
        f"{when}: {remark}"
        for when, each in (("before", one), ("after", other))
        if each.noise
        for remark in each.noise.remarks
    ]
    if (ratio := _pace(one, other)) != 1:
        remarks.append(f"the machine itself took {ratio:.2f} times as long for the same arithmetic")
    return tuple(remarks)


def _pace(one: Measurement, other: Measurement) -> float:
    """How many times as long the second run's idle machine took for the same arithmetic, at the median or in the mean,
    whichever differs more; 1 where both are within their margins."""
    if one.noise is None or other.noise is None:
        return 1
    ratios = [(other.noise.spin_p50_us / one.noise.spin_p50_us, MARGIN)]
    if one.noise.spin_mean_us and other.noise.spin_mean_us:
        ratios.append((other.noise.spin_mean_us / one.noise.spin_mean_us, _MEAN_MARGIN))
    beyond = [ratio for ratio, margin in ratios if not 1 / (1 + margin) <= ratio <= 1 + margin]
    return max(beyond, key=lambda ratio: abs(math.log(ratio)), default=1)


def _change(
    before: PackageFigures, after: PackageFigures, at: Measurement, remarks: tuple[str, ...], *, alike: bool
) -> Change:
    (ones, share), (others, other_share) = quiet_rounds(before), quiet_rounds(after)
    comparable = alike and min(share, other_share) > 0
    ratio, interval = independent_speedup(ones, others)
    return Change(
        package=after.name,
        before_package=before.name,
        device=at.device,
        threads=at.threads,
        batch_size=at.batch_size,
        length=at.length,
        before_p50_ms=before.latency_p50_ms,
        after_p50_ms=after.latency_p50_ms,
        speedup_p50=ratio,
        interval=interval,
        verdict=verdict_of(ratio, interval) if comparable else TOO_NOISY,
        remarks=remarks + _waiting(before, "before") + _waiting(after, "after"),
        comparable=comparable,
    )


def _waiting(result: PackageFigures, when: str) -> tuple[str, ...]:
    rounds, waited = result.runs // result.runs_per_round, len(result.disturbed_rounds)
    return (f"{when}: {result.name} waited for a core in {waited} of {rounds} rounds",) if waited else ()


def keeps_pace(change: Change | Comparison, allowed: float) -> bool | None:
    """Whether it is proven not to be slower by more than the allowed share, for the whole interval lies within it.

    False where it is proven to be slower by more, None where neither is: the interval lies on both sides, or two runs
    cannot be compared.
    """
    low, high = change.interval
    least = 1 / (1 + allowed)
    if isinstance(change, Change) and not change.comparable:
        return None
    if low >= least:
        return True
    return False if high < least and change.verdict != TOO_NOISY else None


_HINT = "compare results of the same command on the same machine"
