"""Figures, conditions and verdicts in words: three digits that count, a unit, an interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.text import Text

from homoexport.choices import OTHER_RUNTIMES, TOO_CLOSE, TOO_NOISY, Runtime, Side
from homoexport.documents.budget import DOWNLOAD, QUALITY_LINE, BudgetVerdict, is_kept
from homoexport.documents.measurement import Change, Measurement
from homoexport.documents.recipe import MeasureSettings
from homoexport.documents.summary import MeasuredConditions
from homoexport.host import HostDescription

_LINES = {
    "latency_p50_ms": ("Latency p50", "ms"),
    "latency_p95_ms": ("Latency p95", "ms"),
    "latency_p99_ms": ("Latency p99", "ms"),
    "throughput_per_s": ("Throughput", "/s"),
    "file_mb": ("File", "MB"),
    DOWNLOAD: ("Download", "MB"),
    "peak_rss_mb": ("Peak memory", "MB"),
    "parameters": ("Parameters", ""),
}
_STYLES = {True: "green", False: "bold red", None: "yellow"}
_METRICS = {
    "overlap@10": (
        "teacher's search kept (overlap@10)",
        "the share of the teacher's ten nearest that are among the ten nearest found, where each held-out text is a "
        "query and all others are searched: 1 at best",
    ),
    "similarity_spearman": (
        "Spearman with teacher",
        "Spearman's correlation of the cosine similarities of all pairs of held-out texts with the teacher's: "
        "fidelity to the teacher, 1 at best",
    ),
    "label_agreement": (
        "labels as the teacher's",
        "the share of held-out texts (of their tokens, for a tagger) that get the teacher's label: 1 at best",
    ),
    "score_spearman": (
        "Spearman with teacher's scores",
        "Spearman's correlation of the scores of held-out texts with the teacher's: 1 at best",
    ),
    "loss": (
        "masked-LM loss, lower is better",
        "the cross-entropy at masked tokens of held-out text, in nats: lower is better, and the teacher's is the mark",
    ),
}
FIDELITY = frozenset((*_METRICS, "mean_cosine"))
LESS_IS_BETTER = frozenset(("loss", "perplexity"))  # of metrics


def in_runtime(precision: str, runtime: Runtime) -> str:
    """A precision, and the runtime where it is another than ONNX Runtime.

    >>> in_runtime("int8", "onnxruntime"), in_runtime("int8", "openvino")
    ('int8', 'int8 in OpenVINO')
    """
    return f"{precision} in {OTHER_RUNTIMES[runtime]}" if runtime in OTHER_RUNTIMES else precision


def number(value: float) -> str:
    """Three significant digits without an exponent; all digits of the whole part.

    >>> number(1234.5), number(17.26), number(0.01234), number(0)
    ('1,234', '17.3', '0.0123', '0')
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    # Rounded first: 9.999 is 10.0, not 10.00.
    digits = max(0, 2 - math.floor(math.log10(abs(float(f"{value:.3g}")))))
    return f"{value:,.{digits}f}"


def quantity(value: float, unit: str, interval: Sequence[float] | None = None) -> str:
    """A figure with its unit and, where it has one, its interval.

    >>> quantity(17.26, "ms", (17.0, 17.5))
    '17.3 ms (17.0 to 17.5)'
    """
    told = f"{number(value)} {unit}".rstrip()
    if interval is None or interval[0] == interval[1]:
        return told
    return f"{told} ({number(interval[0])} to {number(interval[1])})"


def parameters(count: int) -> str:
    """Parameters in millions, or in thousands where there are fewer."""
    return quantity(count / 1e6, "M") if count >= 1e6 else quantity(count / 1e3, "k")


def megabytes(count: int) -> str:
    """Bytes in megabytes of 10**6 bytes."""
    return quantity(count / 1e6, "MB")


def ratio(value: float, better: str, worse: str, interval: Sequence[float] | None = None) -> str:
    """How many times better (or, below 1, worse) something is; no claim where its interval holds 1.

    >>> ratio(4.31, "faster", "slower", (4.1, 4.5)), ratio(0.5, "smaller", "bigger")
    ('4.31x faster (4.10 to 4.50)', '2.00x bigger')
    """
    if interval is not None and interval[0] < 1 < interval[1]:
        return f"{quantity(value, 'x', interval)}, no clear difference".replace(" x", "x", 1)
    if value < 1:
        return ratio(1 / value, worse, better, None if interval is None else (1 / interval[1], 1 / interval[0]))
    return quantity(value, f"x {better}", interval).replace(" x", "x", 1)


def is_fidelity(verdict: BudgetVerdict) -> bool:
    """Whether a quality is likeness to the teacher on unlabelled text, which is not quality on a task."""
    return verdict.line.removeprefix(QUALITY_LINE).partition(",")[0] in FIDELITY


