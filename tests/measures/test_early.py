"""Failures that are certain early: the verdict is that of all the data, from as little of it as that takes.

Oracle: scikit-learn, numpy and scipy on the whole of simulated results, and for models the check on all the data.
"""

from __future__ import annotations

import contextlib
import itertools
import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from pytest_bertology import CheckFailed, Head, ResultStore, assert_metric_retained, evaluate, load_model, load_task
from pytest_bertology import using_store as storing
from pytest_bertology.checks.verdicts import hearing
from pytest_bertology.engine.batching import Batching
from pytest_bertology.errors import MaskNotApplied
from pytest_bertology.heads import HeadMask
from pytest_bertology.measures.early import EarlyVerdict, Requirement
from pytest_bertology.measures.retention import Refutation, Retention, retention_or_refutation
from pytest_bertology.statistics import ProportionDrop, tango_upper_bound
from pytest_bertology.tasks.metrics import METRICS, Results
from tests.planted import planted_model, planted_task
from tests.tiny import LABELS, says, sentences, tiny_model

CLASSES, WORDS, LETTERS = "sequence-classification", "token-classification", "language-modelling"


# -- simulated results ---------------------------------------------------------------------------------------------


class Case:
    """Results of some examples without and with a mask."""

    def __init__(self, draw, n, k=2, *, words=False, right=0.9, shift=0.6, spread=1.0):
        self.counts = draw.integers(1, 6, n) if words else np.ones(n, dtype=np.int64)
        items = int(self.counts.sum())
        self.labels, self.k = draw.integers(0, k, items), k
        # How much surer each item's own label is than the next: the mask lowers it, and adds noise.
        centre = -math.sqrt(2) * _inverse_normal(1 - right)
        before = draw.normal(centre, math.sqrt(2), items)
        after = before - shift + draw.normal(0, spread, items)
        self.other = (self.labels + draw.integers(1, k, items)) % k
        starts = np.cumsum(self.counts) - self.counts
        self.margins = np.minimum.reduceat(np.abs(before), starts)
        self.baseline = self._results(before, starts)
        self.masked = self._results(after, starts)

    def _results(self, sure, starts):
        said = np.where(sure > 0, self.labels, self.other)
        losses = np.add.reduceat(np.log1p(np.exp(-sure)), starts) / self.counts
        return Results(self.labels, said, losses, self.counts, self.k)

    def early(self, requirement, **options):
        """The verdict, fed part by part, and how many examples it took; None where all were known and it stands."""
        verdict = EarlyVerdict(requirement, self.baseline, self.margins, **options)
        ends, seen = np.cumsum(self.counts), []
        while len(part := verdict.next_part()):
            seen += part.tolist()
            items = np.concatenate([np.arange(ends[i] - self.counts[i], ends[i]) for i in part])
            verdict.learn(part, self.masked.predictions[items], self.masked.losses[part])
            if verdict.failed:
                break
        assert len(set(seen)) == len(seen) <= len(self.counts)
        return verdict, len(seen)


def _inverse_normal(p):
    from scipy.stats import norm

    return float(norm.ppf(p))


def by_sklearn(name, results):
    """A score from first principles or by scikit-learn."""
    labels, said = results.labels, results.predictions
    if name == "accuracy":
        return sk.accuracy_score(labels, said)
    if name == "matthews":
        return sk.matthews_corrcoef(labels, said)
    if name.startswith("f1"):
        average = {"f1": "binary" if results.n_labels == 2 else "macro"}.get(name, name[3:])
        return sk.f1_score(labels, said, average=average, zero_division=0)
    mean = (results.losses * results.counts).sum() / results.counts.sum()
    return math.exp(mean) if name == "perplexity" else mean


def whole(name, case, relative, confidence):
    """What decides on failure, of all the data: the drop, or the lower bound on it."""
    before, after = by_sklearn(name, case.baseline), by_sklearn(name, case.masked)
    scale = abs(before) if relative else 1.0
    drop = after - before if name in ("loss", "perplexity") else before - after
    if confidence is None:
        return drop / scale
    was, now = (x.labels == x.predictions for x in (case.baseline, case.masked))
    worse, better = int((was & ~now).sum()), int((~was & now).sum())
    return ProportionDrop(worse, better, len(was)).lower(confidence) / scale


