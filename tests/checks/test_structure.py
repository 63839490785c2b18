"""Checks on cut models. Oracle: zeroed columns for the results, planted faults for the failures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pytest_bertology import (
    HeadScores,
    assert_heads_in_top,
    assert_metric_retained,
    assert_prune_equals_mask,
    evaluate,
    head_importance,
)
from pytest_bertology.checks.verdicts import CheckFailed
from pytest_bertology.errors import CannotDropLayers, CannotPrune, InvalidArgument
from pytest_bertology.measures import structural
from pytest_bertology.models import edits, pruning
from tests.families import task_for, under_test
from tests.tiny import tiny_model, tiny_task

HEADS = [(0, 1), (1, 0), (1, 2)]


@pytest.mark.parametrize("kind", ["sequence-classification", "token-classification", "masked-lm"])
def test_a_cut_model_does_a_task_as_the_masked_one_does(kind):
    model = under_test("bert", kind)

    found = assert_prune_equals_mask(model, HEADS, task_for(kind))

    assert found.agreement.changed == 0
    assert found.agreement.largest < 1e-5
    assert len(found.agreement.reference.mask.masked) == 3
    assert found.model.heads.per_layer == (3, 2)


def test_without_a_task_the_cut_is_proven_on_the_sample():
    found = assert_prune_equals_mask(under_test("llama"), HEADS)

    assert found.agreement is None
    assert len(found.model.heads) == 5


def test_masks_in_force_are_no_part_of_the_comparison():
    model = under_test("bert")

    with model.masked([(0, 0)]):
        found = assert_prune_equals_mask(model, HEADS, task_for("sequence-classification"))

    assert len(found.agreement.reference.mask.masked) == 3


def test_a_layout_that_is_wrong_fails_and_says_where(monkeypatch):
    right = pruning.edits

    def wrong(*args):
        for edit in right(*args):
            shift = isinstance(edit, edits.Rows) and edit.module.endswith("key")
            yield edits.Rows(edit.module, tuple((i + 6) % 24 for i in edit.index)) if shift else edit

    monkeypatch.setattr(pruning, "edits", wrong)

    with pytest.raises(CheckFailed, match=r"2 of 8 heads cut is not the model with them masked") as failure:
        assert_prune_equals_mask(under_test("bert"), [(0, 1), (1, 0)])
    assert "attention.output.dense" in str(failure.value)


def test_outputs_that_differ_on_the_task_alone_fail(monkeypatch):
    prune = structural.ModelUnderTest.pruned

    def worse(self, heads):
        cut = prune(self, heads)
        with torch.no_grad():
            cut.model.classifier.bias[0] += 0.5
        return cut

    monkeypatch.setattr(structural.ModelUnderTest, "pruned", worse)

    with pytest.raises(CheckFailed, match=r"required: at most 0.0001"):
        assert_prune_equals_mask(under_test("bert"), HEADS, task_for("sequence-classification"))


def test_wrong_arguments_are_told():
    model = under_test("bert")

    with pytest.raises(InvalidArgument):
        assert_prune_equals_mask(model, [])
    with pytest.raises(InvalidArgument, match="tolerance"):
        assert_prune_equals_mask(model, HEADS, tolerance=-1)
    with pytest.raises(InvalidArgument, match="task"):
        assert_prune_equals_mask(model, HEADS, "dev.tsv")


def test_retention_judges_the_cut_model_where_asked():
    model = tiny_model()
    task = tiny_task(model=model)

    cut = assert_metric_retained(model, task, heads=HEADS, tolerance=0.99, structural=True)
    masked = assert_metric_retained(model, task, heads=HEADS, tolerance=0.99)

    assert np.allclose(cut.masked.logits, masked.masked.logits, atol=1e-5)
    assert cut.heads == masked.heads
    assert cut.masked.score == masked.masked.score


def test_retention_of_a_cut_model_fails_with_its_heads_named():
    model = tiny_model()
    task = tiny_task(model=model)

    with pytest.raises(CheckFailed, match=r"heads cut \(") as failure:
        assert_metric_retained(
            model, task, heads=[h for h in model.heads if h.layer == 0], tolerance=0.0, structural=True
        )
    assert "L0H0" in str(failure.value)
    assert failure.value.verdict.details["structural"]


def test_a_model_without_any_head_is_told_apart():
    model = tiny_model()
    task, none = tiny_task(model=model), model.pruned(model.heads)

    assert len(evaluate(none, task)) == len(task)
    for ask in (
        lambda: head_importance(none, task),
        lambda: assert_metric_retained(none, task, prune=0.5, tolerance=0.1),
    ):
        with pytest.raises(InvalidArgument, match="were all cut out"):
            ask()
    with pytest.raises(CannotDropLayers, match="all of them were cut out"):
        none.without_layers([0])


@pytest.mark.filterwarnings("ignore:the baseline accuracy")
def test_importance_and_retention_pass_over_a_layer_without_heads():
    model = tiny_model()
    task, cut = tiny_task(model=model), model.pruned([(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)])

    scores = head_importance(cut, task)
    found = assert_metric_retained(cut, task, prune=0.4, tolerance=0.99)

    assert np.isnan(scores.to_numpy()[0]).all()
    assert found.heads == (scores.bottom(1)[0],)


def test_failures_on_a_cut_model_say_which_heads_they_were():
    cut = tiny_model().pruned([(0, 0), (1, 3)])
    task = tiny_task(model=cut)
    scores = HeadScores(np.arange(6.0), cut.heads, method="planted")

    with pytest.raises(CheckFailed, match="which were  L0H1 L0H2 L0H3 before heads were cut"):
        assert_metric_retained(cut, task, heads=[(0, 0), (0, 1), (0, 2)], tolerance=0.0)
    with pytest.raises(CheckFailed, match="which were  L0H1 before heads were cut"):
        assert_heads_in_top(scores, [(0, 0)], k=2)


def test_retention_of_heads_that_can_only_be_masked_is_an_error(monkeypatch):
    model = tiny_model()
    monkeypatch.setattr(pruning, "why_not_cut", lambda *args: "planted")

    with pytest.raises(CannotPrune, match="planted"):
        assert_metric_retained(model, tiny_task(model=model), heads=HEADS, tolerance=0.99, structural=True)
