"""A release candidate, pruned to a budget: verified, saved, and read back as what it was when it was judged.

The story, which is also the order of the tests. A fifth of the heads may go, those that matter least to the task. They
are cut out, not masked: their weights are gone, and with them memory and time. Then the candidate has to show that

1. cutting was masking: on every example that judges it computes what the model with these heads masked computes;
2. it is good enough: the score is within the tolerance of the model as trained;
3. it is smaller, in bytes of weights;
4. what is released is what was judged: saved, read back from the folder, and the same to the last bit.

Copy the file, set the numbers (these are the embedded model's), and point it at your model and data:

    pytest test_prune_release.py --bertology-model=./release-candidate --bertology-task=dev.tsv

One half of the data chooses the heads and the other judges the candidate: what chose is no judge. To release, save to
a folder of your own instead of pytest's; `load_model` reads it, and so does `AutoModel….from_pretrained` once
`pytest_bertology.models` is imported. Time is best measured apart, on a quiet machine:
`assert_faster(candidate, bertology_model, bertology_task, at_least=1.05)`.
"""

from __future__ import annotations

import random

import pytest

from pytest_bertology import (
    assert_metric_retained,
    assert_prune_equals_mask,
    assert_same_outputs,
    assert_smaller,
    head_importance,
    load_model,
)

BUDGET = 0.2
"""The share of the heads that are to go."""
TOLERANCE = 0.04
"""How much accuracy they may cost."""
SIZE = 0.98
"""The share of the weights' bytes that may be left; of a small encoder most are embeddings."""


@pytest.fixture(scope="module")
def halves(bertology_task):
    """Two halves of the data, drawn with a seed."""
    count = len(bertology_task)
    choosing = sorted(random.Random(0).sample(range(count), count // 2))
    return bertology_task.subset(choosing), bertology_task.subset(sorted(set(range(count)) - set(choosing)))


@pytest.fixture(scope="module")
def heads(bertology_model, halves):
    """The heads that are to go: the least important to the first half, each layer's scores divided by their norm."""
    scores = head_importance(bertology_model, halves[0]).normalized()
    return scores.bottom(round(BUDGET * len(bertology_model.heads)))


@pytest.fixture(scope="module")
def candidate(bertology_model, heads):
    return bertology_model.pruned(heads)


@pytest.fixture(scope="module")
def released(candidate, tmp_path_factory):
    """What somebody reads who is given the folder."""
    return load_model(candidate.save(tmp_path_factory.mktemp("release") / "candidate"))


def test_cutting_the_heads_is_masking_them(bertology_model, halves, heads):
    assert_prune_equals_mask(bertology_model, heads, halves[1])


def test_the_candidate_is_good_enough(bertology_model, halves, heads):
    """`structural` judges the cut model and not the masked one; the baseline is the model as trained."""
    assert_metric_retained(bertology_model, halves[1], heads=heads, structural=True, tolerance=TOLERANCE)


def test_the_candidate_is_smaller(bertology_model, candidate):
    assert_smaller(candidate, bertology_model, at_most=SIZE)


def test_what_is_released_is_what_was_judged(candidate, released, halves):
    assert_same_outputs(released, candidate, halves[1], tolerance=0)


def test_what_is_released_is_smaller_and_says_what_was_cut(bertology_model, released, heads):
    assert_smaller(released, bertology_model, at_most=SIZE)
    assert set(released.plan.removed) == set(heads)