KINDS = [
    *((name, CLASSES, None) for name in ("accuracy", "f1", "f1_macro", "f1_micro", "matthews", "loss")),
    *((name, WORDS, None) for name in ("accuracy", "f1", "loss")),
    *((name, LETTERS, None) for name in ("loss", "perplexity")),
    ("accuracy", CLASSES, 0.95),
    ("accuracy", CLASSES, 0.5),
]


@pytest.mark.parametrize("hundred", range(10))
def test_the_verdict_is_that_of_all_the_data(hundred):
    """1,000 cases over all metrics that allow it: tolerances around the true drop, few and many labels, any size."""
    for seed in range(100 * hundred, 100 * hundred + 100):
        draw = np.random.default_rng(seed)
        name, kind, confidence = KINDS[seed % len(KINDS)]
        n, words = int(draw.integers(2, 300)), kind in (WORDS, LETTERS)
        k = 2 if name == "matthews" else int(draw.integers(2, 5))
        case = Case(draw, n, k, words=words, right=draw.uniform(0.3, 0.99), shift=draw.uniform(-0.2, 2.0))
        relative = bool(draw.random() < 0.3) and by_sklearn(name, case.baseline) != 0.0
        full = whole(name, case, relative, confidence)
        nearly = draw.choice([0.0, 1e-7, -1e-7])  # as near to the limit as can be told
        tolerance = max(0.0, float(full * draw.choice([0.0, 0.33, 0.9, 1.0, 1.1, 3.0]) + nearly))
        requirement = Requirement(METRICS[name], kind, tolerance, relative, confidence)
        assert requirement.provable(k)

        verdict, needed = case.early(requirement)

        assert verdict.failed is bool(full > tolerance + 1e-9), seed
        assert verdict.failed or needed == n


def test_a_drop_of_three_times_the_tolerance_takes_at_most_40_percent():
    """1,000 cases of 872 examples, about 0.9 of them right, their margins drawn from a normal distribution.

    The mask lowers every margin by up to 0.64 of its standard deviation and adds noise of up to 1.06 of it; drops of 2
    to 25 points come of it, and the tolerance is a third of the drop.
    """
    shares = []
    for seed in range(1000):
        draw = np.random.default_rng(seed)
        case = Case(draw, 872, right=0.9, shift=draw.uniform(0.0, 0.9), spread=draw.uniform(0.2, 1.5))
        drop = whole("accuracy", case, False, None)
        if drop < 0.02:
            continue

        verdict, needed = case.early(Requirement(METRICS["accuracy"], CLASSES, drop / 3))

        assert verdict.failed
        shares.append(needed / 872)

    assert len(shares) > 900
    assert max(shares) <= 0.4
    assert np.median(shares) <= 0.25


@pytest.mark.parametrize(("labels", "n"), [(2, 6), (3, 5)])
@pytest.mark.parametrize("name", ["accuracy", "f1", "f1_macro", "f1_micro", "matthews"])
def test_no_completion_is_better_than_all_right(name, labels, n):
    """Brute force: over all label sets and all predictions, a wrong one turned right never lowers the score."""
    if name == "matthews" and labels == 3:
        assert not Requirement(METRICS[name], CLASSES, 0.1).provable(labels)
        return
    metric = METRICS[name]
    assert Requirement(metric, CLASSES, 0.1).provable(labels)

    def score(confusion):
        if metric.from_confusion is None:
            return np.trace(confusion) / n
        return metric.from_confusion(confusion, labels)

    for cells in itertools.combinations_with_replacement(range(labels * labels), n):
        confusion = np.bincount(cells, minlength=labels * labels).reshape(labels, labels)
        for real, said in itertools.permutations(range(labels), 2):
            if confusion[real, said]:
                better = confusion.copy()
                better[real, said] -= 1
                better[real, real] += 1
                assert score(better) >= score(confusion) - 1e-12


