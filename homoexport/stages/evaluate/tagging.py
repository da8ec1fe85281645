"""How right a tagger is about the words that people labelled.

A word's label is the one of its first token, as in training. Labels that begin entities (IOB, IOB2, IOBES) are judged
as entities: one is right where its type and both its ends are (conlleval, Tjong Kim Sang & De Meulder 2003, section 3).

N texts, S tokens of one text, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from homoexport.errors import PackageError, TextError
from homoexport.runtime.inference import Package
from homoexport.stages.evaluate.classification import LabelCounts, f1
from homoexport.stages.evaluate.estimate import Quality, Statistic, estimate, ratio
from homoexport.stages.evaluate.examples import Examples
from homoexport.stages.evaluate.labels import label_indices

_BEGIN_OR_END = ("B", "I", "E", "S")


def tagging_qualities(model: Package, examples: Examples, *, seed: int) -> list[Quality]:
    """Accuracy over words, and of entities precision, recall and their harmonic mean, F1, over all types together; of
    labels that are no entities the mean F1 over labels. By the bootstrap over texts.

    Words beyond the model's longest text are not judged; `words_cut_off` says how many.
    """
    names = model.details.labels
    if model.details.task != "token-classification":
        raise PackageError(
            f"is for {model.details.task}",
            where=str(model.details.folder),
            hint="name a token-classification model",
        )
    assert examples.words is not None
    assert examples.word_labels is not None
    numbers = iter(_word_label_indices(examples, names))
    right = [[names[next(numbers)] for _ in labels] for labels in examples.word_labels]
    guessed = _labels_of_words(model, examples)
    judged = [(truth[: len(guess)], guess) for truth, guess in zip(right, guessed, strict=True)]
    count = sum(len(guess) for _, guess in judged)
    if not count:
        raise TextError("no word to judge", where=examples.source, hint="give some text")
    counts = {"texts": len(judged), "words": count, "words_cut_off": sum(map(len, right)) - count}
    hits = np.array([sum(map(str.__eq__, truth, guess)) for truth, guess in judged])
    words = np.array([len(guess) for _, guess in judged])
    figures: dict[str, Statistic] = {"accuracy": ratio(hits, words)}
    if any(label.partition("-")[0] in _BEGIN_OR_END and "-" in label for label in names):
        pairs = [(spans(truth), spans(guess)) for truth, guess in judged]
        found = np.array([len(truth & guess) for truth, guess in pairs])
        wanted, named = (np.array([len(pair[side]) for pair in pairs]) for side in (0, 1))
        figures["f1"] = ratio(2 * found, wanted + named)
        figures["precision"] = ratio(found, named)
        figures["recall"] = ratio(found, wanted)
    else:
        index = {name: number for number, name in enumerate(names)}
        truths, guesses = (np.array([index[name] for pair in judged for name in pair[side]]) for side in (0, 1))
        text = np.repeat(np.arange(len(judged)), words)
        figures["f1"] = lambda counts: f1(LabelCounts.of(truths, guesses, counts[text], classes=len(names)))
    return [estimate(name, of, len(judged), seed=seed, counts=counts) for name, of in figures.items()]


def check_word_labels(model: Package, examples: Examples) -> None:
    """Refuse labels of words that the tagger does not have, before it is asked."""
    _word_label_indices(examples, model.details.labels)


def _word_label_indices(examples: Examples, names: Sequence[str]) -> NDArray[np.int64]:
    """The labels of all words, one after the other, as indices of the model's."""
    labels = [label for row in examples.word_labels or () for label in row]
    return label_indices(labels, names, where=examples.source, numbered=True)


def spans(labels: Sequence[str]) -> set[tuple[str, int, int]]:
    """The entities of a text: type, first word, and the word after the last. An entity also begins where its first
    label should have been a B and is not."""
    found: set[tuple[str, int, int]] = set()
    begun: tuple[str, int] | None = None
    for place, label in enumerate([*labels, "O"]):
        prefix, _, kind = label.partition("-")
        if begun is not None and not (prefix in ("I", "E") and kind == begun[0]):
            found.add((*begun, place))
            begun = None
        if begun is None and label != "O":
            begun = (kind, place)
        if begun is not None and prefix in ("E", "S"):
            found.add((*begun, place + 1))
            begun = None
    return found


def _labels_of_words(model: Package, examples: Examples) -> list[list[str]]:
    """For each text a label for each word, of those that the model has read."""
    assert examples.words is not None
    names, guessed = model.details.labels, []
    encodings = model.tokenizer.encode_batch(list(examples.texts))
    logits = model.logits(examples.texts)
    for words, encoding, rows in zip(examples.words, encodings, logits, strict=True):
        best, labels, place, begin = rows.argmax(axis=1), [], 0, 0
        for word in words:
            end = begin + len(word)
            while place < len(encoding.offsets) and encoding.offsets[place][1] <= begin:
                place += 1
            if place == len(encoding.offsets) or encoding.offsets[place][0] >= end:
                if place == len(encoding.offsets):
                    break  # cut off
                labels.append("O" if "O" in names else names[0])  # a word of which the tokenizer makes nothing
            else:
                labels.append(names[best[place]])
            begin = end + 1
        guessed.append(labels)
    return guessed
