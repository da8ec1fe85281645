"""What an export made, in a few lines for a person."""

from __future__ import annotations

from matplotlib.figure import Figure

from homoexport.choices import OTHER_RUNTIMES, ModelTask
from homoexport.documents.artifact import PackageManifest
from homoexport.documents.package import BrowserChoice, CandidateFigures, PackageDetails, Parity
from homoexport.report.plots import bars_figure
from homoexport.report.table import Table
from homoexport.schemes import SCHEMES

# Of a model for a task, what its likeliest answer is.
_LIKELIEST: dict[ModelTask, str] = {
    "fill-mask": "token",
    "text-classification": "label",
    "token-classification": "label of a token",
}


def export_lines(folder: str, manifest: PackageManifest) -> list[str]:
    """The package in a folder, why it is what it is, and what its user should know."""
    details = manifest.details
    size = manifest.files[details.model_file].bytes
    parity = details.parity
    mean, least = f"{parity.mean_cosine:.4f}", f"{parity.min_cosine:.4f}"
    cosine = mean if mean == least else f"{mean} mean, {least} least"
    agreement = parity.top1_agreement
    labels = "" if agreement is None else f", likeliest {_LIKELIEST[details.task]} the same in {agreement:.1%}"
    follows_batch = SCHEMES[details.scheme].follows_batch
    lines = [
        f"Package: {folder}  {details.precision}, {size / 1e6:.2f} MB ({details.graph} graph, {details.scheme})",
        f"Against torch, on {parity.output}: cosine {cosine}{labels}",
        f"The same text alone and in a batch: largest difference {details.difference_in_company}"
        + ("; --quantize int8-static does not depend on the batch" if follows_batch else ""),
    ]
    if timed := details.timed_at:
        how = "Timed" if timed.unit == "ms" else "Instructions counted, for its times are an emulator's,"
        lines.append(f"{how} on {timed.device} with {timed.batch_size} x {timed.length} tokens")
    lines += [] if details.browser is None else _browser_lines(details.browser)
    for runtime, beside in details.beside.items():
        latencies = (beside.precision, beside.latency_p50_ms), (details.precision, beside.onnx_latency_p50_ms)
        times = " against ".join(
            f"{precision} {'too large to be timed' if one is None else f'{one:.3f} ms'}" for precision, one in latencies
        )
        lines += [
            f"For {OTHER_RUNTIMES[runtime]}: {beside.file}  {beside.precision}, {beside.file_bytes / 1e6:.2f} MB, "
            f"cosine {beside.parity.mean_cosine:.4f} mean, {beside.parity.min_cosine:.4f} least",
            f"{OTHER_RUNTIMES[runtime]} in turns with the ONNX file: {times}",
        ]
    lines += [f"Kept in fp32, for they break the gate: {', '.join(kept)}"] if (kept := details.kept_in_fp32) else []
    lines += [f"Not {name}: {reason}" for name, reason in details.refused.items()]
    lines += [f"Left out {name}: {reason}" for name, reason in details.left_out.items()]
    return lines


def _browser_lines(browser: BrowserChoice) -> list[str]:
    """How a page is to run the package, what that was chosen from, and what was not tried."""
    lines = [f"In the browser: {browser.provider}, {_threads(browser.threads)}"]
    if len(browser.runs) > 1:
        figures = [
            f"{run.provider} {run.candidate} with {_threads(run.threads)} "
            + ("does not fit" if run.latency_p50_ms is None else f"{run.latency_p50_ms:.3f} ms")
            for run in browser.runs
        ]
        lines.append(f"Timed there in turns: {'; '.join(figures)}")
    return lines + [f"Not tried: {provider} ({reason})" for provider, reason in browser.not_tried.items()]


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def candidate_table(details: PackageDetails) -> Table:
    """Every candidate of an export with its figures and what became of it; a dash where a figure was not asked for.

    Those of one round were timed in turns, or their instructions counted, so only they compare.
    """
    rows = [
        (
            name,
            f"{candidate.file_bytes / 1e6:.2f}",
            str(candidate.round or "-"),
            _cost(candidate, counted=details.counted),
            "-" if candidate.parity is None else f"{candidate.parity.mean_cosine:.5f}",
            outcome,
        )
        for name, candidate, outcome in zip(
            details.candidate_names, details.candidates, _outcomes(details), strict=True
        )
    ]
    head = ("candidate", "MB", "round", "M instructions" if details.counted else "p50 ms", "cosine, mean", "outcome")
    provider = "" if details.browser is None else f"{details.browser.provider} "
    bold = () if details.shipped is None else (details.shipped,)
    return Table(head, rows, f"Candidates, chosen: {provider}{details.candidate}", left=(0, 5), bold=bold)


