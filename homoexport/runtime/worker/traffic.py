"""Many callers of one session: in closed loops (streams), or arriving by chance (open loop).

The open loop is the server scenario of MLPerf Inference (Reddi et al. 2020, arXiv 1911.02549): requests
arrive by a Poisson process and are served in their order; a latency counts from the arrival, so time
in the queue is part of it, and a slow answer makes no later request come later.
"""

from __future__ import annotations

import threading
import time

import numpy as np

from homoexport.runtime.worker.model import Model
from homoexport.runtime.worker.protocol import ArrivalsReply, StreamsReply


def run_streams(model: Model, streams: int, seconds: float) -> StreamsReply:
    """`streams` callers, each asking again as soon as it is answered."""
    from concurrent.futures import ThreadPoolExecutor  # here, for its memory is not the model's

    ready = threading.Barrier(streams + 1)

    def call() -> list[int]:
        ready.wait()
        end = time.perf_counter_ns() + seconds * 1e9
        samples: list[int] = []
        while not samples or time.perf_counter_ns() < end:
            samples.append(model.run_ns())
        return samples

    with ThreadPoolExecutor(streams) as pool:
        try:
            callers = [pool.submit(call) for _ in range(streams)]
        except BaseException:  # a thread that cannot be started: the others must not wait for it
            ready.abort()
            raise
        ready.wait()
        start = time.perf_counter_ns()
    wall_ns = time.perf_counter_ns() - start
    return StreamsReply([sample for caller in callers for sample in caller.result()], wall_ns)


def run_arrivals(model: Model, rate_per_s: float, requests: int, seconds: float, seed: int) -> ArrivalsReply:
    """`requests` arrivals of a Poisson process, one after the other through the session.

    The first comes at once. After `seconds` no more of them are taken, so that a rate that is too high, whose
    queue grows and grows, has an end.
    """
    gaps = np.random.default_rng(seed).exponential(1e9 / rate_per_s, requests)
    arrivals = (np.cumsum(gaps) - gaps[0]).astype(np.int64).tolist()
    latency: list[int] = []
    service: list[int] = []
    start = time.perf_counter_ns()
    for arrival in arrivals:
        if service and max(arrival, time.perf_counter_ns() - start) > seconds * 1e9:
            break
        early = start + arrival - time.perf_counter_ns()
        if early > 0:
            time.sleep(early / 1e9)
        service.append(model.run_ns())
        latency.append(time.perf_counter_ns() - start - arrival)
    return ArrivalsReply(latency, service, wall_ns=time.perf_counter_ns() - start)