def test_three_labels_can_lose_matthews_correlation_by_a_right_answer():
    confusion = np.array([[0, 13, 0], [0, 1, 0], [0, 1, 3]])
    better = np.array([[1, 12, 0], [0, 1, 0], [0, 1, 3]])

    matthews = METRICS["matthews"].from_confusion

    assert matthews(better, 3) < matthews(confusion, 3)


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95, 0.999])
def test_tangos_bound_rises_with_worse_and_falls_with_better_examples(confidence):
    n = 17
    bounds = np.full((n + 1, n + 1), np.nan)
    for worse, better in itertools.product(range(n + 1), repeat=2):
        if worse + better <= n:
            bounds[worse, better] = tango_upper_bound(worse, better, n, confidence).upper

    assert np.nanmin(np.diff(bounds, axis=0)) > 0
    assert np.nanmax(np.diff(bounds, axis=1)) < 0


@pytest.mark.parametrize("noise", [1e-4, 3e-2])
def test_losses_within_the_noise_of_batching_prove_nothing(noise):
    case = Case(np.random.default_rng(0), 100)
    drop = whole("loss", case, False, None)

    far, _ = case.early(Requirement(METRICS["loss"], CLASSES, drop - 3 * noise), noise=noise)
    near, needed = case.early(Requirement(METRICS["loss"], CLASSES, drop - noise / 2), noise=noise)

    assert far.failed
    assert not near.failed
    assert near.close
    assert needed == 100


def test_what_cannot_be_proven_by_a_part_is_not_tried():
    def provable(name, kind, confidence=None, labels=2):
        return Requirement(METRICS[name], kind, 0.1, confidence=confidence).provable(labels)

    assert not provable("pearson", "regression")
    assert not provable("accuracy", LETTERS)  # near ties of language models are not decided apart
    assert not provable("perplexity", LETTERS, 0.9)
    assert provable("f1", WORDS)
    assert provable("accuracy", CLASSES, 0.9)
    # With confidence a part must show that the check is not inconclusive, and other lower bounds may fall again.
    assert not provable("loss", CLASSES, 0.9)
    assert not provable("f1", CLASSES, 0.9)
    assert not provable("accuracy", WORDS, 0.9)


# -- models --------------------------------------------------------------------------------------------------------


N = 200


@pytest.fixture(autouse=True)
def _nothing_stored():
    with storing(ResultStore()):
        yield


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def task(model):
    """The model is right on nine of ten."""
    texts = sentences(N)
    said = says(model.model, model.tokenizer, texts)
    return load_task({"text": texts, "label": [LABELS[1 - s if i % 10 == 0 else s] for i, s in enumerate(said)]})


class Rows:
    """Counts the texts that a model reads."""

    def __init__(self, model):
        self.model, self.count = model.model, 0

    def __enter__(self):
        def look(module, args, kwargs):
            self.count += len(kwargs["input_ids"])

        self.handle = self.model.register_forward_pre_hook(look, with_kwargs=True)
        return self

    def __exit__(self, *exception):
        self.handle.remove()


def verdict_of(*arguments, **options):
    heard = []
    with hearing(heard.append):
        with contextlib.suppress(CheckFailed):
            assert_metric_retained(*arguments, **options)
    return heard[0]


HEADS = [(0, 1), (1, 3)]


def test_a_failure_runs_only_what_it_needs(model, task):
    drop = assert_metric_retained(model, task, heads=HEADS, tolerance=0.9).drop
    assert drop > 0.1
    with storing(ResultStore()):
        evaluate(model, task)

        verdict = verdict_of(model, task, heads=HEADS, tolerance=drop / 3)

    needed = verdict.details["examples_needed"]
    assert not verdict.passed
    assert verdict.details["examples"] == verdict.examples == N
    assert needed <= 0.4 * N
    assert drop >= verdict.observed > drop / 3
    assert verdict.score is None


def test_the_examples_run_are_those_counted(task):
    model = tiny_model()
    baseline = evaluate(model, task)
    mask = HeadMask.without(model.heads, HEADS)
    with storing(ResultStore()), Rows(model) as rows:
        found = retention_or_refutation(model, task, mask, Requirement(METRICS["accuracy"], CLASSES, 0.03))

    assert isinstance(found, Refutation)
    # A model with hooks of others on it is run anew each time: the baseline in full, then the part.
    assert rows.count - N == len(found.positions) < N / 2
    assert set(np.flatnonzero(~baseline.right)) <= set(found.positions)
    least_sure = sorted(np.flatnonzero(baseline.right), key=lambda i: abs(np.diff(baseline.logits[i])[0]))
    wrong = int((~baseline.right).sum())
    assert set(found.positions) == {*np.flatnonzero(~baseline.right), *least_sure[: len(found.positions) - wrong]}


