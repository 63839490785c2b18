"""Properties that hold under any mask of a few heads; Hypothesis looks for one that breaks them, and shrinks it."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_bertology import assert_metric_retained, evaluate
from pytest_bertology.strategies import head_masks, head_sets, token_batches

few = settings(max_examples=5, deadline=None, derandomize=True, database=None)


@few
@given(data=st.data())
def test_no_mask_of_three_heads_costs_fifteen_points(bertology_model, bertology_task, data):
    """Any three heads may fail together. A set that breaks this is shrunk to as few heads as possible."""
    sample = bertology_task.subset(range(150))
    mask = data.draw(head_masks(bertology_model, max_masked=3))

    assert_metric_retained(bertology_model, sample, mask=mask, tolerance=0.15)


@few
@given(data=st.data())
def test_a_mask_leaves_no_trace(bertology_model, bertology_task, data):
    sample = bertology_task.subset(range(20))
    before = evaluate(bertology_model, sample).losses

    with bertology_model.masked(data.draw(head_sets(bertology_model))):
        evaluate(bertology_model, sample)

    assert np.array_equal(evaluate(bertology_model, sample).losses, before)


@few
@given(data=st.data())
def test_outputs_are_finite_whatever_is_masked(bertology_model, data):
    inputs = data.draw(token_batches(bertology_model))

    with bertology_model.masked(data.draw(head_sets(bertology_model))), torch.no_grad():
        logits = bertology_model.model(**inputs).logits

    assert torch.isfinite(logits).all()
