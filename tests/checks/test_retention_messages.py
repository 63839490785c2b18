"""Retention checks on a tiny real model, against a copy whose weights that read the masked heads are zero.

The copy is run by plain transformers, one text at a time; messages are held against its numbers.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from pytest_bertology import (
    CheckFailed,
    HeadMap,
    HeadMask,
    HeadScores,
    ModelUnderTest,
    Task,
    assert_heads_prunable,
    assert_metric_retained,
    load_task,
)
from pytest_bertology.checks.verdicts import Verdict, hearing
from pytest_bertology.errors import (
    BertologyWarning,
    InvalidArgument,
    MaskOfAnotherModel,
    NoHeadSelected,
    NotAHead,
    UndefinedScore,
    UnknownHead,
    UnknownMetric,
)
from tests.tiny import LABELS, WIDTH, logits, says, sentences, tiny_model, tiny_task

N = 24
FIRST, SECOND = (0, 1), (1, 3)
BOTH = [FIRST, SECOND]


@pytest.fixture(scope="module")
def model() -> ModelUnderTest:
    return tiny_model()


@pytest.fixture(scope="module")
def task(model) -> Task:
    """The model is right on all of it."""
    return tiny_task(N, model)


def zeroed(model: ModelUnderTest, heads: Iterable[tuple[int, int]]) -> PreTrainedModel:
    """A copy in which the projections' columns that read these heads are zero."""
    twin = copy.deepcopy(model.model)
    with torch.no_grad():
        for layer, head in heads:
            if hasattr(twin, "bert"):
                twin.bert.encoder.layer[layer].attention.output.dense.weight[:, head * WIDTH : (head + 1) * WIDTH] = 0
            else:
                twin.transformer.h[layer].attn.c_proj.weight[head * WIDTH : (head + 1) * WIDTH] = 0
    return twin


def right(model: ModelUnderTest, task: Task, heads: Iterable[tuple[int, int]]) -> list[bool]:
    said = says(zeroed(model, heads), model.tokenizer, task.texts)
    return [LABELS[i] == label for i, label in zip(said, task.labels, strict=True)]


def accuracy(model: ModelUnderTest, task: Task, heads: Iterable[tuple[int, int]]) -> float:
    return sum(right(model, task, heads)) / len(task)


def message_of(*arguments: object, **options: object) -> str:
    """The whole message, of all the data."""
    options = {"early": False} | options
    with pytest.raises(CheckFailed) as caught:
        assert_metric_retained(*arguments, **options)
    return str(caught.value)


def row(message: str, name: str) -> str:
    """A row of the message's table, its lines joined."""
    found = re.search(rf"^  {name} +(.*(?:\n {{8,}}.*)*)", message, re.MULTILINE)
    assert found, message
    return " ".join(found[1].split())


# -- the verdict -------------------------------------------------------------------------------------------------


def test_the_drop_is_that_of_the_model_without_the_heads(model, task):
    found = assert_metric_retained(model, task, heads=BOTH, tolerance=0.99)

    assert found.baseline.score == 1.0
    assert found.masked.score == accuracy(model, task, BOTH) < 1.0
    assert found.drop == pytest.approx(1.0 - accuracy(model, task, BOTH))
    assert found.heads == tuple(BOTH)
    assert found.bound is None


def test_the_check_fails_just_below_the_drop_and_passes_at_it(model, task):
    drop = 1.0 - accuracy(model, task, BOTH)

    assert assert_metric_retained(model, task, heads=BOTH, tolerance=drop).drop == pytest.approx(drop)
    with pytest.raises(AssertionError):
        assert_metric_retained(model, task, heads=BOTH, tolerance=drop - 1e-6)


@pytest.mark.parametrize("tolerance", [0.01, 0.02, 0.0099])
def test_a_drop_from_090_to_089_is_one_of_001(model, task, tolerance):
    unmasked = np.array([LABELS.index(label) for label in task.labels])

    def score(labels: np.ndarray, predictions: np.ndarray) -> float:
        return 0.9 if (predictions == unmasked).all() else 0.89

    assert 0.9 - 0.89 > 0.01  # as binary fractions have it
    if tolerance >= 0.01:
        found = assert_metric_retained(model, task, heads=BOTH, metric=score, tolerance=tolerance)
        assert found.drop == 0.9 - 0.89
    else:
        assert "drop      0.0100; required: at most 0.0099" in message_of(
            model, task, heads=BOTH, metric=score, tolerance=tolerance
        )