def test_a_part_has_the_results_of_the_whole(model, task):
    mask = HeadMask.without(model.heads, HEADS)
    found = retention_or_refutation(model, task, mask, Requirement(METRICS["accuracy"], CLASSES, 0.03))
    full = evaluate(model, task, mask)

    at = np.array(found.positions)
    assert np.array_equal(found.part.masked.predictions, full.predictions[at])
    assert np.array_equal(found.part.masked.labels, full.labels[at])
    assert np.array_equal(found.part.baseline.predictions, evaluate(model, task).predictions[at])
    assert np.allclose(found.part.masked.logits, full.logits[at], atol=1e-5)


def test_a_passing_check_runs_each_example_once_and_stores_the_whole(model, task):
    mask = HeadMask.without(model.heads, HEADS)
    store = ResultStore()
    with storing(store):
        found = retention_or_refutation(model, task, mask, Requirement(METRICS["accuracy"], CLASSES, 0.9))
        computed = store.computed
        again = evaluate(model, task, mask)

    assert isinstance(found, Retention)
    assert computed == store.computed == 2
    assert again.raw.losses is found.masked.raw.losses or np.array_equal(again.losses, found.masked.losses)
    with storing(ResultStore()):
        full = evaluate(model, task, mask)
    assert found.masked.score == full.score
    assert np.array_equal(found.masked.predictions, full.predictions)
    assert np.allclose(found.masked.losses, full.losses, atol=1e-5)


@pytest.mark.parametrize("structural", [False, True])
@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews", "loss"])
@pytest.mark.parametrize("share", [0.3, 0.999, 1.001])
def test_the_verdict_of_a_model_is_that_of_all_the_data(model, task, metric, share, structural):
    options = {"heads": HEADS, "metric": metric, "structural": structural}
    drop = verdict_of(model, task, tolerance=0.0, early=False, **options).observed
    assert drop > 0

    with storing(ResultStore()):
        verdict = verdict_of(model, task, tolerance=drop * share, **options)
        full = verdict_of(model, task, tolerance=drop * share, early=False, **options)

    assert verdict.passed is full.passed is (share > 1)
    if "examples_needed" in verdict.details:
        assert verdict.observed <= full.observed
    else:
        assert verdict.observed == pytest.approx(full.observed)


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
@pytest.mark.parametrize("tolerance", [0.0, 0.9])
def test_full_results_in_the_store_are_used_and_the_verdict_is_the_same(model, task, metric, tolerance):
    options = {"heads": HEADS, "tolerance": tolerance, "metric": metric}
    with storing(ResultStore()):
        fresh = verdict_of(model, task, **options)

    with storing(ResultStore()) as store:
        evaluate(model, task)
        evaluate(model, task, HEADS)
        ran = store.computed
        known = verdict_of(model, task, **options)

    assert store.computed == ran
    assert known.passed is fresh.passed
    assert known.details == pytest.approx(fresh.details, abs=1e-5)
    assert (known.observed, known.score) == pytest.approx((fresh.observed, fresh.score), abs=1e-5)


def test_with_confidence_the_bound_is_at_least_what_is_said(model, task):
    options = {"heads": HEADS, "tolerance": 0.03, "confidence": 0.9}

    verdict = verdict_of(model, task, **options)
    full = verdict_of(model, task, early=False, **options)

    assert verdict.details["examples_needed"] < N
    assert verdict.outcome == full.outcome == "failed"
    assert 0.03 < verdict.observed <= full.observed
    assert 0.9 <= verdict.p_value <= full.p_value
    assert verdict.judged == full.judged == "bound on the drop"


