"""Twins with random weights, made while something is in force, against those made while nothing is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pytest_bertology import probe
from pytest_bertology.heads import Neuron
from pytest_bertology.measures.probe_random import with_random_weights
from pytest_bertology.models.capturing import HOOKED
from pytest_bertology.models.projection import Projection
from pytest_bertology.models.state import is_of_context
from tests.families import under_test
from tests.planted_layers import planted_layer_model, planted_layer_task


def erasing(model):
    first = np.eye(model.model.config.hidden_size)[:, :1]
    return model.erasing(Projection(1, np.zeros(len(first)), first, first))


IN_FORCE = {
    "mask": lambda model: model.masked([(0, 1), (1, 2)]),
    "skipped layer": lambda model: model.skipping([0]),
    "erasure": erasing,
    "attention": lambda model: model.with_top_k_attention(1),
    "units": lambda model: model.units_masked([Neuron(0, 1)]),
}


def output(model):
    with torch.no_grad():
        return model.model(**model.sample()).logits


def hooks(model):
    return [
        hook
        for part in model.model.modules()
        for hook in (*part._forward_pre_hooks.values(), *part._forward_hooks.values())
    ]


@pytest.mark.parametrize("case", [case for case in IN_FORCE if HOOKED or case != "erasure"])
def test_a_twin_made_while_something_is_in_force_is_that_of_the_model_as_loaded(case):
    model, seen = under_test("bert"), []
    model.model.bert.encoder.layer[0].register_forward_hook(lambda *_: seen.append(1))
    expected, plain = output(with_random_weights(model, 3)), output(model)

    with IN_FORCE[case](model):
        changed = output(model)
        twin = with_random_weights(model, 3)
        assert torch.equal(output(twin), expected)
        assert torch.equal(output(model), changed)

    assert not torch.equal(changed, plain)
    assert torch.equal(output(model), plain)
    assert not any(is_of_context(hook) for hook in hooks(twin))
    seen.clear()
    output(twin)
    assert len(seen) == 1  # hooks of others are copied


def test_a_probe_under_a_mask_has_the_baseline_of_the_unmasked_architecture():
    model, task, train = planted_layer_model(2), planted_layer_task(60, 1), planted_layer_task(120, 2)
    plain = probe(model, task, [2], train=train, control=False)

    with model.masked([(0, 0), (1, 0), (2, 0)]):
        masked = probe(model, task, [2], train=train, control=False)

    assert masked.random_scores == plain.random_scores
    assert masked.scores != plain.scores
