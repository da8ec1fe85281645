"""Results of two runs against each other, for a user's CI.

Runs at different times have not seen the same noise, so their ratio is worth less than that of two
packages in one interleaved run. The idle spins of both runs say whether the machine was equally fast.
"""

from __future__ import annotations

from collections.abc import Sequence

from homoexport.choices import TOO_NOISY
from homoexport.documents.measurement import Change, Comparison, Grid, Measurement, PackageFigures
from homoexport.errors import UserError
from homoexport.stages.measure.intervals import MARGIN, independent_speedup, rounds_of, verdict_of

_SAME_HOST = ("cpu", "architecture", "cores", "available_cores", "instruction_sets")
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
        remarks, alike = _remarks(one, other), _pace(one, other) == 1
        changes += [_change(*pair, one, remarks, alike=alike) for pair in _pairs(one.results, other.results)]
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
    """How many times as long the second run's idle machine took for the same arithmetic; 1 within the margin."""
    if one.noise is None or other.noise is None:
        return 1
    ratio = other.noise.spin_p50_us / one.noise.spin_p50_us
    return 1 if 1 / (1 + MARGIN) <= ratio <= 1 + MARGIN else ratio


def _change(
    before: PackageFigures, after: PackageFigures, at: Measurement, remarks: tuple[str, ...], *, alike: bool
) -> Change:
    rounds = [rounds_of(each.samples_ms, each.runs_per_round) for each in (before, after)]
    ratio, interval = independent_speedup(*rounds)
    return Change(
        package=after.name,
        device=at.device,
        threads=at.threads,
        batch_size=at.batch_size,
        length=at.length,
        before_p50_ms=before.latency_p50_ms,
        after_p50_ms=after.latency_p50_ms,
        speedup_p50=ratio,
        interval=interval,
        verdict=verdict_of(ratio, interval) if alike else TOO_NOISY,
        remarks=remarks,
    )


def slower_than(change: Change | Comparison, allowed: float) -> bool:
    """Whether it is proven slower by more than the allowed share: the whole interval lies beyond it."""
    return change.verdict != TOO_NOISY and change.interval[1] < 1 / (1 + allowed)


_HINT = "compare results of the same command on the same machine"
