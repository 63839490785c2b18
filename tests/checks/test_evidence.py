"""What a report is shown beside a number, of results made by hand; and checks that data cannot decide.

Outcomes are made of arrays, so that what changed is known.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from pytest_bertology.checks.drops import Judgement, judge, together
from pytest_bertology.checks.evidence import changed_evidence, label_names
from pytest_bertology.checks.explain_power import power_rows
from pytest_bertology.engine.results import RawResults
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.heads import HeadMap, HeadMask
from pytest_bertology.measures.bounds import drop_bound
from pytest_bertology.measures.evaluation import Outcomes
from pytest_bertology.measures.paired import compare, compare_results, paired_p_value
from pytest_bertology.measures.retention import Retention
from pytest_bertology.tasks import Task
from pytest_bertology.tasks.metrics import METRICS, find_metric

NAMES = {0: "negative", 1: "positive", 2: "neither"}
CLASSES, WORDS, REGRESSION = "sequence-classification", "token-classification", "regression"


def outcomes(labels, said, *, kind=CLASSES, metric=None, losses=None, sure=1.0, counts=None, texts=None):
    """Results as a model would give them: logits that say `said`, by a margin of `sure`."""
    labels, said = np.asarray(labels), np.asarray(said)
    n = len(labels) if counts is None else len(counts)
    counts = np.ones(n, dtype=np.int64) if counts is None else np.asarray(counts)
    logits = said.astype(float)[:, None]
    if kind != REGRESSION:
        logits = np.eye(3)[said] * np.broadcast_to(sure, len(said))[:, None]
    losses = (labels != said).astype(float) if losses is None else np.asarray(losses, dtype=float)
    texts = texts or tuple(f"text {i}" for i in range(n))
    if kind == WORDS:
        ends = np.cumsum(counts)
        parts = [tuple(labels[end - count : end].tolist()) for end, count in zip(ends, counts, strict=True)]
        task = Task("made", kind, tuple(tuple("w" * c) for c in counts), tuple(parts), metric=metric)
    else:
        task = Task("made", kind, texts, tuple(labels.tolist()), metric=metric)
    heads = HeadMap([2])
    raw = RawResults(losses=losses, counts=counts, labels=labels, predictions=said, logits=logits)
    return Outcomes(task, HeadMask.keep_all(heads), find_metric(metric, kind), 3, (), raw)


BEFORE = outcomes([0, 1, 0, 1, 0], [0, 1, 0, 0, 1])
AFTER = outcomes([0, 1, 0, 1, 0], [1, 1, 2, 1, 1], sure=[0.5, 1.0, 2.0, 1.0, 1.0])


# -- evidence ----------------------------------------------------------------------------------------------------


def test_the_examples_that_became_wrong_are_shown_the_surest_first():
    found = changed_evidence(BEFORE, AFTER, NAMES)["changed"]

    assert (found["lost"], found["gained"]) == (2, 1)
    assert found["worst"] == [
        {"example": 2, "text": "text 2", "label": "negative", "before": "negative", "after": "neither", "margin": 2.0},
        {"example": 0, "text": "text 0", "label": "negative", "before": "negative", "after": "positive", "margin": 0.5},
    ]


def test_a_part_of_the_examples_keeps_their_places_and_no_more_than_asked_for_are_shown():
    task = outcomes([0, 1] * 10, [0, 1] * 10).task
    before, after = (Outcomes(task, x.mask, x.metric, 3, (), x.raw) for x in (BEFORE, AFTER))

    found = changed_evidence(before, after, positions=[3, 7, 11, 13, 19], most=1)["changed"]

    assert [(row["example"], row["text"], row["after"]) for row in found["worst"]] == [(11, "text 11", "2")]


def test_of_tokens_those_are_named_that_are_judged_otherwise():
    labels, said = [0, 0, 1, 1, 0], [0, 0, 1, 1, 0]
    before = outcomes(labels, said, kind=WORDS, counts=[3, 2], losses=[0.1, 0.1])
    after = outcomes(labels, [0, 1, 2, 1, 0], kind=WORDS, counts=[3, 2], losses=[0.9, 0.2])

    found = changed_evidence(before, after, NAMES)["changed"]

    assert (found["lost"], found["gained"]) == (1, 0)
    assert [(row["label"], row["before"], row["after"]) for row in found["worst"]] == [
        ("negative positive", "negative positive", "positive neither"),
        ("", "loss 0.100", "loss 0.200"),
    ]


def test_of_numbers_the_predictions_are_shown():
    before = outcomes([1.0, 2.0], [1.1, 2.0], kind=REGRESSION, losses=[0.01, 0.0])
    after = outcomes([1.0, 2.0], [1.0, 2.5], kind=REGRESSION, losses=[0.0, 0.25])

    found = changed_evidence(before, after)["changed"]

    assert (found["lost"], found["gained"]) == (1, 1)
    assert found["worst"][0] | {"text": ""} == {
        "example": 1, "text": "", "label": "2", "before": "2.000", "after": "2.500", "margin": 0.25
    }  # fmt: skip


def test_evidence_is_plain_and_long_texts_are_cut():
    texts = ("<script>" * 1000, "b", "c", "d", "e")
    before, after = (outcomes(x.raw.labels, x.raw.predictions, texts=texts) for x in (BEFORE, AFTER))

    found = json.loads(json.dumps(changed_evidence(before, after, NAMES)))

    assert len(found["changed"]["worst"][0]["text"]) == 300
    assert found["changed"]["worst"][0]["text"].startswith("<script>")


def test_a_model_without_names_of_labels_has_none():
    assert label_names(object()) == {}


# -- comparisons -------------------------------------------------------------------------------------------------


def test_a_comparison_tells_scores_changes_and_p_values():
    """By hand: of three changes two are worse, so that twice P(X <= 1) of Binomial(3, 1/2) is 1, and P(X >= 2) 1/2."""
    found = compare(BEFORE, AFTER)

    assert (found.before, found.after, found.drop) == (0.6, 0.4, pytest.approx(0.2))
    assert (found.lost, found.gained, found.examples, found.changed) == (2, 1, 5, 0.6)
    assert (found.p_value, found.p_worse) == (1.0, 0.5)
    assert (found.p_value, found.p_worse) == (
        paired_p_value(BEFORE, AFTER), paired_p_value(BEFORE, AFTER, alternative="worse")
    )  # fmt: skip
    assert found.method == "McNemar's exact test"


@pytest.mark.parametrize("kind", [CLASSES, WORDS])
@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews", "loss"])
def test_the_same_results_are_no_change(metric, kind):
    one = outcomes([0, 1, 2, 0], [0, 1, 1, 0], metric=metric)
    if kind == WORDS:
        said = [0, 1, 1, 0, 1, 2]
        one = outcomes([0, 1, 2, 0, 1, 2], said, kind=kind, metric=metric, counts=[3, 2, 1], losses=[0.1, 0.2, 0.3])

    found = compare(one, one)

    assert (found.drop, found.p_value, found.p_worse, found.lost, found.gained) == (0.0, 1.0, 1.0, 0, 0)
    assert found.bound.upper >= 0.0


def test_mean_losses_are_compared_by_students_t():
    draw = np.random.default_rng(0)
    rises = draw.normal(0.02, 0.1, 80)
    labels = [0, 1] * 40
    before = outcomes(labels, labels, metric="loss", losses=np.full(80, 0.5))
    after = outcomes(labels, labels, metric="loss", losses=0.5 + rises)

    found = compare(before, after)

    assert found.p_value == pytest.approx(stats.ttest_rel(after.losses, before.losses).pvalue)
    assert found.p_worse == pytest.approx(stats.ttest_rel(after.losses, before.losses, alternative="greater").pvalue)
    assert found.bound.upper == pytest.approx(
        stats.ttest_rel(after.losses, before.losses, alternative="less").confidence_interval(0.95).high
    )


def test_tokens_of_one_text_are_drawn_together():
    """In 5 of 40 texts all 20 words became wrong: as many as 5 examples say, and not as many as 100 words."""
    labels = np.tile([0, 1], 400)
    said = labels.copy()
    said[:100] = 1 - said[:100]
    counts = np.full(40, 20)
    before, after = (outcomes(labels, x, kind=WORDS, counts=counts, losses=np.zeros(40)) for x in (labels, said))

    found = compare(before, after)

    assert 0.01 < found.p_worse < 0.06
    assert (found.lost, found.gained) == (5, 0)
    assert found.bound.upper > 0.2


@pytest.mark.parametrize("metric", ["accuracy", "f1_macro", "loss", "perplexity"])
def test_p_values_of_two_equally_good_results_are_small_no_more_often_than_they_say(metric):
    draw = np.random.default_rng(4)
    small = 0
    labels = np.arange(60) % 3
    for _ in range(150):
        one, other = (np.where(draw.random(60) < 0.8, labels, (labels + 1) % 3) for _ in range(2))
        losses = draw.exponential(size=(2, 30))
        sides = [
            outcomes(labels, said, kind=WORDS, counts=np.full(30, 2), losses=loss).results()
            for said, loss in zip((one, other), losses, strict=True)
        ]
        kind = "language-modelling" if metric == "perplexity" else WORDS
        small += compare_results(*sides, METRICS[metric], kind).p_value <= 0.1

    assert small / 150 <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 150)


def test_results_of_other_examples_are_refused():
    with pytest.raises(InvalidArgument, match="the same 5 examples"):
        compare(BEFORE, outcomes([0, 1], [0, 1]))
    with pytest.raises(InvalidArgument, match="the same labels"):
        compare(BEFORE, outcomes([1, 1, 0, 1, 0], [0, 1, 0, 0, 1]))
    with pytest.raises(InvalidArgument, match="alternative"):
        paired_p_value(BEFORE, AFTER, alternative="better")


# -- passed, failed, inconclusive --------------------------------------------------------------------------------


def retention(worse, better, n, confidence=0.95, metric="accuracy"):
    labels = np.arange(n) % 2
    before, after = labels.copy(), labels.copy()
    before[:better] = 1 - before[:better]
    after[better : better + worse] = 1 - after[better : better + worse]
    one, other = (outcomes(labels, said, metric=metric) for said in (before, after))
    return Retention(one, other, drop_bound(one, other, confidence))


@pytest.mark.parametrize(
    ("tolerance", "outcome"), [(0.045, "failed"), (0.09, "inconclusive"), (0.13, "inconclusive"), (0.2, "passed")]
)
def test_a_drop_of_a_tenth_is_judged_by_both_its_bounds(tolerance, outcome):
    found = retention(30, 10, 200)  # the drop is 0.1, surely above 0.045 and below 0.16

    judged = judge(found, tolerance, relative=False)

    assert 0.045 < found.bound.lower < 0.09 < 0.13 < found.bound.upper < 0.2
    named = "passed" if judged.passed else "inconclusive" if judged.inconclusive else "failed"
    assert named == outcome
    assert (judged.p_value <= 0.05) is judged.passed
    assert judged.p_value > 0.95 or outcome != "failed"


def test_relative_tolerances_are_shares_of_the_baseline():
    found = retention(30, 10, 200)
    share = found.bound.upper / found.baseline.score

    assert judge(found, share + 1e-6, relative=True).passed
    assert not judge(found, share - 1e-6, relative=True).passed


def test_where_nothing_changed_a_tolerance_of_nothing_is_not_established():
    found = retention(0, 0, 100)

    assert judge(found, 0.0, relative=False).inconclusive
    assert judge(found, 0.04, relative=False).passed


def test_several_drops_must_all_hold():
    passed, failed = Judgement(0.1, True, False, 0.01), Judgement(0.3, False, False, 0.99)
    unclear = Judgement(0.2, False, True, 0.4)

    assert together([passed, passed], 0) == passed
    assert together([passed, unclear], 1) == unclear
    assert together([unclear, failed], 1) == failed


# -- power -------------------------------------------------------------------------------------------------------


def test_what_the_examples_could_establish_is_said():
    found = retention(10, 8, 872)

    first, second = power_rows(found, 0.01, relative=False)

    which = "with 872 examples of which 2.1% change"
    assert first == f"{which}, the smallest drop that this check can establish is 1.3 points (80% power)"
    assert second.startswith("a tolerance of 1 point it establishes in 5")
    assert second.endswith("that takes about 1,300 examples for 80%")
    assert len(power_rows(found, 0.05, relative=False)) == 1
    assert "1.34% of the baseline" in power_rows(found, 0.01, relative=True)[0]


def test_other_scores_go_by_the_error_of_this_sample():
    found = retention(10, 8, 872, metric="f1_macro")

    (row,) = power_rows(found, 0.05, relative=False)

    assert row.startswith("with 872 examples, the smallest drop that this check can establish is 1.3 points")


def test_without_confidence_there_is_nothing_to_say():
    found = retention(10, 8, 872)

    assert power_rows(Retention(found.baseline, found.masked, None), 0.01, relative=False) == []