def _outcomes(details: PackageDetails) -> list[str]:
    """What became of each candidate: it ships, or why it does not, or that its form went on into the next round."""
    shipped = None if details.shipped is None else details.candidates[details.shipped]
    costs = [_figure(one, counted=details.counted) for one in details.candidates]

    def round_of(one: CandidateFigures) -> tuple[str | None, int | None]:
        return one.provider, one.round

    def told(one: CandidateFigures, cost: float | None) -> str:
        if one is shipped:
            return "ships"
        if any(parity is not None and not parity.passed for parity in (one.parity, one.parity_on_target)):
            return "breaks the gate"
        names = one.name, f"{one.provider} {one.name}"
        if any(name in details.quality and details.quality[name].kept is not True for name in names):
            return "below the floor"
        if cost is None:
            return "not timed"
        if shipped is not None and round_of(one) == round_of(shipped):
            return _against(one, shipped, details)
        others = zip(details.candidates, costs, strict=True)
        least = min(other for each, other in others if other is not None and round_of(each) == round_of(one))
        return "went on" if cost == least else "costs more"

    return [told(one, cost) for one, cost in zip(details.candidates, costs, strict=True)]


def _against(one: CandidateFigures, shipped: CandidateFigures, details: PackageDetails) -> str:
    """Why one does not ship that is as right as what does, both of one round."""
    if details.refused.get(one.name, "").startswith("was not asked for"):
        return "not asked for"
    ours, theirs = (_figure(each, counted=details.counted) for each in (one, shipped))
    is_dearer = ours is not None and theirs is not None and ours > theirs
    return "costs more" if is_dearer else "as fast, larger"


def _cost(candidate: CandidateFigures, *, counted: bool) -> str:
    cost = _figure(candidate, counted=counted)
    return "-" if cost is None else f"{cost:.{2 if counted else 3}f}"


def _figure(candidate: CandidateFigures, *, counted: bool) -> float | None:
    """Milliseconds, or millions of instructions."""
    if counted:
        return None if candidate.instructions is None else candidate.instructions / 1e6
    return candidate.latency_p50_ms


def candidates_figure(details: PackageDetails) -> Figure | None:
    """A bar for each candidate that was timed, or whose instructions were counted; None of fewer than two.

    What ships is marked, in the last round that it was in.
    """
    costs: dict[str, float] = {}
    marked = None
    for place, (name, candidate) in enumerate(zip(details.candidate_names, details.candidates, strict=True)):
        cost = _figure(candidate, counted=details.counted)
        if cost is None:
            continue
        label = name.replace(", ", "\n", 1)  # what tells it from others stands below
        costs[label] = cost
        if place == details.shipped:
            marked = label
    if len(costs) < 2:
        return None
    unit = "M instructions" if details.counted else "ms"
    return bars_figure(costs, unit=unit, title="Candidates, in the order of the rounds", marked=marked)


def parity_table(details: PackageDetails) -> Table:
    """The parity ladder: how far each graph's answers are from torch's, on text; on the target, too, where asked."""
    rungs: list[tuple[str, Parity]] = []
    for name, candidate in zip(details.candidate_names, details.candidates, strict=True):
        asked = {"": candidate.parity, f", on {details.held_on}": candidate.parity_on_target}
        rungs += [(f"{name}{where}", parity) for where, parity in asked.items() if parity is not None]
    chosen = (f"{details.candidate}, as shipped", details.parity)
    rows = [
        (
            name,
            _difference(parity),
            f"{parity.min_cosine:.4f}",
            f"{parity.mean_cosine:.4f}",
            "" if parity.top1_agreement is None else f"{parity.top1_agreement:.1%}",
            "passed" if parity.passed else "broken",
        )
        for name, parity in [*rungs, chosen]
    ]
    head = ("Graph", "Largest difference", "Cosine, least", "Cosine, mean", "Same answer", "Gate")
    return Table(head, rows).filled()


def _difference(parity: Parity) -> str:
    """The largest one, and what share it is of the largest value."""
    if parity.max_difference is None or parity.max_relative_difference is None:
        return "not finite"
    return f"{parity.max_difference:.2g} ({parity.max_relative_difference:.2g})"