def test_a_mask_or_its_heads_are_the_same_selection(model, task):
    by_heads = assert_metric_retained(model, task, heads=BOTH, tolerance=0.99)
    by_mask = assert_metric_retained(model, task, mask=HeadMask.without(model.heads, BOTH), tolerance=0.99)
    by_name = assert_heads_prunable(model, task, BOTH, 0.99)

    assert by_heads.drop == by_mask.drop == by_name.drop
    assert by_heads.heads == by_mask.heads == by_name.heads


@pytest.mark.parametrize(("prune", "count"), [(0.125, 1), (0.3, 2), (0.32, 3), (0.5, 4), (1.0, 8), (1, 8)])
def test_prune_masks_the_least_important_by_the_given_scores(model, task, prune, count):
    scores = HeadScores(np.array([5, 1, 7, 3, 8, 2, 6, 4.0]), model.heads, "given")
    ascending = [(0, 1), (1, 1), (0, 3), (1, 3), (0, 0), (1, 2), (0, 2), (1, 0)]

    found = assert_metric_retained(model, task, prune=prune, by=scores, tolerance=0.99)

    assert set(found.heads) == set(ascending[:count])
    assert found.masked.score == accuracy(model, task, ascending[:count])


def test_random_heads_are_the_same_for_the_same_seed(model, task):
    chosen = [
        assert_metric_retained(model, task, prune=0.5, by="random", seed=seed, tolerance=0.99).heads
        for seed in range(4)
    ]

    assert assert_metric_retained(model, task, prune=0.5, by="random", seed=3, tolerance=0.99).heads == chosen[3]
    assert len(set(chosen)) > 1


def test_masks_in_force_count_as_masked_and_the_baseline_has_none(model, task):
    expected = [accuracy(model, task, heads) for heads in ([FIRST], [SECOND], BOTH)]
    assert len(set(expected)) == 3

    with model.masked([FIRST]):
        alone = assert_metric_retained(model, task, tolerance=0.99)
        added = assert_metric_retained(model, task, heads=[SECOND], tolerance=0.99)

    assert alone.heads == (FIRST,)
    assert added.heads == (FIRST, SECOND)
    assert added.baseline.score == alone.baseline.score == 1.0
    assert (alone.masked.score, added.masked.score) == (expected[0], expected[2])


def test_a_failure_under_a_mask_in_force_names_all_masked_heads(model, task):
    with model.masked([FIRST]):
        message = message_of(model, task, heads=[SECOND], tolerance=0.0)

    assert "2 of 8 heads masked (25%)" in message
    assert row(message, "heads") == "L0H1 L1H3"


@pytest.mark.filterwarnings("ignore:the baseline accuracy")
def test_relative_takes_the_tolerance_of_the_baseline(model):
    task = tiny_task(N)
    baseline, masked = accuracy(model, task, []), accuracy(model, task, [(0, 2)])
    drop, share = baseline - masked, (baseline - masked) / baseline
    assert 0 < drop < share

    found = assert_metric_retained(model, task, heads=[(0, 2)], tolerance=share, relative=True)

    assert found.relative_drop == pytest.approx(share)
    assert_metric_retained(model, task, heads=[(0, 2)], tolerance=drop)
    with pytest.raises(CheckFailed):
        assert_metric_retained(model, task, heads=[(0, 2)], tolerance=drop, relative=True)


@pytest.mark.filterwarnings("ignore:the baseline accuracy")
def test_a_relative_drop_from_nothing_has_no_value(model, task):
    wrong = load_task({"text": list(task.texts), "label": [LABELS[label == LABELS[0]] for label in task.labels]})

    with pytest.raises(UndefinedScore, match="the baseline accuracy is 0"):
        assert_metric_retained(model, wrong, heads=BOTH, tolerance=0.1, relative=True)