@pytest.mark.parametrize("share", [0.2, 0.9, 1.1, 2.0])
def test_early_and_late_agree_on_what_is_failed_and_what_inconclusive(model, task, share):
    drop = assert_metric_retained(model, task, heads=HEADS, tolerance=0.9).drop
    options = {"heads": HEADS, "tolerance": drop * share, "confidence": 0.9}

    full = verdict_of(model, task, early=False, **options)
    with storing(ResultStore()):
        verdict = verdict_of(model, task, **options)

    assert verdict.outcome == full.outcome == {0.2: "failed", 2.0: "passed"}.get(share, "inconclusive")
    if full.outcome != "failed":
        assert (verdict.observed, verdict.p_value) == (full.observed, full.p_value)


def test_near_ties_are_decided_by_the_example_alone():
    model = tiny_model()
    texts = sentences(N)
    mask = HeadMask.without(model.heads, HEADS)
    with torch.no_grad():  # the classes differ by almost nothing, everywhere
        model.model.classifier.weight[1] = model.model.classifier.weight[0] * (1 + 1e-7)
        model.model.classifier.bias[1] = model.model.classifier.bias[0]
    task = load_task({"text": texts, "label": [LABELS[i % 2] for i in range(N)]})
    alone = evaluate(model, task, mask, batching=Batching(tokens=1))

    found = retention_or_refutation(model, task, mask, Requirement(METRICS["accuracy"], CLASSES, 0.9))

    assert np.array_equal(found.masked.predictions, alone.predictions)


def test_a_mask_that_changes_nothing_is_told_as_such(task):
    model = tiny_model()
    handle = model.model.register_forward_pre_hook(lambda *_: None)  # else the store would know the results
    model.exactly = lambda mask: torch.no_grad()  # masks are never applied

    with pytest.raises(MaskNotApplied), handle:
        assert_metric_retained(model, task, heads=HEADS, tolerance=0.01)
    with pytest.raises(MaskNotApplied):  # certain from the start by its bound, were the mask applied
        assert_metric_retained(model, task, heads=HEADS, tolerance=0.0, confidence=0.999)


def test_idle_heads_warn_and_pass():
    model, task = planted_model(Head(1, 2)), planted_task(60)

    with pytest.warns(UserWarning, match="idle"):
        found = assert_metric_retained(model, task, heads=[(0, 0)], tolerance=0.0)

    assert found.drop == 0.0


def test_the_planted_heads_failure_comes_early():
    model, task = planted_model(Head(1, 2)), planted_task(200)

    verdict = verdict_of(model, task, heads=[(1, 2)], tolerance=0.1)

    assert not verdict.passed
    assert verdict.details["examples_needed"] < 200
    assert verdict.observed <= verdict_of(model, task, heads=[(1, 2)], tolerance=0.1, early=False).observed


@pytest.mark.parametrize("metric", ["perplexity", "loss", "accuracy"])
def test_language_models_have_the_same_verdicts(metric):
    model, task = tiny_model("causal-lm", "gpt2"), load_task({"text": sentences(60)})
    heads = [tuple(head)[:2] for head in model.heads]
    full = verdict_of(model, task, heads=heads, tolerance=0.0, metric=metric, early=False)

    for share in (0.01, 0.9, 1.001):
        with storing(ResultStore()):
            limit = min(abs(full.observed) * share, 0.99) if metric == "accuracy" else abs(full.observed) * share
            early = verdict_of(model, task, heads=heads, tolerance=limit, metric=metric)
            assert early.passed is (full.observed <= limit)


def test_a_metric_of_ones_own_is_judged_by_all_the_data(model, task):
    def share_of_ones(labels, predictions):
        return float((predictions == labels).mean())

    verdict = verdict_of(model, task, heads=HEADS, tolerance=0.0, metric=share_of_ones)

    assert not verdict.passed
    assert "examples_needed" not in verdict.details


@pytest.mark.slow
@pytest.mark.assets
def test_minilm_on_sst2_is_refused_by_a_third_of_the_data(assets):
    """Without 90% of its heads it is right on 709 of 872 instead of 788: 9.06 points."""
    model = load_model(assets / "checkpoints" / "minilm-sst2")
    task = load_task(assets / "data" / "sst2" / "dev.tsv")

    verdict = verdict_of(model, task, prune=0.9, tolerance=0.03)

    assert not verdict.passed
    assert verdict.details["examples_needed"] <= 0.4 * 872
    assert 0.03 < verdict.observed <= 79 / 872
