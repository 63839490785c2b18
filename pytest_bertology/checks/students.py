"""Checks on distilled models: whether a student follows its teacher."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pytest_bertology.checks import explain_students as explain
from pytest_bertology.checks.verdicts import Verdict, give
from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.texts import TextsLike
from pytest_bertology.errors import InvalidArgument, NothingToJudge, UndefinedScore
from pytest_bertology.measures.distances import (
    LayerDistances,
    LogitDistance,
    attention_distance,
    hidden_state_distance,
    logit_distance,
)
from pytest_bertology.measures.evaluation import Outcomes, evaluate
from pytest_bertology.measures.pairing import check_models
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.task import Task

_ROUNDING = 1e-12
_SHARE = "share of the teacher's score"


class Bound(NamedTuple):
    """One thing that was judged."""

    what: str
    observed: float
    required: float
    least: bool
    """Whether `required` is a least, and not a most."""

    @property
    def kept(self) -> bool:
        """Whether it holds."""
        if self.least:
            return self.observed >= self.required - _ROUNDING
        return self.observed <= self.required + _ROUNDING

    def __str__(self) -> str:
        return f"{self.observed:.4g}; required: at {'least' if self.least else 'most'} {self.required:g}"


@dataclass(frozen=True)
class StudentDistances:
    """What was measured of a student and its teacher; None for what was not asked for."""

    attention: LayerDistances | None = None
    hidden: LayerDistances | None = None
    logits: LogitDistance | None = None
    scores: tuple[Outcomes, Outcomes] | None = None
    """The student's and the teacher's results on the task."""

    @property
    def relative_score(self) -> float | None:
        """The student's score as a share of the teacher's; of metrics where less is better, the teacher's of its."""
        if self.scores is None:
            return None
        ours, theirs = self.scores if self.scores[0].metric.higher_is_better else self.scores[::-1]
        if theirs.score <= 0.0:
            reason = f"{theirs.metric.name} of {theirs.score:.4g} is none to take a share of"
            raise UndefinedScore("the relative score of a student", reason)
        return ours.score / theirs.score


def assert_student_follows(
    student: ModelUnderTest,
    teacher: ModelUnderTest,
    texts: TextsLike,
    *,
    attention: float | None = None,
    hidden: float | None = None,
    logits: float | None = None,
    score: float | None = None,
    layer_map: str | Mapping[Any, Any] = "uniform",
    relative: bool = False,
    reduce: str | None = None,
    projection: Any = None,
    temperature: float = 1.0,
    batching: Batching | None = None,
) -> StudentDistances:
    """Assert that a student is near its teacher (TinyBERT), by at least one bound; return what was measured.

    `attention` bounds `attention_distance` and `hidden` bounds `hidden_state_distance`: mean squared differences, mean
    over layers (embeddings are none), or with `relative` each layer's as a share of the teacher's mean square. `logits`
    bounds the KL divergence that `logit_distance` gives at `temperature`, in nats. `score` is the least share of the
    teacher's score that the student must have on a task, which `texts` then is. `layer_map`, `reduce` and `projection`
    are those of the distances. Masks in force around the call act on both models.

    Raises CheckFailed (an AssertionError) with every layer's distance; InvalidArgument for a bound on which it could
    not fail or hold, NothingToJudge for no bound, or a model and itself; and what the distances raise.
    """
    __tracebackhide__ = True
    check_models(student, teacher)
    texts = list(texts) if isinstance(texts, Iterator) else texts  # they are read more than once
    _check_bounds(student, teacher, texts, {"attention": attention, "hidden": hidden, "logits": logits}, score)
    by_attention = by_states = by_logits = scores = None
    if attention is not None:
        by_attention = attention_distance(student, teacher, texts, layer_map, reduce=reduce, batching=batching)
    if hidden is not None:
        by_states = hidden_state_distance(student, teacher, texts, layer_map, projection=projection, batching=batching)
    if logits is not None:
        by_logits = logit_distance(student, teacher, texts, temperature, batching=batching)
    if score is not None and isinstance(texts, Task):
        scores = evaluate(student, texts, batching=batching), evaluate(teacher, texts, batching=batching)
    found = StudentDistances(by_attention, by_states, by_logits, scores)
    bounds = _bounds(found, (attention, hidden, logits, score), relative)
    verdict = _verdict(student, teacher, found, bounds)
    give(verdict, lambda: explain.does_not_follow(student, teacher, found, bounds))
    return found


def _bounds(found: StudentDistances, required: tuple[float | None, ...], relative: bool) -> list[Bound]:
    """What was asked for, beside what was found."""

    def distance(layers: LayerDistances | None) -> float | None:
        return None if layers is None else layers.relative if relative else layers.overall

    of = "relative " if relative else ""
    observed = {
        f"{of}attention distance": distance(found.attention),
        f"{of}hidden-state distance": distance(found.hidden),
        "KL divergence": None if found.logits is None else found.logits.kl,
        _SHARE: found.relative_score,
    }
    return [
        Bound(what, value, bound, what == _SHARE)
        for (what, value), bound in zip(observed.items(), required, strict=True)
        if value is not None and bound is not None
    ]


def _check_bounds(
    student: ModelUnderTest,
    teacher: ModelUnderTest,
    texts: object,
    most: Mapping[str, float | None],
    score: float | None,
) -> None:
    if student is teacher:
        raise NothingToJudge("the student is its own teacher", "Load the two models.")
    if score is None and all(bound is None for bound in most.values()):
        advice = "Give at least one of attention=, hidden=, logits= (at most) and score= (at least)."
        raise NothingToJudge("assert_student_follows is given no bound", advice)
    for name, bound in most.items():
        if bound is not None and not (_number(bound) and 0.0 <= bound < math.inf):
            raise InvalidArgument(name, bound, "the greatest distance allowed, a number from 0")
    if score is None:
        return
    if not _number(score) or not 0.0 < score <= 1.0:
        meant = f"; did you mean {score / 100:g}?" if _number(score) and 2.0 <= score <= 100.0 else ""
        raise InvalidArgument(
            "score", score, f"a share of the teacher's score above 0 and up to 1, such as 0.97{meant}"
        )
    if not isinstance(texts, Task):
        raise InvalidArgument("texts", type(texts).__name__, "a task, which score= judges both models on")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _verdict(student: ModelUnderTest, teacher: ModelUnderTest, found: StudentDistances, bounds: list[Bound]) -> Verdict:
    missed = [bound for bound in bounds if not bound.kept]
    shown = (missed or bounds)[0]
    measured = next(each for each in (found.attention, found.hidden, found.logits, found.scores) if each is not None)
    return Verdict(
        check="assert_student_follows",
        passed=not missed,
        observed=shown.observed,
        required=f"{'>=' if shown.least else '<='} {shown.required:g}",
        judged=shown.what + (f" (and {len(missed) - 1} more)" if len(missed) > 1 else ""),
        model=student.name,
        task=measured[0].task.name if isinstance(measured, tuple) else measured.task,
        details={**{bound.what: bound.observed for bound in bounds}, "teacher": teacher.name},
    )