def perplexity(model: PreTrainedModel, tokenizer: object, texts: Sequence[str]) -> float:
    """By transformers' own loss, one text at a time, over all predicted tokens."""
    total, count = 0.0, 0
    for text in texts:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            total += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    return math.exp(total / count)


def test_a_drop_in_perplexity_is_its_rise():
    model, texts = tiny_model("causal-lm", "gpt2"), sentences(8)
    before = perplexity(model.model, model.tokenizer, texts)
    after = {head: perplexity(zeroed(model, [head]), model.tokenizer, texts) for head in map(tuple_of, model.heads)}
    worst, best = max(after, key=after.__getitem__), min(after, key=after.__getitem__)
    assert after[best] < before < after[worst]
    task = load_task({"text": texts})

    found = assert_metric_retained(model, task, heads=[best], tolerance=0.0)
    message = message_of(model, task, heads=[worst], tolerance=0.0)

    assert found.drop == pytest.approx(after[best] - before, rel=1e-4)
    rise, _, required = row(message, "drop").partition("; ")
    assert float(rise) == pytest.approx(after[worst] - before, rel=1e-4)
    assert required == "required: at most 0"
    assert "the examples whose loss rose most:" in message


def tuple_of(head: tuple[int, ...]) -> tuple[int, int]:
    return head[0], head[1]


# -- the message -------------------------------------------------------------------------------------------------


def test_a_failure_names_metric_numbers_requirement_heads_and_data(model, task):
    kept = right(model, task, BOTH)

    message = message_of(model, task, heads=BOTH, tolerance=0.01)

    assert message.startswith("accuracy is not retained with 2 of 8 heads masked (25%)\n")
    assert row(message, "model").startswith("BertForSequenceClassification (2 layers of 4 heads, float32 on ")
    assert row(message, "task") == "the given columns (24 examples)"
    assert row(message, "baseline") == "1.0000 (24 of 24 right)"
    assert row(message, "masked") == f"{sum(kept) / N:.4f} ({sum(kept)} of 24 right)"
    assert row(message, "drop") == f"{1 - sum(kept) / N:.4f}; required: at most 0.01"
    assert row(message, "heads") == "L0H1 L1H3"


def test_a_failure_shows_the_examples_that_became_wrong_the_surest_first(model, task):
    found = logits(zeroed(model, BOTH), model.tokenizer, task.texts)
    lost = [i for i, kept in enumerate(right(model, task, BOTH)) if not kept]
    surest = sorted(lost, key=lambda i: -float(abs(found[i, 0] - found[i, 1])))[:5]
    assert len(lost) > 5

    message = message_of(model, task, heads=BOTH, tolerance=0.01)

    assert f"{len(lost)} became wrong and 0 right; the worst of them:" in message
    shown = [line.strip() for line in message.splitlines() if line.startswith("    #")]
    assert [line.partition(" (margin")[0] for line in shown] == [
        f"#{i} {task.texts[i]!r}: {task.labels[i]}, now {LABELS[task.labels[i] == LABELS[0]]}" for i in surest
    ]
    assert [float(line.rpartition("margin ")[2].rstrip(")")) for line in shown] == pytest.approx(
        [float(abs(found[i, 0] - found[i, 1])) for i in surest], abs=0.006
    )


def test_a_failure_says_how_the_heads_were_chosen(model, task):
    scores = HeadScores(np.arange(8.0), model.heads, "my own")

    message = message_of(model, task, prune=0.5, by=scores, tolerance=0.0)

    assert "4 of 8 heads masked (50%, the least important by my own)" in message


def test_a_relative_failure_speaks_in_shares_of_the_baseline(model, task):
    drop = 1 - accuracy(model, task, BOTH)

    message = message_of(model, task, heads=BOTH, tolerance=0.05, relative=True)

    assert row(message, "drop") == f"{drop:.2%} of the baseline; required: at most 5.00% of the baseline"


