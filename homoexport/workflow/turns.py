"""Turns of a planned run: what missed the budget is put aside, and the next shape follows from what it measured.

Everything is read from the run's folder, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from homoexport.documents.artifact import DistilledManifest, Manifest, verify
from homoexport.documents.budget import THROUGHPUT, Budget, BudgetVerdict
from homoexport.documents.document import read_document
from homoexport.documents.layout import MEASURED, MEASUREMENT, PACKAGE, STUDENT, TURNS
from homoexport.documents.measurement import Measurement
from homoexport.documents.plan import Plan, Row
from homoexport.documents.summary import PlannedTurns, Turn
from homoexport.stages.plan.choice import Limits, lighter, narrower, wider
from homoexport.workflow.distill import forget_state
from homoexport.workflow.measure import judge_package


class Turns:
    """The turns of the run in a folder."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir

    def put_right(self) -> None:
        """Put aside the rest of a turn, where a run was stopped while it did so."""
        for part in sorted((self.run_dir / TURNS).glob(".*.part")):
            self._put_into(part)

    @property
    def folders(self) -> list[Path]:
        """Of the turns that are over, in their order; the present one is in the run's folder itself."""
        return sorted((self.run_dir / TURNS).glob("[0-9]*"), key=lambda folder: int(folder.name))

    @property
    def last(self) -> Path | None:
        """The folder of the turn before the present one."""
        return next(iter(self.folders[-1:]), None)

    def row(self, plan: Plan, budget: Budget) -> Row:
        """The shape of the present turn: the plan's choice, or what follows from the turn before."""
        row = plan.choice
        for folder in self.folders:
            if _was_held(folder):
                following = narrower(plan, row, used_of(budget_verdicts(budget, folder / MEASURED)))
            else:
                following = lighter(plan, row)
            assert following is not None, "a turn is put aside only where there is another shape"
            row = following
        return row

    def put_aside(self) -> None:
        """End the present turn."""
        part = self.run_dir / TURNS / f".{len(self.folders) + 1}.part"
        part.mkdir(parents=True)
        self._put_into(part)

    def _put_into(self, part: Path) -> None:
        for name in (STUDENT, PACKAGE, MEASURED):
            if (self.run_dir / name).exists():
                (self.run_dir / name).rename(part / name)
        part.rename(part.with_name(part.name.removeprefix(".").removesuffix(".part")))

    def forget_states(self) -> None:
        """Remove what students could be pruned on from: the run is over."""
        for folder in (*self.folders, self.run_dir):
            forget_state(folder / STUDENT)

    def described(self, plan: Plan, budget: Budget) -> PlannedTurns:
        """For the summary: what was planned, every turn with its verdicts, and a shape that would fit better."""
        turns = [self._turn(folder, plan, budget) for folder in (*self.folders, self.run_dir)]
        *missed, last = (turn.shape for turn in turns)
        better = wider(plan, plan.row_of(last), used_of(turns[-1].budget), missed)
        return PlannedTurns(limits=plan.limits, choice=plan.choice, front=plan.front, turns=tuple(turns), wider=better)

    def _turn(self, folder: Path, plan: Plan, budget: Budget) -> Turn:
        details = verify(folder / STUDENT, DistilledManifest, strict=False).details
        row, limits = plan.row_of(details.widths), Limits.of_plan(plan)
        return Turn(
            shape=row.shape,
            folder=str(folder.relative_to(self.run_dir)),
            steps=details.steps,
            seconds=details.seconds,
            planned=row,
            planned_lines={line: limits.figure(row, line) for line in plan.limits},
            budget=tuple(budget_verdicts(budget, folder / MEASURED)) if _was_held(folder) else (),
        )


def _was_held(turn: Path) -> bool:
    """Whether the target could hold the turn's package, so that there is a measurement."""
    return (turn / MEASURED).exists()


def budget_verdicts(budget: Budget, measured: Path) -> list[BudgetVerdict]:
    """A budget against what a turn measured; relative lines against the teacher in the same measurement."""
    found = read_measured(measured)
    teacher = found.results[0] if len(found.results) > 1 else None
    return list(judge_package(budget, found.results[-1], teacher=teacher, noise=found.noise))


def unclear(verdicts: Sequence[BudgetVerdict]) -> bool:
    """Whether no line is missed, but one is too noisy to call."""
    kept = [verdict.kept for verdict in verdicts]
    return None in kept and False not in kept


def used_of(verdicts: Sequence[BudgetVerdict]) -> dict[str, float]:
    """How much of each limit is used: 1 is all; of a line that is not kept, what its interval says at the worst.

    Of a time that cannot be called because the machine was disturbed, all: nothing follows from it, be it to a narrower
    or a wider shape.
    """
    used = {}
    for verdict in verdicts:
        if verdict.kept is None and verdict.quiet_share == 0:
            used[verdict.line] = 1.0
            continue
        low, high = verdict.interval if verdict.interval and not verdict.kept else (verdict.measured, verdict.measured)
        used[verdict.line] = verdict.limit / low if verdict.line == THROUGHPUT else high / verdict.limit
    return used


def is_noisy(measured: Path) -> bool:
    """Whether the machine disturbed the measurement of the student's package so that its times settle nothing."""
    return read_measured(measured).results[-1].verdict != "steady"


def read_measured(measured: Path) -> Measurement:
    """What a turn measured."""
    verify(measured, Manifest, strict=False)
    return read_document(measured / MEASUREMENT, Measurement)
