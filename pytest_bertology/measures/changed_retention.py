"""How much of a score is left when attention is changed: constant heads, patterns, the greatest few keys."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.encoding import encode, lengths
from pytest_bertology.engine.texts import TextsLike
from pytest_bertology.errors import (
    AttentionNotChanged,
    BertologyWarning,
    InvalidArgument,
    NoHeadSelected,
    NothingToJudge,
)
from pytest_bertology.heads import Head, HeadLike, HeadScores
from pytest_bertology.measures.arguments import check_has_heads, check_model_and_task
from pytest_bertology.measures.bounds import drop_bound
from pytest_bertology.measures.constant_attention import as_constants, refuse_judged
from pytest_bertology.measures.evaluation import evaluate_exactly
from pytest_bertology.measures.ordering import check_by, name_of, ordering_scores
from pytest_bertology.measures.own_methods import Method
from pytest_bertology.measures.retention import Retention, _check_confidence, _same, trained_outcomes
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.blocks import LayerLike
from pytest_bertology.models.changes import named, of_layers
from pytest_bertology.models.constants import ConstantAttention
from pytest_bertology.models.patterns import PatternLike, as_pattern
from pytest_bertology.tasks.task import Task


@dataclass(frozen=True, repr=False)
class ChangedRetention(Retention):
    """A model's results as trained (`baseline`), and with the attention of some heads changed (`masked`)."""

    change: str
    """What to, such as "constant attention"."""
    changed: tuple[Head, ...]
    """The heads whose attention is changed."""
    kept: float = 0.0
    """The share of tokens that a pattern left nothing, and that kept their attention."""

    def __repr__(self) -> str:
        return (
            f"ChangedRetention({self.baseline.metric.name} {self.baseline.score:.4f} → {self.masked.score:.4f}, "
            f"{self.change} in {len(self.changed)} of {len(self.masked.mask.heads)} heads)"
        )


def constant_retention(
    model: ModelUnderTest,
    task: Task,
    constants: ConstantAttention | TextsLike,
    heads: HeadLike | Iterable[HeadLike],
    *,
    confidence: float | None = None,
    batching: Batching | None = None,
) -> ChangedRetention:
    """Compare the model with constant attention in these heads (PAPA) with the model as trained, example by example.

    The baseline is the model as trained, whatever is in force around the call; masks, skipped layers and other changes
    of attention in force count beside the change. `constants` are what `constant_attention` estimated, or texts to
    estimate them on, which are not those of the task (InvalidArgument where all judged texts are among them, a warning
    where some are). `confidence` adds an upper bound on the true drop (see `drop_bound`). Warns where the change
    changes no result, bit for bit.
    """
    _check(model, task, confidence)
    chosen, known = named(model, heads), as_constants(model, constants, batching)
    refuse_judged(task, known)

    def entering() -> AbstractContextManager[Any]:
        return model.with_constant_attention(known, chosen)

    return _retained(model, task, entering, "constant attention", chosen, confidence, batching)


def top_k_retention(
    model: ModelUnderTest,
    task: Task,
    k: int,
    layers: Iterable[LayerLike] | None = None,
    *,
    confidence: float | None = None,
    batching: Batching | None = None,
) -> ChangedRetention:
    """The same for attention to each token's `k` greatest keys alone, in all attention layers or some.

    Raises NothingToJudge where no text of the task has more than `k` tokens.
    """
    _check(model, task, confidence)
    longest = int(lengths(encode(model, task)).max())
    if isinstance(k, int) and k >= longest:
        what = f"k={k} keeps all keys: the longest text of {task.name} has {longest}"
        raise NothingToJudge(what, "Take a smaller k.")
    layers = None if layers is None else list(layers)
    sites = range(len(model.sites)) if layers is None else of_layers(model, layers)
    chosen = {(model.sites[at].layer, model.sites[at].stack) for at in sites}
    heads = tuple(head for head in model.heads if (head.layer, head.stack) in chosen)
    change = f"attention to the {k} greatest key{'s' if k != 1 else ''}"
    return _retained(model, task, lambda: model.with_top_k_attention(k, layers), change, heads, confidence, batching)


