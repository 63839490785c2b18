"""Checks that what a probe finds survives pruning, and goes with the model's own score."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pytest_bertology.checks import explain_probe_retention as explain
from pytest_bertology.checks.drops import check_tolerance, force_details
from pytest_bertology.checks.verdicts import Verdict, give
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.heads import HeadLike, HeadMask, HeadScores
from pytest_bertology.measures.arguments import check_model_and_task
from pytest_bertology.measures.compression_path import FRACTIONS, HEADS, CompressionPath, compression_path
from pytest_bertology.measures.early import ROUNDING
from pytest_bertology.measures.own_methods import Method
from pytest_bertology.measures.probe_retention import BEST, ProbeRetention, check_options, mask_for, probe_retention
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.items import check_labelled
from pytest_bertology.tasks.task import Task


def assert_probe_retained(
    model: ModelUnderTest,
    task: Task,
    *,
    mask: HeadMask | None = None,
    heads: Iterable[HeadLike] | None = None,
    prune: float | None = None,
    by: str | Method | HeadScores | None = None,
    model_task: Task | None = None,
    layer: int | str = BEST,
    tolerance: float,
    relative: bool = False,
    confidence: float | None = None,
    seed: int = 0,
    **options: Any,
) -> ProbeRetention:
    """Assert that a probe's score drops by at most `tolerance` when heads are masked; return both probes.

    Each probe is trained on its own model's states (`probe_retention`): the question is whether the masked model still
    knows. `layer` is one layer, or "best": the best of the model as trained. Say which heads by one of `mask`, `heads`,
    or `prune`, a fraction of all heads, the least important first: `by` the gradient on `model_task`, a task that the
    model itself does; without one, on the probing task if the model can do it, or on a language model's loss; a model
    that does neither has its heads ordered by their confidence, which needs no labels. Or `by` names another method, or
    holds scores. Masks in force around the call count; the baseline is the model as trained. `options` are those of
    `probe`: `train`, `kind`, `pooling` …

    With `confidence` the upper bound of the true drop, over texts, must be within the tolerance.

    Raises CheckFailed, also where the probe of the model as trained is not surely better than the most frequent class:
    then there is nothing to retain. Raises NothingToJudge where the masked heads do not act on that layer;
    InvalidArgument and NoHeadSelected for arguments on which the check could not fail: among them a tolerance as great
    as the baseline's lead over the most frequent class, to which a probe of a model that knows nothing falls.
    """
    __tracebackhide__ = True
    check_model_and_task(model, task)
    check_labelled(task)
    check_tolerance(tolerance, task.metric, relative)
    _check_confidence(confidence)
    check_options(options, ("model", "task", "layers", "confidence"))
    judged, why = mask_for(model, task, mask=mask, heads=heads, prune=prune, by=by, model_task=model_task, seed=seed)
    level = 0.95 if confidence is None else 2.0 * confidence - 1.0  # an upper end has half as much above it
    found = probe_retention(model, task, judged, layer=layer, confidence=level, by=why, seed=seed, **options)
    scale = abs(found.baseline_score) if relative else 1.0
    drop = found.relative_drop if relative else found.drop
    bound = lower = None
    if confidence is not None:
        low, high = found.difference.interval
        ends = (low, high) if found.baseline.metric.higher_is_better else (-high, -low)
        lower, bound = (end / scale for end in ends)
    observed = drop if bound is None else bound
    known = found.baseline.beats_majority(found.layer)
    if known:
        _check_can_fail(found, tolerance, relative)
    verdict = Verdict(
        check="assert_probe_retained",
        passed=known and observed <= tolerance + ROUNDING,
        inconclusive=known and lower is not None and lower <= tolerance + ROUNDING < observed,
        observed=observed,
        required=f"<= {tolerance:g}",
        judged=("bound on the " if bound is not None else "") + ("relative " if relative else "") + "drop of the probe",
        model=model.name,
        task=found.baseline.data,
        metric=found.baseline.metric.name,
        baseline=found.baseline_score,
        score=found.score,
        examples=len(found.baseline),
        heads=tuple(map(str, found.heads)),
        details={
            "layer": found.layer,
            "probed": f"{found.baseline.probing.level}s",
            "majority": found.baseline.majority_baseline,
            "known": known,
        }
        | force_details(model),
    )
    give(verdict, lambda: explain.not_retained(model, found, tolerance, relative, bound, confidence))
    return found


def assert_probe_tracks_loss(
    model: ModelUnderTest,
    task: Task,
    model_task: Task,
    min_correlation: float,
    *,
    path: str | Sequence[ModelUnderTest] = HEADS,
    fractions: Sequence[float] = FRACTIONS,
    by: str | Method | HeadScores | None = None,
    layer: int | str = BEST,
    seed: int = 0,
    **options: Any,
) -> CompressionPath:
    """Assert that along a path of compression a probe's score falls as the model's own does; return the path.

    `compression_path` says how the path is made and probed (Nikoulina et al. 2021, the rediscovery hypothesis). The
    rank correlation (Spearman) of probing scores with how good the model is on `model_task`, a loss turned round, must
    be at least `min_correlation`. Few points say little: the failure page and the result carry a p-value.

    Raises CheckFailed; UndefinedScore where probe or model score the same at every point; InvalidArgument for a
    correlation outside −1 to 1 or of −1, on which the check could not fail.
    """
    __tracebackhide__ = True
    check_model_and_task(model, task)
    check_labelled(task)
    numeric = isinstance(min_correlation, int | float) and not isinstance(min_correlation, bool)
    if not numeric or not -1.0 < min_correlation <= 1.0:
        expected = "a rank correlation above -1 (on which the check could not fail) and up to 1"
        raise InvalidArgument("min_correlation", min_correlation, expected)
    found = compression_path(
        model, task, model_task, path=path, fractions=fractions, by=by, layer=layer, seed=seed, **options
    )
    observed = found.rank_correlation
    verdict = Verdict(
        check="assert_probe_tracks_loss",
        passed=observed >= min_correlation - ROUNDING,
        observed=observed,
        required=f">= {min_correlation:g}",
        judged="rank correlation of the probe's score with the model's",
        model=model.name,
        task=found.probed,
        metric=found.metric.name,
        examples=found.examples,
        details={
            "layer": found.layer,
            "p_value": found.p_value,
            "points": [[point.name, point.probe, point.score] for point in found.points],
        },
    )
    give(verdict, lambda: explain.does_not_track(found, min_correlation))
    return found


def _check_can_fail(found: ProbeRetention, tolerance: float, relative: bool) -> None:
    """Refuse a tolerance that allows to know nothing: what is left then is the score of the majority class."""
    majority = found.baseline.majority_baseline
    lead = found.baseline.metric.drop(found.baseline_score, majority)
    room = lead / abs(found.baseline_score) if relative else lead
    if tolerance >= room - ROUNDING:
        share = " of the baseline" if relative else ""
        expected = (
            f"less than {room:.4f}{share}, which is all that the probe of layer {found.layer} has "
            f"({found.baseline_score:.4f}) over the most frequent class ({majority:.4f}): a model that knows nothing "
            "would pass"
        )
        raise InvalidArgument("tolerance", tolerance, expected)


def _check_confidence(confidence: object) -> None:
    if confidence is None:
        return
    if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0.5 < confidence < 1.0:
        raise InvalidArgument("confidence", confidence, "a number above 0.5 and below 1, such as 0.95, or None")