@pytest.mark.parametrize("mark", ["\x1b[31m", "\x07", "\r", "\n", "\u202e", "\x00"])
def test_control_characters_of_a_text_are_escaped(model, mark):
    texts = [f"{mark} {sentence}" for sentence in sentences(N)]
    task = load_task({"text": texts, "label": [LABELS[i] for i in says(model.model, model.tokenizer, texts)]})

    message = message_of(model, task, heads=[(0, 0), (0, 1), (0, 2)], tolerance=0.0)

    shown = [line for line in message.splitlines() if line.startswith("    #")]
    assert shown
    assert all(repr(mark)[1:-1] in line for line in shown)
    assert mark == "\n" or mark not in message


def test_a_long_text_is_cut(model):
    texts = [f"{sentence} {'long ' * 15}{'x' * 200}" for sentence in sentences(N)]
    task = load_task({"text": texts, "label": [LABELS[i] for i in says(model.model, model.tokenizer, texts)]})

    message = message_of(model, task, heads=[(0, 0), (0, 1), (0, 2)], tolerance=0.0)

    assert "…'" in message
    assert max(map(len, message.splitlines())) < 180


def test_a_pair_of_texts_is_shown_as_one(model):
    first, second = sentences(N), sentences(N, seed=5)
    inputs = [model.tokenizer(a, b, return_tensors="pt") for a, b in zip(first, second, strict=True)]
    with torch.no_grad():
        said = [LABELS[int(model.model(**one).logits.argmax())] for one in inputs]
    task = load_task({"premise": first, "hypothesis": second, "label": said})

    message = message_of(model, task, heads=[(0, 0), (0, 1), (0, 2)], tolerance=0.0)

    assert re.search(r"#(\d+) '([\w ]+) \| ([\w ]+)'", message)


# -- confidence --------------------------------------------------------------------------------------------------


def said_tolerance(message: str) -> float:
    flat = " ".join(message.split())
    found = re.search(r"the smallest tolerance that they could is ([\d.]+)(%?)\. Use more", flat)
    assert found, message
    return float(found[1]) / (100 if found[2] else 1)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_a_failure_for_want_of_data_names_a_tolerance_that_then_passes(model, task, metric, relative):
    options = {"heads": BOTH, "metric": metric, "relative": relative}
    unsure = assert_metric_retained(
        model, task, tolerance=0.99 if metric == "accuracy" else 1e9, confidence=0.9, **options
    )
    observed = unsure.relative_drop if relative else unsure.drop

    message = message_of(model, task, tolerance=observed + 1e-6, confidence=0.9, **options)

    assert "24 examples cannot establish that" in " ".join(message.split())
    assert message.startswith(f"it cannot be told whether {metric} is retained")
    enough = said_tolerance(message)
    assert assert_metric_retained(model, task, tolerance=enough, confidence=0.9, **options).bound == unsure.bound
    message_of(model, task, tolerance=enough - 2e-4, confidence=0.9, **options)


def test_a_failure_that_more_data_would_not_mend_does_not_ask_for_it(model, task):
    message = message_of(model, task, heads=BOTH, tolerance=0.01, confidence=0.9)

    true_drop = row(message, "true drop")
    assert "with 90% confidence (Tango's score interval, exact), and above 0.2026" in true_drop
    assert "cannot" not in message
    assert message.startswith("accuracy is not retained")


def test_a_bound_is_more_than_the_drop_and_rises_with_the_confidence(model, task):
    bounds = [
        assert_metric_retained(model, task, heads=BOTH, tolerance=0.99, confidence=confidence).bound.upper
        for confidence in (0.6, 0.9, 0.99)
    ]

    assert 1 - accuracy(model, task, BOTH) < bounds[0] < bounds[1] < bounds[2] < 1


# -- verdicts ----------------------------------------------------------------------------------------------------


def test_a_verdict_is_heard_whether_it_passes_or_fails(model, task):
    heard: list[Verdict] = []
    drop = 1 - accuracy(model, task, BOTH)

    with hearing(heard.append):
        assert_metric_retained(model, task, heads=BOTH, tolerance=0.99)
        with pytest.raises(CheckFailed) as caught:
            assert_metric_retained(model, task, heads=BOTH, tolerance=0.01, early=False)
    assert_metric_retained(model, task, heads=BOTH, tolerance=0.99)

    assert [verdict.passed for verdict in heard] == [True, False]
    assert caught.value.verdict is heard[1]
    failed = heard[1]
    assert (failed.check, failed.metric, failed.required) == ("assert_metric_retained", "accuracy", "<= 0.01")
    assert (failed.heads, failed.examples, failed.judged) == (("L0H1", "L1H3"), N, "drop")
    assert (failed.baseline, failed.score) == (1.0, pytest.approx(1 - drop))
    assert failed.observed == pytest.approx(drop)


