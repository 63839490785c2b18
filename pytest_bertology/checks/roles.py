"""Checks on what heads are for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pytest_bertology.checks import explain_roles as explain
from pytest_bertology.checks.masked import refuse_masked
from pytest_bertology.checks.verdicts import Verdict, give
from pytest_bertology.engine.batching import Batching
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.heads import Head, HeadLike
from pytest_bertology.measures.arguments import check_model
from pytest_bertology.measures.role_report import (
    POSITIONAL,
    RARE,
    SYNTACTIC,
    TIMES_OFFSET,
    RoleReport,
    check_role,
    is_syntactic,
)
from pytest_bertology.measures.roles import OFFSETS, Frequencies, RoleTexts, head_roles
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.conllu import TreesLike


def assert_head_role(
    model: ModelUnderTest,
    texts: RoleTexts,
    head: HeadLike,
    role: str,
    *,
    offset: int | None = None,
    relation: str | None = None,
    at_least: float | None = None,
    frequencies: Frequencies | None = None,
    frequent: int = 500,
    select: TreesLike | None = None,
    min_cases: int = 20,
    batching: Batching | None = None,
) -> RoleReport:
    """Assert that a head has a role: "positional", "syntactic" or "rare"; return the roles of all heads.

    `head_roles` says what makes a role (Voita et al. 2019, section 5). A positional head points to one offset, or to
    `offset` if given (-1: the previous token); a syntactic one, which only texts with trees tell, tracks one of nsubj,
    obj, amod and advmod, or `relation` if given, better than the best offset. `at_least` is the share of tokens that
    must point there, by default 0.9 for "positional" and 0.5 for "rare", which must be twice that by chance as well.
    How often a syntactic head must be right is for `assert_head_tracks`. `frequencies`, `frequent`, `select` and
    `min_cases` are those of `head_roles`.

    Raises CheckFailed (an AssertionError) where it has another role or none; InvalidArgument or UnknownHead for
    arguments that are none, such as an `offset` ahead for a head that never looks ahead (in causal models none does);
    NothingToJudge for a head that is masked; UndefinedScore where the texts cannot tell the role; and what `head_roles`
    raises.
    """
    __tracebackhide__ = True
    check_model(model)
    check_role(role)
    _check_fits(role, offset, relation, at_least)
    chosen = model.heads[model.heads.index(head)]
    refuse_masked(model, [chosen])
    texts = list(texts) if isinstance(texts, Iterator) else texts  # a failure is explained by all offsets
    select = list(select) if isinstance(select, Iterator) else select
    options: dict[str, Any] = {"frequencies": frequencies, "frequent": frequent, "select": select}
    if offset is not None:
        options["offsets"] = (offset,)
    if relation is not None:
        options["relations"] = [relation]
    if at_least is not None:
        options["positional_share" if role == POSITIONAL else "rare_share"] = at_least

    def judged(**changed: Any) -> RoleReport:
        __tracebackhide__ = True
        return head_roles(model, texts, min_cases=min_cases, batching=batching, **options | changed)

    found = judged()
    if offset is not None and offset > 0 and not found.looks_ahead(chosen):
        raise InvalidArgument("offset", offset, f"one up to 0: {chosen} never looks ahead, as in causal models")
    found.check_judged(role)
    observed, required, what = _judged(found, chosen, role)
    verdict = Verdict(
        check="assert_head_role",
        passed=chosen in found.heads(role),
        observed=observed,
        required=required,
        judged=what,
        model=model.name,
        task=found.task,
        examples=found.texts,
        heads=(str(chosen),),
        details={"role": role, "roles": list(found.roles(chosen)), "confidence": found.confidence[chosen]},
    )
    give(verdict, lambda: explain.other_role(model, found, chosen, role, judged(offsets=_all(found))))
    return found


def _all(found: RoleReport) -> tuple[int, ...]:
    """The offsets tried, and the usual ones."""
    return tuple(sorted({*OFFSETS, *found.offsets}))


def _judged(found: RoleReport, head: Head, role: str) -> tuple[float, str, str]:
    """What a role is judged by: the number, what it must be, and what it is."""
    if role == POSITIONAL:
        share = f"greatest weights at offset {found.offset(head):+d}"
        return found.positional[head], f">= {found.positional_share:g}", share
    if role == RARE:
        return found.rare[head], f">= {found.least_rare[head]:g}", "greatest weights at rare tokens"
    best = found.tracks(head)[0]
    least = TIMES_OFFSET * best.offset_accuracy
    surely = "" if is_syntactic(best) or best.accuracy < least else ", and surely better than the best offset"
    return best.accuracy, f">= {least:.4g}{surely}", f"accuracy on {best.relation}, {best.direction}"


def _check_fits(role: str, offset: object, relation: object, at_least: object) -> None:
    """Raise InvalidArgument for arguments that belong to another role."""
    if offset is not None and role != POSITIONAL:
        raise InvalidArgument("offset", offset, f"None for the role {role!r}")
    if relation is not None and role != SYNTACTIC:
        raise InvalidArgument("relation", relation, f"None for the role {role!r}")
    if relation is not None and not isinstance(relation, str):
        raise InvalidArgument("relation", relation, "a relation, such as 'obj'")
    if at_least is not None and role == SYNTACTIC:
        raise InvalidArgument("at_least", at_least, "None for the role 'syntactic': see assert_head_tracks")
    if at_least is not None:
        numeric = isinstance(at_least, int | float) and not isinstance(at_least, bool)
        if not numeric or not 0.0 < at_least <= 1.0:  # type: ignore[operator]
            raise InvalidArgument("at_least", at_least, "a share above 0 and up to 1, such as 0.9")
