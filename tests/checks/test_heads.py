"""Checks on single heads, on planted models whose working heads are known, and on copies with zeroed weights."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from pytest_bertology import (
    CheckFailed,
    Head,
    HeadMap,
    HeadMask,
    ResultStore,
    ablate_heads,
    assert_head_redundant,
    assert_heads_prunable,
    assert_importance_transfers,
    assert_layer_survives_one_head,
    assert_specialised_heads_survive,
    head_importance,
    using_store,
)
from pytest_bertology.checks.verdicts import Verdict, hearing
from pytest_bertology.errors import (
    BertologyWarning,
    InvalidArgument,
    NoHeadSelected,
    NotAHead,
    NothingToJudge,
    UndefinedScore,
    UnknownHead,
    UnknownLayer,
)
from pytest_bertology.measures import sweeping
from tests.families import HEADS, plain_inputs, task_for, under_test, zeroed
from tests.planted import planted_model, planted_task

WORKING = Head(1, 2)
TWINS = [Head(1, 0), WORKING]
QUALITY = planted_task()


@pytest.fixture(autouse=True)
def _nothing_stored():
    with using_store(ResultStore()):
        yield


@cache
def planted():
    return planted_model(WORKING)


@cache
def twins():
    return planted_model(WORKING, twin=0)


@cache
def bert():
    return under_test("bert")


def said(heads, task):
    model = zeroed(bert(), heads)
    with torch.no_grad():
        return tuple(int(model(**inputs).logits.argmax()) for inputs in plain_inputs(model, task))


def accuracy(heads):
    return float(np.mean(np.array(said(heads, TASK)) == np.array(TASK.labels)))


_DRAWN = task_for("sequence-classification", 24)
TASK = replace(_DRAWN, labels=said([], _DRAWN))
"""The model is right on all of it."""
OTHER = task_for("sequence-classification", 20, seed=7)


def message_of(check, *arguments, **options):
    with pytest.raises(CheckFailed) as caught:
        check(*arguments, **options)
    return " ".join(str(caught.value).split())


def verdict_of(check, *arguments, **options):
    heard: list[Verdict] = []
    with hearing(heard.append):
        with suppress(CheckFailed):
            check(*arguments, **options)
    (verdict,) = heard
    return json.loads(json.dumps(verdict.to_jsonable()))


# -- redundant heads ---------------------------------------------------------------------------------------------


def test_twins_are_each_redundant_and_not_both_prunable():
    found = assert_head_redundant(twins(), QUALITY, TWINS, 0.0)

    assert [each.drop for each in found.values()] == [0.0, 0.0]
    assert list(found) == TWINS
    with pytest.raises(CheckFailed):
        assert_heads_prunable(twins(), QUALITY, TWINS, 0.49)


def test_the_only_working_head_is_not_redundant():
    message = message_of(assert_head_redundant, planted(), QUALITY, WORKING, 0.49)

    assert message.startswith("L1H2 is not redundant: masking it alone costs more accuracy than tolerated")
    assert "baseline 1.0000" in message
    assert "required a drop of at most 0.49" in message
    assert "L1H2 0.5000 without it, a drop of 0.5" in message
    assert assert_head_redundant(planted(), QUALITY, WORKING, 0.5)[WORKING].drop == 0.5


@pytest.mark.parametrize("heads", [(1, 2), Head(1, 2), [(1, 2)], [1, 2]])
def test_one_head_may_be_given_in_any_way(heads):
    assert list(assert_head_redundant(twins(), QUALITY, heads, 0.0)) == [WORKING]


def test_each_of_several_heads_is_masked_alone():
    heads = [head for head in bert().heads if head.layer == 0]
    drops = {head: accuracy([]) - accuracy([head]) for head in heads}

    found = assert_head_redundant(bert(), TASK, heads, 0.99)

    assert {head: each.drop for head, each in found.items()} == pytest.approx(drops)
    worst = max(drops, key=lambda head: drops[head])
    assert drops[worst] > 0
    verdict = verdict_of(assert_head_redundant, bert(), TASK, heads, drops[worst] - 0.01)
    assert not verdict["passed"]
    assert verdict["details"]["worst"] == str(worst)
    assert verdict["observed"] == pytest.approx(drops[worst])
    assert assert_head_redundant(bert(), TASK, heads, drops[worst])


@pytest.mark.parametrize("confidence", [None, 0.9])
def test_several_heads_in_one_sweep_are_judged_as_each_one_alone(confidence):
    options = {"tolerance": 0.99, "confidence": confidence}
    together = assert_head_redundant(bert(), TASK, list(bert().heads), **options)

    for head, found in together.items():
        alone = assert_head_redundant(bert(), TASK, head, **options)[head]
        assert (found.drop, found.bound, found.heads) == (alone.drop, alone.bound, (head,))
        assert found.masked.losses == pytest.approx(alone.masked.losses, abs=1e-6)


def test_all_heads_after_their_ablation_come_from_the_store(monkeypatch):
    ablate_heads(bert(), TASK, resamples=10)
    monkeypatch.setattr(sweeping, "sweep", None)

    assert len(assert_head_redundant(bert(), TASK, list(bert().heads), 0.99)) == 8


def test_a_failure_of_several_heads_lists_them():
    model = planted_model(Head(0, 1))
    with model.masked([(2, 2)]):
        message = message_of(assert_head_redundant, model, QUALITY, [(0, 1)], 0.1)
    assert "masked too L2H2" in message

    drops = {head: accuracy([]) - accuracy([head]) for head in bert().heads}
    over = [head for head, drop in drops.items() if drop > 0.01]
    assert len(over) > 1
    message = message_of(assert_head_redundant, bert(), TASK, bert().heads, 0.01)
    assert f"{len(over)} of 8 heads are not redundant" in message


def test_a_mask_in_force_counts():
    with twins().masked([(1, 0)]), pytest.raises(CheckFailed):
        assert_head_redundant(twins(), QUALITY, WORKING, 0.1)


def test_relative_and_with_confidence():
    found = assert_head_redundant(planted(), QUALITY, WORKING, 0.8, confidence=0.95, metric="f1_macro", relative=True)

    assert found[WORKING].bound.upper > found[WORKING].drop
    message = message_of(assert_head_redundant, twins(), QUALITY, WORKING, 0.01, confidence=0.95)
    assert "with 95% confidence" in message
    assert verdict_of(assert_head_redundant, twins(), QUALITY, WORKING, 0.5, confidence=0.9)["judged"] == (
        "bound on the drop"
    )


@pytest.mark.parametrize("tolerance", [-0.1, 1.0, float("nan"), True, "0.1"])
def test_a_tolerance_that_could_not_fail_is_refused(tolerance):
    with pytest.raises(InvalidArgument, match="tolerance"):
        assert_head_redundant(planted(), QUALITY, WORKING, tolerance)
    with pytest.raises(InvalidArgument, match="tolerance"):
        assert_layer_survives_one_head(planted(), QUALITY, 1, tolerance)


@pytest.mark.parametrize(
    ("heads", "error"), [([], NoHeadSelected), ((7, 0), UnknownHead), ("L1H2", NotAHead), (5, NotAHead)]
)
def test_heads_that_are_none_are_refused(heads, error):
    with pytest.raises(error):
        assert_head_redundant(planted(), QUALITY, heads, 0.1)


def test_an_idle_head_is_redundant_with_a_warning():
    with pytest.warns(BertologyWarning, match="idle"):
        assert_head_redundant(planted(), QUALITY, (0, 0), 0.0)


# -- a layer reduced to one head ---------------------------------------------------------------------------------


def test_a_layer_survives_with_its_working_head():
    found = assert_layer_survives_one_head(planted(), QUALITY, 1, 0.0)

    assert found.best == WORKING
    assert {str(head): each.masked.score for head, each in found.retained.items()} == {
        "L1H0": 0.5,
        "L1H1": 0.5,
        "L1H2": 1.0,
        "L1H3": 0.5,
    }


def test_the_score_is_that_of_the_best_head_left():
    alone = {head: accuracy([o for o in bert().heads if o.layer == 1 and o != head]) for head in list(bert().heads)[4:]}
    drop = accuracy([]) - max(alone.values())
    assert drop > 0

    assert assert_layer_survives_one_head(bert(), TASK, 1, drop).best == max(alone, key=lambda head: alone[head])
    message = message_of(assert_layer_survives_one_head, bert(), TASK, 1, drop - 0.01)

    assert message.startswith("layer 1 does not survive with one head: accuracy is not retained with any")
    for head, score in alone.items():
        assert f"{head} {score:.4f}" in message
    verdict = verdict_of(assert_layer_survives_one_head, bert(), TASK, 1, drop, relative=True)
    assert verdict["observed"] == pytest.approx(drop / accuracy([]))
    assert verdict["judged"] == "relative drop with only the best head of layer 1"
    assert len(verdict["heads"]) == HEADS - 1


def test_masked_heads_are_no_candidates_and_count():
    with twins().masked([(1, 0)]):
        found = assert_layer_survives_one_head(twins(), QUALITY, 1, 0.0)
    assert list(found.retained) == [(1, 1), (1, 2), (1, 3)]

    with planted().masked([WORKING]), pytest.raises(CheckFailed):
        assert_layer_survives_one_head(planted(), QUALITY, 0, 0.1)


def test_an_idle_layer_is_warned_of():
    with pytest.warns(BertologyWarning, match="all heads of layer 0 .* are idle"):
        assert_layer_survives_one_head(planted(), QUALITY, 0, 0.0)


@pytest.mark.parametrize(("layer", "stack"), [(3, None), (-1, None), (True, None), ("1", None), (1, "decoder")])
def test_a_layer_that_there_is_not_is_refused(layer, stack):
    with pytest.raises(UnknownLayer, match=r"counted from 0.*3 layers of 4 heads \(layers 0 to 2\)"):
        assert_layer_survives_one_head(planted(), QUALITY, layer, 0.1, stack=stack)


def test_a_layer_of_one_head_is_refused():
    model = under_test("bert").pruned([(0, 0), (0, 1), (0, 2)])

    with pytest.raises(NothingToJudge, match="layer 0 has one head"):
        assert_layer_survives_one_head(model, TASK, 0, 0.1)
    with (
        bert().masked([(1, head) for head in range(HEADS)]),
        pytest.raises(NothingToJudge, match="no head that is open"),
    ):
        assert_layer_survives_one_head(bert(), TASK, 1, 0.1)


# -- importance over two tasks -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "of"), [("pearson", stats.pearsonr), ("spearman", stats.spearmanr)])
def test_the_correlation_is_scipys(kind, of):
    scores = [head_importance(bert(), task).normalized(per_layer=True, min_max=False) for task in (TASK, OTHER)]
    expected = of(*(each.values for each in scores))[0]

    found = assert_importance_transfers(bert(), TASK, OTHER, -0.99, correlation=kind)

    assert found.correlation == pytest.approx(expected)
    assert -1 < expected < 1
    with pytest.raises(CheckFailed):
        assert_importance_transfers(bert(), TASK, OTHER, expected + 1e-6, correlation=kind)
    assert assert_importance_transfers(bert(), TASK, OTHER, expected, correlation=kind).kind == kind


def test_pearson_is_the_default_and_a_failure_names_tasks_and_heads():
    message = message_of(assert_importance_transfers, bert(), TASK, OTHER, 1.0)

    assert "the importance of heads to letters does not transfer to letters" in message
    assert "(pearson, 8 heads, gradient); required: at least 1" in message
    assert "most moved" in message
    verdict = verdict_of(assert_importance_transfers, bert(), TASK, OTHER, 0.5)
    assert verdict["judged"] == "pearson correlation of importance"
    assert verdict["required"] == ">= 0.5"


def test_what_could_not_fail_is_refused():
    for options, what in [
        ({"method": "random"}, "asks the task"),
        ({"correlation": "kendall"}, "pearson, spearman"),
        ({"min_correlation": -1.0}, "above -1"),
        ({"min_correlation": True}, "above -1"),
        ({"task_b": TASK.with_metric("f1")}, "other examples"),
    ]:
        arguments = {"task_a": TASK, "task_b": OTHER, "min_correlation": 0.1} | options
        with pytest.raises(InvalidArgument, match=what):
            assert_importance_transfers(bert(), **arguments)


def test_texts_of_both_tasks_are_warned_of():
    part = OTHER.subset(range(4))

    with pytest.warns(BertologyWarning, match=re.escape(f"4 of 4 examples of {part.name} are in")) as caught:
        assert_importance_transfers(bert(), OTHER, part, -0.99)
    assert caught[0].filename == __file__


def test_scores_that_are_all_equal_do_not_correlate():
    model = under_test("bert").pruned([(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (1, 3)])  # one head in each layer

    with pytest.raises(UndefinedScore, match="equal"):
        assert_importance_transfers(model, TASK, OTHER, 0.1)


# -- specialised heads -------------------------------------------------------------------------------------------

MASK = HeadMask.without(HeadMap([4, 4]), [(0, 1), (1, 3)])


def test_heads_that_are_not_masked_survive():
    assert assert_specialised_heads_survive(MASK, [(0, 0), (1, 2)]) == MASK
    assert assert_specialised_heads_survive(SimpleNamespace(mask=MASK), (0, 0)) == MASK


def test_heads_that_are_masked_are_named():
    message = message_of(assert_specialised_heads_survive, MASK, [(0, 0), (0, 1), (1, 3)])

    assert message.startswith("2 of 3 specialised heads are masked")
    assert "masked L0H1 L1H3; required: none of them" in message
    assert "spared L0H0" in message
    assert "2 of 8 heads (25%)" in message
    assert verdict_of(assert_specialised_heads_survive, MASK, [(0, 1)])["observed"] == 1.0


def test_a_cut_model_is_asked_by_its_heads_names_before_the_cut():
    cut = under_test("bert").pruned([(0, 0), (1, 1)])

    found = assert_specialised_heads_survive(cut, [(0, 3), (1, 0)])

    assert found.masked == ((0, 0), (1, 1))
    with pytest.raises(CheckFailed, match="L1H1"):
        assert_specialised_heads_survive(cut, [(1, 1)])


def test_a_model_under_a_mask_is_asked_by_that_mask():
    with bert().masked([(0, 2)]):
        assert_specialised_heads_survive(bert(), [(0, 1)])
        with pytest.raises(CheckFailed, match="L0H2"):
            assert_specialised_heads_survive(bert(), [(0, 2)])


@pytest.mark.parametrize(
    ("mask", "heads", "error"),
    [
        (HeadMask.keep_all(HeadMap([4, 4])), [(0, 0)], NothingToJudge),
        (MASK, [], NoHeadSelected),
        (MASK, [(2, 0)], UnknownHead),
        ([(0, 1)], [(0, 0)], InvalidArgument),
        (SimpleNamespace(mask=None), [(0, 0)], InvalidArgument),
    ],
)
def test_a_mask_on_which_it_could_not_fail_is_refused(mask, heads, error):
    with pytest.raises(error):
        assert_specialised_heads_survive(mask, heads)


def test_a_model_without_cut_or_mask_is_refused():
    with pytest.raises(NothingToJudge, match="masks no head"):
        assert_specialised_heads_survive(bert(), [(0, 0)])
