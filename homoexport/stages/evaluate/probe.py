"""Frozen-encoder probes: a linear classifier on a model's vectors, for a quick look instead of fine-tuning.

As in SentEval (Conneau & Kiela 2018): logistic regression; of pairs, on both vectors, their distance and their product.

N texts, D width of a vector, C labels.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from homoexport.errors import TextError
from homoexport.runtime.inference import Package
from homoexport.stages.evaluate.classification import classification_qualities
from homoexport.stages.evaluate.estimate import Quality
from homoexport.stages.evaluate.examples import Examples
from homoexport.stages.evaluate.labels import label_indices, names_of

MAX_TRAIN = 5000  # a quarter of a minute for a small encoder


def probe_qualities(model: Package, examples: Examples, train: Examples, *, seed: int) -> list[Quality]:
    """Figures of a linear classifier on the model's vectors, trained on at most `MAX_TRAIN` examples.

    Raises:
        TextError: training examples that lack a label.
        PackageError: the model gives no vectors.
    """
    # Imported here: scikit-learn takes a second, and nothing else needs it.
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    assert examples.labels is not None
    names = train.names or names_of(train.labels or ())
    right = label_indices(examples.labels, names, where=examples.source)
    drawn = train.drawn(MAX_TRAIN, seed)
    assert drawn.labels is not None
    labels = label_indices(drawn.labels, names, where=train.source)
    if len(np.unique(labels)) < len(names):
        raise TextError(
            f"the {len(labels)} examples to train on lack some of the labels {', '.join(names)}", where=train.source
        )
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(_features(model, drawn), labels)
    log_probabilities = classifier.predict_log_proba(_features(model, examples))  # [N, C]
    found = classification_qualities(log_probabilities, right, seed=seed)
    return [replace(each, counts={**each.counts, "probe_trained_on": len(labels)}) for each in found]


def _features(model: Package, examples: Examples) -> NDArray[np.float32]:
    """[N, D], or [N, 4 D] of pairs."""
    if isinstance(examples.texts[0], str):
        return model.embed(examples.texts)
    left, right = (model.embed([text[side] for text in examples.texts]) for side in (0, 1))
    features: NDArray[np.float32] = np.concatenate([left, right, np.abs(left - right), left * right], axis=1)
    return features
