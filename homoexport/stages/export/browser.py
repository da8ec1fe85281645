"""The measured choice in a browser: the provider of onnxruntime-web and its threads, beside form and scheme.

What is fast and right in WebAssembly need not be so on a GPU, so every provider has a choice of its own
(`stages.export.choose`), with the threads that are fastest for the first form that runs there. The best of each are
timed in turns, with every number of threads, and the fastest ships.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from homoexport.choices import BrowserProvider, EmbeddingPrecision, GraphChoice, Quantization, Scheme
from homoexport.documents.package import BrowserChoice, BrowserRun
from homoexport.errors import ParityError
from homoexport.stages.export.candidates import Maker
from homoexport.stages.export.choose import TIE, Choice, Judge, below_the_floor, choose
from homoexport.stages.export.forms import forms_of
from homoexport.stages.export.parity import Answer

T = TypeVar("T")


@dataclass(frozen=True)
class Browser:
    """A browser as a target.

    Attributes:
        answers: what runs a file in each provider.
        race: milliseconds of files, each in a provider and with threads, all timed in turns; infinity where one does
            not fit into memory.
        threads: the numbers to choose from, ascending.
        not_tried: why a provider is not among them, by its name.
    """

    answers: Mapping[BrowserProvider, Answer]
    race: Callable[[Sequence[tuple[Path, BrowserProvider, int]]], Sequence[float]]
    threads: Sequence[int]
    not_tried: Mapping[str, str]


@dataclass(frozen=True)
class _Entry:
    """The best of a provider, with so many threads, and its median in milliseconds."""

    provider: BrowserProvider
    threads: int
    choice: Choice
    latency_ms: float

    @property
    def quality(self) -> float:
        """What a floor was held against; infinity where it is kept, or there is none."""
        verdict = self.choice.quality.get(self.choice.chosen.name)
        return math.inf if verdict is None or verdict.kept else verdict.measured


def choose_in_browser(
    maker: Maker,
    browser: Browser,
    *,
    quantize: Quantization,
    schemes: Mapping[Scheme, EmbeddingPrecision],
    graph: GraphChoice = "auto",
    judge: Judge | None = None,
) -> tuple[Maker, Choice, BrowserChoice]:
    """What ships, with its maker, and how a page is to run it; arguments are those of `choose`.

    Raises:
        ParityError: in no provider anything that was asked for answers as the model does.
    """
    makers, choices = dict[BrowserProvider, Maker](), dict[BrowserProvider, Choice]()
    broken: dict[BrowserProvider, ParityError] = {}
    for provider, answer in browser.answers.items():
        maker.progress(f"choosing in {provider}")
        own = maker.in_provider(provider, answer)
        # Forms are timed in the first: kernels for int8 are WebAssembly's alone, and not every GPU has fp16.
        ordered = dict(sorted(schemes.items(), key=lambda item: provider == "webgpu" and item[0] != "fp32"))
        own.threads = _best_threads(own, browser, provider, graph, *next(iter(ordered.items())))
        rank = partial(_rank, browser=browser, provider=provider, threads=own.threads)
        try:
            choices[provider] = choose(own, quantize=quantize, schemes=ordered, rank=rank, graph=graph, judge=judge)
            makers[provider] = own
        except ParityError as error:
            broken[provider] = error
    if not choices:
        raise next(iter(broken.values()))
    entries = _timed(maker, browser, choices)
    best = _best(entries)
    several = len(browser.answers) > 1
    refused = _named({provider: one.refused for provider, one in choices.items()}, several=several)
    choice = Choice(
        chosen=best.choice.chosen,
        candidates=tuple(candidate for one in choices.values() for candidate in one.candidates),
        refused=refused | _refusals(entries, best),
        quality=_named({provider: one.quality for provider, one in choices.items()}, several=several),
    )
    own = makers[best.provider]
    own.left_out = _named({provider: one.left_out for provider, one in makers.items()}, several=several)
    own.left_out |= {provider: str(error) for provider, error in broken.items()}
    runs = tuple(
        BrowserRun(
            provider=entry.provider,
            threads=entry.threads,
            candidate=entry.choice.chosen.full_name,
            file_bytes=entry.choice.chosen.file_bytes,
            latency_p50_ms=entry.latency_ms if math.isfinite(entry.latency_ms) else None,
        )
        for entry in entries
    )
    found = BrowserChoice(provider=best.provider, threads=best.threads, runs=runs, not_tried=dict(browser.not_tried))
    return own, choice, found


def _rank(files: Sequence[Path], *, browser: Browser, provider: BrowserProvider, threads: int) -> Sequence[float]:
    return browser.race([(file, provider, threads) for file in files])


def _best_threads(
    maker: Maker,
    browser: Browser,
    provider: BrowserProvider,
    graph: GraphChoice,
    scheme: Scheme,
    embeddings: EmbeddingPrecision,
) -> int:
    """The number of threads that is fastest for the first form that runs there in a scheme; if none does, the least."""
    for form in forms_of(graph) if len(browser.threads) > 1 else ():
        written = maker.write(form)
        made = maker.quantize(form, scheme, embeddings) if written is not None and written.sound else None
        if made is not None and maker.runs_there(made):
            maker.progress("measuring threads")
            costs = browser.race([(made.file, provider, threads) for threads in browser.threads])
            maker.discard(made)
            alike = zip(browser.threads, costs, strict=True)
            return next(threads for threads, cost in alike if cost <= TIE * min(costs))
    return browser.threads[0]


def _timed(maker: Maker, browser: Browser, choices: Mapping[BrowserProvider, Choice]) -> list[_Entry]:
    """The best of each provider with each number of threads, timed in turns where there is more than one."""
    asked = [(provider, threads) for provider in choices for threads in browser.threads]
    latencies: Sequence[float] = [math.inf]
    if len(asked) > 1:
        maker.progress("measuring providers and threads")
        latencies = browser.race([(choices[provider].chosen.file, provider, threads) for provider, threads in asked])
    return [
        _Entry(provider, threads, choices[provider], latency)
        for (provider, threads), latency in zip(asked, latencies, strict=True)
    ]


def _best(entries: Sequence[_Entry]) -> _Entry:
    """Of those that keep the floor, else of the best quality, the fastest; of those within the noise of it the smallest
    file, WebAssembly, and the fewest threads."""
    highest = max(entry.quality for entry in entries)
    good = [entry for entry in entries if entry.quality == highest]
    limit = TIE * min(entry.latency_ms for entry in good)
    alike = [entry for entry in good if entry.latency_ms <= limit]
    return min(alike, key=lambda entry: entry.choice.chosen.file_bytes)


def _named(found: Mapping[BrowserProvider, Mapping[str, T]], *, several: bool) -> dict[str, T]:
    """What is said of candidates by their names, which have the provider's before them where there are several."""
    return {
        f"{provider} {name}" if several else name: said
        for provider, names in found.items()
        for name, said in names.items()
    }


def _refusals(entries: Sequence[_Entry], best: _Entry) -> dict[str, str]:
    """Why the best of the other providers does not ship, at its fastest."""
    refused = {}
    for provider in {entry.provider: None for entry in entries if entry.provider != best.provider}:
        other = min((entry for entry in entries if entry.provider == provider), key=lambda entry: entry.latency_ms)
        name, shipped = f"{provider} {other.choice.chosen.name}", f"{best.provider} {best.choice.chosen.name}"
        if not math.isfinite(other.latency_ms):
            refused[name] = "does not fit into the browser's memory"
        elif other.quality < best.quality:
            refused[name] = below_the_floor(other.choice.quality[other.choice.chosen.name])
        else:
            ratio = other.latency_ms / best.latency_ms
            times = f"{other.latency_ms:.3f} ms against {best.latency_ms:.3f} ms"
            refused[name] = f"takes {ratio:.2f} times as long as {shipped} ({times})"
    return refused
