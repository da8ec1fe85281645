"""How well a sentence encoder finds the documents that people say answer a query.

All documents of the data are searched by cosine, each text once. Before queries and documents stand the model's prompts
of the names that sentence-transformers' `encode_query` and `encode_document` look for.

Q queries, B of them at a time, N documents, D width of a vector, K ten.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homoexport.errors import TextError
from homoexport.runtime.inference import Package
from homoexport.runtime.vectors import unit_vectors
from homoexport.stages.evaluate.estimate import FloatArray, Quality, estimate, mean, ratio
from homoexport.stages.evaluate.examples import Examples
from homoexport.stages.evaluate.retrieval import K, check_widths, discounted_gain

_OF_QUERIES, _OF_DOCUMENTS = ("query",), ("document", "passage", "corpus")  # names of prompts
_TIE = 1e-6  # cosines this near are the same: the rest is how a batch was rounded
_SCORES_AT_ONCE = 1 << 22  # 32 MB


class Search:
    """Queries and what they should find, among the vectors of `documents`; by default of each model's own.

    Several rows of a query are several relevant documents. Labels, where there are some, say how relevant each is: the
    highest of the same pair's. One of 0 or less is searched, and not to be found, and so is one without a query.

    Raises:
        TextError: labels that are no numbers, or nothing to find.
    """

    def __init__(self, examples: Examples, *, documents: Package | None = None) -> None:
        self._queries, self._documents, self._worths = _rows_of(examples)
        self._index = self._own = None
        if documents is not None:
            self._index = embed_documents(documents, self._documents)
            self._own = self._figures(embed_queries(documents, self._queries), self._index)["ndcg@10"]

    def qualities(self, model: Package, *, seed: int) -> list[Quality]:
        """nDCG, MRR and recall of the first ten documents found, by the bootstrap over queries.

        `ndcg@10` (Järvelin & Kekäläinen 2002): labels are gains, else each relevant document is worth 1. `mrr@10`: 1
        over the place of the first relevant document, 0 beyond the tenth. `recall@10`: the share of the relevant
        documents. `ndcg@10_kept`, where another model embedded the documents: the share of that model's own nDCG, in
        every resample of the same queries.
        """
        queries = embed_queries(model, self._queries)
        documents = embed_documents(model, self._documents) if self._index is None else self._index
        check_widths(model, queries, documents)
        found = self._figures(queries, documents)
        statistics = {name: mean(values) for name, values in found.items()}
        if self._own is not None:
            statistics["ndcg@10_kept"] = ratio(found["ndcg@10"], self._own)
        counts = {"queries": len(queries), "documents": len(documents)}
        return [estimate(name, of, len(queries), seed=seed, counts=counts) for name, of in statistics.items()]

    def _figures(self, queries: NDArray[Any], documents: NDArray[Any]) -> dict[str, FloatArray]:
        """Each query's, [Q], of queries [Q, D] and documents [N, D]."""
        ideal = np.zeros((len(queries), K))
        for row, worths in zip(ideal, self._worths, strict=True):
            best = sorted(worths.values(), reverse=True)[:K]
            row[: len(best)] = best
        gained = self._gained(unit_vectors(queries), unit_vectors(documents), ideal[:, 0])
        hits = gained > 0
        return {
            "ndcg@10": discounted_gain(gained) / discounted_gain(ideal),
            "mrr@10": hits.any(axis=1) / (1 + hits.argmax(axis=1)),
            "recall@10": hits.sum(axis=1) / np.array([len(worths) for worths in self._worths]),
        }

    def _gained(self, queries: FloatArray, documents: FloatArray, best: FloatArray) -> FloatArray:
        """What the first K documents are worth to each query, [Q, K]; `best`, [Q], is the most that one is.

        Of documents with the same score those that are worth less come first: nothing is found by being the same.
        """
        at_once, found = max(1, _SCORES_AT_ONCE // len(documents)), []
        for start in range(0, len(queries), at_once):
            taken = slice(start, start + at_once)
            worth = np.zeros((len(queries[taken]), len(documents)))  # [B, N]
            for row, worths in zip(worth, self._worths[taken], strict=True):
                row[list(worths)] = list(worths.values())
            scores = queries[taken] @ documents.T - _TIE * worth / best[taken, None]
            first = np.argpartition(-scores, min(K, len(documents)) - 1, axis=1)[:, :K]
            order = np.argsort(-np.take_along_axis(scores, first, axis=1), axis=1)
            found.append(np.take_along_axis(worth, np.take_along_axis(first, order, axis=1), axis=1))
        return np.concatenate(found)


def embed_queries(model: Package, texts: Sequence[str]) -> NDArray[np.float32]:
    """[Q, D]"""
    return model.embed(texts, prompt=_prompt_of(model, _OF_QUERIES))


def embed_documents(model: Package, texts: Sequence[str]) -> NDArray[np.float32]:
    """[N, D]"""
    return model.embed(texts, prompt=_prompt_of(model, _OF_DOCUMENTS))


def _prompt_of(model: Package, names: Sequence[str]) -> str | None:
    """The first of the names that the model has a prompt under, an empty one where there is no other; None: its own.

    sentence-transformers writes an empty "document" beside the "passage" that a model was trained with.
    """
    texts = {} if model.details.prompts is None else model.details.prompts.texts
    known = [name for name in names if name in texts]
    return next((name for name in known if texts[name]), known[0] if known else None)


def check_searched(examples: Examples) -> None:
    """Refuse (TextError) what `Search` does, and one document alone."""
    _, documents, _ = _rows_of(examples)
    if len(documents) < 2:
        hint = "give several, for some to be found among the others"
        raise TextError("has one document, which every query finds", where=examples.source, hint=hint)


def _rows_of(examples: Examples) -> tuple[list[str], list[str], list[dict[int, float]]]:
    """The queries that have something to find, all documents, and what these are worth to each query, by number."""
    pairs = [text for text in examples.texts if not isinstance(text, str)]
    worths = [1.0] * len(pairs) if examples.labels is None else examples.numbers()
    documents = {document: number for number, document in enumerate(dict.fromkeys(pair[1] for pair in pairs))}
    wanted: dict[str, dict[int, float]] = {}
    for (query, document), worth in zip(pairs, worths, strict=True):
        if query and worth > 0:
            known, number = wanted.setdefault(query, {}), documents[document]
            known[number] = max(worth, known.get(number, 0.0))
    if not any(query for query, _ in pairs):
        raise TextError("has no query", where=examples.source, hint="name another --text-column")
    if not wanted:
        hint = "name the column of relevance, above 0 where it is relevant, with --label-column"
        raise TextError("says of no document that it is relevant", where=examples.source, hint=hint)
    return list(wanted), list(documents), list(wanted.values())