def metric(name: str, documents: Side = "student") -> tuple[str, str]:
    """What a quality metric is called, and what it says; of a search, whose `documents` the student searches."""
    called, says = _METRICS.get(name, (name, f"'{name}' on held-out text"))
    if documents == "teacher":
        return f"{called}, in the teacher's index", f"{says}; the student's queries search the teacher's vectors"
    return called, says


def budget_line(line: str) -> tuple[str, str]:
    """The name and the unit of a line of the budget."""
    if line.startswith(QUALITY_LINE):
        return f"Quality ({line.removeprefix(QUALITY_LINE)})", ""
    return _LINES[line]


def label(verdict: BudgetVerdict) -> str:
    """What a line of the budget is called; of a quality with what it was judged on."""
    if not verdict.is_quality:
        return budget_line(verdict.line)[0]
    return f"Quality ({quality_name(verdict)})"


def quality_name(verdict: BudgetVerdict) -> str:
    """The metric of a floor, and what it was judged on: `accuracy, sst2 dev`."""
    return ", ".join(filter(None, [verdict.line.removeprefix(QUALITY_LINE), verdict.data]))


def limit(verdict: BudgetVerdict) -> str:
    """The limit of a line of the budget, from above or below, and where it comes from: `at most 3x = 15.4 ms`."""
    unit = budget_line(verdict.line)[1]
    figure = quantity(verdict.limit, unit)
    if verdict.asked is not None and verdict.teacher is not None:
        asked = verdict.asked.replace(" ", "")
        of = f"{asked.removesuffix('%')} % of {quantity(verdict.teacher, unit)}" if asked.endswith("%") else asked
        figure = f"{of} = {figure}"
    return f"at {'least' if verdict.at_least else 'most'} {figure}"


def measured(verdict: BudgetVerdict) -> str:
    """What was measured for a line of the budget, with the interval that the verdict was made by, and on how much."""
    figure = quantity(verdict.measured, budget_line(verdict.line)[1], verdict.interval)
    if verdict.share_interval is not None and verdict.teacher is not None:
        return f"{number(verdict.measured)}, {share_kept(verdict)} of the teacher's {number(verdict.teacher)}"
    if verdict.quiet_share == 1:
        return figure
    if verdict.quiet_share == 0:
        return f"{figure}, while other work ran"
    return f"{figure} in the {100 * verdict.quiet_share:.0f} % of rounds that were quiet"


def share_kept(verdict: BudgetVerdict) -> str:
    """The share of the teacher's quality that is kept, with its interval where the verdict was made by that one."""
    assert verdict.teacher is not None
    share, *ends = (
        f"{100 * each:.1f}" for each in (verdict.measured / verdict.teacher, *(verdict.share_interval or ()))
    )
    return f"{share} % ({' to '.join(ends)})" if ends else f"{share} %"


def judgement(kept: bool | None) -> str:
    """A verdict in words: `kept`, `missed` or `too noisy to call`."""
    return {True: "kept", False: "missed", None: TOO_NOISY}[kept]


def verdict_word(*verdicts: BudgetVerdict) -> str:
    """The same of lines: a quality does not depend on the machine's noise, and may be too close to its floor."""
    kept, unclear = is_kept(verdicts), [verdict for verdict in verdicts if verdict.kept is None]
    return TOO_CLOSE if kept is None and all(verdict.is_quality for verdict in unclear) else judgement(kept)


def verdict_lines(verdicts: Sequence[BudgetVerdict]) -> list[Text]:
    """One line for each line of the budget; `str(line)` is the plain text of it."""
    lines = []
    for verdict in verdicts:
        comma = "," if verdict.quiet_share == 0 else ""
        text = Text(f"{label(verdict)}: {measured(verdict)}{comma} of {limit(verdict).removeprefix('at most ')}: ")
        lines.append(text.append(verdict_word(verdict), style=_STYLES[verdict.kept]))
    return lines


def conditions(measured: Measurement | MeasuredConditions | Change | MeasureSettings, *, emulated: bool = False) -> str:
    """Device, threads and input shape, in words."""
    where = f"{measured.device}{' (emulated)' if emulated or getattr(measured, 'emulated', False) else ''}"
    threads = f"{measured.threads or 'all'} thread{'' if measured.threads == 1 else 's'}"
    return f"{where}, {threads}, {measured.batch_size} x {measured.length} tokens"


def host_line(host: HostDescription) -> str:
    """A machine in one line."""
    return (
        f"Host: {host.cpu} ({', '.join([host.architecture, *host.instruction_sets])}), {host.available_cores} of "
        f"{host.cores} cores, {number(host.memory_mb / 1000)} GB, {host.system}."
    )


def versions_line(versions: Mapping[str, str]) -> str:
    """Libraries with their versions, in one line."""
    return f"Versions: {', '.join(f'{name} {version}' for name, version in versions.items())}."
