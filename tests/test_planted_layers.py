"""The planted layer model does what it says: its label is at chance before the layer, and perfect from there on.

Oracle: scikit-learn on transformers' own `output_hidden_states`.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.planted_layers import COLOURS, LAYERS, planted_layer_model, planted_layer_task


def states(model, task):
    """(layers, words, width), and the words' labels."""
    found = []
    with torch.no_grad():
        for words in task.texts:
            inputs = model.tokenizer(" ".join(words), return_tensors="pt")
            hidden = model.model(**inputs, output_hidden_states=True).hidden_states
            found.append(torch.stack(hidden)[:, 0, 1:-1].numpy())
    return np.concatenate(found, axis=1), [label for labels in task.labels for label in labels]


@pytest.mark.parametrize(("layer", "fading"), [(1, True), (2, False), (3, True), (LAYERS, False)])
def test_the_label_is_at_chance_before_the_layer_and_perfect_from_it_on(layer, fading):
    model = planted_layer_model(layer, fading=fading)
    (train, labels), (tested, expected) = (states(model, planted_layer_task(n, n)) for n in (240, 160))

    scores = []
    for at in range(LAYERS + 1):
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=10.0, max_iter=500))
        scores.append(probe.fit(train[at], labels).score(tested[at], expected))

    for at, score in enumerate(scores):
        if at == layer or (at > layer and not fading):
            assert score == 1.0
        else:
            assert score == pytest.approx(1 / len(COLOURS), abs=0.05)
