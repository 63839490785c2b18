"""Models and tasks that were not loaded, or are exchanged, are told by what they are."""

from __future__ import annotations

import pytest

from pytest_bertology import assert_metric_retained, evaluate, head_importance
from pytest_bertology.errors import InvalidArgument
from tests.families import task_for, under_test


@pytest.mark.parametrize(
    "measure",
    [evaluate, head_importance, lambda model, task: assert_metric_retained(model, task, prune=0.5, tolerance=0.1)],
    ids=["evaluate", "head_importance", "assert_metric_retained"],
)
def test_what_was_not_loaded_is_refused(measure):
    model, task = under_test("bert"), task_for("sequence-classification")

    for wrong, right in ((model.model, "load_model"), ("./folder", "load_model"), (task, "load_model")):
        with pytest.raises(InvalidArgument, match=right):
            measure(wrong, task)
    with pytest.raises(InvalidArgument, match=r"task='dev.tsv' is not valid: expected what load_task"):
        measure(model, "dev.tsv")
