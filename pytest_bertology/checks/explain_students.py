"""Why a student does not follow its teacher, for a tired engineer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_bertology.checks.explain import table
from pytest_bertology.models import ModelUnderTest

if TYPE_CHECKING:
    from pytest_bertology.checks.students import Bound, StudentDistances


def does_not_follow(
    student: ModelUnderTest, teacher: ModelUnderTest, found: StudentDistances, bounds: Sequence[Bound]
) -> str:
    """The failure page: what was missed first, then every number that was asked for, layer by layer."""
    missed = [bound for bound in bounds if not bound.kept]
    first, more = missed[0], len(missed) - 1
    title = (
        f"{student.name} does not follow its teacher {teacher.name}: its {first.what} is "
        f"{'below' if first.least else 'above'} what is required"
    )
    if more:
        title += ", and one more bound fails" if more == 1 else f", and {more} more bounds fail"
    rows = {
        "student": f"{student.name} ({student.heads.describe()}, {student.dtype} on {student.device})",
        "teacher": f"{teacher.name} ({teacher.heads.describe()}, {teacher.dtype} on {teacher.device})",
        **{bound.what: str(bound) for bound in [*missed, *(bound for bound in bounds if bound.kept)]},
    }
    if found.scores is not None:
        ours, theirs = found.scores
        rows["scores"] = (
            f"{ours.metric.name} {ours.score:.4f} on {len(ours)} examples; the teacher's {theirs.score:.4f}"
        )
    pages = [each.table() for each in (found.attention, found.hidden, found.logits) if each is not None]
    return "\n".join([title, "", *table(rows), *(line for page in pages for line in ["", *_indented(page)])])


def _indented(page: str) -> list[str]:
    return [f"  {line}" for line in page.splitlines()]