def pattern_retention(
    model: ModelUnderTest,
    task: Task,
    heads: HeadLike | Iterable[HeadLike],
    pattern: PatternLike,
    *,
    confidence: float | None = None,
    batching: Batching | None = None,
) -> ChangedRetention:
    """The same for heads that attend to nothing but a pattern (see `ModelUnderTest.with_attention_pattern`).

    Raises NothingToJudge where the pattern left no token of the task anything, so that nothing was changed.
    """
    _check(model, task, confidence)
    chosen, found = named(model, heads), as_pattern(pattern, model.needs_tokenizer)
    uses = []

    @contextmanager
    def entering() -> Iterator[None]:
        with model.with_attention_pattern(chosen, found) as use:
            uses.append(use)
            yield

    change = f"the pattern {found.name}"
    try:
        result = _retained(model, task, entering, change, chosen, confidence, batching)
    except AttentionNotChanged as error:
        if not uses or uses[0].kept < uses[0].rows or not uses[0].rows:
            raise
        what = f"{found.name} leaves no token of {task.name} anything to attend to ({error.problem})"
        raise NothingToJudge(what, "Take another pattern or head.") from error
    return ChangedRetention(result.baseline, result.masked, result.bound, change, chosen, uses[0].share_kept)


def least_important_heads(
    model: ModelUnderTest, task: Task, fraction: float, by: str | Method | HeadScores, seed: int
) -> tuple[tuple[Head, ...], str]:
    """The least important `fraction` of all heads, rounded to whole heads, and what they were ordered by.

    Of the heads that are not masked; 1 takes all of them. Raises InvalidArgument for a fraction outside 0 to 1 or of
    more heads, NoHeadSelected for one that rounds to no head, NothingToJudge where all heads are masked, UndefinedScore
    where all heads score the same and not all are chosen.
    """
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0.0 <= fraction <= 1.0:
        raise InvalidArgument("fraction", fraction, "a fraction of the heads, from 0 to 1")
    check_by(model, by)
    total = len(model.heads)
    count = int(fraction * total + 0.5)
    if count == 0:
        advice = f"One head is {1 / total:.4g} of them; from {0.5 / total:.4g} on, a head is changed."
        raise NoHeadSelected(f"fraction={fraction} of {total} heads rounds to no head", advice)
    mask = model.mask_in_force()
    masked = set(mask.masked)
    still = [head for head in model.heads if head not in masked]
    if not still:
        raise NothingToJudge("all heads are masked", "Leave the mask.")
    if count == total:
        return tuple(still), name_of(by)
    if count > len(still):
        raise InvalidArgument(
            "fraction", fraction, f"at most the {len(still)} of {total} heads that are not masked, or 1"
        )
    scores = ordering_scores(model, task, by, mask, seed=seed)
    return model.heads.select([head for head in scores.bottom(total) if head not in masked][:count]), scores.method


def _check(model: ModelUnderTest, task: Task, confidence: float | None) -> None:
    check_model_and_task(model, task)
    check_has_heads(model)
    _check_confidence(confidence)


def _retained(
    model: ModelUnderTest,
    task: Task,
    entering: Callable[[], AbstractContextManager[Any]],
    change: str,
    heads: tuple[Head, ...],
    confidence: float | None,
    batching: Batching | None,
) -> ChangedRetention:
    baseline = trained_outcomes(model, task, batching)
    with entering():
        changed = evaluate_exactly(model, task, model.mask_in_force(), batching)
    if _same(baseline, changed):
        text = f"{change} changes no result of {model.name} on {task.name}, bit for bit"
        warnings.warn(text, BertologyWarning, stacklevel=5)
    bound = None if confidence is None else drop_bound(baseline, changed, confidence)
    return ChangedRetention(baseline, changed, bound, change, heads)
