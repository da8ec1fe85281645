"""A package's figures, out of what its worker answered."""

from __future__ import annotations

import numpy as np

from homoexport.choices import TOO_NOISY, Steadiness
from homoexport.documents.measurement import Noise, PackageFigures
from homoexport.runtime.inference import PackageInfo
from homoexport.stages.measure import extras as besides
from homoexport.stages.measure.counting import instructions_of
from homoexport.stages.measure.extras import Extras
from homoexport.stages.measure.intervals import MARGIN, drift, percentile_intervals
from homoexport.stages.measure.noise import is_disturbed
from homoexport.stages.measure.there import agreement
from homoexport.stages.measure.timing import Progress, Running, Session

PERCENTS = (50, 90, 95, 99)
MB = 10**6


def package_figures(
    details: PackageInfo, one: Running, session: Session, extras: Extras, report: Progress, *, noise: Noise | None
) -> PackageFigures:
    """What a document keeps of a package that was timed, and of what is measured of it afterwards."""
    subject, workload, rounds_ms = one.subject, session.workload, one.rounds_ms
    peak_bytes = one.peak_bytes  # before anything but the timed runs takes some
    samples_ms = rounds_ms.ravel()
    p50, p90, p95, p99 = map(float, np.percentile(samples_ms, PERCENTS))
    p50_interval, p95_interval, p99_interval = percentile_intervals(rounds_ms, (50, 95, 99))
    drifted, disturbed = drift(rounds_ms), one.disturbed_rounds
    is_steady = not session.target.emulated and not is_disturbed(noise, rounds=len(rounds_ms), disturbed=disturbed)
    post_ms = session.fitting(subject, "post-processing", lambda: besides.post_processing_ms(one, details))
    streams = session.fitting(subject, "streams", lambda: besides.stream_figures(one, workload, extras.streams, report))
    arrivals = session.fitting(
        subject,
        "arrivals",
        lambda: besides.open_loop(one, extras, report, closed_p50_ms=p50, closed_p95_ms=p95),
    )
    counted = session.fitting(subject, "instructions", lambda: instructions_of(one.worker, batches=one.batches))
    # It leaves a batch of its own in the worker, so it comes after all that is of the workload.
    agreed = session.fitting(subject, "agreement", lambda: agreement(one, precision=details.precision))
    return PackageFigures(
        package=str(details.folder),
        name=details.folder.resolve().name,
        task=details.task,
        precision=details.precision,
        runtime=details.runtime,
        parameters=details.parameters,
        file_bytes=details.file_bytes,
        load_ms=one.load.load_ns / 1e6,
        first_inference_ms=one.warm_up.first_inference_ns / 1e6,
        latency_p50_ms=p50,
        latency_p90_ms=p90,
        latency_p95_ms=p95,
        latency_p99_ms=p99,
        latency_mean_ms=float(samples_ms.mean()),
        latency_std_ms=float(samples_ms.std()),
        latency_p50_interval_ms=p50_interval,
        latency_p95_interval_ms=p95_interval,
        latency_p99_interval_ms=p99_interval,
        throughput_per_s=float(workload.batch_size * 1000 / samples_ms.mean()),
        drift=drifted,
        verdict=_steadiness(p50, p50_interval, drifted) if is_steady else TOO_NOISY,
        tokenize_p50_ms=session.fitting(subject, "tokenizing", lambda: besides.tokenizing_ms(one, details, workload)),
        post_p50_ms=post_ms,
        energy_mj=one.energy_mj,
        peak_rss_mb=peak_bytes / MB,
        runtime_rss_mb=one.runtime_rss_bytes / MB,
        arena=besides.arena_steps(one, workload, extras.arena_batches, report),
        streams=streams or (),
        open_loop=arrivals,
        agreement=agreed,
        download_bytes=one.load.download_bytes,
        time_to_first_result_ms=one.warm_up.time_to_first_result_ms,
        instructions=counted,
        warmup_runs=one.warm_up.runs,
        warmup_steady=one.warm_up.steady,
        runs=samples_ms.size,
        runs_per_round=rounds_ms.shape[1],
        samples_ms=tuple(samples_ms.tolist()),
        elsewhere=one.load.elsewhere,
        package_download_bytes=details.download_bytes,
        runtime_download_bytes=one.load.runtime_bytes,
        disturbed_rounds=disturbed,
    )


def _steadiness(p50_ms: float, interval_ms: tuple[float, float], drifted: float) -> Steadiness:
    wide = max(interval_ms[1] / p50_ms, p50_ms / interval_ms[0]) > 1 + MARGIN
    return TOO_NOISY if wide or abs(drifted) > MARGIN else "steady"
