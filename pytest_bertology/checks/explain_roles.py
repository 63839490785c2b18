"""Why a check on the role of a head failed, for a tired engineer."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_bertology.checks.explain import idle, table, were
from pytest_bertology.errors import UndefinedScore
from pytest_bertology.heads import Head
from pytest_bertology.measures.role_report import POSITIONAL, RARE, SYNTACTIC, TIMES_CHANCE, TIMES_OFFSET, RoleReport
from pytest_bertology.models import ModelUnderTest

_SHOWN = 5


def other_role(model: ModelUnderTest, found: RoleReport, head: Head, role: str, wider: RoleReport) -> str:
    """The failure page of a check on the role of one head; `wider` is the report at all the usual offsets too."""
    why, held = _WHY[role](found, head), " and ".join(wider.roles(head))
    why += f"; it is {held}" if held else ""
    rows = {
        "model": f"{model.name} ({model.heads.describe()}, {model.dtype} on {model.device})",
        "texts": f"{found.task} ({found.texts} texts, {found.tokens} tokens of their own)",
        **{POSITIONAL: _positional, SYNTACTIC: _syntactic, RARE: _rare}[role](found, head),
        "confidence": f"{found.confidence[head]:.4f}, the mean greatest weight",
        f"{role} heads": ", ".join(map(str, found.heads(role))) or "none",
        "it looks at": _looks_at(wider, head),
        **were(model.heads, [head]),
        **idle(model, [head]),
    }
    return "\n".join([f"{head} is not {_NAMES[role]}: {why}", "", *table(rows)])


_NAMES = {POSITIONAL: "positional", SYNTACTIC: "syntactic", RARE: "one that points to rare tokens"}


def _not_positional(found: RoleReport, head: Head) -> str:
    which = f"offset {found.offset(head):+d}" + (", its best," if len(found.offsets) > 1 else "")
    return (
        f"{found.positional[head]:.4f} of its greatest weights are at {which} and {found.positional_share:g} is needed"
    )


def _not_rare(found: RoleReport, head: Head) -> str:
    return f"{found.rare[head]:.4f} of its greatest weights go there, and {found.least_rare[head]:.4g} is needed"


def _not_syntactic(found: RoleReport, head: Head) -> str:
    best = found.tracks(head)[0]
    offset = f"the best offset {best.offset_accuracy:.4f}"
    return f"on {best.relation} it is right {best.accuracy:.4f} of the time, and {offset}"


_WHY = {POSITIONAL: _not_positional, SYNTACTIC: _not_syntactic, RARE: _not_rare}


def _looks_at(found: RoleReport, head: Head) -> str:
    """What is known of where the greatest weights of a head go, whatever its role."""
    said = []
    if POSITIONAL in found.judged:
        said.append(f"offset {found.offset(head):+d} most, {found.positional[head]:.4f} of its greatest weights")
    if RARE in found.judged:
        said.append(f"rare tokens {found.rare[head]:.4f} (by chance {found.rare_by_chance[head]:.4f})")
    if SYNTACTIC in found.judged:
        best = max(found.tracks(head), key=lambda each: each.accuracy)
        said.append(f"{best.relation} ({best.direction}) {best.accuracy:.4f} right")
    return "; ".join(said)


def _positional(found: RoleReport, head: Head) -> dict[str, str]:
    shares = [
        f"{offset:+d}: {share:.4f}"
        for offset in found.offsets
        if offset <= 0 or found.looks_ahead(head)
        for share in _share(found, head, offset)
    ]
    return {
        "at one offset": f"{found.positional[head]:.4f} of its greatest weights, at {found.offset(head):+d}; required: "
        f"at least {found.positional_share:g}",
        "all offsets": ", ".join(shares),
        "most": _most([f"{each} {found.positional[each]:.4f} at {found.offset(each):+d}" for each in _top(found)]),
    }


def _share(found: RoleReport, head: Head, offset: int) -> list[float]:
    try:
        return [found.share_at(offset)[head]]
    except UndefinedScore:
        return []


def _top(found: RoleReport) -> list[Head]:
    return found.positional.top(min(_SHOWN, len(found.all_heads)))


def _rare(found: RoleReport, head: Head) -> dict[str, str]:
    chance = found.rare_by_chance[head]
    return {
        "at rare tokens": f"{found.rare[head]:.4f} of its greatest weights in {found.rare_texts} texts that have such; "
        f"required: at least {found.least_rare[head]:.4g}",
        "by chance": f"{chance:.4f}; required: {TIMES_CHANCE:g} times that, {TIMES_CHANCE * chance:.4f}",
        "most": _most([f"{each} {found.rare[each]:.4f}" for each in found.rare.top(min(_SHOWN, len(found.all_heads)))]),
    }


def _syntactic(found: RoleReport, head: Head) -> dict[str, str]:
    rows = {}
    for each in found.tracks(head):
        low, high = each.difference_interval
        rows[each.relation] = (
            f"{each.accuracy:.4f} of {each.cases} cases ({each.direction}), and the best offset {each.offset:+d} "
            f"{each.offset_accuracy:.4f}; difference {each.difference:+.4f} [{low:+.4f}, {high:+.4f}]"
        )
    required = f"{TIMES_OFFSET:g} times the best offset's on one relation, and a difference surely above 0"
    return {**rows, "required": required}


def _most(said: Sequence[str]) -> str:
    return ", ".join(said)
