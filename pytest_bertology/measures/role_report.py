"""Which roles the heads of a model have, and by how much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from pytest_bertology.errors import InvalidArgument, UndefinedScore
from pytest_bertology.heads import Head, HeadLike, HeadMap, HeadScores
from pytest_bertology.measures.relation_report import RelationReport, TrackedRelation
from pytest_bertology.measures.role_counts import RoleCounts

POSITIONAL, SYNTACTIC, RARE = ROLES = ("positional", "syntactic", "rare")
TIMES_OFFSET, TIMES_CHANCE = 1.1, 2.0
"""How much better than the best fixed offset a syntactic head is; and how much more often than by chance one that
points to rare tokens does so."""
FEWEST = 30
"""Fewer tokens that have another at an offset, or texts with rare tokens, tell nothing."""


@dataclass(frozen=True, eq=False, repr=False)
class RoleReport:
    """Which roles each head of a model has on some texts; a head may have several, and most have none."""

    model: str
    task: str
    """The texts' name."""
    all_heads: HeadMap
    texts: int
    tokens: int
    """Tokens of the texts' own: without those that the tokenizer puts there."""
    offsets: tuple[int, ...]
    """The relative positions that were tried."""
    positional_share: float
    """What makes a head positional: this share of its greatest weights at one offset."""
    rare_share: float
    """What makes a head one that points to rare tokens, if it is `TIMES_CHANCE` times the share by chance as well."""
    rarest: int
    """How many tokens of a text are its rarest; more where they are equally rare."""
    rare_texts: int
    """How many texts have rare tokens to point to."""
    relations: tuple[str, ...]
    """The relations that make a head syntactic."""
    tracking: RelationReport | None
    """How well heads track relations; None without trees."""
    not_judged: Mapping[str, str]
    """The roles that these texts cannot tell, and why."""
    _counts: RoleCounts = field(repr=False)

    def __repr__(self) -> str:
        found = ", ".join(f"{count} {role}" for role, count in self.counts.items())
        unknown = f"; not judged: {', '.join(self.not_judged)}" if self.not_judged else ""
        return f"RoleReport({self.model} on {self.task}: {found}{unknown})"

    def roles(self, head: HeadLike) -> tuple[str, ...]:
        """The roles of a head, of "positional", "syntactic" and "rare"; none for most heads."""
        at = self.all_heads.index(head)
        return tuple(role for role in self.judged if at in self._holders[role])

    def heads(self, role: str) -> tuple[Head, ...]:
        """The heads of a role, in the map's order; raises UndefinedScore for a role that was not judged."""
        self.check_judged(role)
        return tuple(self.all_heads[at] for at in sorted(self._holders[role]))

    @property
    def judged(self) -> tuple[str, ...]:
        """The roles that these texts can tell."""
        return tuple(role for role in ROLES if role not in self.not_judged)

    @property
    def counts(self) -> dict[str, int]:
        """How many heads have each role that was judged, and how many have none of them."""
        held = frozenset[int]().union(*self._holders.values())
        return {role: len(found) for role, found in self._holders.items()} | {"none": len(self.all_heads) - len(held)}

    @cached_property
    def positional(self) -> HeadScores:
        """The greatest share of a head's greatest weights at one offset, of tokens with another there."""
        self.check_judged(POSITIONAL)
        return HeadScores(self._at_offsets.max(axis=1), self.all_heads, "greatest weight at one offset")

    def offset(self, head: HeadLike) -> int:
        """The relative position at which most of a head's greatest weights are: -1 for the previous token."""
        self.check_judged(POSITIONAL)
        return self.offsets[int(self._at_offsets[self.all_heads.index(head)].argmax())]

    def share_at(self, offset: int) -> HeadScores:
        """The share of each head's greatest weights at one offset, of tokens with another there.

        Raises InvalidArgument for an offset that was not tried, UndefinedScore for one at which too few tokens are.
        """
        if offset not in self.offsets:
            raise InvalidArgument("offset", offset, f"one of {', '.join(map(str, self.offsets))}")
        at = self.offsets.index(offset)
        if self._counts.offset_cases[at] < FEWEST:
            found = f"{int(self._counts.offset_cases[at])} tokens have another there, and {FEWEST} are needed"
            raise UndefinedScore(f"the share at offset {offset:+d} on {self.task}", found)
        return HeadScores(self._counts.offsets[:, at], self.all_heads, f"greatest weight at offset {offset:+d}")

    def looks_ahead(self, head: HeadLike) -> bool:
        """Whether in this head's layer tokens attend to later ones; in causal models none does."""
        return bool(self._counts.ahead[self.all_heads.index(head)])

    @cached_property
    def rare(self) -> HeadScores:
        """The share of tokens whose greatest weight goes to one of the rarest tokens of the text."""
        self.check_judged(RARE)
        return HeadScores(self._counts.rare, self.all_heads, "greatest weight at a rare token")

    @cached_property
    def rare_by_chance(self) -> HeadScores:
        """That share for a head that points to all it can see alike: what `rare` is to be compared with."""
        self.check_judged(RARE)
        return HeadScores(self._counts.chance, self.all_heads, "chance of a rare token")

    @property
    def confidence(self) -> HeadScores:
        """The mean greatest weight, end-of-sentence tokens left out (section 4)."""
        return HeadScores(self._counts.confidence, self.all_heads, "confidence")

    def tracks(self, head: HeadLike) -> tuple[TrackedRelation, ...]:
        """Of each relation how well a head tracks it, against the best offset; the most above it first.

        Raises UndefinedScore without trees.
        """
        self.check_judged(SYNTACTIC)
        return self._tracked[self.all_heads.index(head)]

    def table(self, only_roles: bool = False) -> str:
        """Every head, or those with a role, a line each."""
        lines = [f"roles of heads of {self.model} on {self.task}: {self.texts} texts, {self.tokens} tokens"]
        lines += [f"  {role}: {self._said(role)}" for role in ROLES]
        width = max([4, *(len(str(head)) for head in self.all_heads)])
        lines.append(
            f"{'head':<{width}}  {'confidence':>10}  {'offset':>6}  {'share':>6}  {'rare':>6}  {'chance':>6}  "
            f"{'relation':<28}  roles"
        )
        for head in self.all_heads:
            if self.roles(head) or not only_roles:
                cells = "  ".join(self._cells(head))
                lines.append(f"{head!s:<{width}}  {cells}  {', '.join(self.roles(head))}".rstrip())
        return "\n".join(lines)

    def check_judged(self, role: str) -> None:
        """Raise InvalidArgument for what is no role, UndefinedScore for one that these texts cannot tell."""
        check_role(role)
        if role in self.not_judged:
            raise UndefinedScore(f"the role {role!r} on {self.task}", self.not_judged[role])

    @cached_property
    def _at_offsets(self) -> Any:
        """(heads, offsets), 0 where too few tokens have another at the offset."""
        return np.where(self._counts.offset_cases >= FEWEST, self._counts.offsets, 0.0)

    @cached_property
    def _tracked(self) -> tuple[tuple[TrackedRelation, ...], ...]:
        """Of each head its relations, in the direction that is better on the selecting part."""
        assert self.tracking is not None
        report = self.tracking
        found = ([report.tracked(relation, head) for relation in self.relations] for head in self.all_heads)
        return tuple(tuple(sorted(each, key=_excess)) for each in found)

    @cached_property
    def _holders(self) -> dict[str, frozenset[int]]:
        """The heads of each role that was judged, by their place in the map."""
        found: dict[str, Any] = {}
        if POSITIONAL in self.judged:
            found[POSITIONAL] = self.positional.values >= self.positional_share - 1e-12
        if SYNTACTIC in self.judged:
            found[SYNTACTIC] = [any(map(is_syntactic, each)) for each in self._tracked]
        if RARE in self.judged:
            found[RARE] = self.rare.values >= self.least_rare.values - 1e-12
        return {role: frozenset(np.flatnonzero(which).tolist()) for role, which in found.items()}

    @property
    def least_rare(self) -> HeadScores:
        """The share at rare tokens that each head must reach."""
        least = np.maximum(self.rare_share, TIMES_CHANCE * self.rare_by_chance.values)
        return HeadScores(least, self.all_heads, "required at rare tokens")

    def _said(self, role: str) -> str:
        if role in self.not_judged:
            return f"not judged; {self.not_judged[role]}"
        count = len(self._holders[role])
        rule = {
            POSITIONAL: f"{self.positional_share:.0%} of the greatest weights at one of the offsets "
            f"{', '.join(f'{offset:+d}' for offset in self.offsets)}",
            SYNTACTIC: f"{TIMES_OFFSET:g} times as good as the best offset, and surely better, on one of "
            f"{', '.join(self.relations)}",
            RARE: f"{self.rare_share:.0%} of the greatest weights, and {TIMES_CHANCE:g} times chance, at one of the "
            f"{self.rarest} rarest tokens of a text ({self.rare_texts} texts)",
        }[role]
        return f"{count} heads ({rule})"

    def _cells(self, head: Head) -> list[str]:
        cells = [f"{self.confidence[head]:>10.3f}"]
        known = POSITIONAL in self.judged
        cells += [f"{self.offset(head):>+6d}", f"{self.positional[head]:>6.3f}"] if known else [f"{'-':>6}"] * 2
        known = RARE in self.judged
        cells += [f"{self.rare[head]:>6.3f}", f"{self.rare_by_chance[head]:>6.3f}"] if known else [f"{'-':>6}"] * 2
        if SYNTACTIC in self.judged:
            best = self.tracks(head)[0]
            said = f"{best.relation} {best.accuracy:.3f} (offset {best.offset_accuracy:.3f})"
        else:
            said = "-"
        return [*cells, f"{said:<28}"]


def is_syntactic(tracked: TrackedRelation) -> bool:
    """Whether a head tracks a relation so much better than the best offset, and surely better."""
    return tracked.accuracy >= TIMES_OFFSET * tracked.offset_accuracy - 1e-12 and tracked.difference_interval[0] > 0.0


def check_role(role: object) -> None:
    """Raise InvalidArgument for what is no role."""
    if role not in ROLES:
        raise InvalidArgument("role", role, f"one of {', '.join(map(repr, ROLES))}")


def _excess(tracked: TrackedRelation) -> tuple[bool, float]:
    """Those that make a head syntactic first, and of them the greatest difference."""
    return not is_syntactic(tracked), -tracked.difference