def test_a_verdict_is_plain_data(model, task):
    heard: list[Verdict] = []

    with hearing(heard.append):
        assert_metric_retained(model, task, heads=BOTH, tolerance=0.99, confidence=0.9, relative=True)

    content = json.loads(json.dumps(heard[0].to_jsonable()))
    assert content["judged"] == "bound on the relative drop"
    assert content["heads"] == ["L0H1", "L1H3"]
    assert content["details"]["bound"] == pytest.approx(content["observed"])


def test_listeners_each_hear_and_leave_on_their_own(model, task):
    outer: list[Verdict] = []
    inner: list[Verdict] = []

    with hearing(outer.append):
        with hearing(inner.append):
            assert_metric_retained(model, task, heads=BOTH, tolerance=0.99)
        assert_metric_retained(model, task, heads=BOTH, tolerance=0.99)

    assert (len(outer), len(inner)) == (2, 1)


# -- arguments ---------------------------------------------------------------------------------------------------


@pytest.fixture
def asleep(model):
    """The model must not be run."""
    handle = model.model.register_forward_pre_hook(lambda *_: pytest.fail("the model was run"))
    yield model
    handle.remove()


@pytest.mark.parametrize("tolerance", [-0.01, math.nan, math.inf, True, "0.01", None])
def test_a_tolerance_is_a_number_from_0(asleep, task, tolerance):
    with pytest.raises(InvalidArgument, match=r"tolerance=.* is not valid: expected a number from 0"):
        assert_metric_retained(asleep, task, heads=BOTH, tolerance=tolerance)


def test_a_baseline_no_better_than_the_most_frequent_label_is_warned_of(model, task):
    frequent = max(LABELS, key=task.labels.count)
    always = load_task({"text": list(task.texts), "label": [frequent] * (N - 1) + [LABELS[frequent == LABELS[0]]]})
    share = accuracy(model, always, [])
    assert share < (N - 1) / N

    with pytest.warns(BertologyWarning, match=rf"baseline accuracy .*, {share:.4f}, is no better than .*0\.9583"):
        assert_metric_retained(model, always, heads=BOTH, tolerance=0.9)


@pytest.mark.parametrize(
    ("tolerance", "options"),
    [
        (1.0, {}),
        (1, {"metric": "f1"}),
        (10**9, {"metric": "f1_macro"}),
        (1.0, {"metric": "accuracy", "relative": True}),
        (2.0, {"metric": "matthews"}),
    ],
)
def test_a_tolerance_that_no_drop_can_exceed_is_refused(asleep, task, tolerance, options):
    with pytest.raises(InvalidArgument, match=r"less than [12], .* could not fail; did you mean 0\.01\?"):
        assert_metric_retained(asleep, task, heads=BOTH, tolerance=tolerance, **options)


@pytest.mark.parametrize("options", [{"metric": "loss"}, {"metric": "matthews", "relative": True}])
def test_where_a_drop_has_no_limit_nor_has_the_tolerance(model, task, options):
    assert assert_metric_retained(model, task, heads=BOTH, tolerance=50.0, **options).drop > 0


@pytest.mark.parametrize("prune", [-0.1, 1.1, 30, math.nan, True, "0.3"])
def test_prune_is_a_fraction(asleep, task, prune):
    with pytest.raises(InvalidArgument, match=r"prune=.* expected a fraction of the heads, from 0 to 1"):
        assert_metric_retained(asleep, task, prune=prune, tolerance=0.1)


@pytest.mark.parametrize("prune", [0, 0.0, 0.05, 0.0624])
def test_a_fraction_of_no_head_is_refused_with_the_smallest_that_is_one(asleep, task, prune):
    with pytest.raises(NoHeadSelected, match=r"rounds to no head.* could not fail.* from 0\.0625 on, a head is masked"):
        assert_metric_retained(asleep, task, prune=prune, tolerance=0.1)


