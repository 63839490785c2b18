"""Checks on heads that track dependency relations."""

from __future__ import annotations

from dataclasses import replace

from pytest_bertology.checks import explain_relations as explain
from pytest_bertology.checks.masked import refuse_masked
from pytest_bertology.checks.verdicts import Verdict, give
from pytest_bertology.engine.batching import Batching
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.heads import HeadLike
from pytest_bertology.measures.arguments import check_model
from pytest_bertology.measures.early import ROUNDING
from pytest_bertology.measures.relation_report import TrackedRelation
from pytest_bertology.measures.relations import head_relations
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.conllu import TreesLike


def assert_head_tracks(
    model: ModelUnderTest,
    conllu: TreesLike,
    head: HeadLike,
    relation: str,
    at_least: float,
    *,
    direction: str | None = None,
    beats_offset: bool = True,
    confidence: float | None = None,
    select: TreesLike | None = None,
    subtypes: bool = True,
    min_cases: int = 20,
    batching: Batching | None = None,
) -> TrackedRelation:
    """Assert that a head finds the syntactic head in `at_least` this share of a relation's cases; return it.

    `head_relations` says how a head is judged (Clark et al. 2019, section 4.2). `direction` is "to_head" (the dependent
    attends to its syntactic head), "from_head" (it is attended to by it), or None: the better of the two on the
    sentences that choose: `select`, or every second one of `conllu`, which are then not judged. With `beats_offset` the
    head must also be better than the best fixed offset: the 95 % interval of their difference on the same cases lies
    above 0. With `confidence`, such as 0.95, the lower bound of the accuracy at that confidence must reach `at_least`.

    Raises CheckFailed (an AssertionError); InvalidArgument, for an unknown relation too and where the check could not
    fail; UnknownHead; NothingToJudge for a head that is masked; UndefinedScore for fewer than `min_cases` cases; and
    what `head_relations` raises.
    """
    __tracebackhide__ = True
    check_model(model)
    _check(at_least, beats_offset, confidence)
    refuse_masked(model, [model.heads[model.heads.index(head)]])
    report = head_relations(
        model,
        conllu,
        select=select,
        relations=[relation],
        subtypes=subtypes,
        min_cases=min_cases,
        batching=batching,
    )
    found = report.tracked(relation, head, direction)
    bound = upper = None
    if confidence is not None:  # the ends of a two-sided interval, each with half as much beyond it
        sided = replace(report, confidence=2.0 * confidence - 1.0)
        bound, upper = sided.tracked(relation, head, found.direction).interval
    judged = found.accuracy if bound is None else bound
    steady = found.beats_offset or not beats_offset
    verdict = Verdict(
        check="assert_head_tracks",
        passed=judged >= at_least - ROUNDING and steady,
        inconclusive=steady and upper is not None and judged < at_least - ROUNDING <= upper,
        observed=judged,
        required=f">= {at_least:g}" + (", and better than the best offset" if beats_offset else ""),
        judged=("lower bound of the " if bound is not None else "") + f"accuracy on {relation}, {found.direction}",
        model=model.name,
        task=report.data,
        examples=found.cases,
        heads=(str(found.head),),
        details={
            "accuracy": found.accuracy,
            "interval": list(found.interval),
            "offset": found.offset,
            "offset_accuracy": found.offset_accuracy,
            "difference_interval": list(found.difference_interval),
        },
    )
    give(verdict, lambda: explain.head_does_not_track(model, report, found, at_least, bound, confidence, beats_offset))
    return found


def _check(at_least: object, beats_offset: bool, confidence: object) -> None:
    numeric = isinstance(at_least, int | float) and not isinstance(at_least, bool)
    if not numeric or not 0.0 <= at_least <= 1.0:  # type: ignore[operator]
        raise InvalidArgument("at_least", at_least, "an accuracy from 0 to 1")
    if at_least == 0.0 and not beats_offset:
        raise InvalidArgument("at_least", at_least, "more than 0 where beats_offset=False: the check could not fail")
    if confidence is None:
        return
    if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0.5 < confidence < 1.0:
        raise InvalidArgument("confidence", confidence, "a number above 0.5 and below 1, such as 0.95, or None")