def test_the_smallest_fraction_named_masks_one_head(model, task):
    assert len(assert_metric_retained(model, task, prune=0.0625, by="random", tolerance=0.99).heads) == 1


@pytest.mark.parametrize(
    "selections",
    [
        {"heads": BOTH, "prune": 0.3},
        {"heads": BOTH, "mask": HeadMask.without(HeadMap([4, 4]), BOTH)},
        {"mask": HeadMask.without(HeadMap([4, 4]), BOTH), "prune": 0.3},
        {"heads": [], "prune": 0.0},
    ],
)
def test_two_selections_are_refused(asleep, task, selections):
    with pytest.raises(InvalidArgument, match=r"only one of mask, heads and prune; .* is given too"):
        assert_metric_retained(asleep, task, tolerance=0.1, **selections)


def test_no_selection_and_no_mask_in_force_is_refused(asleep, task):
    with pytest.raises(NoHeadSelected, match="no mask is in force, and none of mask, heads and prune is given"):
        assert_metric_retained(asleep, task, tolerance=0.1)


@pytest.mark.parametrize("heads", [[], (), iter(())])
def test_an_empty_list_of_heads_is_refused(asleep, task, heads):
    with pytest.raises(NoHeadSelected, match=r"heads=\[\] names no head"):
        assert_metric_retained(asleep, task, heads=heads, tolerance=0.1)


def test_an_empty_list_of_heads_is_refused_under_a_mask_too(asleep, task):
    with asleep.masked([(0, 0)]), pytest.raises(NoHeadSelected):
        assert_metric_retained(asleep, task, heads=[], tolerance=0.1)


def test_a_mask_that_keeps_all_is_refused(asleep, task):
    with pytest.raises(NoHeadSelected, match="the mask keeps all heads: nothing would be masked"):
        assert_metric_retained(asleep, task, mask=HeadMask.keep_all(asleep.heads), tolerance=0.1)


@pytest.mark.parametrize("heads", [[(2, 0)], [(0, 4)], [(0, 1), (-1, 0)]])
def test_an_unknown_head_is_refused(asleep, task, heads):
    with pytest.raises(UnknownHead, match="2 layers of 4 heads"):
        assert_metric_retained(asleep, task, heads=heads, tolerance=0.1)


@pytest.mark.parametrize("heads", [(0, 1), ["L0H1"], 3])
def test_what_is_no_list_of_heads_is_refused(asleep, task, heads):
    with pytest.raises(NotAHead):
        assert_metric_retained(asleep, task, heads=heads, tolerance=0.1)


def test_a_mask_or_scores_of_another_model_are_refused(asleep, task):
    other = HeadMap([12] * 6)

    with pytest.raises(MaskOfAnotherModel, match=r"6 layers of 12 heads.* 2 layers of 4 heads"):
        assert_metric_retained(asleep, task, mask=HeadMask.without(other, BOTH), tolerance=0.1)
    with pytest.raises(MaskOfAnotherModel, match=r"6 layers of 12 heads.* 2 layers of 4 heads"):
        assert_metric_retained(asleep, task, prune=0.3, by=HeadScores(np.ones(72), other, "given"), tolerance=0.1)


def test_an_unknown_importance_method_is_refused_with_those_there_are(asleep, task):
    with pytest.raises(InvalidArgument, match=r"by='magic' is not valid: expected .*gradient.*random"):
        assert_metric_retained(asleep, task, prune=0.3, by="magic", tolerance=0.1)


def test_an_unknown_metric_is_refused(asleep, task):
    with pytest.raises(UnknownMetric, match="'bleu'"):
        assert_metric_retained(asleep, task, heads=BOTH, metric="bleu", tolerance=0.1)


@pytest.mark.parametrize("confidence", [0.0, 0.05, 0.49, 1.0, 95, math.nan, True])
def test_a_confidence_is_a_number_from_a_half_to_below_one(asleep, task, confidence):
    with pytest.raises(InvalidArgument, match=r"confidence=.* expected a number from 0.5 to below 1"):
        assert_metric_retained(asleep, task, heads=BOTH, tolerance=0.1, confidence=confidence)
